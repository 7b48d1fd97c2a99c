"""The heartbeat stream: who is welcomed, who is heard, who is lost, who takes over."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from orch.v1 import agent_pb2, heartbeat_pb2, scheduler_pb2, session_state_pb2
from orch_server.core.clock import SystemClock
from orch_server.core.pace import Pace
from tests.storage.parts import writer_held
from tests.transport.harness import (
    EOF,
    PATIENCE,
    Serving,
    Stream,
    fails,
    hello,
    run,
    settles,
)

L = agent_pb2.Liveness
Code = grpc.StatusCode
_SOON = 6.0  # less than the 10 s after which a client that takes nothing is given up


def test_a_hello_is_welcomed_and_a_beat_is_answered(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = at.connect()
        welcome = await stream.hello("developer", "%1")
        assert (welcome.session, welcome.role, welcome.epoch) == ("atlas", "developer", 1)
        assert welcome.beat_interval.ToTimedelta() == timedelta(seconds=5)
        assert welcome.lease.ToTimedelta() == timedelta(seconds=15)
        frame = await stream.beat(1, "vim")
        assert frame.ack.sequence == 1
        known = await at.agent("atlas:developer")
        assert (known.liveness, known.foreground_program) == (L.LIVENESS_ALIVE, "vim")
        assert known.id == welcome.agent_id
        assert known.pane.pane_id == "%1"

    run(folder, body)


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"beat": heartbeat_pb2.Beat(sequence=1)},
        {"goodbye": heartbeat_pb2.Goodbye()},
    ],
    ids=["nothing", "beat", "goodbye"],
)
def test_the_first_frame_is_a_hello(folder: Path, frame: dict[str, Any]) -> None:
    async def body(at: Serving) -> None:
        stream = at.connect()
        await stream.send(**frame)
        error = await stream.error()
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("hello",))

    run(folder, body)


def test_a_stream_that_ends_before_its_hello_is_refused(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = at.connect()
        await stream.call.done_writing()
        assert (await stream.error()).code is Code.INVALID_ARGUMENT

    run(folder, body)


def test_a_second_hello_is_refused(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await stream.send(hello=hello("developer", "%1"))
        error = await stream.error()
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("frame",))
        await at.until("atlas:developer", L.LIVENESS_SUSPECT)

    run(folder, body)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"pane": "5"}, "hello.pane"),
        ({"pane": ""}, "hello.pane"),
        ({"host": ""}, "hello.pane"),
        ({"kind": "no kind"}, "hello.kind"),
        ({"role": "no role!"}, "role"),
        ({"role": ""}, "role"),
        ({"session": ""}, "session"),
        ({"session": "a:b"}, "session"),
        ({"session": "a\x1b"}, "session"),
    ],
)
def test_a_wrong_hello_names_the_field(folder: Path, wrong: dict[str, str], field: str) -> None:
    async def body(at: Serving) -> None:
        stream = at.connect()
        given = {"role": "developer", "pane": "%1", **wrong}
        await stream.send(hello=hello(**given))
        error = await stream.error()
        assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "INVALID_INPUT")
        assert error.fields == (field,)
        listed = await at.heartbeat.ListAgents(heartbeat_pb2.ListAgentsRequest())
        assert not listed.agents

    run(folder, body)


@pytest.mark.parametrize("seconds", [10**18, -(10**18)])
def test_a_start_time_that_is_no_time_does_not_spoil_the_list_of_agents(
    folder: Path, seconds: int
) -> None:
    """The list is printed as JSON by everybody's client, and JSON has no such time."""

    async def body(at: Serving) -> None:
        stream = at.connect()
        given = hello("developer", "%1")
        given.pane.tmux_server_start_time.seconds = seconds
        await stream.send(hello=given)
        with contextlib.suppress(grpc.aio.AioRpcError):  # refused, or accepted in some other form
            await stream.read()
        listed = await at.heartbeat.ListAgents(heartbeat_pb2.ListAgentsRequest())
        json_format.MessageToJson(listed)

    run(folder, body)


def test_a_twin_in_the_same_pane_supersedes_the_first(folder: Path) -> None:
    async def body(at: Serving) -> None:
        first = await at.alive("developer", "%1")
        second = await at.alive("developer", "%1")
        assert second.welcome is not None
        assert second.welcome.epoch == 2
        frame = await first.read()
        assert frame.superseded.epoch == 2
        assert "atlas:developer" in frame.superseded.by
        error = await first.error()
        assert (error.code, error.reason) == (Code.ABORTED, "STALE_EPOCH")
        assert error.metadata == {"epoch": "1"}
        assert (await second.beat()).ack.sequence == 1
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_ALIVE

    run(folder, body)


