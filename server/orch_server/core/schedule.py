"""Scheduled notes: what a task is and which delays make sense."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from orch_server.core.delivery import DeliveryState
from orch_server.core.errors import Conflict, InvalidInput

MAX_DELAY = timedelta(days=366)


class TaskState(StrEnum):
    """See scheduler.proto."""

    PENDING = "PENDING"
    FIRED = "FIRED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Task:
    """A note that comes due once."""

    id: str
    agent_id: str
    session: str
    role: str
    note: str
    due_at: datetime
    state: TaskState
    creator: str
    created_at: datetime
    fired_at: datetime | None = None
    delivery_id: str | None = None
    delivery_state: DeliveryState | None = None
    delivery_detail: str = ""


def due_time(now: datetime, delay: timedelta) -> datetime:
    """When a note with this delay comes due. Raises InvalidInput outside 0 to 366 days."""
    if not timedelta(0) <= delay <= MAX_DELAY:
        raise InvalidInput(
            "delay",
            f"A delay of {delay.total_seconds() / 60:g} minutes makes no sense; use 0 to"
            f" {MAX_DELAY // timedelta(minutes=1):,} minutes ({MAX_DELAY.days} days).",
        )
    return now + delay


def check_cancel(task: Task) -> None:
    """Raises Conflict when the task cannot be withdrawn any more."""
    if task.state is TaskState.PENDING:
        return
    what = "has already fired" if task.state is TaskState.FIRED else "is already cancelled"
    raise Conflict(f"Task {task.id} {what}; 'orch-client task {task.id}' shows it.")
