"""The scheduler over a real connection: forms, policies, limits, what is shown and watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from orch.v1 import delivery_pb2, messaging_pb2
from orch.v1 import scheduler_pb2 as pb
from orch.v1 import session_state_pb2 as state
from orch_server.core.clock import ManualClock
from orch_server.core.task import SAME_OPEN, SAME_RECENT
from orch_server.storage.store import Transaction
from tests.transport.harness import PATIENCE, START, Serving, Stream, fails, run, serving
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


def _utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=START.tzinfo)  # type: ignore[arg-type, misc]


def test_a_repeating_note_fires_again_and_again_until_its_end(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        task = await create(at, schedule=every(600, until="12:25", time_zone="UTC"))
        assert task.schedule.until == "2026-11-21T12:25:00+00:00"
        for n in (1, 2):
            await fire(at, 600)
            assert await take(stream) == "look"
            assert await rows(at, task) == [
                (600.0 * k, "FIRED", "UNSPECIFIED") for k in range(1, n + 1)
            ]
        done = await get(at, task)
        assert (state_of(done), done.HasField("next_nominal_time")) == ("ENDED", False)
        assert done.last_occurrence.delivery_id == done.delivery_id != ""
        assert await at.core.scheduler.fire_due() is None

    with_agent(folder, body)


def test_a_cron_note_fires_at_its_wall_clock_times(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        cron = pb.Schedule(cron="0 9 * * *", time_zone="Asia/Tokyo")
        task = await create(at, schedule=cron)
        assert task.due_time.ToDatetime(START.tzinfo) == _utc(2026, 11, 22)
        assert (task.schedule.cron, task.schedule.time_zone) == ("0 9 * * *", "Asia/Tokyo")
        await fire(at, 12 * HOUR)
        assert await take(stream) == "look"
        assert (await get(at, task)).due_time.ToDatetime(START.tzinfo) == _utc(2026, 11, 23)

    with_agent(folder, body)


def test_after_an_outage_one_note_stands_for_all(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        task = await create(at, schedule=every(600))
        all_of_them = await create(at, "each", schedule=every(600), missed=pb.MISSED_POLICY_ALL)
        await fire(at, 2 * HOUR + 60)
        found = await rows(at, task)
        skipped = [(600.0 * n, "SKIPPED", "MISSED") for n in range(1, 7)]
        coalesced = [(600.0 * n, "COALESCED", "MISSED") for n in range(7, 12)]
        assert found == [*skipped, *coalesced, (7200.0, "FIRED", "UNSPECIFIED")]
        outcomes = [outcome for _, outcome, _ in await rows(at, all_of_them)]
        assert outcomes == ["SKIPPED"] * 6 + ["FIRED"] * 6
        assert sorted([await take(stream) for _ in range(7)]) == ["each"] * 6 + ["look"]

    with_agent(folder, body)


def test_a_note_for_once_that_is_too_late_is_skipped_with_an_alert(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        late = await create(at, "late", delay=span(60), catch_up=span(600))
        just = await create(at, "just", delay=span(60), catch_up=span(HOUR))
        await fire(at, HOUR + 60)
        assert state_of(await get(at, late)) == "SKIPPED"
        assert await rows(at, late) == [(60.0, "SKIPPED", "MISSED")]
        assert state_of(await get(at, just)) == "FIRED"
        assert await take(stream) == "just"
        alerts = await at.core.alerts.list_page("", 10, "")
        assert [(a.kind, a.subject) for a in alerts[0]] == [("note-skipped", f"task {late.id}")]
        assert late.id in alerts[0][0].text

    with_agent(folder, body)


def test_while_the_note_before_waits_no_other_is_sent(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        await at.messaging.SetDoNotDisturb(_dnd(True))
        task = await create(at, schedule=every(600))
        for _ in range(4):
            await fire(at, 600)
        found = await rows(at, task)
        assert [(o, r) for _, o, r in found] == [
            ("FIRED", "UNSPECIFIED"),
            *[("COALESCED", "STILL_WAITING")] * 3,
        ]
        last = (await get(at, task)).last_occurrence
        assert last.delivery_id == (await get(at, task)).delivery_id
        await at.messaging.SetDoNotDisturb(_dnd(False))
        assert await take(stream) == "look"
        await fire(at, 600)
        assert await take(stream) == "look"

    with_agent(folder, body)


def _dnd(enabled: bool) -> Any:
    return messaging_pb2.SetDoNotDisturbRequest(target="atlas:dev", enabled=enabled)


def test_a_pause_skips_what_repeats_and_keeps_what_fires_once(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        often = await create(at, "often", schedule=every(600))
        once = await create(at, "once", delay=span(900))
        for task in (often, once):
            done = await at.scheduler.PauseTask(pb.PauseTaskRequest(id=task.id, note="lunch"))
            assert (state_of(done.task), done.task.pause_note) == ("PAUSED", "lunch")
            assert done.task.paused_by == "operator"
        for _ in range(3):
            await fire(at, 600)
        assert await rows(at, often) == [(600.0 * n, "SKIPPED", "PAUSED") for n in (1, 2, 3)]
        assert await rows(at, once) == []
        for task in (often, once):
            resumed = await at.scheduler.ResumeTask(pb.ResumeTaskRequest(id=task.id))
            assert state_of(resumed.task) == "PENDING"
        await fire(at)
        assert await take(stream) == "once"
        await fire(at, 600)
        assert await take(stream) == "often"

    with_agent(folder, body)


def test_a_pause_of_all_holds_new_tasks_too(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        alone = await create(at, "alone", delay=span(60))
        await at.scheduler.PauseTask(pb.PauseTaskRequest(id=alone.id))
        await at.scheduler.PauseTask(pb.PauseTaskRequest(all=True, note="night"))
        once = await create(at, "once", delay=span(60))
        often = await create(at, "often", schedule=every(60))
        await fire(at, 60)
        told = await at.scheduler.GetScheduler(pb.GetSchedulerRequest())
        assert (told.paused, told.paused_by, told.pause_note) == (True, "operator", "night")
        assert (told.open_tasks, await rows(at, once)) == (3, [])
        assert await rows(at, often) == [(60.0, "SKIPPED", "PAUSED")]
        await at.scheduler.ResumeTask(pb.ResumeTaskRequest(all=True))
        await fire(at)
        assert await take(stream) == "once"
        assert state_of(await get(at, alone)) == "PAUSED"
        assert not (await at.scheduler.GetScheduler(pb.GetSchedulerRequest())).paused

    with_agent(folder, body)


def test_a_pause_of_all_begins_and_ends_once(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        everything = pb.PauseTaskRequest(all=True, note="first")
        assert (await fails(at.scheduler.ResumeTask(pb.ResumeTaskRequest(all=True)))).code is (
            Code.FAILED_PRECONDITION
        )
        await at.scheduler.PauseTask(everything)
        error = await fails(at.scheduler.PauseTask(pb.PauseTaskRequest(all=True, note="second")))
        assert error.code is Code.FAILED_PRECONDITION
        told = await at.scheduler.GetScheduler(pb.GetSchedulerRequest())
        assert told.pause_note == "first"

    with_agent(folder, body)


def test_notes_that_a_limit_put_off_come_in_the_order_of_their_due_times(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        await at.core.credit.hold("operator", "generic@elsewhere", START + timedelta(hours=1))
        delays = (30, 10, 20, 50, 40)
        for n in delays:
            await create(at, f"after {n}", delay=span(n))
        for _ in range(60):
            await fire(at, 1)
        deferred = [e async for e in _deferrals(at)]
        assert len(deferred) == len(delays)
        await at.core.credit.release("operator", "generic@elsewhere")
        await at.core.credit.run_due()
        await fire(at)
        taken = [await take(stream) for _ in delays]
        assert taken == [f"after {n}" for n in sorted(delays)]

    with_agent(folder, body)


async def _deferrals(at: Serving) -> AsyncIterator[str]:
    sql = "select subject from event where kind = 'task.deferred'"
    for row in await at.core.store.read(lambda db: db.execute_sql(sql).fetchall()):
        yield row[0]


def test_a_note_paused_beyond_its_window_says_so(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        once = await create(at, delay=span(60))
        await at.scheduler.PauseTask(pb.PauseTaskRequest(id=once.id))
        await fire(at, 2 * HOUR)
        await at.scheduler.ResumeTask(pb.ResumeTaskRequest(id=once.id))
        await fire(at)
        assert await rows(at, once) == [(60.0, "SKIPPED", "PAUSED")]
        assert state_of(await get(at, once)) == "SKIPPED"

    with_agent(folder, body)


def test_run_now_fires_beside_the_schedule_or_instead_of_the_one_firing(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        often = await create(at, "often", schedule=every(600))
        once = await create(at, "once", delay=span(600))
        at.clock.advance(1)
        for _ in range(2):  # a repeat with the same request id fires nothing
            ran = await at.scheduler.RunTask(pb.RunTaskRequest(id=often.id, request_id="r"))
            assert ran.occurrence.reason == pb.OCCURRENCE_REASON_RUN_NOW
            assert await rows(at, often) == [(1.0, "FIRED", "RUN_NOW")]
        assert await take(stream) == "often"
        ran = await at.scheduler.RunTask(pb.RunTaskRequest(id=once.id))
        assert (state_of(ran.task), await take(stream)) == ("FIRED", "once")
        assert await rows(at, once) == [(600.0, "FIRED", "RUN_NOW")]
        await fire(at, 599)
        assert await take(stream) == "often"
        assert await at.core.scheduler.list_page("", None, 0, "")
        error = await fails(at.scheduler.RunTask(pb.RunTaskRequest(id=once.id)))
        assert error.code is Code.FAILED_PRECONDITION

    with_agent(folder, body)


def test_a_task_is_rescheduled_from_now_on(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        task = await create(at, delay=span(HOUR))
        at.clock.advance(60)
        changed = await at.scheduler.UpdateTask(
            pb.UpdateTaskRequest(id=task.id, schedule=every(60), expected_version=1)
        )
        assert changed.task.version == 2
        await fire(at, 60)
        assert await take(stream) == "look"
        stale = pb.UpdateTaskRequest(id=task.id, schedule=every(60), expected_version=1)
        error = await fails(at.scheduler.UpdateTask(stale))
        assert (error.code, error.metadata) == (Code.ABORTED, {"current_version": "2"})
        await at.scheduler.CancelTask(pb.CancelTaskRequest(id=task.id))
        again = pb.UpdateTaskRequest(id=task.id, schedule=every(60))
        assert (await fails(at.scheduler.UpdateTask(again))).code is Code.FAILED_PRECONDITION
        await fire(at, HOUR)
        assert len(await rows(at, task)) == 1

    with_agent(folder, body)


def test_a_clock_that_is_set_back_fires_nothing_twice(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        task = await create(at, schedule=every(600))
        await fire(at, 600)
        assert await take(stream) == "look"
        at.clock.set(START + timedelta(seconds=300))
        await fire(at)
        await fire(at, 300)
        assert len(await rows(at, task)) == 1
        at.clock.set(START)
        again = pb.UpdateTaskRequest(id=task.id, schedule=every(600))  # the same time once more
        await at.scheduler.UpdateTask(again)
        await fire(at, 600)
        assert len(await rows(at, task)) == 1
        await fire(at, 600)
        assert await take(stream) == "look"
        assert [n for n, _, _ in await rows(at, task)] == [600.0, 1200.0]

    with_agent(folder, body)


def test_the_end_of_a_session_ends_its_tasks_and_takes_no_more(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        once = await create(at, "once", delay=span(60))
        often = await create(at, "often", schedule=every(60))
        await at.scheduler.PauseTask(pb.PauseTaskRequest(id=often.id))
        await at.state.UpdateSession(
            state.UpdateSessionRequest(
                session=state.Session(name="atlas", completion=state.COMPLETION_COMPLETED),
                update_mask=FieldMask(paths=["completion"]),
            )
        )
        for task in (once, often):
            assert state_of(await get(at, task)) == "EXPIRED"
            assert await rows(at, task) == [(60.0, "EXPIRED", "SESSION_ENDED")]
        await fire(at, 3600)
        overview = await at.scheduler.GetScheduler(pb.GetSchedulerRequest())
        assert (overview.open_tasks, overview.HasField("next_due_time")) == (0, False)
        error = await fails(create(at, "more"))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("target",))
        assert "has ended" in error.message

    with_agent(folder, body)


def test_the_same_note_again_and_again_is_refused_with_the_earlier_task(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        first = await create(at, schedule=every(600))
        error = await fails(create(at, schedule=every(700)))
        assert (error.code, error.reason, error.fields) == (
            Code.ALREADY_EXISTS,
            "REPEATED_NOTE",
            ("note",),
        )
        assert error.metadata["task_id"] == first.id
        made = [await create(at, "once") for _ in range(SAME_OPEN)]
        error = await fails(create(at, "once"))
        assert error.metadata["task_id"] == made[-1].id
        await at.scheduler.CancelTask(pb.CancelTaskRequest(id=made[0].id))
        await create(at, "once")

    with_agent(folder, body)


def test_an_agent_that_schedules_its_next_check_in_is_no_loop_but_a_quick_one_is(
    folder: Path,
) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        for _ in range(40):
            await create(at, "check in")
            await fire(at, 60)
            assert await take(stream) == "check in"
        for _ in range(SAME_RECENT):
            await create(at, "quick", delay=span(0))
            await fire(at, 1)
            assert await take(stream) == "quick"
        assert (await fails(create(at, "quick", delay=span(0)))).reason == "REPEATED_NOTE"
        at.clock.advance(600)
        await create(at, "quick", delay=span(0))

    with_agent(folder, body)


def test_an_agent_has_no_more_open_tasks_than_it_may_have(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        at.core.scheduler._max_open = 3
        made = [await create(at, f"note {n}") for n in range(3)]
        error = await fails(create(at, "too much"))
        assert (error.code, error.reason, error.fields) == (
            Code.RESOURCE_EXHAUSTED,
            "LIMIT_REACHED",
            ("target",),
        )
        await at.scheduler.CancelTask(pb.CancelTaskRequest(id=made[0].id))
        await at.scheduler.PauseTask(pb.PauseTaskRequest(id=made[1].id))  # still open
        await create(at, "note 4")
        assert (await fails(create(at, "too much"))).reason == "LIMIT_REACHED"
        await fire(at, 60)
        await create(at, "note 5")
        listed = await at.scheduler.ListTasks(pb.ListTasksRequest())
        assert len(listed.tasks) == 5  # nothing of what was refused

    with_agent(folder, body)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"schedule": pb.Schedule()}, "schedule"),
    ({"schedule": pb.Schedule(cron="q w e r t y")}, "schedule.cron"),
    ({"schedule": pb.Schedule(cron="@never")}, "schedule.cron"),
    ({"schedule": pb.Schedule(cron="0 0 30 2 *")}, "schedule.cron"),
    ({"schedule": pb.Schedule(cron="0 9 * * *", time_zone="Mars")}, "schedule.time_zone"),
    ({"schedule": every(0)}, "schedule.every"),
    ({"schedule": every(0.001)}, "schedule.every"),
    ({"schedule": pb.Schedule(at="2020-01-01T00:00")}, "schedule.at"),
    ({"schedule": pb.Schedule(at="2027-02-30T00:00")}, "schedule.at"),
    ({"schedule": every(60, until="2020-01-01T00:00")}, "schedule.until"),
    ({"schedule": every(60), "delay": span(1)}, "schedule"),
    ({"schedule": every(60), "catch_up": span(1)}, "catch_up"),
    ({"schedule": every(60), "missed": 9}, "missed"),
    ({"schedule": every(60), "mode": 9}, "mode"),
    ({"delay": span(-1)}, "delay"),
    ({"delay": span(1), "request_id": "x" * 201}, "request_id"),
]


@pytest.mark.parametrize(("wrong", "field"), BAD)
def test_bad_input_names_the_field_and_leaves_nothing(
    folder: Path, wrong: dict[str, Any], field: str
) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        error = await fails(create(at, **wrong))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, (field,))
        assert not (await at.scheduler.ListTasks(pb.ListTasksRequest())).tasks
        task = await create(at)
        if "delay" not in wrong and wrong.keys() == {"schedule"}:
            change = pb.UpdateTaskRequest(id=task.id, schedule=wrong["schedule"])
            assert (await fails(at.scheduler.UpdateTask(change))).fields == (field,)
            assert await get(at, task) == task
            preview = pb.PreviewScheduleRequest(schedule=wrong["schedule"])
            assert (await fails(at.scheduler.PreviewSchedule(preview))).fields == (field,)

    with_agent(folder, body)


def test_a_pause_names_one_task_or_all(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        for call, request in (
            (at.scheduler.PauseTask, pb.PauseTaskRequest),
            (at.scheduler.ResumeTask, pb.ResumeTaskRequest),
        ):
            for given in ({}, {"id": "abc", "all": True}):
                error = await fails(call(request(**given)))
                assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("id",))

    with_agent(folder, body)


def test_a_preview_shows_the_next_firings_and_schedules_nothing(folder: Path) -> None:
    async def body(at: Serving) -> None:
        cron = pb.Schedule(cron="30 2 * * *", time_zone="Europe/Vienna")
        request = pb.PreviewScheduleRequest(schedule=cron, count=3)
        request.start_time.FromDatetime(_utc(2026, 3, 27, 12))
        shown = await at.scheduler.PreviewSchedule(request)
        assert [t.ToDatetime(START.tzinfo) for t in shown.nominal_times] == [
            _utc(2026, 3, 28, 1, 30),
            _utc(2026, 3, 29, 1),
            _utc(2026, 3, 30, 0, 30),
        ]
        assert shown.time_zone == "Europe/Vienna"
        ends = pb.PreviewScheduleRequest(schedule=every(60, until="12:02", time_zone="UTC"))
        assert len((await at.scheduler.PreviewSchedule(ends)).nominal_times) == 2
        for count in (-1, 1001):
            wrong = pb.PreviewScheduleRequest(schedule=cron, count=count)
            assert (await fails(at.scheduler.PreviewSchedule(wrong))).fields == ("count",)
        assert not (await at.scheduler.ListTasks(pb.ListTasksRequest())).tasks

    run(folder, body)


def test_a_watch_shows_each_change_of_a_task_and_of_its_delivery(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        there = await create(at, "there")
        watch = at.scheduler.WatchTasks(pb.WatchTasksRequest(session="atlas"))

        async def seen() -> tuple[str, str, str]:
            change = await asyncio.wait_for(watch.read(), PATIENCE)
            delivery = delivery_pb2.DeliveryState.Name(change.task.delivery_state)
            return change.task.note, state_of(change.task), delivery.removeprefix("DELIVERY_STATE_")

        assert await seen() == ("there", "PENDING", "UNSPECIFIED")
        await at.scheduler.PauseTask(pb.PauseTaskRequest(id=there.id))
        assert await seen() == ("there", "PAUSED", "UNSPECIFIED")
        await at.scheduler.RunTask(pb.RunTaskRequest(id=there.id))
        assert (await seen())[:2] == ("there", "FIRED")
        assert await take(stream) == "there"
        while (await seen())[2] != "CONFIRMED":
            pass
        await create(at, "new")
        while (await seen())[0] != "new":
            pass
        watch.cancel()

    with_agent(folder, body)


def test_a_watch_of_one_task_shows_no_other(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        one, other = await create(at, "one"), await create(at, "other")
        watch = at.scheduler.WatchTasks(pb.WatchTasksRequest(ids=[one.id[:6]]))
        assert (await watch.read()).task.note == "one"
        await at.scheduler.CancelTask(pb.CancelTaskRequest(id=other.id))
        await at.scheduler.CancelTask(pb.CancelTaskRequest(id=one.id))
        change = await asyncio.wait_for(watch.read(), PATIENCE)
        assert (change.task.note, state_of(change.task)) == ("one", "CANCELLED")
        assert change.event_number > 0
        watch.cancel()
        nobody = at.scheduler.WatchTasks(pb.WatchTasksRequest(ids=["ffffff"]))
        assert (await fails(_first(nobody))).code is Code.NOT_FOUND

    with_agent(folder, body)


async def _first(watch: Any) -> Any:
    return await watch.read()


def test_a_limited_agent_gets_one_note_when_its_limit_ends(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        often = await create(at, "often", schedule=every(1800))
        once = await create(at, "once", delay=span(60))
        ends = START + timedelta(hours=5)
        await at.core.credit.hold("operator", "generic@elsewhere", ends)
        for _ in range(4):
            await fire(at, 1800)
        for task in (often, once):
            assert await rows(at, task) == []
            shown = await get(at, task)
            assert shown.deferred_until.ToDatetime(START.tzinfo) == ends
        at.clock.set(ends)
        at.clock.advance(0)
        await at.core.credit.run_due()
        await fire(at)
        assert await rows(at, once) == [(60.0, "FIRED", "UNSPECIFIED")]
        found = await rows(at, often)
        assert [(o, r) for _, o, r in found] == [
            *[("COALESCED", "USAGE_LIMITED")] * 9,
            ("FIRED", "UNSPECIFIED"),
        ]
        assert sorted([await take(stream), await take(stream)]) == ["often", "once"]
        assert (await get(at, once)).note == "once"

    with_agent(folder, body)


def test_a_limit_that_is_lifted_by_hand_lets_the_notes_go_at_once(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        once = await create(at, delay=span(60))
        await at.core.credit.hold("operator", "generic@elsewhere", START + timedelta(hours=9))
        await fire(at, 60)
        assert await rows(at, once) == []
        await fire(at, 600)
        await at.core.credit.release("operator", "generic@elsewhere")
        await at.core.credit.run_due()
        assert at.core.scheduler.changed.is_set()
        await fire(at)
        assert await take(stream) == "look"

    with_agent(folder, body)


def test_a_request_id_is_honoured_over_a_restart_and_a_day(folder: Path) -> None:
    made: list[pb.Task] = []

    async def first() -> None:
        async with serving(folder, clock) as at:
            await at.alive("dev", "%1")
            made.append(await create(at, schedule=every(600), request_id="r1"))

    async def again() -> None:
        async with serving(folder, clock) as at:
            for delay in (1, 10):
                same = await create(at, "other", delay=span(delay), request_id="r1")
                assert (same.id, same.note) == (made[0].id, "look")
            assert len((await at.scheduler.ListTasks(pb.ListTasksRequest())).tasks) == 1

    clock = ManualClock(START)
    asyncio.run(asyncio.wait_for(first(), 30))
    clock.advance(24 * HOUR)
    asyncio.run(asyncio.wait_for(again(), 30))


def test_a_repeat_that_would_be_refused_by_now_returns_the_first_ones_task(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        asked = (
            {"schedule": pb.Schedule(at="2026-11-21T12:10Z")},
            {"schedule": every(60, until="2026-11-21T12:10Z")},
        )
        made = [await create(at, f"n{n}", request_id=f"r{n}", **how) for n, how in enumerate(asked)]
        at.clock.advance(HOUR)
        for n, how in enumerate(asked):
            again = await create(at, f"n{n}", request_id=f"r{n}", **how)
            assert again.id == made[n].id
            assert (await fails(create(at, f"n{n}", **how))).code is Code.INVALID_ARGUMENT
        gone = pb.CreateTaskRequest(note="n0", delay=span(1), target="gone:dev", request_id="r0")
        assert (await at.scheduler.CreateTask(gone)).task.id == made[0].id

    with_agent(folder, body)


def test_many_rows_are_caught_up_in_portions(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        task = await create(at, schedule=every(1), catch_up=span(10))
        before = at.core.store.commits
        await fire(at, 3000)
        assert at.core.store.commits - before >= 6
        rows = await at.core.store.read(_count)
        assert rows == [("COALESCED", 10), ("FIRED", 1), ("SKIPPED", 2989)]
        assert await take(stream) == "look"
        assert (await get(at, task)).due_time.ToDatetime(START.tzinfo) == START + timedelta(
            seconds=3001
        )

    with_agent(folder, body)


def _count(db: Any) -> list[tuple[str, int]]:
    sql = "select outcome, count(*) from occurrence group by outcome order by outcome"
    return [tuple(row) for row in db.execute_sql(sql).fetchall()]


def test_the_count_of_open_tasks_is_what_there_is(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        made = [await create(at, f"n{n}", delay=span(n)) for n in range(8)]
        await at.scheduler.CancelTask(pb.CancelTaskRequest(id=made[7].id))
        await at.scheduler.PauseTask(pb.PauseTaskRequest(id=made[6].id))
        await fire(at, 3)

        def both(tx: Transaction) -> tuple[Any, ...]:
            counted = "select count(*) from task where state in ('PENDING', 'PAUSED')"
            return tx.execute(f"select open_tasks, ({counted}) from task_load")[0]

        assert await at.core.store.write(both) == (3, 3)

    with_agent(folder, body)


def test_dead_and_expired_notes_raise_an_alert_and_limited_ones_wait(folder: Path) -> None:
    async def body(at: Serving, stream: Stream) -> None:
        await at.messaging.SetDoNotDisturb(_dnd(True))
        task = await create(at, delay=span(0))
        await fire(at)
        await at.core.credit.hold("operator", "generic@elsewhere", START + timedelta(days=3))
        for _ in range(60):
            at.clock.advance(HOUR / 2 + 60)
            await at.core.mailbox._sweep()
        assert (await get(at, task)).delivery_state == delivery_pb2.DELIVERY_STATE_PENDING
        await at.core.credit.release("operator", "generic@elsewhere")
        at.clock.advance(2 * HOUR)
        await at.core.mailbox._sweep()
        assert (await get(at, task)).delivery_state == delivery_pb2.DELIVERY_STATE_EXPIRED
        alerts, _ = await at.core.alerts.list_page("", 10, "")
        assert "dead-letter" in [a.kind for a in alerts]

    with_agent(folder, body, loops=())
