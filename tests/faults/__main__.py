"""The fault harness:

    python -m tests.faults [--seed S] [deliveries [--deliveries N] [--panes P]]
    python -m tests.faults [--seed S] [scheduling [--kills K]]
    python -m tests.faults [--seed S] [gate [COUNT]]

`deliveries` sends N texts to fake agents that misbehave, while the server, the clients and their
tmux clients are killed with -9; in the end also the tmux server itself. Prints what was delivered,
doubled, lost and pretended. `scheduling` makes tasks and does things to them, while the server is
killed K times. Prints which tasks and occurrences were lost, doubled or missing. `gate` has a fake
agent host use a tool COUNT times while client, server, disk, answer or decision are broken. Prints
how often it ran, by kind of fault. Without one of them, it does all. Exit status 1 when anything
was lost, doubled, garbled, falsely confirmed or left open, or ran that nobody had approved.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys

from tests.faults import gate, scheduling
from tests.faults.arena import Arena
from tests.faults.run import Options, Result, run
from tests.faults.verdict import lines


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("part", nargs="?", choices=("deliveries", "scheduling", "gate"))
    parser.add_argument("count", nargs="?", type=int, default=1000, help="of faults at the gate")
    parser.add_argument("--deliveries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--panes", type=int, default=24)
    parser.add_argument("--pace", type=float, default=5.0, help="seconds between server kills")
    parser.add_argument("--patience", type=float, default=150.0)
    parser.add_argument("--last", type=int, default=None, help="deliveries around tmux's death")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the run")
    parser.add_argument("--kills", type=int, default=120, help="of the server, under the scheduler")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts = {"deliveries": deliver, "scheduling": schedule, "gate": check}
    try:
        return max(part(given) for name, part in parts.items() if given.part in (None, name))
    except KeyboardInterrupt:
        return 130


def deliver(given: argparse.Namespace) -> int:
    """The storm of faults around deliveries; returns the exit status."""
    last = given.deliveries // 50 if given.last is None else given.last
    options = Options(given.deliveries, given.seed, given.panes, last, given.pace, given.patience)
    print(f"{options.deliveries:,} deliveries to {options.panes} panes, seed {options.seed}")
    arena = Arena(options.panes, options.seed)
    if given.keep:
        print(f"folder: {arena.home.path}")
        arena.home.remove = lambda: None  # type: ignore[method-assign]
    try:
        arena.open()
        result = asyncio.run(run(options, arena))
    finally:
        arena.close()
    return report(result)


def report(result: Result) -> int:
    """Prints the tables; returns the exit status."""
    print("\n".join(lines(result.storm)))
    if result.last is not None:
        print("\naround the death of the tmux server (at most once is promised):")
        print("\n".join(lines(result.last)))
    kills = ", ".join(f"{n} × {what}" for what, n in result.kills.most_common())
    print(f"\nkilled: {kills}\nduration: {result.seconds:.0f} s")
    return 0 if result.storm.good and (result.last is None or result.last.good) else 1


def schedule(given: argparse.Namespace) -> int:
    """The kill loop of the scheduler; returns the exit status."""
    options = scheduling.Options(given.kills, given.seed)
    print(f"\nthe scheduler, {options.kills} × kill -9, seed {options.seed}", flush=True)
    scene = scheduling.Scene()
    if given.keep:
        print(f"folder: {scene.home.path}")
        scene.home.remove = lambda: None  # type: ignore[method-assign]
    try:
        result = asyncio.run(scheduling.run(options, scene))
    finally:
        scene.close()
    print("\n".join(scheduling.table(result)))
    return 0 if result.verdict.good else 1


def check(given: argparse.Namespace) -> int:
    """The faults around the gate; returns the exit status."""
    options = gate.Options(given.count, given.seed)
    print(f"\nthe gate, {options.count:,} faults, seed {options.seed}", flush=True)
    result = gate.run(options)
    print("\n".join(gate.table(result)))
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
