"""Scheduled notes in the store: made and changed, in plain SQL.

What time does to them is in firing.py, how they are shown in agenda.py.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from orch_server.core.errors import Conflict, InvalidInput, VersionMismatch
from orch_server.core.schedule import Form, Schedule, due
from orch_server.core.task import (
    RECENT,
    SAME_OPEN,
    SAME_RECENT,
    Standing,
    Task,
    TaskState,
    admit,
    check_open,
    check_pause,
    check_resume,
    note_key,
)
from orch_server.storage import lookup
from orch_server.storage.columns import from_micros, from_span, micros, span
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import TaskRow

#: When the loop looks at a task that waits for a pause to end.
NEVER = 2**62
_MICROSECOND = timedelta(microseconds=1)

_INSERT = """insert into task (id, agent_id, note, due_at, state, creator, created_at, request_id,
    form, every, cron, time_zone, jitter, end_at, first_at, next_at, look_at, catch_up, missed,
    mode, note_key)
    values (?, ?, ?, ?, 'PENDING', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_STANDING = """select (select id from task where request_id = ?1),
    (select completion from session where name = ?2),
    coalesce((select open_tasks from task_load where agent_id = ?3), 0),
    exists (select 1 from task where agent_id = ?3 and note_key = ?4)"""
_SAME = """select
    (select count(*) from task where agent_id = ?1 and note_key = ?2
        and state in ('PENDING', 'PAUSED')),
    (select count(*) from task where agent_id = ?1 and note_key = ?2
        and created_at > ?3 and created_at <= ?4
        and state in ('PENDING', 'PAUSED', 'FIRED', 'CANCELLED', 'SKIPPED', 'EXPIRED', 'ENDED'))"""
_LATEST = """select id from task where agent_id = ? and note_key = ? and state in
    ('PENDING', 'PAUSED', 'FIRED', 'CANCELLED', 'SKIPPED', 'EXPIRED', 'ENDED')
    order by number desc limit 1"""
_REPEATING = """select id from task where agent_id = ? and note_key = ?
    and state in ('PENDING', 'PAUSED') and form <> 'ONCE' order by number desc limit 1"""
_HAS_ROW = "select 1 from occurrence where task_id = ? and nominal_at = ?"
_KNOWN = """select t.agent_id, a.session, t.state, t.version
    from task t join agent a on a.id = t.agent_id where t.id = ?"""
_RESCHEDULE = """update task set form = ?, every = ?, cron = ?, time_zone = ?, jitter = ?,
    end_at = ?, first_at = ?, next_at = ?, due_at = ?, look_at = ?, deferred_from = null,
    deferred_to = null, waited = 0, version = version + 1 where id = ?"""


def insert(tx: Transaction, task: Task, request_id: str, most_open: int) -> str:
    """Writes a new task and returns its id; with a request id seen before, the id of that task.

    Raises InvalidInput when the agent's session has ended, RepeatedNote or LimitReached when the
    agent is to get no further task like this.
    """
    key = note_key(task.note)
    about = (request_id or None, task.session, task.agent_id, key)
    made, completion, open_tasks, repeated = tx.execute(_STANDING, about)[0]
    if made is not None:
        return str(made)
    if completion in ("COMPLETED", "FAILED"):
        raise InvalidInput(
            "target",
            f"Session {task.session} has ended ({completion.lower()}), so nothing is scheduled for"
            f" {task.session}:{task.role}; name an agent of a session that goes on.",
        )
    standing = _standing(tx, task, key, open_tasks) if repeated else Standing(open_tasks)
    admit(f"{task.session}:{task.role}", standing, task.schedule.repeats, most_open)
    schedule = task.schedule
    look_at = micros(task.due_at)
    values = (
        task.id,
        task.agent_id,
        task.note,
        look_at,
        task.creator,
        micros(task.created_at),
        request_id or None,
        *_written(schedule),
        micros(schedule.first),
        look_at,
        span(task.catch_up),
        task.missed,
        task.mode,
        key,
    )
    tx.execute(_INSERT, values)
    tx.emit("task.created", task.id, session=task.session, agent=task.agent_id, actor=task.creator)
    return task.id


def made_by(db: Database, request_id: str) -> str | None:
    """The id of the task that this request made; None when it made none."""
    if not request_id:
        return None
    sql = "select id from task where request_id = ?"
    row = db.connection().execute(sql, (request_id,)).fetchone()
    return None if row is None else str(row[0])


def next_due(db: Database) -> datetime | None:
    """When the firing loop has to look next; None when nothing is to come."""
    row = db.execute_sql(
        "select min(look_at) from task indexed by task_look where state in ('PENDING', 'PAUSED')"
    ).fetchone()
    return None if row[0] is None or row[0] >= NEVER else from_micros(row[0])


def cancel(tx: Transaction, given: str, actor: str) -> str:
    """Withdraws an open task and returns its id. Raises Conflict when it is over."""
    task = _known(tx, given)
    check_open(task.id, task.state)
    tx.execute(
        "update task set state = 'CANCELLED', next_at = null, paused_at = null where id = ?",
        (task.id,),
    )
    _tell(tx, task, "task.cancelled", actor)
    return task.id


def reschedule(tx: Transaction, given: str, schedule: Schedule, expected: int, actor: str) -> str:
    """Gives an open task another schedule and returns its id. Raises Conflict when it is over,
    VersionMismatch when it is not of the expected version."""
    task = _known(tx, given)
    check_open(task.id, task.state)
    if expected not in (0, task.version):
        raise VersionMismatch(
            f"Task {task.id} has version {task.version}, not {expected}; read it again and repeat"
            " the change.",
            current_version=str(task.version),
        )
    while not schedule.repeats and tx.execute(_HAS_ROW, (task.id, micros(schedule.first))):
        at = schedule.first + _MICROSECOND  # the clock was set back: that moment has its row
        schedule = replace(schedule, first=at)
    due_at = micros(due(schedule, task.id, schedule.first))
    first = micros(schedule.first)
    tx.execute(_RESCHEDULE, (*_written(schedule), first, due_at, due_at, task.id))
    _tell(tx, task, "task.rescheduled", actor, schedule.first.isoformat())
    return task.id


def pause(tx: Transaction, given: str, note: str, actor: str) -> str:
    """Pauses a task and returns its id. Raises Conflict unless it is pending."""
    task = _known(tx, given)
    check_pause(task.id, task.state)
    tx.execute(
        "update task set state = 'PAUSED', paused_at = ?, paused_by = ?, pause_note = ?,"
        " version = version + 1 where id = ?",
        (micros(tx.now), actor, note, task.id),
    )
    _tell(tx, task, "task.paused", actor, note)
    return task.id


def resume(tx: Transaction, given: str, actor: str) -> str:
    """Ends the pause of a task and returns its id. Raises Conflict unless it is paused."""
    task = _known(tx, given)
    check_resume(task.id, task.state)
    tx.execute(
        "update task set state = 'PENDING', paused_at = null, paused_by = '', pause_note = '',"
        " look_at = min(look_at, due_at), version = version + 1 where id = ?",
        (task.id,),
    )
    _tell(tx, task, "task.resumed", actor)
    return task.id


def pause_all(tx: Transaction, note: str, actor: str) -> None:
    """Pauses all firing. Raises Conflict when it is paused."""
    paused = tx.execute(
        "update scheduler set paused_at = ?, paused_by = ?, pause_note = ? where paused_at is null"
        " returning only",
        (micros(tx.now), actor, note),
    )
    if not paused:
        raise Conflict("All firing is paused already; 'orch-client resume --all' ends that.")
    tx.emit("scheduler.paused", "", actor=actor, detail=note)


def resume_all(tx: Transaction, actor: str) -> None:
    """Ends the pause of all firing. Raises Conflict when there is none."""
    ended = tx.execute(
        "update scheduler set paused_at = null, paused_by = '', pause_note = ''"
        " where paused_at is not null returning only"
    )
    if not ended:
        raise Conflict("All firing is not paused; nothing to resume.")
    tx.execute(
        "update task indexed by task_look set look_at = due_at"  # the index wants both states
        " where look_at = ? and state in ('PENDING', 'PAUSED') and state = 'PENDING'",
        (NEVER,),
    )
    tx.emit("scheduler.resumed", "", actor=actor)


class _Known(NamedTuple):
    """What a change needs to know of a task."""

    id: str
    agent_id: str
    session: str
    state: TaskState
    version: int


def _known(tx: Transaction, given: str) -> _Known:
    """The task with this id or prefix. Raises NotFound or Ambiguous."""
    task_id = lookup.full_id(tx.db, TaskRow, "task", given)
    agent_id, session, state, version = tx.execute(_KNOWN, (task_id,))[0]
    return _Known(task_id, agent_id, session, TaskState(state), version)


def _standing(tx: Transaction, task: Task, key: int, open_tasks: int) -> Standing:
    """What the agent has of this note."""
    who, since = (task.agent_id, key), micros(tx.now - RECENT)
    same_open, same_recent = tx.execute(_SAME, (*who, since, micros(tx.now)))[0]
    too_many = same_open >= SAME_OPEN or same_recent >= SAME_RECENT
    latest = tx.execute(_LATEST, who) if too_many else []
    repeating = tx.execute(_REPEATING, who) if same_open and task.schedule.repeats else []
    return Standing(
        open_tasks,
        same_open,
        same_recent,
        latest[0][0] if latest else "",
        repeating[0][0] if repeating else "",
    )


def schedule_of(row: Any) -> Schedule:
    """The schedule of a row that has the columns from form to end_at, and first_at."""
    return Schedule(
        form=Form(row.form),
        first=from_micros(row.first_at),
        every=from_span(row.every),
        cron=row.cron,
        time_zone=row.time_zone,
        jitter=from_span(row.jitter),
        end_at=None if row.end_at is None else from_micros(row.end_at),
    )


def _written(schedule: Schedule) -> tuple[Any, ...]:
    """A schedule as it stands in the columns from form to first_at."""
    end_at = schedule.end_at
    return (
        schedule.form,
        span(schedule.every),
        schedule.cron,
        schedule.time_zone,
        span(schedule.jitter),
        None if end_at is None else micros(end_at),
        micros(schedule.first),
    )


def _tell(tx: Transaction, task: _Known, kind: str, actor: str, detail: str = "") -> None:
    tx.emit(kind, task.id, session=task.session, agent=task.agent_id, actor=actor, detail=detail)
