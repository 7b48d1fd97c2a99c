"""The faults around the gate: `python -m tests.faults gate [COUNT]`.

A fake agent host has the gate's hook run before each use of a tool, while something is broken:
client, server, disk, answer, decision. Between them are runs where nothing is. Counted is what ran
though nobody had approved it, by the store's word, and what was blocked though all was well.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc

from tests.faults import gate_broken, gate_deaths
from tests.faults.gate_host import Outcome
from tests.faults.gate_kinds import BLOCKED, EITHER, KINDS, RUNS, Kind
from tests.faults.gate_stand import Stand

_TOLD = 20
#: They enter their kinds.
_MORE = (gate_deaths, gate_broken)


@dataclass(frozen=True)
class Options:
    """`count` faulted runs; `at_once` of them at a time, each with a server of its own."""

    count: int
    seed: int
    at_once: int = 6


@dataclass
class Result:
    """By kind: how many runs, and in how many of them the tool ran. `wrong` are runs that did not
    end as they must, each in a sentence."""

    options: Options
    runs: Counter[str] = field(default_factory=Counter)
    ran: Counter[str] = field(default_factory=Counter)
    unapproved: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing ran that was not approved, and all that was approved did."""
        return not self.unapproved and not self.wrong and self.faulted >= self.options.count

    @property
    def faulted(self) -> int:
        """How many runs were not controls."""
        return sum(self.runs[one.name] for one in KINDS if one.expects != RUNS)


def plan(count: int, dice: random.Random) -> list[Kind]:
    """So many faulted runs and the controls between them: every kind by its weight, shuffled."""
    weights = sum(one.weight for one in KINDS if one.expects != RUNS)
    rounds = max(1, -(-count // weights))
    drawn = [one for one in KINDS for _ in range(one.weight * rounds)]
    dice.shuffle(drawn)
    spare = sum(one.expects != RUNS for one in drawn) - count
    for one in [one for one in drawn if one.expects != RUNS and rounds > 1][: max(0, spare)]:
        drawn.remove(one)
    return drawn


def run(options: Options, kinds: Sequence[Kind] | None = None) -> Result:
    """Runs the plan, or just these kinds."""
    began = time.monotonic()
    dice = random.Random(f"gate {options.seed}")
    todo = list(enumerate(plan(options.count, dice) if kinds is None else kinds))
    todo.reverse()
    result, lock = Result(options), threading.Lock()

    def work(number: int) -> None:
        stand = Stand(f"gate {options.seed} {number}")
        try:
            stand.open()
            while todo:
                with lock:
                    if not todo:
                        return
                    at, one = todo.pop()
                _one(stand, one, result, lock, f"{one.name} (run {at})")
        finally:
            stand.close()

    try:
        with ThreadPoolExecutor(options.at_once) as workers:
            list(workers.map(work, range(options.at_once)))
    finally:
        gate_broken.close()
    result.seconds = time.monotonic() - began
    return result


def _one(stand: Stand, kind: Kind, result: Result, lock: threading.Lock, name: str) -> None:
    """One case, and what came of it."""
    case = stand.case()
    outcome: Outcome | str
    try:
        outcome = kind.act(case)
    except (AssertionError, OSError, grpc.RpcError) as exc:  # the case could not be made
        outcome = f"{type(exc).__name__}: {exc}"
    finally:
        case.end()
        stand.heal()
    ran, used = case.ran, case.count_consumed()
    with lock:
        result.runs[kind.name] += 1
        result.ran[kind.name] += ran > 0
        if ran > {BLOCKED: 0, EITHER: used, RUNS: ran}[kind.expects]:
            result.unapproved.append(f"{name}: ran {ran} times, {used} used; {outcome}")
        elif kind.expects == RUNS and ran != 1:
            result.wrong.append(f"{name}: ran {ran} times; {outcome}")
        elif isinstance(outcome, str) or outcome.ran != bool(ran):
            result.wrong.append(f"{name}: was not carried out; {outcome}")


def table(result: Result) -> list[str]:
    """What was run and what came of it, in lines."""
    width = max(len(one.name) for one in KINDS)
    lines = [f"{'':{width}}   runs   ran"]
    for one in sorted(KINDS, key=lambda kind: kind.expects == RUNS):
        lines.append(f"{one.name:{width}}  {result.runs[one.name]:5}  {result.ran[one.name]:4}")
    controls = sum(result.runs.values()) - result.faulted
    lines += [
        f"\n{result.faulted:,} faulted runs, {controls} without a fault, {result.seconds:.0f} s",
        f"ran though not approved: {len(result.unapproved)}",
        f"blocked though all was well: {len(result.wrong)}",
    ]
    return lines + [f"  {told}" for told in (result.unapproved + result.wrong)[:_TOLD]]
