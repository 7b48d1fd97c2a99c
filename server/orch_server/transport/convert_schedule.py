"""Between the scheduler's messages and the objects of the core."""

from __future__ import annotations

from datetime import UTC, datetime

from orch.v1 import delivery_pb2
from orch.v1 import scheduler_pb2 as pb
from orch_server.core.delivery import DeliveryMode
from orch_server.core.errors import InvalidInput
from orch_server.core.schedule import CATCH_UP, Asked, Form, Missed, Schedule
from orch_server.core.task import Occurrence, Outcome, Reason, Task, TaskState
from orch_server.core.wall import zone
from orch_server.services.scheduler import NewTask, Overview
from orch_server.transport.convert import (
    delivery_state,
    duration,
    timestamp,
    to_datetime,
    to_timedelta,
    word,
)

_STATES = {state: pb.TaskState.Value(f"TASK_STATE_{state}") for state in TaskState}
_OUTCOMES = {o: pb.OccurrenceOutcome.Value(f"OCCURRENCE_OUTCOME_{o}") for o in Outcome}
_REASONS = {
    reason: pb.OccurrenceReason.Value(f"OCCURRENCE_REASON_{reason or 'UNSPECIFIED'}")
    for reason in Reason
}
_MISSED = {missed: pb.MissedPolicy.Value(f"MISSED_POLICY_{missed}") for missed in Missed}
_MODES = {mode: delivery_pb2.DeliveryMode.Value(f"DELIVERY_MODE_{mode}") for mode in DeliveryMode}


def new_task(given: pb.CreateTaskRequest) -> NewTask:
    """A note to be scheduled. Raises InvalidInput."""
    if given.HasField("delay"):
        if given.HasField("schedule"):
            raise InvalidInput("schedule", "Both delay and schedule are given; give one of them.")
        wanted = Asked(delay=to_timedelta("delay", given.delay))
    else:
        wanted = asked(given.schedule)
    missed = word(pb.MissedPolicy, "MISSED_POLICY_", given.missed, Missed, "missed")
    mode = word(delivery_pb2.DeliveryMode, "DELIVERY_MODE_", given.mode, DeliveryMode, "mode")
    catch_up = CATCH_UP
    if given.HasField("catch_up"):
        catch_up = to_timedelta("catch_up", given.catch_up)
    return NewTask(
        note=given.note,
        asked=wanted,
        target=given.target,
        request_id=given.request_id,
        catch_up=catch_up,
        missed=missed or Missed.ONE,
        mode=mode or DeliveryMode.WAIT_IDLE,
    )


def asked(given: pb.Schedule) -> Asked:
    """A schedule as it was asked for."""
    form = given.WhichOneof("form")
    return Asked(
        delay=to_timedelta("schedule.delay", given.delay) if form == "delay" else None,
        at=given.at if form == "at" else None,
        every=to_timedelta("schedule.every", given.every) if form == "every" else None,
        cron=given.cron if form == "cron" else None,
        time_zone=given.time_zone,
        jitter=to_timedelta("schedule.jitter", given.jitter),
        until=given.until,
    )


def start_time(given: pb.PreviewScheduleRequest) -> datetime | None:
    """The time from which to preview. Raises InvalidInput."""
    if not given.HasField("start_time"):
        return None
    at = to_datetime("start_time", given.start_time)
    if not 1970 <= at.year < 9000:
        raise InvalidInput("start_time", "The start_time is out of range; use 1970 to 8999.")
    return at


def schedule(given: Schedule) -> pb.Schedule:
    """A schedule for the API."""
    shown = pb.Schedule(time_zone=given.time_zone)
    if given.form is Form.ONCE:
        shown.at = _at(given, given.first)
    elif given.form is Form.EVERY:
        shown.every.CopyFrom(duration(given.every))
    else:
        shown.cron = given.cron
    if given.jitter:
        shown.jitter.CopyFrom(duration(given.jitter))
    if given.end_at is not None:
        shown.until = _at(given, given.end_at)
    return shown


def task(given: Task) -> pb.Task:
    """A task for the API."""
    shown = pb.Task(
        id=given.id,
        agent_id=given.agent_id,
        session=given.session,
        role=given.role,
        note=given.note,
        due_time=timestamp(given.due_at),
        state=_STATES[given.state],
        creator=given.creator,
        create_time=timestamp(given.created_at),
        fire_time=timestamp(given.fired_at),
        delivery_id=given.delivery_id or "",
        delivery_state=delivery_state(given.delivery_state),
        delivery_detail=given.delivery_detail,
        schedule=schedule(given.schedule),
        catch_up=duration(given.catch_up),
        missed=_MISSED[given.missed],
        mode=_MODES[given.mode],
        version=given.version,
        next_nominal_time=timestamp(given.next_at),
        deferred_until=timestamp(given.deferred_to),
    )
    if given.last is not None:
        shown.last_occurrence.CopyFrom(occurrence(given.last))
    if given.pause is not None:
        shown.paused_by, shown.pause_note = given.pause.by, given.pause.note
        shown.pause_time.FromDatetime(given.pause.at)
    return shown


def occurrence(given: Occurrence) -> pb.Occurrence:
    """An occurrence for the API."""
    return pb.Occurrence(
        task_id=given.task_id,
        nominal_time=timestamp(given.nominal_at),
        outcome=_OUTCOMES[given.outcome],
        reason=_REASONS[given.reason],
        decide_time=timestamp(given.decided_at),
        delivery_id=given.delivery_id,
        delivery_state=delivery_state(given.delivery_state),
        delivery_detail=given.delivery_detail,
    )


def preview(times: list[datetime], given: Schedule) -> pb.PreviewScheduleResponse:
    """The next firings of a schedule for the API."""
    shown = pb.PreviewScheduleResponse(time_zone=given.time_zone)
    for at in times:
        shown.nominal_times.add().FromDatetime(at)
    return shown


def overview(given: Overview) -> pb.GetSchedulerResponse:
    """The state of the scheduler for the API."""
    pause = given.pause
    return pb.GetSchedulerResponse(
        paused=pause is not None,
        paused_by=pause.by if pause else "",
        pause_time=timestamp(pause.at) if pause else None,
        pause_note=pause.note if pause else "",
        next_due_time=timestamp(given.next_due),
        open_tasks=given.open_tasks,
    )


def task_state(given: int) -> TaskState | None:
    """The state to list."""
    return word(pb.TaskState, "TASK_STATE_", given, TaskState, "state")


def outcome(given: int) -> Outcome | None:
    """The outcome to list."""
    return word(pb.OccurrenceOutcome, "OCCURRENCE_OUTCOME_", given, Outcome, "outcome")


def _at(given: Schedule, at: datetime) -> str:
    """In the schedule's zone; in UTC when that is not known (any more)."""
    try:
        return at.astimezone(zone(given.time_zone) if given.time_zone else UTC).isoformat()
    except (InvalidInput, OverflowError):
        return at.isoformat()
