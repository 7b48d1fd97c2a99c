"""Authorization: how late silence is a no, how soon a decision is known, and that none comes twice.

A decision's way begins with the call of the one who approves, or with the answer that he gets, and
ends when another process, which waits on a stream, has read it. It is compared with round trips on
one stream of a bare server that holds as many idle ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench.processes import Child, bare, home, product
from bench.report import Figure, Plain
from bench.scale import Authorizing, Scale

_SEED = 20261122
_LATE_GOAL, _KNOWN_GOAL = 100.0, 5.0
_PER_CHANNEL, _AGENTS, _SECONDS = 100, 16, 2.0
_Way = dict[str, float]


def measure(scale: Scale) -> Iterator[Figure | Plain]:
    """The figures, the long ones last."""
    wanted = scale.authorizing
    yield from _decisions(wanted)
    yield from _calls(wanted)
    yield from _lateness(wanted)
    yield from _interleavings(wanted)


def _database(path: Path) -> str:
    return str(path / "orch.db")


# ---- lateness ----


def _lateness(wanted: Authorizing) -> Iterator[Plain]:
    """Milliseconds from the deadline, or from the time of a level, until a watch of events shows
    that it was kept."""
    with home() as at, product(at) as (address, _):
        given = (address, _database(at.path), wanted.agents)
        with Child("asking", "expire", *given) as asking:
            asking.measure(20)  # what is loaded with the first is loaded
            told = [asking.measure(wanted.unanswered) for _ in range(wanted.rounds)]
    for what, name in (("expired", "deadline to EXPIRED"), ("told", "due to level told")):
        goal = f"{wanted.unanswered:,} requests over 5 s, {name} (ms)"
        yield Plain(f"{goal}, p99", [one[f"{what} p99"] for one in told], at_most=_LATE_GOAL)
        yield Plain("  - p50", [one[f"{what} p50"] for one in told])
        yield Plain("  - max", [one[f"{what} max"] for one in told])


# ---- decisions ----


def _decisions(wanted: Authorizing) -> Iterator[Figure | Plain]:
    """In each repeat the same number of streams is open on both servers."""
    with ExitStack() as stack:
        at = stack.enter_context(home())
        ours, _ = stack.enter_context(product(at))
        theirs, _ = stack.enter_context(bare(at))
        each, database = wanted.pending // wanted.waiters, _database(at.path)
        idle = ("heartbeat", theirs, wanted.pending, _PER_CHANNEL, "idle")
        stack.enter_context(Child("load", *idle))
        bidi = stack.enter_context(Child("asking", "bidi", theirs, wanted.pause))
        approver = stack.enter_context(Child("asking", "approve", ours, database))
        waiters = [
            stack.enter_context(Child("asking", "wait", ours, database, each, f"wait{n}"))
            for n in range(wanted.waiters)
        ]
        _decide(waiters, approver, wanted.pause)  # what is loaded with the first is loaded
        ways, trips = [], []
        for _ in range(wanted.repeats):
            trips.append(bidi.measure(wanted.trips))
            ways.append(_decide(waiters, approver, wanted.pause))
    yield from _decision_figures(wanted, ways, trips)


def _decide(waiters: list[Child], approver: Child, pause: float) -> _Way:
    """All are asked, then approved; returns the milliseconds of the ways."""
    for phase in (0, 1):
        for one in waiters:
            one.measure(phase)
    said = approver.measure(pause)
    heard: dict[str, float] = {}
    for one in waiters:
        heard.update(one.measure(2))
    called = [1e3 * (at - said[f"{name} called"]) for name, at in heard.items()]
    answered = [1e3 * (at - said[f"{name} answered"]) for name, at in heard.items()]
    own = [1e3 * (said[f"{name} answered"] - said[f"{name} called"]) for name in heard]
    return {
        f"{what} p{share}": _share(values, share)
        for what, values in (("called", called), ("answered", answered), ("own", own))
        for share in (50, 99)
    }


def _share(values: list[float], percent: int) -> float:
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


def _decision_figures(
    wanted: Authorizing, ways: list[_Way], trips: list[dict[str, float]]
) -> Iterator[Figure | Plain]:
    for what, name in (
        ("answered", "decision to waiter"),
        ("called", "approver's call to waiter"),
    ):
        for share, goal in ((99, _KNOWN_GOAL), (50, None)):
            pairs = [
                (way[f"{what} p{share}"], trip[f"trip p{share}"])
                for way, trip in zip(ways, trips, strict=True)
            ]
            long = f"{name}, {wanted.pending} pending (ms), p99"
            yield Figure(long if share == 99 else "  - p50", pairs, at_most=goal)
    for share in (99, 50):
        yield Plain(f"  - the call alone, p{share}", [way[f"own p{share}"] for way in ways])


# ---- calls ----


def _calls(wanted: Authorizing) -> Iterator[Figure | Plain]:
    """Informational: what the gate costs when the policy allows, and a whole request."""
    with home() as at, product(at) as (ours, _), bare(at) as (theirs, _):
        database, pairs = _database(at.path), []
        with (
            Child("asking", "check", ours, database) as check,
            Child("asking", "echo", theirs) as echo,
        ):
            for _ in range(wanted.repeats):
                alone = echo.measure(_SECONDS / 4)["rate"]
                pairs.append((check.measure(_SECONDS / 4)["rate"], alone))
        yield Figure("CheckAction/s, allowed, to a bare unary echo", pairs)
        with Child("asking", "cycle", ours, database, _AGENTS) as cycle:
            rates = [cycle.measure(_SECONDS)["rate"] for _ in range(wanted.rounds)]
        yield Plain(f"request, approve, use/s, {_AGENTS} agents", rates)


# ---- interleavings ----


def _interleavings(wanted: Authorizing) -> Iterator[Plain]:
    """Double and late decisions, and all else that the rules forbid, on two processes."""
    with (
        Child("authorization_stories", wanted.part) as one,
        Child("authorization_stories", wanted.part) as other,
        ThreadPoolExecutor(2) as run,
    ):
        halves = [
            run.submit(
                lambda c, first: [c.measure(_SEED + n) for n in range(first, wanted.parts, 2)], c, f
            )
            for f, c in enumerate((one, other))
        ]
        told = [answer for half in halves for answer in half.result()]
    count = sum(answer["interleavings"] for answer in told)
    name = f"{count:,.0f} interleavings (seed {_SEED})"
    yield Plain(f"{name}: faults", [sum(a["faults"] for a in told)], at_most=0)
    for what in ("requests", "accepted", "refused", "restarts"):
        yield Plain(f"  - {what}", [sum(a[what] for a in told)])
