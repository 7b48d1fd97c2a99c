"""What people read of tasks and their occurrences; text of others is flattened here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.commands.schedule_form import in_words, length

if TYPE_CHECKING:
    from orch.v1 import scheduler_pb2 as pb


def state(task: pb.Task) -> str:
    """How far it has come."""
    from orch.v1 import scheduler_pb2 as pb

    return output.word(pb.TaskState.Name(task.state), "TASK_STATE_")


def is_open(task: pb.Task) -> bool:
    """Whether it may fire yet."""
    from orch.v1 import scheduler_pb2 as pb

    return task.state in (pb.TASK_STATE_PENDING, pb.TASK_STATE_PAUSED)


def next_time(task: pb.Task) -> str:
    """When it fires next; for one that is over, when it last was to."""
    held = task.HasField("deferred_until")
    return output.moment(task.deferred_until if held else task.due_time)


def last(task: pb.Task) -> str:
    """The last outcome, with what became of its delivery, or why there is none; "" before."""
    if not task.HasField("last_occurrence"):
        return ""
    one = task.last_occurrence
    fired = outcome(one) == "fired"
    return f"{outcome(one)} {delivery(one) if fired else reason(one)}".rstrip()


def outcome(one: pb.Occurrence) -> str:
    """What became of it."""
    from orch.v1 import scheduler_pb2 as pb

    return output.word(pb.OccurrenceOutcome.Name(one.outcome), "OCCURRENCE_OUTCOME_")


def reason(one: pb.Occurrence) -> str:
    """Why; "" for one that simply fired."""
    from orch.v1 import scheduler_pb2 as pb

    name = pb.OccurrenceReason.Name(one.reason)
    return output.word(name, "OCCURRENCE_REASON_") if one.reason else ""


def delivery(one: pb.Task | pb.Occurrence) -> str:
    """How far its delivery has come; "" when there is none."""
    from orch.v1 import delivery_pb2

    if not one.delivery_state:
        return ""
    name = delivery_pb2.DeliveryState.Name(one.delivery_state)
    return output.word(name, "DELIVERY_STATE_")


def print_task(task: pb.Task) -> None:
    """All that is known of one, a line for each field."""
    from orch.v1 import delivery_pb2
    from orch.v1 import scheduler_pb2 as pb

    nominal = output.moment(task.next_nominal_time)
    jittered = task.next_nominal_time != task.due_time
    missed = output.word(pb.MissedPolicy.Name(task.missed), "MISSED_POLICY_")
    mode = output.word(delivery_pb2.DeliveryMode.Name(task.mode), "DELIVERY_MODE_")
    output.print_fields(
        (
            ("id", task.id),
            ("for", f"{task.session}:{task.role}"),
            ("state", state(task)),
            ("schedule", _whole(task.schedule)),
            ("next" if is_open(task) else "was due", output.moment(task.due_time)),
            ("nominal", nominal if jittered else ""),
            ("deferred until", _deferred(task)),
            ("paused", _paused(task)),
            ("catch-up", length(task.catch_up) if task.HasField("catch_up") else ""),
            ("missed", missed if task.missed else ""),
            ("mode", mode if task.mode else ""),
            ("by", task.creator),
            ("created", output.moment(task.create_time)),
            ("fired", output.moment(task.fire_time)),
            ("delivery", f"{task.delivery_id[:8]} {delivery(task)}".strip()),
            ("seen", output.one_line(task.delivery_detail, 200)),
            ("version", str(task.version or "")),
            ("note", output.plain(task.note)),
        )
    )


def _whole(schedule: pb.Schedule) -> str:
    """The schedule with its jitter and its end."""
    jitter = length(schedule.jitter) if schedule.HasField("jitter") else ""
    return (
        in_words(schedule)
        + (f", each later by up to {jitter}" if jitter else "")
        + (f", until {output.one_line(schedule.until)}" if schedule.until else "")
    )


def _deferred(task: pb.Task) -> str:
    until = output.moment(task.deferred_until)
    return f"{until}: the agent's account has met its usage limit" if until else ""


def _paused(task: pb.Task) -> str:
    if not task.HasField("pause_time"):
        return ""
    note = f": {output.one_line(task.pause_note, 200)}" if task.pause_note else ""
    return f"{output.moment(task.pause_time)} by {task.paused_by}{note}"


def print_occurrences(found: Iterable[pb.Occurrence]) -> None:
    """A table of them."""
    rows = [
        (
            output.moment(one.nominal_time),
            outcome(one),
            reason(one) or "-",
            output.moment(one.decide_time),
            one.delivery_id[:8] or "-",
            delivery(one),
        )
        for one in found
    ]
    head = ("NOMINAL", "OUTCOME", "REASON", "DECIDED", "DELIVERY", "STATE")
    output.print_table(head, rows, "No occurrences.")
