"""Scheduled notes in the store. Creating and firing are hot, so they are plain SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from peewee import JOIN

from orch_server.core.delivery import NewDelivery, Priority
from orch_server.core.schedule import Task, TaskState
from orch_server.storage import deliveries, lookup
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import AgentRow, DeliveryRow, TaskRow, from_micros, micros

_INSERT = """insert into task (id, agent_id, note, due_at, state, creator, created_at, request_id)
    values (?, ?, ?, ?, 'PENDING', ?, ?, ?)"""
_DUE = """select id, agent_id, note, due_at, creator from task
    where state = 'PENDING' and due_at <= ? order by due_at, number limit ?"""


def insert(tx: Transaction, task: Task, request_id: str) -> str:
    """Writes a new task and returns its id; with a request id seen before, the id of that task."""
    if request_id:
        rows = tx.execute("select id from task where request_id = ?", (request_id,))
        if rows:
            return str(rows[0][0])
    tx.execute(
        _INSERT,
        (
            task.id,
            task.agent_id,
            task.note,
            micros(task.due_at),
            task.creator,
            micros(task.created_at),
            request_id or None,
        ),
    )
    tx.emit("task.created", task.id, session=task.session, agent=task.agent_id, actor=task.creator)
    return task.id


def get(db: Database, given: str) -> Task:
    """The task with this id or prefix. Raises NotFound or Ambiguous."""
    task_id = lookup.full_id(db, TaskRow, "task", given)
    row = _select().where(TaskRow.id == task_id).dicts().get(db)
    return _task(row)


def list_page(
    db: Database, session: str, state: TaskState | None, size: int, token: str
) -> tuple[list[Task], str]:
    """One page of tasks by due time, and the token for the next."""
    query = _select().order_by(TaskRow.due_at, TaskRow.number)
    if session:
        query = query.where(AgentRow.session == session)
    if state is not None:
        query = query.where(TaskRow.state == state)
    paged, offset, limit = lookup.page(query, size, token)
    rows = [_task(row) for row in paged.dicts().execute(db)]
    return lookup.next_token(rows, offset, limit)


def cancel(tx: Transaction, task: Task, actor: str) -> None:
    """Writes that the task was withdrawn."""
    tx.execute("update task set state = 'CANCELLED' where id = ?", (task.id,))
    tx.emit("task.cancelled", task.id, session=task.session, agent=task.agent_id, actor=actor)


def fire_due(tx: Transaction, most: int) -> list[str]:
    """Turns what is due into deliveries, at most so many; returns the ids of the agents.

    The task's state and its delivery are one transaction, and the delivery's key names the task and
    its time: a note becomes one delivery, whatever is killed when.
    """
    due = tx.execute(_DUE, (micros(tx.now), most))
    for task_id, agent_id, note, due_at, creator in due:
        delivery_id = deliveries.enqueue(
            tx,
            NewDelivery(
                agent_id=agent_id,
                text=note,
                origin=f"task:{task_id}",
                dedupe_key=f"task:{task_id}:{due_at}",
                priority=Priority.NORMAL,
                created_at=tx.now,
                sender=creator,
            ),
        )
        tx.execute(
            "update task set state = 'FIRED', fired_at = ?, delivery_id = ? where id = ?",
            (micros(tx.now), delivery_id, task_id),
        )
        tx.emit("task.fired", task_id, agent=agent_id, detail=delivery_id)
    return [row[1] for row in due]


def next_due(db: Database) -> datetime | None:
    """When the next task comes due; None when none is pending."""
    row = db.execute_sql("select min(due_at) from task where state = 'PENDING'").fetchone()
    return None if row[0] is None else from_micros(row[0])


def _select() -> Any:
    return (
        TaskRow.select(
            TaskRow.id,
            TaskRow.agent_id,
            AgentRow.session,
            AgentRow.role,
            TaskRow.note,
            TaskRow.due_at,
            TaskRow.state,
            TaskRow.creator,
            TaskRow.created_at,
            TaskRow.fired_at,
            TaskRow.delivery_id,
            DeliveryRow.state.alias("delivery_state"),
            DeliveryRow.detail.alias("delivery_detail"),
        )
        .join(AgentRow, on=TaskRow.agent_id == AgentRow.id)
        .switch(TaskRow)
        .join(DeliveryRow, JOIN.LEFT_OUTER, on=TaskRow.delivery_id == DeliveryRow.id)
    )


def _task(row: dict[str, Any]) -> Task:
    return Task(**{**row, "delivery_detail": row["delivery_detail"] or ""})
