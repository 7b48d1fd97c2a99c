"""UpdateSession, which answers when the change is on disk, against what bounds it.

The two bounds are a bare unary echo of messages of the same size and a bare group commit of the
same change of the same row; the ratio is to the smaller of the two. The bare server that does both
in one process shows what is within reach; it has no goal. Each caller changes a session of its own
and names the version that it saw last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from bench import frames
from bench.processes import Child, bare, home, product
from bench.report import Figure
from bench.scale import Scale
from orch.v1 import session_state_pb2
from orch.v1.session_state_pb2_grpc import SessionStateServiceStub

_WARM_UP = 0.3
_MANY = 64
_RATE_GOAL = 0.8


def measure(scale: Scale) -> Iterator[Figure]:
    """Updates a second for each number of callers."""
    with ExitStack() as stack:
        at = stack.enter_context(home())
        ours, _ = stack.enter_context(product(at))
        _create(ours, max(scale.callers))
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(dir=at.path, prefix="orch-bare-"))
        )
        echo, _ = stack.enter_context(bare(at))
        both, _ = stack.enter_context(bare(at, folder))
        for callers in scale.callers:
            helpers = (
                ("load", "update", echo, callers),
                ("group_commit", folder, callers, "update"),
                ("load", "update", both, callers),
                ("load", "update", ours, callers),
            )
            yield from _figures(callers, _measure(scale, helpers))


def _create(address: str, count: int) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = SessionStateServiceStub(channel)
        for index in range(count):
            named = session_state_pb2.Session(name=frames.session_name(index))
            stub.CreateSession(session_state_pb2.CreateSessionRequest(session=named), timeout=10)


def _measure(scale: Scale, helpers: tuple[tuple[Any, ...], ...]) -> list[list[float]]:
    """For each repeat how many a second each helper did, in the order of the helpers."""
    with ExitStack() as stack:
        running = [stack.enter_context(Child(*helper)) for helper in helpers]
        for one in running:
            one.measure(_WARM_UP)
        repeats = [[one.measure(scale.seconds) for one in running] for _ in range(scale.repeats)]
        return [[done["count"] / done["seconds"] for done in repeat] for repeat in repeats]


def _figures(callers: int, rates: list[list[float]]) -> Iterator[Figure]:
    what = f"UpdateSession/s, {callers} {'caller' if callers == 1 else 'callers'}"
    goal = _RATE_GOAL if callers == _MANY else None
    smaller = [(ours, min(echo, commit)) for echo, commit, _, ours in rates]
    yield Figure(f"{what}, to the smaller of", smaller, goal)
    yield Figure("  - a bare unary echo", [(ours, echo) for echo, _, _, ours in rates])
    yield Figure("  - a bare group commit", [(ours, commit) for _, commit, _, ours in rates])
    yield Figure("  and to both in one process", [(ours, both) for _, _, both, ours in rates])
