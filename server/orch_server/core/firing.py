"""What becomes of the occurrences of a task, decided when the server looks at it. Pure.

The numbers in comments are those of the rules in docs/reference/scheduling.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from orch_server.core.schedule import Missed, Schedule, due, successor
from orch_server.core.task import Outcome, Reason


@dataclass(frozen=True, slots=True)
class Due:
    """A task whose next occurrence may be due. `deferred` is the time in which a usage limit held
    it back, from and to; `waited`: it fires once and its time came while it was paused;
    `last_waits`: its last delivery has not left the mailbox."""

    task_id: str
    schedule: Schedule
    next_at: datetime
    due_at: datetime
    catch_up: timedelta
    missed: Missed
    paused: bool = False
    deferred: tuple[datetime, datetime] | None = None
    waited: bool = False
    last_waits: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one occurrence."""

    nominal_at: datetime
    outcome: Outcome
    reason: Reason = Reason.NONE


@dataclass(frozen=True, slots=True)
class Round:
    """What one look decided, in the order of the nominal times, and the next occurrence: its
    nominal time and when it is due, both None when there is none."""

    decisions: tuple[Decision, ...]
    next_at: datetime | None
    due_at: datetime | None


def look(task: Due, now: datetime, most: int) -> Round:
    """Decides on the occurrences that are due, at most so many.

    A task that is put off (3), or that fires once and is paused (2), is not to be looked at.
    """
    decisions: list[Decision] = []
    nominal: datetime | None = task.next_at
    at: datetime | None = task.due_at
    while nominal is not None and at is not None and at <= now and len(decisions) < most:
        after = successor(task.schedule, nominal)
        after_at = None if after is None else due(task.schedule, task.task_id, after)
        one_more = after_at is not None and after_at <= now
        decisions.append(Decision(nominal, *_decide(task, at, one_more, now)))
        nominal, at = after, after_at
    return Round(tuple(decisions), nominal, at)


def _decide(task: Due, due_at: datetime, one_more: bool, now: datetime) -> tuple[Outcome, Reason]:
    if task.paused:  # (2)
        return Outcome.SKIPPED, Reason.PAUSED
    excused = _excused(task, due_at, now)
    if now - due_at - excused > task.catch_up:  # (4)
        return Outcome.SKIPPED, Reason.PAUSED if task.waited else Reason.MISSED
    if task.missed is Missed.ONE and one_more:  # (5)
        return Outcome.COALESCED, Reason.USAGE_LIMITED if excused else Reason.MISSED
    if task.missed is Missed.ONE and task.last_waits and task.schedule.repeats:
        return Outcome.COALESCED, Reason.STILL_WAITING
    return Outcome.FIRED, Reason.NONE  # (6)


def _excused(task: Due, due_at: datetime, now: datetime) -> timedelta:
    """How long of its lateness a usage limit held it back."""
    if task.deferred is None:
        return timedelta(0)
    began, ended = task.deferred
    return max(timedelta(0), min(ended, now) - max(began, due_at))
