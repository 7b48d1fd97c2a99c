"""Tasks: scheduled notes, what became of their occurrences, and which may still be changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b

from orch_server.core.delivery import DeliveryMode, DeliveryState
from orch_server.core.errors import Conflict, LimitReached, RepeatedNote
from orch_server.core.schedule import CATCH_UP, Missed, Schedule

#: So many open tasks an agent may have, unless the configuration says otherwise, and at the most.
MAX_OPEN = 1_000
MOST_OPEN = 100_000
#: The same note for the same agent: so many may be open, and so many made within the time.
SAME_OPEN = 5
SAME_RECENT = 20
RECENT = timedelta(minutes=10)


class TaskState(StrEnum):
    """See scheduler.proto."""

    PENDING = "PENDING"
    FIRED = "FIRED"
    CANCELLED = "CANCELLED"
    PAUSED = "PAUSED"
    SKIPPED = "SKIPPED"
    EXPIRED = "EXPIRED"
    ENDED = "ENDED"


#: In these, something may still fire.
OPEN = (TaskState.PENDING, TaskState.PAUSED)


class Outcome(StrEnum):
    """What became of an occurrence; see OccurrenceOutcome in scheduler.proto."""

    FIRED = "FIRED"
    COALESCED = "COALESCED"
    SKIPPED = "SKIPPED"
    EXPIRED = "EXPIRED"


class Reason(StrEnum):
    """Why an occurrence did not simply fire; see OccurrenceReason in scheduler.proto."""

    NONE = ""
    MISSED = "MISSED"
    PAUSED = "PAUSED"
    USAGE_LIMITED = "USAGE_LIMITED"
    STILL_WAITING = "STILL_WAITING"
    SESSION_ENDED = "SESSION_ENDED"
    RUN_NOW = "RUN_NOW"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What became of one planned firing. `delivery_id` is "" when there is no delivery."""

    task_id: str
    nominal_at: datetime
    outcome: Outcome
    reason: Reason
    decided_at: datetime
    delivery_id: str = ""
    delivery_state: DeliveryState | None = None
    delivery_detail: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """By whom, when and why something was paused."""

    by: str
    at: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A scheduled note. `next_at` is the next nominal time, None when there is none; `due_at` when
    it is due, jitter included, or last was; `deferred_to` until when a usage limit holds it back;
    the delivery is that of the last firing."""

    id: str
    agent_id: str
    session: str
    role: str
    note: str
    schedule: Schedule
    next_at: datetime | None
    due_at: datetime
    creator: str
    created_at: datetime
    state: TaskState = TaskState.PENDING
    catch_up: timedelta = CATCH_UP
    missed: Missed = Missed.ONE
    mode: DeliveryMode = DeliveryMode.WAIT_IDLE
    version: int = 1
    fired_at: datetime | None = None
    delivery_id: str | None = None
    delivery_state: DeliveryState | None = None
    delivery_detail: str = ""
    deferred_to: datetime | None = None
    pause: Pause | None = None
    last: Occurrence | None = None


_OVER = {
    TaskState.FIRED: "has already fired",
    TaskState.CANCELLED: "is already cancelled",
    TaskState.SKIPPED: "was skipped, since its time had passed",
    TaskState.EXPIRED: "ended with its session",
    TaskState.ENDED: "came to its end",
}


def check_open(task_id: str, state: TaskState) -> None:
    """Raises Conflict when nothing can be changed any more."""
    if state not in OPEN:
        raise Conflict(f"Task {task_id} {_OVER[state]}; 'orch-client task {task_id}' shows it.")


def check_pause(task_id: str, state: TaskState) -> None:
    """Raises Conflict unless the task can be paused."""
    check_open(task_id, state)
    if state is TaskState.PAUSED:
        raise Conflict(
            f"Task {task_id} is paused already; 'orch-client resume {task_id}' ends that."
        )


def check_resume(task_id: str, state: TaskState) -> None:
    """Raises Conflict unless the task is paused."""
    check_open(task_id, state)
    if state is not TaskState.PAUSED:
        raise Conflict(f"Task {task_id} is not paused; nothing to resume.")


def note_key(note: str) -> int:
    """What tells two notes apart: 63 bits of their hash."""
    return int.from_bytes(blake2b(note.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Standing:
    """What an agent has when it is to get another task: its open tasks; of those with the same note
    how many are open and how many were made lately; the latest of them when these are too many,
    and one that repeats ("": none)."""

    open_tasks: int
    same_open: int = 0
    same_recent: int = 0
    same_id: str = ""
    repeating_id: str = ""


def admit(whose: str, standing: Standing, repeats: bool, most: int) -> None:
    """Raises RepeatedNote or LimitReached when an agent, `whose`, gets no other task like this."""
    if repeats and standing.repeating_id:
        raise _repeated(whose, standing.repeating_id, "is scheduled again and again already")
    if standing.same_open >= SAME_OPEN:
        raise _repeated(whose, standing.same_id, f"is in {standing.same_open} open tasks already")
    if standing.same_recent >= SAME_RECENT:
        minutes = RECENT // timedelta(minutes=1)
        said = f"was scheduled {standing.same_recent} times within {minutes} minutes"
        raise _repeated(whose, standing.same_id, said)
    if standing.open_tasks >= most:
        raise LimitReached(
            f"{whose} has {standing.open_tasks:,} open tasks, and at most {most:,} are allowed"
            " (max_open_tasks); cancel some, or let one repeat ('orch-client schedule NOTE --every"
            " 15m').",
            field="target",
        )


def _repeated(whose: str, task_id: str, said: str) -> RepeatedNote:
    return RepeatedNote(
        f"This looks like a loop: the same note for {whose} {said}, the latest as task {task_id};"
        f" 'orch-client cancel {task_id}' withdraws that one.",
        field="note",
        task_id=task_id,
    )
