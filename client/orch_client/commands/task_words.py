"""What people read of tasks and their occurrences; text of others is flattened here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.commands.schedule_form import in_words, length
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import scheduler_pb2 as pb

_ALL_PAUSED = "all firing is paused (orch-client resume --all)"


def check_id(given: str) -> None:
    """Raises ClientError for an id of which nothing is given."""
    if not given.strip():
        raise ClientError(
            "no task is named; give the id of one (orch-client tasks lists them).", USAGE
        )


# ---- parts of a task ----


def state(task: pb.Task) -> str:
    """How far it has come."""
    from orch.v1 import scheduler_pb2 as pb

    return output.word(pb.TaskState.Name(task.state), "TASK_STATE_")


def is_open(task: pb.Task) -> bool:
    """Whether it may fire yet."""
    return state(task) in ("pending", "paused")


def last_outcome(task: pb.Task) -> str:
    """The last outcome, with what became of its delivery, or why there is none; "" before."""
    if not task.HasField("last_occurrence"):
        return ""
    one = task.last_occurrence
    fired = outcome(one) == "fired"
    return f"{outcome(one)} {delivery_state(one) if fired else reason(one)}".rstrip()


def outcome(one: pb.Occurrence) -> str:
    """What became of it."""
    from orch.v1 import scheduler_pb2 as pb

    return output.word(pb.OccurrenceOutcome.Name(one.outcome), "OCCURRENCE_OUTCOME_")


def reason(one: pb.Occurrence) -> str:
    """Why; "" for one that simply fired."""
    from orch.v1 import scheduler_pb2 as pb

    name = pb.OccurrenceReason.Name(one.reason)
    return output.word(name, "OCCURRENCE_REASON_") if one.reason else ""


def delivery_state(one: pb.Task | pb.Occurrence) -> str:
    """How far its delivery has come; "" when there is none."""
    from orch.v1 import delivery_pb2

    if not one.delivery_state:
        return ""
    name = delivery_pb2.DeliveryState.Name(one.delivery_state)
    return output.word(name, "DELIVERY_STATE_")


def _next_time(task: pb.Task, is_plain: bool = False) -> str:
    """When an open one comes due next, its pause left aside; the clock alone when `is_plain`."""
    show = output.clock if is_plain else output.moment
    if task.HasField("deferred_until"):
        return f"{show(task.deferred_until)}, limited"
    return show(task.due_time)


def _next_cell(task: pb.Task, all_paused: bool = False, is_plain: bool = False) -> str:
    if not is_open(task):
        return "-"
    if all_paused or state(task) == "paused":
        return "paused"
    return _next_time(task, is_plain)


# ---- many ----


def print_pause_of_all(scheduler: pb.GetSchedulerResponse) -> None:
    """A line when all firing is paused."""
    if scheduler.paused:
        note = f": {output.one_line(scheduler.pause_note, 200)}" if scheduler.pause_note else ""
        since = output.moment(scheduler.pause_time)
        print(f"All firing is paused, by {scheduler.paused_by} at {since}{note}", flush=True)


def print_tasks(tasks: Iterable[pb.Task], all_paused: bool) -> None:
    """A table of them."""
    rows = [
        (
            task.id,
            f"{task.session}:{task.role}",
            state(task),
            output.one_line(task.note, 40),
            _next_cell(task, all_paused),
            in_words(task.schedule),
            last_outcome(task) or "-",
            task.creator,
        )
        for task in tasks
    ]
    head = ("ID", "FOR", "STATE", "NOTE", "NEXT", "SCHEDULE", "LAST", "BY")
    output.print_table(head, rows, "No tasks.")


def line(task: pb.Task) -> str:
    """One on a line; the same for as long as nothing that is shown has changed."""
    return "  ".join(
        (
            task.id,
            f"{task.session}:{task.role}",
            state(task),
            f"next {_next_cell(task, is_plain=True)}",
            f"last {last_outcome(task) or '-'}",
            output.one_line(task.note, 40),
        )
    )


def print_occurrences(found: Iterable[pb.Occurrence]) -> None:
    """A table of them."""
    rows = [
        (
            output.moment(one.nominal_time),
            outcome(one),
            reason(one) or "-",
            output.moment(one.decide_time),
            one.delivery_id[:8] or "-",
            delivery_state(one),
        )
        for one in found
    ]
    head = ("NOMINAL", "OUTCOME", "REASON", "DECIDED", "DELIVERY", "DELIVERY STATE")
    output.print_table(head, rows, "No occurrences.")


# ---- one ----


def print_task(task: pb.Task, all_paused: bool) -> None:
    """All that is known of one, a line for each field."""
    from orch.v1 import delivery_pb2
    from orch.v1 import scheduler_pb2 as pb

    next_time = f"{_next_time(task)}{but_paused(task, all_paused)}"
    over_or_late = not is_open(task) or task.HasField("deferred_until")
    jittered = task.HasField("next_nominal_time") and task.next_nominal_time != task.due_time
    missed = output.word(pb.MissedPolicy.Name(task.missed), "MISSED_POLICY_")
    mode = output.word(delivery_pb2.DeliveryMode.Name(task.mode), "DELIVERY_MODE_")
    output.print_fields(
        (
            ("id", task.id),
            ("for", f"{task.session}:{task.role}"),
            ("state", state(task)),
            ("schedule", _whole(task.schedule)),
            ("next", next_time if is_open(task) else ""),
            ("due", output.clock(task.due_time) if over_or_late else ""),
            ("nominal", output.moment(task.next_nominal_time) if jittered else ""),
            ("deferred until", _deferred(task)),
            ("paused", _paused(task)),
            ("catch-up", length(task.catch_up) if task.HasField("catch_up") else ""),
            ("missed", missed if task.missed else ""),
            ("mode", mode if task.mode else ""),
            ("by", task.creator),
            ("created", output.moment(task.create_time)),
            ("fired", output.moment(task.fire_time)),
            ("delivery", f"{task.delivery_id[:8]} {delivery_state(task)}".strip()),
            ("seen", output.one_line(task.delivery_detail, 200)),
            ("version", str(task.version or "")),
            ("note", output.plain(task.note)),
        )
    )


def but_paused(task: pb.Task, all_paused: bool) -> str:
    """What keeps an open one from firing, as the end of a sentence; "" for nothing."""
    if task.HasField("pause_time") or task.paused_by:
        return f", but paused, and {_ALL_PAUSED}" if all_paused else ", but paused"
    return f", but {_ALL_PAUSED}" if all_paused else ""


def resumed(task: pb.Task, all_paused: bool) -> str:
    """What follows from its pause's end, as a sentence."""
    late = _too_late(task)
    if late and all_paused:
        return (
            f"{task.id} resumed, but it is {late}, so it is skipped when firing goes on; use"
            f" reschedule or run-now before; {_ALL_PAUSED}"
        )
    if late:
        return f"{task.id} resumed, but it is {late}, so it is skipped; schedule it anew"
    return f"{task.id} resumed, due {_next_time(task)}{but_paused(task, all_paused)}"


