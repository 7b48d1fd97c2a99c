"""Sessions, agents and their watches, over a real connection."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from orch.v1 import agent_pb2, heartbeat_pb2
from orch.v1 import scheduler_pb2 as sched
from orch.v1 import session_state_pb2 as state
from tests.transport.harness import PATIENCE, Serving, fails, run

Code = grpc.StatusCode


async def _create(at: Serving, name: str = "atlas") -> state.Session:
    request = state.CreateSessionRequest(session=state.Session(name=name, project_name="Atlas"))
    return (await at.state.CreateSession(request)).session


def _update(at: Serving, paths: list[str], **fields: Any) -> Any:
    return at.state.UpdateSession(
        state.UpdateSessionRequest(
            session=state.Session(name="atlas", **fields), update_mask=FieldMask(paths=paths)
        )
    )


def test_an_update_of_an_older_version_is_aborted_with_the_present_one(folder: Path) -> None:
    async def body(at: Serving) -> None:
        assert (await _create(at)).version == 1
        done = await _update(at, ["phase"], phase=state.PHASE_REVIEW, version=1)
        assert (done.session.version, done.session.project_name) == (2, "Atlas")
        error = await fails(_update(at, ["phase"], phase=state.PHASE_IDLE, version=1))
        assert (error.code, error.reason) == (Code.ABORTED, "VERSION_MISMATCH")
        assert error.metadata == {"current_version": "2"}
        error = await fails(
            at.state.DeleteSession(state.DeleteSessionRequest(name="atlas", version=1))
        )
        assert error.metadata == {"current_version": "2"}
        await at.state.DeleteSession(state.DeleteSessionRequest(name="atlas", version=2))

    run(folder, body)


def test_of_two_updates_of_one_version_one_wins(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _create(at)
        both = [_update(at, ["project_name"], project_name=f"{n}", version=1) for n in range(8)]
        results = await asyncio.gather(*both, return_exceptions=True)
        won = [r for r in results if not isinstance(r, BaseException)]
        assert len(won) == 1
        now = await at.state.GetSession(state.GetSessionRequest(name="atlas"))
        assert now.session.project_name == won[0].session.project_name

    run(folder, body)


@pytest.mark.parametrize("paths", [[], ["name"], ["version"], ["agents"], ["phase", "nonsense"]])
def test_a_mask_that_cannot_be_is_refused(folder: Path, paths: list[str]) -> None:
    async def body(at: Serving) -> None:
        await _create(at)
        error = await fails(_update(at, paths, phase=state.PHASE_IDLE))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("update_mask",))

    run(folder, body)


def test_a_session_is_made_once(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _create(at)
        request = state.CreateSessionRequest(session=state.Session(name="atlas"))
        assert (await fails(at.state.CreateSession(request))).code is Code.ALREADY_EXISTS

    run(folder, body)


def test_a_session_with_living_agents_is_not_deleted(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        request = state.DeleteSessionRequest(name="atlas")
        error = await fails(at.state.DeleteSession(request))
        assert error.code is Code.FAILED_PRECONDITION
        assert "atlas:developer" in error.message
        await stream.goodbye("PANE_ENDED")
        await at.state.DeleteSession(request)
        assert (await fails(at.agent("atlas:developer"))).code is Code.NOT_FOUND

    run(folder, body)


async def _next(watch: Any) -> Any:
    return await asyncio.wait_for(watch.read(), PATIENCE)


def test_a_watch_of_sessions_sees_what_is_there_and_what_changes(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _create(at)
        watch = at.state.WatchSessions(state.WatchSessionsRequest())
        first = await _next(watch)
        assert (first.session.name, first.ends_round) == ("atlas", True)
        await _update(at, ["phase"], phase=state.PHASE_REVIEW)
        changed = await _next(watch)
        assert (changed.session.phase, changed.session.version) == (state.PHASE_REVIEW, 2)
        assert changed.event_number > first.event_number > 0
        await _create(at, "borealis")
        created = await _next(watch)
        assert created.session.name == "borealis"
        assert created.event_number > changed.event_number
        await at.state.DeleteSession(state.DeleteSessionRequest(name="borealis"))
        gone = await _next(watch)
        assert (gone.session.name, gone.deleted) == ("borealis", True)
        watch.cancel()

    run(folder, body)


def test_a_watch_of_one_session_hears_of_no_other(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _create(at)
        watch = at.state.WatchSessions(state.WatchSessionsRequest(name="atlas"))
        await _next(watch)
        await _create(at, "borealis")
        await _update(at, ["phase"], phase=state.PHASE_IDLE)
        assert (await _next(watch)).session.phase == state.PHASE_IDLE
        watch.cancel()

    run(folder, body)


def test_a_watch_of_agents_sees_them_come_and_go(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        watch = at.heartbeat.WatchAgents(heartbeat_pb2.WatchAgentsRequest())
        first = await _next(watch)
        assert (first.agent.role, first.HasField("event_time")) == ("developer", False)
        stream = await at.alive("tester", "%2")
        came = (await _next(watch)).agent
        assert (came.role, came.liveness) == ("tester", agent_pb2.LIVENESS_ALIVE)
        await stream.goodbye("PANE_ENDED")
        async with asyncio.timeout(PATIENCE):
            while (await watch.read()).agent.liveness != agent_pb2.LIVENESS_ENDED:
                pass
        watch.cancel()

    run(folder, body)


def test_watches_end_with_a_word_when_the_server_stops(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        watch = at.heartbeat.WatchAgents(heartbeat_pb2.WatchAgentsRequest())
        await _next(watch)
        at.core.bus.close()
        error = await fails(_next(watch))
        assert (error.code, error.reason) == (Code.UNAVAILABLE, "DRAINING")

    run(folder, body)


def test_lists_come_in_pages(folder: Path) -> None:
    async def body(at: Serving) -> None:
        for n in range(5):
            await at.alive(f"role{n}", f"%{n}")
        seen, token = [], ""
        while True:
            page = await at.heartbeat.ListAgents(
                heartbeat_pb2.ListAgentsRequest(page_size=2, page_token=token)
            )
            seen.extend(agent.role for agent in page.agents)
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"role{n}" for n in range(5)]

    run(folder, body)


def test_an_agent_is_found_by_a_prefix_of_its_id_and_not_by_that_of_two(folder: Path) -> None:
    async def body(at: Serving) -> None:
        streams = [await at.alive(f"role{n}", f"%{n}") for n in range(17)]  # 16 first digits
        ids = [s.welcome.agent_id for s in streams if s.welcome]
        assert (await at.agent(ids[0])).id == ids[0]
        first = next(i[0] for i in ids if sum(j[0] == i[0] for j in ids) > 1)
        error = await fails(at.agent(first))
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "AMBIGUOUS"), error
        assert (await fails(at.agent(""))).code is Code.NOT_FOUND

    run(folder, body)


def test_a_note_is_made_once_cancelled_once_and_says_what_was_removed(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        request = sched.CreateTaskRequest(
            note="a\x1bb\r\n", target="atlas:developer", request_id="r1"
        )
        request.delay.seconds = 60
        made = [await at.scheduler.CreateTask(request) for _ in range(2)]
        assert made[0].task.id == made[1].task.id
        assert (made[0].task.note, made[0].removed_characters) == ("ab\n", 1)
        one = sched.CancelTaskRequest(id=made[0].task.id)
        assert (await at.scheduler.CancelTask(one)).task.state == sched.TASK_STATE_CANCELLED
        assert (await fails(at.scheduler.CancelTask(one))).code is Code.FAILED_PRECONDITION
        listed = await at.scheduler.ListTasks(sched.ListTasksRequest())
        assert len(listed.tasks) == 1

    run(folder, body)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("", Code.INVALID_ARGUMENT),
        ("@all", Code.INVALID_ARGUMENT),
        ("@session:atlas", Code.INVALID_ARGUMENT),
        ("atlas:nobody", Code.NOT_FOUND),
        ("nowhere:developer", Code.NOT_FOUND),
        ("developer", Code.NOT_FOUND),
        ("%999999", Code.NOT_FOUND),
        (":", Code.NOT_FOUND),
        ("atlas:", Code.NOT_FOUND),
    ],
)
def test_a_target_that_means_nobody_lists_who_there_is(
    folder: Path, target: str, code: grpc.StatusCode
) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        request = sched.CreateTaskRequest(note="x", target=target, delay=Duration())
        error = await fails(at.scheduler.CreateTask(request))
        assert error.code is code
        if not target.startswith("@"):
            assert "atlas:developer" in error.message

    run(folder, body)


def test_a_role_alone_means_the_callers_own_session(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await at.alive("tester", "%2")
        await at.alive("tester", "%3", session="borealis")
        request = sched.CreateTaskRequest(note="x", target="tester", delay=Duration())
        for session in ("atlas", "borealis"):
            header = at.token(session, "developer")
            made = await at.scheduler.CreateTask(request, metadata=header)
            assert made.task.session == session
            assert made.task.creator == f"{session}:developer"

    run(folder, body)