def test_the_end_of_a_superseded_stream_is_no_verdict_on_the_newer_one(folder: Path) -> None:
    async def body(at: Serving) -> None:
        first = await at.alive("developer", "%1")
        second = await at.alive("developer", "%1")
        await first.error()
        at.clock.advance(1)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_ALIVE
        assert (await second.beat()).ack.sequence == 1

    run(folder, body)


def test_a_silent_client_is_lost_at_its_lease_and_not_before(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        at.clock.advance(10)
        await stream.beat()
        at.clock.advance(14.999)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_ALIVE
        at.clock.advance(0.001)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_LOST
        error = await stream.error()
        assert (error.code, error.reason) == (Code.UNAVAILABLE, "LEASE_ENDED")

    run(folder, body)


def test_the_loop_finds_the_silent_client_by_itself(folder: Path) -> None:
    async def body(at: Serving) -> None:
        begun = asyncio.get_running_loop().time()
        stream = await at.alive("silent", "%1")
        loud = await at.alive("loud", "%2")
        beats = asyncio.create_task(_beat_for_ever(loud))
        await at.until("atlas:silent", L.LIVENESS_LOST)
        assert asyncio.get_running_loop().time() - begun >= pace.lease
        assert (await at.agent("atlas:loud")).liveness == L.LIVENESS_ALIVE
        beats.cancel()
        assert (await stream.error()).reason == "LEASE_ENDED"

    pace = Pace(beat=0.5, lease=1.5, grace=0.1)
    run(folder, body, clock=SystemClock(), pace=pace, loops=("mailbox", "leases"))


async def _beat_for_ever(stream: Stream) -> None:
    while True:
        await stream.beat()
        await asyncio.sleep(0.05)  # the client's own pace


def test_a_broken_stream_is_suspect_at_once_and_lost_after_the_grace(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        stream.call.cancel()
        await at.until("atlas:developer", L.LIVENESS_SUSPECT)
        at.clock.advance(0.749)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_SUSPECT
        at.clock.advance(0.001)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_LOST

    run(folder, body)


def test_a_stream_that_ends_cleanly_without_goodbye_counts_as_broken(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await stream.call.done_writing()
        await at.until("atlas:developer", L.LIVENESS_SUSPECT)

    run(folder, body)


def test_a_client_that_comes_back_within_the_grace_is_alive_again(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        stream.call.cancel()
        await at.until("atlas:developer", L.LIVENESS_SUSPECT)
        again = await at.alive("developer", "%1")
        at.clock.advance(1)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_ALIVE
        assert again.welcome is not None
        assert again.welcome.epoch == 2

    run(folder, body)


@pytest.mark.parametrize(
    ("reason", "liveness"),
    [
        ("PANE_ENDED", L.LIVENESS_ENDED),
        ("CLIENT_STOPPED", L.LIVENESS_UNMANAGED),
        ("UNSPECIFIED", L.LIVENESS_UNMANAGED),
    ],
)
def test_a_goodbye_is_no_loss(folder: Path, reason: str, liveness: int) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await stream.goodbye(reason)
        assert (await at.agent("atlas:developer")).liveness == liveness
        at.clock.advance(1000)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:developer")).liveness == liveness

    run(folder, body)


def test_who_leaves_for_a_restart_of_the_server_is_awaited_for_two_leases(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await stream.goodbye("DRAINED")
        await _written(at)
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_UNKNOWN
        at.clock.advance(29.9)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_UNKNOWN
        at.clock.advance(0.1)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_LOST

    run(folder, body)


async def _written(at: Serving) -> None:
    """What the end of a stream set off has run: calls and writes are served in order."""
    for _ in range(3):
        await at.core.store.write(lambda tx: None)
        await at.agent("atlas:developer")


def test_known_agents_have_an_amnesty_after_a_start(folder: Path) -> None:
    async def first(at: Serving) -> None:
        await at.alive("developer", "%1")
        await at.alive("tester", "%2")

    async def second(at: Serving) -> None:
        for role in ("developer", "tester"):
            known = await at.agent(f"atlas:{role}")
            assert known.liveness == L.LIVENESS_UNKNOWN
        back = await at.alive("developer", "%1")
        at.clock.advance(14)
        await back.beat()
        at.clock.advance(15.9)
        await back.beat()
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:tester")).liveness == L.LIVENESS_UNKNOWN
        at.clock.advance(0.2)
        await at.core.heartbeat.expire()
        assert (await at.agent("atlas:tester")).liveness == L.LIVENESS_LOST
        assert (await at.agent("atlas:developer")).liveness == L.LIVENESS_ALIVE

    run(folder, first)
    run(folder, second)


def test_the_role_of_a_living_client_elsewhere_is_not_given_away(folder: Path) -> None:
    async def body(at: Serving) -> None:
        holder = await at.alive("developer", "%1")
        rival = at.connect()
        await rival.send(hello=hello("developer", "%2"))
        error = await rival.error()
        assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "ALREADY_EXISTS")
        assert "--take-over" in error.message
        assert (await holder.beat()).ack.sequence == 1

    run(folder, body)


@pytest.mark.parametrize("state", ["suspect", "unknown"])
def test_a_role_that_may_still_be_held_is_not_given_away(folder: Path, state: str) -> None:
    async def hold(at: Serving) -> None:
        holder = await at.alive("developer", "%1")
        if state == "suspect":
            holder.call.cancel()
            await at.until("atlas:developer", L.LIVENESS_SUSPECT)
            await refused(at)

    async def refused(at: Serving) -> None:
        rival = at.connect()
        await rival.send(hello=hello("developer", "%2"))
        assert (await rival.error()).code is Code.ALREADY_EXISTS

    run(folder, hold)
    if state == "unknown":
        run(folder, refused)


def test_the_role_is_taken_over_when_it_is_asked_for(folder: Path) -> None:
    async def body(at: Serving) -> None:
        holder = await at.alive("developer", "%1")
        taker = await at.alive("developer", "%2", take_over=True)
        assert (await holder.read()).superseded.epoch == 2
        assert (await holder.error()).reason == "STALE_EPOCH"
        known = await at.agent("atlas:developer")
        assert (known.pane.pane_id, known.epoch) == ("%2", 2)
        assert taker.welcome is not None
        assert taker.welcome.agent_id == known.id

    run(folder, body)


@pytest.mark.parametrize("how", ["lost", "goodbye", "ended"])
def test_the_role_of_a_client_that_is_gone_is_free(folder: Path, how: str) -> None:
    async def body(at: Serving) -> None:
        holder = await at.alive("developer", "%1")
        if how == "lost":
            at.clock.advance(15)
            await at.core.heartbeat.expire()
        else:
            await holder.goodbye("PANE_ENDED" if how == "ended" else "CLIENT_STOPPED")
        before = (await at.agent("atlas:developer")).id
        await at.alive("developer", "%2")
        known = await at.agent("atlas:developer")
        assert (known.id, known.pane.pane_id) == (before, "%2")
        assert known.liveness == L.LIVENESS_ALIVE

    run(folder, body)


def test_the_same_pane_id_of_another_tmux_server_is_another_pane(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1", life=1)
        rival = at.connect()
        await rival.send(hello=hello("developer", "%1", life=2))
        assert (await rival.error()).code is Code.ALREADY_EXISTS

    run(folder, body)


def test_a_pane_keeps_its_role_unless_it_takes_over(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        other = at.connect()
        await other.send(hello=hello("tester", "%1"))
        error = await other.error()
        assert error.code is Code.ALREADY_EXISTS
        assert "atlas:developer" in error.message
        known = await at.alive("", "%1")
        assert known.welcome is not None
        assert known.welcome.role == "developer"

    run(folder, body)


def test_a_pane_that_takes_another_role_leaves_the_old_one_behind(folder: Path) -> None:
    async def body(at: Serving) -> None:
        old = await at.alive("developer", "%1")
        await at.alive("tester", "%1", take_over=True)
        assert (await old.error()).reason == "STALE_EPOCH"
        left = await at.agent("atlas:developer")
        assert (left.liveness, left.HasField("pane")) == (L.LIVENESS_ENDED, False)
        assert (await at.agent("atlas:tester")).pane.pane_id == "%1"

    run(folder, body)


def test_a_role_survives_the_rename_of_its_session(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        for role in ("developer", "", "Developer"):
            again = await at.alive(role, "%1", session="renamed")
            assert again.welcome is not None
            assert (again.welcome.session, again.welcome.role) == ("atlas", "developer"), role

    run(folder, body)


async def _schedule(at: Serving, note: str, target: str = "atlas:developer") -> str:
    request = scheduler_pb2.CreateTaskRequest(note=note, delay=Duration(), target=target)
    return (await at.scheduler.CreateTask(request, timeout=PATIENCE)).task.id


async def _task(at: Serving, task_id: str) -> scheduler_pb2.Task:
    return (await at.scheduler.GetTask(scheduler_pb2.GetTaskRequest(id=task_id))).task


def test_a_due_note_is_offered_and_its_report_is_acknowledged(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        task = await _schedule(at, "hello")
        await at.core.scheduler.fire_due()
        offer = (await stream.read()).offer
        assert (offer.text, offer.grant, offer.kind) == ("hello", 1, "generic")
        for state in ("PASTED", "CONFIRMED"):
            await stream.report(offer, state)
            ack = (await stream.read()).report_ack
            assert (ack.delivery_id, ack.sequence) == (offer.delivery_id, offer.sequence)
        assert (await _task(at, task)).delivery_id == offer.delivery_id
        state = (await _task(at, task)).delivery_state
        assert state == 4  # CONFIRMED

    run(folder, body)


def test_notes_are_offered_one_after_the_other(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        for n in range(5):
            await _schedule(at, f"note {n}")
        await at.core.scheduler.fire_due()
        for n in range(5):
            offer = (await stream.read()).offer
            assert offer.text == f"note {n}"
            await stream.report(offer, "CONFIRMED")
            assert (await stream.read()).HasField("report_ack")

    run(folder, body)


def test_a_new_connection_gets_the_outstanding_offer_under_the_same_number(folder: Path) -> None:
    async def body(at: Serving) -> None:
        first = await at.alive("developer", "%1")
        await _schedule(at, "hello")
        await at.core.scheduler.fire_due()
        offer = (await first.read()).offer
        second = await at.alive("developer", "%1")
        again = (await second.read()).offer
        assert (again.delivery_id, again.sequence) == (offer.delivery_id, offer.sequence)
        assert (offer.grant, again.grant) == (1, 2)

    run(folder, body)


def test_a_late_report_of_an_older_connection_is_refused(folder: Path) -> None:
    async def body(at: Serving) -> None:
        first = await at.alive("developer", "%1")
        task = await _schedule(at, "hello")
        await at.core.scheduler.fire_due()
        offer = (await first.read()).offer
        second = await at.alive("developer", "%1")
        await second.read()
        await second.report(offer, "CONFIRMED", grant=1)
        error = await second.error()
        assert (error.code, error.reason) == (Code.ABORTED, "STALE_EPOCH")
        assert (await _task(at, task)).delivery_state == 2  # OFFERED

    run(folder, body)


@pytest.mark.parametrize("state", ["UNSPECIFIED", "PENDING", "OFFERED", "EXPIRED", "DEAD"])
def test_a_courier_cannot_report_what_is_not_his_to_say(folder: Path, state: str) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await _schedule(at, "hello")
        await at.core.scheduler.fire_due()
        await stream.report((await stream.read()).offer, state)
        error = await stream.error()
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("report.state",))

    run(folder, body)


def test_what_a_lost_client_had_goes_to_the_one_that_comes_back(folder: Path) -> None:
    async def body(at: Serving) -> None:
        first = await at.alive("developer", "%1")
        await _schedule(at, "hello")
        await at.core.scheduler.fire_due()
        offer = (await first.read()).offer
        first.call.cancel()
        await at.until("atlas:developer", L.LIVENESS_SUSPECT)
        at.clock.advance(1)
        await at.core.heartbeat.expire()
        again = await at.alive("developer", "%1")
        assert (await again.read()).offer.sequence == offer.sequence

    run(folder, body)


def test_a_client_that_breaks_while_it_is_being_welcomed_is_not_counted_as_alive(
    folder: Path,
) -> None:
    """The store is slow, and the client gives up before the welcome is written."""

    async def body(at: Serving) -> None:
        async with writer_held(at.core.store):
            stream = at.connect()
            await stream.send(hello=hello("developer", "%1"))
            await settles(lambda: at.core.registry.at("atlas", "developer"))
            stream.call.cancel()
        await _written(at)
        at.clock.advance(1)  # more than the grace, less than the lease
        await at.core.heartbeat.expire()
        await _written(at)
        known = await at.agent("atlas:developer")
        assert known.liveness in (L.LIVENESS_SUSPECT, L.LIVENESS_LOST)

    run(folder, body)


@asynccontextmanager
async def _stopped(at: Serving, role: str, pane: str) -> AsyncIterator[None]:
    """A client process that was stopped, with a large note on its way to it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.transport.stopped_client", at.addresses[0], role, pane),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        await _schedule(at, "x" * 250_000, f"atlas:{role}")
        await at.core.scheduler.fire_due()
        await settles(lambda: at.core.mailbox._out)
        await _written(at)
        yield
    finally:
        process.kill()
        await process.wait()


def test_a_stopped_client_does_not_delay_the_one_that_replaces_it(folder: Path) -> None:
    async def body(at: Serving) -> None:
        async with _stopped(at, "developer", "%1"):
            again = at.connect()
            welcome = await asyncio.wait_for(again.hello("developer", "%1"), _SOON)
            assert welcome.epoch == 2

    run(folder, body)


def test_a_stopped_client_does_not_keep_the_others_from_the_drain(folder: Path) -> None:
    async def body(at: Serving) -> None:
        async with _stopped(at, "developer", "%1"):
            tester = await at.alive("tester", "%2")
            draining = asyncio.create_task(at.core.heartbeat.drain(timedelta(seconds=1)))
            frame = await asyncio.wait_for(tester.read(), _SOON)
            assert frame.WhichOneof("frame") == "drain"
            draining.cancel()

    run(folder, body)


def test_a_token_beats_for_its_own_agent(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = at.connect(at.token("atlas", "developer"))
        await stream.hello("developer", "%1")
        assert (await stream.beat()).ack.sequence == 1

    run(folder, body)


@pytest.mark.parametrize(
    ("role", "session", "pane"),
    [
        ("orchestrator", "atlas", "%9"),
        ("developer", "borealis", "%9"),
        ("", "atlas", "%1"),
        ("", "borealis", "%1"),
    ],
    ids=["another role", "another session", "another's pane", "another's pane and session"],
)
def test_a_token_beats_for_nobody_else(folder: Path, role: str, session: str, pane: str) -> None:
    async def body(at: Serving) -> None:
        owner = await at.alive("orchestrator", "%1")
        stream = at.connect(at.token("atlas", "developer"))
        await stream.send(hello=hello(role, pane, session=session))
        try:
            welcome = (await stream.read()).welcome
        except grpc.aio.AioRpcError:
            assert (await stream.error()).code is Code.PERMISSION_DENIED
        else:
            pytest.fail(f"welcomed as {welcome.session}:{welcome.role}")
        assert (await owner.beat()).ack.sequence == 1

    run(folder, body)


def test_an_agent_that_connects_while_its_session_is_deleted_is_still_known(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await stream.goodbye("PANE_ENDED")
        async with writer_held(at.core.store):
            deleting = asyncio.create_task(_answer(_delete(at)))
            await settles(lambda: at.core.store._jobs.qsize() >= 1)
            again = at.connect()
            await again.send(hello=hello("developer", "%1"))
            await settles(lambda: at.core.store._jobs.qsize() >= 2)
        await deleting
        frame = await again.read()
        if frame is not EOF:  # welcomed, so it is there
            listed = await at.heartbeat.ListAgents(heartbeat_pb2.ListAgentsRequest())
            assert [a.role for a in listed.agents] == ["developer"]

    run(folder, body)


def test_a_note_for_an_agent_whose_session_is_deleted_meanwhile(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await stream.goodbye("PANE_ENDED")
        async with writer_held(at.core.store):
            deleting = asyncio.create_task(_answer(_delete(at)))
            await settles(lambda: at.core.store._jobs.qsize() >= 1)
            target = "atlas:developer"
            request = scheduler_pb2.CreateTaskRequest(note="x", target=target, delay=Duration())
            creating = asyncio.create_task(_answer(at.scheduler.CreateTask(request)))
            await settles(lambda: at.core.store._jobs.qsize() >= 2)
        await deleting
        error = await fails(creating)
        assert error.code not in (Code.UNKNOWN, Code.INTERNAL), error

    run(folder, body)


async def _answer(call: Any) -> Any:
    return await call


def _delete(at: Serving) -> Any:
    return at.state.DeleteSession(session_state_pb2.DeleteSessionRequest(name="atlas"))
