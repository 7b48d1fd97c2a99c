"""Sessions that many change at once, while the server is killed again and again, look as if all
changes had come one by one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from orch.v1 import session_state_pb2 as pb
from orch.v1.session_state_pb2_grpc import SessionStateServiceStub
from tests.linearizability.checker import check
from tests.linearizability.clients import PATIENCE, Watcher, World, channel, client
from tests.linearizability.history import Kind, Operation, Outcome, State
from tests.support import Home, Server

#: Beside a busy machine all of it takes several times as long as alone.
pytestmark = pytest.mark.timeout(300)
CLIENTS, OPERATIONS, KILLS = 16, 10_500, 10
SESSIONS = tuple(f"session-{n}" for n in range(8))
BEGINNING: dict[str, State] = dict.fromkeys(SESSIONS, (1, ""))
Spoil = Callable[[list[Operation]], tuple[Operation, Operation | None]]


@pytest.fixture
def server() -> Iterator[Server]:
    home = Home(beat=5)
    made = Server(home)
    try:
        yield made.start()
    finally:
        made.end()
        home.remove()


async def _live(server: Server, world: World) -> tuple[Watcher, dict[str, State]]:
    """The whole story; returns the watcher and what the sessions are at the end."""
    watcher = Watcher(world)
    async with channel(world.address) as connection:
        stub = SessionStateServiceStub(connection)
        for name in SESSIONS:
            await stub.CreateSession(pb.CreateSessionRequest(session=pb.Session(name=name)))
        watching = asyncio.create_task(watcher.run())
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(CLIENTS):
                    group.create_task(client(world, number))
                group.create_task(_kill_now_and_then(server, world))
            end = {name: await _state(stub, name) for name in SESSIONS}
            await watcher.agrees({name: version for name, (version, _) in end.items()})
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
    return watcher, end


async def _state(stub: SessionStateServiceStub, name: str) -> State:
    request = pb.GetSessionRequest(name=name)
    found = await stub.GetSession(request, timeout=PATIENCE, wait_for_ready=True)
    return found.session.version, found.session.failure_reason


async def _kill_now_and_then(server: Server, world: World) -> None:
    """Kills the server at moments that nobody foresees, evenly over the story."""
    draw = random.Random(1)
    share = OPERATIONS // (KILLS + 1)
    for number in range(KILLS):
        await world.reach(number * share + draw.randint(share // 4, share))
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        world.counts["killed"] += 1


def test_ten_thousand_changes_and_reads_over_ten_crashes_have_one_order(server: Server) -> None:
    world = World(server.home.address, SESSIONS, OPERATIONS)

    async def body() -> tuple[Watcher, dict[str, State]]:
        async with asyncio.timeout(240):
            return await _live(server, world)

    watcher, end = asyncio.run(body())
    counts = world.counts
    print(f"{len(world.history):,} operations in the history: {dict(counts)}")
    print(f"the watch began {watcher.resumed + 1} times")
    last = max(op.returned for op in world.history if op.outcome is not Outcome.UNKNOWN) + 1
    final = [
        Operation(name, Kind.READ, last, last, Outcome.OK, 0, value, version)
        for name, (version, value) in end.items()
    ]
    assert check([*world.history, *final], BEGINNING) == []
    assert watcher.backwards == []
    assert len(world.history) >= 10_000
    assert counts["killed"] == KILLS
    assert min(counts[what] for what in ("read", "updated", "refused")) > 500
    for spoil in (_stale_read, _lost_update, _applied_twice, _from_the_future):
        spoiled = _spoiled(world.history, spoil)
        assert {f.key for f in check(spoiled, BEGINNING)} == {SESSIONS[3]}, spoil.__name__


def _spoiled(history: list[Operation], spoil: Spoil) -> list[Operation]:
    """The history with one answer of one session as it would be with a fault of the server."""
    one = [op for op in history if op.key == SESSIONS[3] and op.outcome is Outcome.OK]
    before, after = spoil(one)
    kept = [op for op in history if op is not before]
    return kept if after is None else [*kept, after]


def _middle(operations: list[Operation], kind: Kind) -> Operation:
    """One of those in the middle whose value somebody has read: nothing that was lost in a crash
    can have happened in its place."""
    read = {op.version for op in operations if op.kind is Kind.READ}
    found = [op for op in operations if op.kind is kind and op.version in read]
    return found[len(found) // 2]


def _stale_read(operations: list[Operation]) -> tuple[Operation, Operation]:
    """A read sees what was right twenty versions ago."""
    read = _middle(operations, Kind.READ)
    old = max((op for op in operations if op.version < read.version - 20), key=lambda o: o.version)
    return read, replace(read, version=old.version, value=old.value)


def _lost_update(operations: list[Operation]) -> tuple[Operation, None]:
    """A version that nobody wrote."""
    return _middle(operations, Kind.UPDATE), None


def _applied_twice(operations: list[Operation]) -> tuple[Operation, Operation]:
    """A change that says it made the version of another change as well."""
    update = _middle(operations, Kind.UPDATE)
    return update, replace(update, version=update.version + 1, expected=0)


def _from_the_future(operations: list[Operation]) -> tuple[Operation, Operation]:
    """A read sees what is written only later."""
    read = _middle(operations, Kind.READ)
    new = min((op for op in operations if op.version > read.version + 20), key=lambda o: o.version)
    return read, replace(read, version=new.version, value=new.value)
