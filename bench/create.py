"""CreateTask, which answers when the task is on disk, against what bounds it.

The two bounds are a bare unary echo of messages of the same size and a bare group commit of the
same row; the ratio is to the smaller of the two. Both share one interpreter in a server, so a bare
server that does both shows what is within reach; it has no goal.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.frames import SESSION
from bench.processes import Child, bare, home, product
from bench.report import Figure
from bench.scale import Scale

_WARM_UP = 0.3
_AGENTS = 500  # so many that the run gives none of them as many open tasks as it may have
_PER_CHANNEL = 100
_MANY = 64
_RATE_GOAL = 0.8
_WORST_GOAL = 20


def measure(scale: Scale) -> Iterator[Figure]:
    """Tasks a second for each number of callers, and how much later than most the last ack is."""
    with ExitStack() as stack:
        at = stack.enter_context(home())
        ours, _ = stack.enter_context(product(at))
        stack.enter_context(Child("load", "heartbeat", ours, _AGENTS, _PER_CHANNEL, SESSION))
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(dir=at.path, prefix="orch-bare-"))
        )
        echo, _ = stack.enter_context(bare(at))
        both, _ = stack.enter_context(bare(at, folder))
        for callers in scale.callers:
            helpers = (
                ("load", "create", echo, callers, _AGENTS),
                ("group_commit", folder, callers),
                ("load", "create", both, callers, _AGENTS),
                ("load", "create", ours, callers, _AGENTS),
            )
            yield from _figures(callers, _measure(scale, helpers))


def _measure(scale: Scale, helpers: tuple[tuple[Any, ...], ...]) -> list[list[dict[str, float]]]:
    """For each repeat what each helper measured, in the order of the helpers."""
    with ExitStack() as stack:
        running = [stack.enter_context(Child(*helper)) for helper in helpers]
        for one in running:
            one.measure(_WARM_UP)
        return [[one.measure(scale.seconds) for one in running] for _ in range(scale.repeats)]


def _figures(callers: int, repeats: list[list[dict[str, float]]]) -> Iterator[Figure]:
    rates = [[done["count"] / done["seconds"] for done in repeat] for repeat in repeats]
    what = f"CreateTask/s, {callers} {'caller' if callers == 1 else 'callers'}"
    goal = _RATE_GOAL if callers == _MANY else None
    smaller = [(ours, min(echo, commit)) for echo, commit, _, ours in rates]
    yield Figure(f"{what}, to the smaller of", smaller, goal)
    yield Figure("  - a bare unary echo", [(ours, echo) for echo, _, _, ours in rates])
    yield Figure("  - a bare group commit", [(ours, commit) for _, commit, _, ours in rates])
    yield Figure("  and to both in one process", [(ours, both) for _, _, both, ours in rates])
    if callers == _MANY:
        acks = [(done["worst"] * 1e3, done["median"] * 1e3) for *_, done in repeats]
        yield Figure("worst ack to median ack (ms), 64 callers", acks, at_most=_WORST_GOAL)
