"""Clients that change and read sessions at once, and write down what they asked and heard."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from orch.v1 import session_state_pb2 as pb
from orch.v1.session_state_pb2_grpc import SessionStateServiceStub
from tests.linearizability.history import Kind, Operation, Outcome

PATIENCE = 20.0
#: The least pause is, for gRPC, also the time in which a busy server must take a new connection.
_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 100),
)
_MASK = FieldMask(paths=["failure_reason"])
#: With these, nobody knows what became of a call.
_NO_ANSWER = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNKNOWN,
)


def channel(address: str) -> grpc.aio.Channel:
    """A connection of its own, which is soon there again after a crash: calls wait for it."""
    return grpc.aio.insecure_channel(address, _OPTIONS)


class World:
    """What the clients share: the sessions, and the history."""

    def __init__(self, address: str, sessions: Sequence[str], operations: int) -> None:
        self.address = address
        self.sessions = sessions
        self.operations = operations
        self.history: list[Operation] = []
        self.counts: Counter[str] = Counter()
        self.progress = asyncio.Condition()

    @property
    def is_over(self) -> bool:
        """Whether enough has been asked."""
        return len(self.history) >= self.operations

    async def reach(self, count: int) -> None:
        """Waits until so many operations are in the history, or it is over."""
        async with asyncio.timeout(PATIENCE), self.progress:
            await self.progress.wait_for(lambda: self.is_over or len(self.history) >= count)

    async def record(self, operation: Operation, what: str) -> None:
        """Writes an operation down. A read without an answer says nothing."""
        self.counts[what] += 1
        if operation.outcome is not Outcome.UNKNOWN or operation.kind is Kind.UPDATE:
            self.history.append(operation)
        async with self.progress:
            self.progress.notify_all()


async def client(world: World, number: int) -> None:
    """Calls, one call after the other, until it is over."""
    draw = random.Random(number)
    versions = dict.fromkeys(world.sessions, 1)
    async with channel(world.address) as connection:
        stub = SessionStateServiceStub(connection)
        while not world.is_over:
            key = draw.choice(world.sessions)
            if draw.random() < 0.4:
                heard = await _read(world, stub, key)
            else:
                is_checked = draw.random() < 0.7
                value = f"{number}-{world.counts.total()}"
                heard = await _update(world, stub, key, versions[key] * is_checked, value)
            versions[key] = heard or versions[key]


async def _read(world: World, stub: SessionStateServiceStub, key: str) -> int:
    """Returns the version that was heard; 0 for none."""
    asked = Operation(key, Kind.READ, time.monotonic())
    try:
        answer = await stub.GetSession(
            pb.GetSessionRequest(name=key), timeout=PATIENCE, wait_for_ready=True
        )
    except grpc.aio.AioRpcError as exc:
        await _unanswered(world, asked, exc)
        return 0
    found = answer.session
    heard = asked.heard(time.monotonic(), found.version, found.failure_reason)
    await world.record(heard, "read")
    return found.version


async def _update(
    world: World, stub: SessionStateServiceStub, key: str, expected: int, value: str
) -> int:
    """Returns the version that was heard; 0 for none."""
    wanted = pb.Session(name=key, failure_reason=value, version=expected)
    request = pb.UpdateSessionRequest(session=wanted, update_mask=_MASK)
    asked = Operation(key, Kind.UPDATE, time.monotonic(), expected=expected, value=value)
    try:
        answer = await stub.UpdateSession(request, timeout=PATIENCE, wait_for_ready=True)
    except grpc.aio.AioRpcError as exc:
        present = _present_version(exc)
        if not present:
            await _unanswered(world, asked, exc)
            return 0
        refused = asked.heard(time.monotonic(), present, outcome=Outcome.MISMATCH)
        await world.record(refused, "refused")
        return present
    version = answer.session.version
    await world.record(asked.heard(time.monotonic(), version), "updated")
    return version


async def _unanswered(world: World, asked: Operation, exc: grpc.aio.AioRpcError) -> None:
    if exc.code() not in _NO_ANSWER:
        raise exc
    await world.record(asked, "unanswered")


def _present_version(exc: grpc.aio.AioRpcError) -> int:
    """The present version in a refusal; 0 when it is none."""
    if exc.code() is not grpc.StatusCode.ABORTED:
        return 0
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(exc)
    for detail in status.details if status is not None else ():
        if detail.Unpack(info) and info.reason == "VERSION_MISMATCH":
            return int(info.metadata["current_version"])
    return 0


class Watcher:
    """A watch of all sessions that goes on after the last event it has seen, over crashes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.versions: dict[str, int] = {}
        self.backwards: list[tuple[str, int, int]] = []
        self.resumed = 0

    async def run(self) -> None:
        """Watches until it is cancelled."""
        after = 0
        async with channel(self._world.address) as connection:
            stub = SessionStateServiceStub(connection)
            while True:
                try:
                    request = pb.WatchSessionsRequest(after=after)
                    async for change in stub.WatchSessions(request, wait_for_ready=True):
                        after = max(after, change.event_number)
                        await self._see(change.session)
                except grpc.aio.AioRpcError as exc:
                    if exc.code() not in _NO_ANSWER:
                        raise
                self.resumed += 1

    async def agrees(self, versions: dict[str, int]) -> None:
        """Waits until it has seen these versions."""
        async with asyncio.timeout(PATIENCE), self._world.progress:
            await self._world.progress.wait_for(lambda: self.versions == versions)

    async def _see(self, session: pb.Session) -> None:
        before = self.versions.get(session.name, 0)
        if session.version < before:
            self.backwards.append((session.name, before, session.version))
        self.versions[session.name] = session.version
        async with self._world.progress:
            self._world.progress.notify_all()
