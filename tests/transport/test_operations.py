"""Long operations: announced, made longer, ended, and capped."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from orch.v1 import heartbeat_pb2
from orch_server.core.clock import ManualClock
from orch_server.storage import operations
from tests.transport.harness import START, Serving, fails, run, serving
from tests.transport.overseen import span


def _request(minutes: float, reason: str = "running migrations") -> object:
    return heartbeat_pb2.ExtendOperationRequest(duration=span(minutes * 60), reason=reason)


async def _extend(
    at: Serving, minutes: float, reason: str = "running migrations"
) -> heartbeat_pb2.ExtendOperationResponse:
    header = at.token("atlas", "dev")
    return await at.heartbeat.ExtendOperation(_request(minutes, reason), metadata=header)


def test_an_operation_is_shown_until_it_is_over(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("dev", "%1")
        answer = await _extend(at, 30)
        assert answer.left.ToTimedelta() == timedelta(hours=5, minutes=30)
        shown = (await at.agent("atlas:dev")).operation
        assert shown == answer.operation
        assert shown.reason == "running migrations"
        assert shown.end_time.ToDatetime(START.tzinfo) == START + timedelta(minutes=30)
        at.clock.advance(30 * 60 - 1)
        assert (await at.agent("atlas:dev")).HasField("operation")
        at.clock.advance(1)
        assert not (await at.agent("atlas:dev")).HasField("operation")

    run(folder, body)


def test_a_duration_of_zero_ends_it_and_needs_no_reason(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("dev", "%1")
        await _extend(at, 30)
        answer = await _extend(at, 0, "")
        assert not answer.HasField("operation")
        assert not (await at.agent("atlas:dev")).HasField("operation")
        commits = at.core.store.commits
        await _extend(at, 0, "")
        assert at.core.store.commits == commits, "nothing was running, nothing is written"

    run(folder, body, loops=())


def test_it_can_be_ended_several_times_at_once(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("dev", "%1")
        await _extend(at, 30)
        await asyncio.gather(*(_extend(at, 0) for _ in range(4)))

    run(folder, body)


@pytest.mark.parametrize("status", [0, 3])
def test_it_is_over_when_its_agent_has_ended(folder: Path, status: int) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("dev", "%1")
        await _extend(at, 30)
        await stream.send(exit=heartbeat_pb2.AgentExit(status=status))
        await stream.beat()
        assert not (await at.agent("atlas:dev")).HasField("operation")
        await at.core.store.write(lambda tx: None)
        assert await at.core.store.read(operations.load_all) == {}

    run(folder, body)


def test_it_can_be_made_longer_up_to_six_hours_from_its_beginning(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("dev", "%1")
        for left in (4, 3, 2, 1):
            answer = await _extend(at, 120)
            assert answer.left.ToTimedelta() == timedelta(hours=left)
            assert answer.operation.begin_time.ToDatetime(START.tzinfo) == START
            at.clock.advance(3600)
        await _extend(at, 120)
        at.clock.advance(3600)
        failed = await fails(_extend(at, 61))
        assert failed.reason == "CONFLICT"
        assert "may be made 60 min longer at most (6 h in all)" in failed.message
        assert (await _extend(at, 60)).left.ToTimedelta() == timedelta(0)

    run(folder, body)


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_wall_clock_that_is_set_makes_it_neither_longer_nor_shorter(
    folder: Path, jump: int
) -> None:
    async def body(at: Serving) -> None:
        await at.alive("dev", "%1")
        await _extend(at, 30)
        at.clock.set(START + timedelta(seconds=jump))
        at.clock.advance(29 * 60)
        assert at.core.operations.current((await at.agent("atlas:dev")).id) is not None
        answer = await _extend(at, 60)
        assert answer.left.ToTimedelta() == timedelta(hours=4, minutes=31)
        at.clock.advance(60 * 60)
        assert not (await at.agent("atlas:dev")).HasField("operation")

    run(folder, body)


@pytest.mark.parametrize(
    ("minutes", "reason", "field"),
    [
        (120.1, "too long", "duration"),
        (-1, "before now", "duration"),
        (10, "", "reason"),
        (10, "\x1b\x07", "reason"),
        (10, "x" * 1001, "reason"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_stored(
    folder: Path, minutes: float, reason: str, field: str
) -> None:
    async def body(at: Serving) -> None:
        await at.alive("dev", "%1")
        failed = await fails(_extend(at, minutes, reason))
        assert (failed.reason, failed.fields) == ("INVALID_INPUT", (field,))
        assert not (await at.agent("atlas:dev")).HasField("operation")

    run(folder, body)


def test_the_operator_has_no_operation_of_his_own(folder: Path) -> None:
    async def body(at: Serving) -> None:
        failed = await fails(at.heartbeat.ExtendOperation(_request(5)))
        assert failed.reason == "NOT_ALLOWED"

    run(folder, body)


def test_a_restart_of_the_server_neither_ends_it_nor_makes_it_longer(folder: Path) -> None:
    clock = ManualClock(START)

    async def body() -> None:
        async with serving(folder, clock=clock) as at:
            await at.alive("dev", "%1")
            await _extend(at, 120)
        clock.advance(3600)
        async with serving(folder, clock=clock) as at:
            shown = (await at.agent("atlas:dev")).operation
            assert shown.end_time.ToDatetime(START.tzinfo) == START + timedelta(hours=2)
            assert (await _extend(at, 120)).left.ToTimedelta() == timedelta(hours=3)
            clock.advance(2 * 3600)
            assert not (await at.agent("atlas:dev")).HasField("operation")
        async with serving(folder, clock=clock) as at:
            assert not (await at.agent("atlas:dev")).HasField("operation")

    asyncio.run(body())
