"""The pace under load, beats, stalls of the server: nobody is wrongly declared dead."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from orch.v1 import agent_pb2, heartbeat_pb2
from orch_server.core.errors import StoreUnavailable
from tests.storage.parts import writer_held
from tests.transport.agents import alive, break_off, events, expire, liveness_of, pulses, why
from tests.transport.harness import START, Serving, run, settles

L = agent_pb2.Liveness
Code = grpc.StatusCode


def _told(ack: Any) -> tuple[float, float] | None:
    """The pace in an ack; None when it says nothing of it."""
    if not ack.HasField("beat_interval"):
        assert not ack.HasField("lease")
        return None
    return ack.beat_interval.ToTimedelta().total_seconds(), ack.lease.ToTimedelta().total_seconds()


# ---- the pace ----


def test_a_busy_server_tells_each_client_once_to_beat_half_as_often(folder: Path) -> None:
    async def body(at: Serving) -> None:
        streams = await alive(at, 2)
        assert _told((await streams[0].beat()).ack) is None
        pulses(at, 5.25, busy=0.9)
        for stream in streams:
            assert _told((await stream.beat()).ack) == (10, 30)
            assert _told((await stream.beat()).ack) is None
        late = await at.alive("late", "%9")
        assert late.welcome is not None
        assert late.welcome.beat_interval.ToTimedelta() == timedelta(seconds=10)
        assert late.welcome.lease.ToTimedelta() == timedelta(seconds=30)
        assert _told((await late.beat()).ack) is None

    run(folder, body)


def test_the_leases_grow_before_the_clients_are_told(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await alive(at, 1)
        pulses(at, 5.25, busy=0.9)
        await expire(at, 24.7)
        assert await liveness_of(at, 0) == L.LIVENESS_ALIVE
        await expire(at, 0.05)
        assert await liveness_of(at, 0) == L.LIVENESS_LOST

    run(folder, body)


def test_a_slow_client_that_sends_something_else_than_a_beat_is_not_lost_when_the_pace_quickens(
    folder: Path,
) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        pulses(at, 10.25, busy=0.9)
        assert _told((await stream.beat()).ack) == (20, 60)
        pulses(at, 10.25, busy=0.0)
        before = at.core.heartbeat.connection(stream.welcome.agent_id).heard
        await stream.send(ready=heartbeat_pb2.PaneReady())
        heard = at.core.heartbeat.connection(stream.welcome.agent_id)
        await settles(lambda: heard.heard > before)
        await expire(at, 19)  # its next beat is due only now
        assert await liveness_of(at, 0) == L.LIVENESS_ALIVE
        assert _told((await stream.beat()).ack) == (5, 15)
        await expire(at, 14.99)
        assert await liveness_of(at, 0) == L.LIVENESS_ALIVE
        await expire(at, 0.01)
        assert await liveness_of(at, 0) == L.LIVENESS_LOST

    run(folder, body)


# ---- beats ----


@pytest.mark.parametrize("sequence", [-1, 1, 3, 2**62], ids=["past", "again", "gap", "future"])
def test_a_beat_out_of_order_ends_the_stream(folder: Path, sequence: int) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        await stream.beat()
        await stream.send(beat=heartbeat_pb2.Beat(sequence=sequence))
        error = await stream.error()
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("beat.sequence",))
        assert f"Beat {sequence} came after beat 1" in error.message
        await at.until("atlas:agent0", L.LIVENESS_SUSPECT)

    run(folder, body)


def test_the_first_beat_is_number_one(folder: Path) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        await stream.send(beat=heartbeat_pb2.Beat(sequence=0))
        assert (await stream.error()).fields == ("beat.sequence",)

    run(folder, body)


@pytest.mark.parametrize("seconds", [-1, 10**11])
def test_a_quiet_that_is_no_time_ends_the_stream(folder: Path, seconds: int) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        await stream.beat(quiet=Duration(seconds=seconds))
        assert (await stream.error()).code is Code.INVALID_ARGUMENT

    run(folder, body)


def test_steady_beats_cost_no_commit(folder: Path) -> None:
    async def body(at: Serving) -> None:
        streams = await alive(at, 5)
        seen = heartbeat_pb2.Observation(
            source=agent_pb2.EVIDENCE_SOURCE_SCREEN, state=agent_pb2.AGENT_STATE_IDLE, rule="x/y"
        )
        for stream in streams:
            await stream.beat(observation=seen, quiet=Duration(seconds=1))
            await stream.beat()  # the answer to the first one came before what it tells was taken
        await events(at, "")
        before = at.core.store.commits
        for n in range(30):
            for stream in streams:
                await stream.beat(quiet=Duration(seconds=2 + n * 5))
            pulses(at, 5)
            await at.core.heartbeat.expire()
        assert at.core.store.commits == before

    run(folder, body)


def test_what_a_beat_shows_is_the_agents_state(folder: Path) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        seen = heartbeat_pb2.Observation(
            source=agent_pb2.EVIDENCE_SOURCE_SCREEN,
            state=agent_pb2.AGENT_STATE_WORKING,
            rule="claude/spinner",
            detail="Baking… (12s)",
        )
        assert (await stream.beat(observation=seen)).ack.sequence == 1
        await settles(lambda: at.core.states.evidence(stream.welcome.agent_id))
        known = await at.agent("atlas:agent0")
        assert known.state == agent_pb2.AGENT_STATE_WORKING
        assert (known.evidence.rule, known.evidence.detail) == ("claude/spinner", "Baking… (12s)")

    run(folder, body)


def test_an_exit_is_the_agents_end_and_not_that_of_its_client(folder: Path) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        await stream.send(exit=heartbeat_pb2.AgentExit(status=3))
        assert (await stream.beat()).ack.sequence == 1
        known = await at.agent("atlas:agent0")
        assert known.state == agent_pb2.AGENT_STATE_DEAD
        assert known.liveness == L.LIVENESS_ALIVE

    run(folder, body)


async def _limit(at: Serving, pages: int) -> None:
    """How large the database may be; never less than it is already."""
    await at.core.store.write(lambda tx: tx.execute(f"pragma max_page_count = {pages}"))


async def _fill_up(at: Serving) -> None:
    """The disk is full: not even the smallest row has room."""
    await _limit(at, 1)
    for size in (10_000, 1_000, 100, 1):
        with contextlib.suppress(StoreUnavailable):
            for _ in range(1_000):
                await at.core.store.write(lambda tx, n=size: tx.emit("x", "x", detail="x" * n))
            pytest.fail("the database takes all")


def test_a_store_that_takes_no_write_ends_no_stream(folder: Path) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        seen = heartbeat_pb2.Observation(
            source=agent_pb2.EVIDENCE_SOURCE_SCREEN, state=agent_pb2.AGENT_STATE_IDLE, rule="x/y"
        )
        await _fill_up(at)
        await stream.beat(observation=seen)
        for _ in range(3):
            assert (await stream.beat(quiet=Duration(seconds=1))).ack.sequence == stream.beats
        assert await liveness_of(at, 0) == L.LIVENESS_ALIVE
        await _limit(at, 1 << 30)
        await stream.beat(quiet=Duration(seconds=1))
        assert (await stream.beat()).ack.sequence == stream.beats
        assert await events(at, "agent.state") == ["IDLE SCREEN x/y"]

    run(folder, body)


def test_a_disk_that_stands_still_keeps_no_beat_waiting(folder: Path) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        async with writer_held(at.core.store):
            for state in (agent_pb2.AGENT_STATE_WORKING, agent_pb2.AGENT_STATE_IDLE) * 4:
                seen = heartbeat_pb2.Observation(
                    source=agent_pb2.EVIDENCE_SOURCE_SCREEN, state=state, rule="x/y"
                )
                await expire(at, 5)
                assert (await stream.beat(observation=seen)).ack.sequence == stream.beats
            assert (await stream.beat()).ack.sequence == stream.beats  # the last one was taken
            assert await liveness_of(at, 0) == L.LIVENESS_ALIVE
        assert await events(at, "agent.state") == ["WORKING SCREEN x/y", "IDLE SCREEN x/y"] * 4

    run(folder, body)


def test_what_waits_for_a_disk_that_stands_still_makes_nobody_dead(folder: Path) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        async with writer_held(at.core.store):
            await stream.send(exit=heartbeat_pb2.AgentExit(status=3))
            await settles(lambda: at.core.states.evidence(stream.welcome.agent_id))
            await expire(at, 14)
            await expire(at, 14)
            await expire(at, 14)
            assert await liveness_of(at, 0) == L.LIVENESS_ALIVE
        assert (await stream.beat()).ack.sequence == 1
        await expire(at, 15)
        assert await liveness_of(at, 0) == L.LIVENESS_LOST

    run(folder, body)


def test_a_flood_of_changes_waits_for_the_disk(folder: Path) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        writes = at.core.states._writes
        async with writer_held(at.core.store):
            for n in range(200):
                seen = heartbeat_pb2.Observation(
                    source=agent_pb2.EVIDENCE_SOURCE_SCREEN, state=3 + n % 2, rule="x/y"
                )
                beat = heartbeat_pb2.Beat(sequence=n + 1, observation=seen)
                await stream.send(beat=beat)
            await settles(lambda: len(writes) > 32)
            assert len(writes) == 33
        for n in range(200):
            assert (await stream.read()).ack.sequence == n + 1

    run(folder, body)


# ---- stalls of the server ----


def test_a_stall_of_the_server_is_nobodys_death(folder: Path) -> None:
    async def body(at: Serving) -> None:
        streams = await alive(at, 4)
        pulses(at, 1)
        at.clock.advance(60)  # it was stopped; the pulse has not run yet
        await at.core.heartbeat.expire()
        for n in range(4):
            assert await liveness_of(at, n) == L.LIVENESS_ALIVE
        at.core.heartbeat.pulse()
        at.core.heartbeat.pulse()
        await at.core.store.write(lambda tx: None)  # after what is being written
        assert await events(at, "server.stalled") == ["59.8 s"]
        for stream in streams:
            assert (await stream.beat()).ack.sequence == 1
        pulses(at, 14.75)
        await at.core.heartbeat.expire()
        assert await liveness_of(at, 0) == L.LIVENESS_ALIVE
        await expire(at, 0.25)
        assert await liveness_of(at, 0) == L.LIVENESS_LOST

    run(folder, body)


def test_streams_that_broke_in_a_stall_have_an_amnesty_and_are_no_mass_death(folder: Path) -> None:
    async def body(at: Serving) -> None:
        streams = await alive(at, 4)
        pulses(at, 1)
        at.clock.advance(60)
        await break_off(at, *streams)
        assert not at.core.heartbeat.partition_suspected
        for _ in range(29):
            pulses(at, 1)
            await at.core.heartbeat.expire()
        assert await liveness_of(at, 0) == L.LIVENESS_SUSPECT
        assert "left to come back" in await why(at, 0)
        await at.alive("agent0", "%0", client_id="client0")
        pulses(at, 1)
        await at.core.heartbeat.expire()
        assert [await liveness_of(at, n) for n in range(2)] == [L.LIVENESS_ALIVE, L.LIVENESS_LOST]
        assert at.core.heartbeat.partition_suspected  # now they are really missing

    run(folder, body)


def test_a_stream_that_breaks_long_after_a_stall_has_only_the_grace(folder: Path) -> None:
    async def body(at: Serving) -> None:
        (stream,) = await alive(at, 1)
        pulses(at, 1)
        at.clock.advance(10)
        at.core.heartbeat.pulse()
        pulses(at, 7.5)
        await stream.beat()
        pulses(at, 7.5)
        await break_off(at, stream)
        await expire(at, 0.5)
        assert await liveness_of(at, 0) == L.LIVENESS_SUSPECT
        await expire(at, 0.25)
        assert await liveness_of(at, 0) == L.LIVENESS_LOST

    run(folder, body)


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_wall_clock_moves_by_an_hour_and_no_verdict_changes(folder: Path, hours: int) -> None:
    async def body(at: Serving) -> None:
        streams = await alive(at, 3)
        pulses(at, 1)
        await break_off(at, streams[1])
        await streams[2].goodbye("DRAINED")
        await settles(lambda: len(at.core.heartbeat._awaited) == 1)
        at.clock.set(START + timedelta(hours=hours))
        at.core.heartbeat.pulse()
        await at.core.heartbeat.expire()
        expected = [L.LIVENESS_ALIVE, L.LIVENESS_SUSPECT, L.LIVENESS_UNKNOWN]
        assert [await liveness_of(at, n) for n in range(3)] == expected
        assert (await streams[0].beat()).ack.sequence == 1
        assert not await events(at, "server.stalled")
        pulses(at, 14.75)
        await at.core.heartbeat.expire()
        assert await liveness_of(at, 0) == L.LIVENESS_ALIVE
        await expire(at, 0.25)
        assert await liveness_of(at, 0) == L.LIVENESS_LOST

    run(folder, body)


# ---- why ----


def test_why_a_client_counts_as_it_does_is_one_sentence(folder: Path) -> None:
    async def body(at: Serving) -> None:
        silent, broken, gone = await alive(at, 3)
        at.clock.advance(2)
        await gone.goodbye("CLIENT_STOPPED")
        await break_off(at, broken)
        assert await why(at, 0) == (
            "Its client was heard 2.0 s ago on connection 1; without another frame it is lost in"
            " 13.0 s."
        )
        assert await why(at, 1) == "Its stream broke; its client has 0.8 s left to come back."
        assert "own courier serves it" in await why(at, 2)
        await expire(at, 13)
        assert "not heard for a whole lease" in await why(at, 0)
        assert (await silent.error()).reason == "LEASE_ENDED"

    run(folder, body)


def test_every_stream_that_ends_leaves_nothing_behind(folder: Path) -> None:
    async def body(at: Serving) -> None:
        async def one(n: int) -> None:
            stream = await at.alive(f"agent{n}", f"%{n}")
            await stream.beat()
            if n % 3 == 0:
                stream.call.cancel()
            else:
                await stream.goodbye("CLIENT_STOPPED" if n % 3 == 1 else "DRAINED")

        await asyncio.gather(*(one(n) for n in range(30)))
        back = await at.alive("agent2", "%2")  # it was awaited
        await back.goodbye("PANE_ENDED")
        await settles(lambda: not at.core.heartbeat._connections)
        assert len(at.core.heartbeat._awaited) == 9
        await expire(at, 31)
        service = at.core.heartbeat
        assert not service.leases._leases
        assert not service._awaited
        assert not service._losses._streams
        pulses(at, 31)
        assert not service._losses._losses
        assert not service._losses._lost_by

    run(folder, body)