def _too_late(task: pb.Task) -> str:
    """How late one is that fires once, when that is too late to fire; "" else. What a usage limit
    excuses is not known here."""
    from orch_client.commands.times import age, since

    if task.schedule.WhichOneof("form") in ("every", "cron") or task.HasField("deferred_until"):
        return ""
    window = task.catch_up.seconds + task.catch_up.nanos / 1e9
    if not task.HasField("catch_up") or since(task.due_time) <= window:
        return ""
    return f"{age(task.due_time)} late, more than its catch-up of {length(task.catch_up)}"


def _whole(schedule: pb.Schedule) -> str:
    """The schedule with the time that was asked for, its jitter and its end."""
    from orch_client.commands.times import as_given, in_both

    at = f", at {as_given(schedule)}" if schedule.at and schedule.time_zone else ""
    jitter = length(schedule.jitter) if schedule.HasField("jitter") else ""
    return (
        f"{in_words(schedule)}{at}"
        + (f", each later by up to {jitter}" if jitter else "")
        + (f", until {in_both(schedule, output.moment)}" if schedule.until else "")
    )


def _deferred(task: pb.Task) -> str:
    until = output.moment(task.deferred_until)
    return f"{until}: the agent's account has met its usage limit" if until else ""


def _paused(task: pb.Task) -> str:
    if not task.HasField("pause_time"):
        return ""
    note = f": {output.one_line(task.pause_note, 200)}" if task.pause_note else ""
    return f"{output.moment(task.pause_time)} by {task.paused_by}{note}"
