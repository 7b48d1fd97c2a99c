"""What many pending tasks cost: a restart, an idle server, and create, cancel and next-due.

Two servers run side by side, one with many tasks pending, one with none and then with few.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import grpc
from tests.support import Home, Server

from bench import frames
from bench.processes import Child, cpu_nanoseconds, home
from bench.report import Figure, Plain
from bench.scale import Scale, Scheduling
from bench.stored import Stored
from orch.v1 import scheduler_pb2
from orch.v1.scheduler_pb2_grpc import SchedulerServiceStub
from orch_server.storage import database, tasks

_READY_GOAL, _IDLE_GOAL, _GROWTH_GOAL = 2.0, 0.2, 2.0
_PORTION = 10_000  # tasks to create while a helper may be silent
_SETTLED = 2.0
_PER_CHANNEL = 100
_pause = threading.Event()


def measure(scale: Scale) -> Iterator[Figure | Plain]:
    """The figures, in the order in which tasks come."""
    wanted = scale.scheduling
    with _server(wanted) as (_, many), _server(wanted) as (_, few):
        _fill(many, wanted.agents, wanted.pending)
        yield from _restarts(wanted, many, few)
        yield from _idle(wanted, many, few)
        _fill(few, wanted.agents, wanted.few)
        yield from _calls(wanted, many, few)
        yield from _in_the_store(wanted, many, few)


@contextmanager
def _server(wanted: Scheduling) -> Iterator[tuple[Home, Server]]:
    """A real server that knows so many agents, of whom none is connected."""
    with home() as at:
        server = Server(at)
        try:
            server.start()
            channels = ("load", "heartbeat", at.address, wanted.agents, _PER_CHANNEL)
            with Child(*channels, frames.SESSION):
                pass
            yield at, server
        finally:
            server.end()


def _fill(server: Server, agents: int, count: int) -> None:
    with Child("fill", server.home.address, agents) as fill:
        for done in range(0, count, _PORTION):
            fill.measure(min(_PORTION, count - done))


# ---- the server ----


def _restarts(wanted: Scheduling, many: Server, none: Server) -> Iterator[Plain]:
    """Seconds from the start of a process to the line that says it is ready, after kill -9."""
    pairs = [(_restart(many), _restart(none)) for _ in range(wanted.restarts)]
    name = f"restart to ready (s), {wanted.pending:,} pending"
    yield Plain(name, [took for took, _ in pairs], at_most=_READY_GOAL)
    yield Plain("  - with none", [took for _, took in pairs])


def _restart(server: Server) -> float:
    server.kill()
    start = time.perf_counter()
    server.start()
    return time.perf_counter() - start


def _idle(wanted: Scheduling, many: Server, none: Server) -> Iterator[Plain]:
    """CPU in percent of a core, of both in the same windows."""
    _pause.wait(_SETTLED)
    pairs = [_percent(wanted.idle, many, none) for _ in range(wanted.windows)]
    name = f"idle server, {wanted.pending:,} pending, CPU (%)"
    yield Plain(name, [percent for percent, _ in pairs], at_most=_IDLE_GOAL)
    yield Plain("  - with none", [percent for _, percent in pairs])


def _percent(seconds: float, *servers: Server) -> list[float]:
    """What each server uses in the same seconds."""
    before = [_cpu(server) for server in servers]
    _pause.wait(seconds)
    used = [_cpu(server) - was for server, was in zip(servers, before, strict=True)]
    return [100 * one / 1e9 / seconds for one in used]


def _cpu(server: Server) -> int:
    assert server.process is not None
    return cpu_nanoseconds(server.process.pid)


# ---- calls ----


class _Caller:
    """Calls one server, one call after the other; tells the median milliseconds of a call."""

    def __init__(self, server: Server, stub: SchedulerServiceStub, wanted: Scheduling) -> None:
        self._stub = stub
        self._wanted = wanted
        self._db = database.reader(server.home.path / "orch.db")
        self._created: list[str] = []

    def create(self) -> float:
        """CreateTask."""
        agents = self._wanted.agents
        return self._median(
            lambda n: self._created.append(
                self._stub.CreateTask(frames.task_request(n % agents)).task.id
            )
        )

    def cancel(self) -> float:
        """CancelTask of what was just created."""
        return self._median(
            lambda _: self._stub.CancelTask(scheduler_pb2.CancelTaskRequest(id=self._created.pop()))
        )

    def next_due(self) -> float:
        """What the firing loop asks the store."""
        return self._median(lambda _: tasks.next_due(self._db))

    def _median(self, call: Callable[[int], object]) -> float:
        took = []
        for n in range(self._wanted.calls):
            start = time.perf_counter()
            call(n)
            took.append(time.perf_counter() - start)
        return statistics.median(took) * 1e3


def _calls(wanted: Scheduling, many: Server, few: Server) -> Iterator[Figure]:
    with ExitStack() as stack:
        first, second = (_caller(stack, server, wanted) for server in (many, few))
        create, cancel, due = [], [], []
        for _ in range(wanted.repeats):
            create.append((first.create(), second.create()))
            cancel.append((first.cancel(), second.cancel()))
            due.append((first.next_due(), second.next_due()))
    what = f"at {wanted.pending:,} to {wanted.few:,} pending"
    for name, pairs in (("CreateTask", create), ("CancelTask", cancel), ("next due", due)):
        yield Figure(f"{name} (ms), {what}", pairs, at_most=_GROWTH_GOAL)


def _in_the_store(wanted: Scheduling, many: Server, few: Server) -> Iterator[Figure]:
    """The same without the RPC around it, which hides what grows. It stops the servers."""
    create, cancel = [], []
    with ExitStack() as stack:
        for server in (many, few):
            server.stop()
        first, second = (
            stack.enter_context(closing(Stored(server.home.path / "orch.db", wanted.calls)))
            for server in (many, few)
        )
        for _ in range(wanted.repeats):
            create.append((first.create(), second.create()))
            cancel.append((first.cancel(), second.cancel()))
    yield Figure("  - create in the store (us)", create, at_most=_GROWTH_GOAL)
    yield Figure("  - cancel in the store (us)", cancel, at_most=_GROWTH_GOAL)


def _caller(stack: ExitStack, server: Server, wanted: Scheduling) -> _Caller:
    channel = stack.enter_context(grpc.insecure_channel(server.home.address))
    return _Caller(server, SchedulerServiceStub(channel), wanted)
