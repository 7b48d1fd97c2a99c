"""The scheduler where something else changes meanwhile: callers that leave, agents that move, zones
and sessions that go, clocks that are set."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from orch.v1 import scheduler_pb2 as pb
from orch.v1 import session_state_pb2 as state
from orch_server.core.clock import SystemClock
from orch_server.storage import agents
from tests.storage.parts import writer_held
from tests.transport.harness import PATIENCE, START, Serving, Stream, fails, run, settles
from tests.transport.scheduling import (
    HOUR,
    create,
    every,
    fire,
    get,
    rows,
    span,
    state_of,
    take,
    with_agent,
)

Code = grpc.StatusCode


async def _sql(at: Serving, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    return await at.core.store.write(lambda tx: tx.execute(sql, values))


async def _ended(at: Serving) -> None:
    await at.state.UpdateSession(
        state.UpdateSessionRequest(
            session=state.Session(name="atlas", completion=state.COMPLETION_FAILED),
            update_mask=FieldMask(paths=["completion"]),
        )
    )


def test_an_end_beyond_the_calendar_is_refused_and_spoils_no_list(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        for until in ("9999-12-31T23:59:59Z", "9999-12-31T23:59-12:00", "9000-01-02T00:00"):
            wanted = every(HOUR, until=until, time_zone="Asia/Tokyo")
            error = await fails(create(at, schedule=wanted))
            assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("schedule.until",))
        assert not (await at.scheduler.ListTasks(pb.ListTasksRequest())).tasks

    with_agent(folder, body)


def test_a_task_that_cannot_be_fired_is_paused_aloud_and_the_others_fire(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        bad = await create(at, "bad", schedule=pb.Schedule(cron="* * * * *", time_zone="UTC"))
        await create(at, "good", delay=span(60))
        await _sql(at, "update task set time_zone = 'Gone/Zone' where id = ?", bad.id)
        await fire(at, 60)
        assert await take(stream) == "good"
        broken = await get(at, bad)
        assert (state_of(broken), broken.paused_by) == ("PAUSED", "server")
        assert "Gone/Zone" in broken.pause_note
        alerts, _ = await at.core.alerts.list_page("", 10, "")
        assert [a.kind for a in alerts] == ["task-broken"]
        await at.scheduler.UpdateTask(pb.UpdateTaskRequest(id=bad.id, schedule=every(60)))
        await at.scheduler.ResumeTask(pb.ResumeTaskRequest(id=bad.id))
        await fire(at, 60)
        assert await take(stream) == "bad"

    with_agent(folder, body)


@pytest.mark.parametrize("what", ["create", "resume all", "reschedule"])
def test_what_a_caller_that_leaves_has_written_fires_in_time(folder: Path, what: str) -> None:
    """The loop sleeps until something wakes it, so nobody else would."""

    async def body(at: Serving, stream: Stream) -> None:
        calls = {
            "create": lambda: create(at, "x", delay=span(0.05)),
            "resume all": lambda: at.scheduler.ResumeTask(pb.ResumeTaskRequest(all=True)),
            "reschedule": lambda: at.scheduler.UpdateTask(
                pb.UpdateTaskRequest(id=later, schedule=pb.Schedule(delay=span(0.05)))
            ),
        }
        later = ""
        if what == "resume all":
            await at.scheduler.PauseTask(pb.PauseTaskRequest(all=True))
            await create(at, "x", delay=span(0))
            await settles(lambda: not at.core.scheduler.changed.is_set())
        elif what == "reschedule":
            later = (await create(at, "x", delay=span(HOUR))).id
        await stream.beat()  # with the answer, the mailbox has been woken for the agent
        await settles(lambda: at.core.mailbox._queue.empty() and not at.core.mailbox._pumps)
        async with writer_held(at.core.store):  # so the next that wants to write is the call
            before = at.core.store._jobs.qsize()
            calling = asyncio.ensure_future(calls[what]())
            await settles(lambda: at.core.store._jobs.qsize() > before)
            calling.cancel()
            await asyncio.wait({calling})
        async with asyncio.timeout(PATIENCE):
            assert await take(stream) == "x"

    with_agent(folder, body, loops=("firing", "mailbox"), clock=SystemClock())


def test_a_paused_task_that_is_rescheduled_skips_at_its_new_times(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        await at.core.scheduler.fire_due()  # the loop knows of nothing to come
        at.core.scheduler.changed.clear()
        task = await create(at, delay=span(HOUR))
        await at.core.scheduler.fire_due()
        await at.scheduler.PauseTask(pb.PauseTaskRequest(id=task.id))
        at.core.scheduler.changed.clear()
        await at.scheduler.UpdateTask(pb.UpdateTaskRequest(id=task.id, schedule=every(60)))
        assert at.core.scheduler.changed.is_set()
        await fire(at, 60)
        assert await rows(at, task) == [(60.0, "SKIPPED", "PAUSED")]

    with_agent(folder, body)


def test_all_that_was_put_off_expires_with_the_session(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        task = await create(at, schedule=every(600))
        await at.core.credit.hold("operator", "generic@elsewhere", START + timedelta(hours=5))
        for _ in range(4):
            await fire(at, 600)
        await _ended(at)
        assert await rows(at, task) == [
            (600.0 * n, "EXPIRED", "SESSION_ENDED") for n in (1, 2, 3, 4)
        ]
        over = await get(at, task)
        assert (state_of(over), over.HasField("deferred_until")) == ("EXPIRED", False)

    with_agent(folder, body)


def test_a_take_over_moves_paused_tasks_too_and_counts_them_where_they_are(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        made = [await create(at, f"n{n}") for n in range(3)]
        await at.scheduler.PauseTask(pb.PauseTaskRequest(id=made[0].id))
        other = await at.alive("qa", "%2")
        old, new = made[0].agent_id, (await at.agent("atlas:qa")).id

        await at.core.store.write(lambda tx: agents.move_open_work(tx, old, new))
        counts = dict(await _sql(at, "select agent_id, open_tasks from task_load"))
        assert counts == {old: 0, new: 3}
        for task in made:
            await at.scheduler.CancelTask(pb.CancelTaskRequest(id=task.id))
        counts = dict(await _sql(at, "select agent_id, open_tasks from task_load"))
        assert counts == {old: 0, new: 0}
        assert other is not stream

    with_agent(folder, body)


def test_a_session_whose_tasks_have_moved_on_can_be_deleted(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        task = await create(at, schedule=every(60))
        await fire(at, 60)
        assert await take(stream) == "look"
        await at.alive("qa", "%2", session="other")
        new = (await at.agent("other:qa")).id
        await _sql(at, "update task set agent_id = ? where id = ?", new, task.id)
        await stream.goodbye("PANE_ENDED")
        await at.state.DeleteSession(state.DeleteSessionRequest(name="atlas"))
        assert [o for _, o, _ in await rows(at, task)] == ["FIRED"]
        assert (await get(at, task)).last_occurrence.delivery_id == ""

    with_agent(folder, body)


def test_pages_leave_no_task_out_when_some_are_put_off_meanwhile(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        made = [await create(at, f"n{n}", delay=span(60 + n)) for n in range(30)]
        first = await at.scheduler.ListTasks(pb.ListTasksRequest(page_size=20))
        for task in made[:10]:
            later = pb.Schedule(delay=span(HOUR))
            await at.scheduler.UpdateTask(pb.UpdateTaskRequest(id=task.id, schedule=later))
        token = first.next_page_token
        second = await at.scheduler.ListTasks(pb.ListTasksRequest(page_size=100, page_token=token))
        seen = {t.id for t in (*first.tasks, *second.tasks)}
        assert seen == {t.id for t in made}
        for wrong in ("x", "MQ==", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5LDE="):
            request = pb.ListTasksRequest(page_token=wrong)
            assert (await fails(at.scheduler.ListTasks(request))).fields == ("page_token",)

    with_agent(folder, body)


def test_a_clock_that_was_set_back_neither_loses_a_note_nor_sees_a_loop(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        task = await create(at, schedule=every(600))
        await fire(at, 600)
        assert await take(stream) == "look"
        at.clock.set(START)
        once = pb.Schedule(delay=span(600))
        await at.scheduler.UpdateTask(pb.UpdateTaskRequest(id=task.id, schedule=once))
        await fire(at, 601)
        assert await take(stream) == "look"
        assert state_of(await get(at, task)) == "FIRED"
        assert [n for n, _, _ in await rows(at, task)] == [600.0, 600.000001]
        for _ in range(20):
            await create(at, "check in")
            await fire(at, 900)
            assert await take(stream) == "check in"
        at.clock.set(START - timedelta(days=4))
        await create(at, "check in")

    with_agent(folder, body)


def test_a_costly_preview_keeps_nobody_else_waiting(folder: Path) -> None:
    async def body(at: Serving) -> None:
        rare = pb.Schedule(cron="0 */23 */28 2 FRI#5", time_zone="Europe/Vienna")
        request = pb.PreviewScheduleRequest(schedule=rare, count=1000)
        shown = await at.scheduler.PreviewSchedule(request, timeout=PATIENCE)
        years = {t.ToDatetime().year for t in shown.nominal_times}
        assert years
        assert max(years) < START.year + 130

    run(folder, body)


@pytest.mark.parametrize(
    ("tz", "expected"),
    [
        ("Asia/Tokyo", "Asia/Tokyo"),
        ("Europe/Vienna", "Europe/Vienna"),
        ("CET-1CEST", "UTC"),  # it has no name
        ("Nowhere/City", "UTC"),
    ],
)
def test_the_machines_zone_is_one_that_has_a_name(tz: str, expected: str) -> None:
    say = (
        "from datetime import UTC, datetime\n"
        "from orch_server.local_zone import local_zone\n"
        "print(local_zone(datetime(2026, 11, 21, tzinfo=UTC)))"
    )
    environment = {**os.environ, "TZ": tz}
    done = subprocess.run(
        [sys.executable, "-c", say], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().removeprefix("Etc/") == expected
