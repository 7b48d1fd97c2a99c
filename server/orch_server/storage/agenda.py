"""How scheduled notes are shown: tasks with their agent, last delivery and last occurrence. The SQL
is plain: making it by the query builder costs more than running it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from orch_server.core.delivery import DeliveryMode, DeliveryState
from orch_server.core.schedule import Missed
from orch_server.core.task import OPEN, Occurrence, Outcome, Pause, Reason, Task, TaskState
from orch_server.storage import lookup
from orch_server.storage.columns import from_micros, from_span, micros
from orch_server.storage.database import Database
from orch_server.storage.tables import TaskRow
from orch_server.storage.tasks import NEVER, schedule_of

_OCCURRENCE = "o.task_id, o.nominal_at, o.outcome, o.reason, o.decided_at, o.delivery_id"
_TASK = f"""select t.id, t.agent_id, a.session, a.role, t.note, t.form, t.first_at, t.every, t.cron,
    t.time_zone, t.jitter, t.end_at, t.next_at, t.due_at, t.creator, t.created_at, t.state,
    t.catch_up, t.missed, t.mode, t.version, t.fired_at, t.delivery_id, d.state, d.detail,
    t.deferred_to, t.look_at, t.paused_by, t.paused_at, t.pause_note,
    {_OCCURRENCE}, e.state, e.detail
    from task t join agent a on a.id = t.agent_id left join delivery d on d.id = t.delivery_id
    left join occurrence o on o.task_id = t.id
        and o.nominal_at = (select max(nominal_at) from occurrence where task_id = t.id)
    left join delivery e on e.id = o.delivery_id"""  # noqa: S608 - constants
_PAGE = f"""{_TASK} where (?1 = '' or a.session = ?1) and (?2 = '' or t.state = ?2)
    and (t.due_at, t.number) > (?3, ?4) order by t.due_at, t.number limit ?5"""
_OCCURRENCES = f"""select {_OCCURRENCE}, e.state, e.detail from occurrence o
    left join delivery e on e.id = o.delivery_id where o.task_id = ?1"""  # noqa: S608 - constants
_MOST_AT_ONCE = 500


class _Row(NamedTuple):
    """A task as it is read; in the order of _TASK. What comes last is its last occurrence."""

    id: str
    agent_id: str
    session: str
    role: str
    note: str
    form: str
    first_at: int
    every: int
    cron: str
    time_zone: str
    jitter: int
    end_at: int | None
    next_at: int | None
    due_at: int
    creator: str
    created_at: int
    state: str
    catch_up: int
    missed: str
    mode: str
    version: int
    fired_at: int | None
    delivery_id: str | None
    delivery_state: str | None
    delivery_detail: str | None
    deferred_to: int | None
    look_at: int
    paused_by: str
    paused_at: int | None
    pause_note: str
    task_id: str | None
    nominal_at: int
    outcome: str
    reason: str
    decided_at: int
    last_delivery: str | None
    last_state: str | None
    last_detail: str | None


def get(db: Database, given: str) -> Task:
    """The task with this id or prefix. Raises NotFound or Ambiguous."""
    return get_many(db, [lookup.full_id(db, TaskRow, "task", given)])[0]


def get_many(db: Database, ids: list[str]) -> list[Task]:
    """The tasks with these ids that there are."""
    found: list[Task] = []
    for start in range(0, len(ids), _MOST_AT_ONCE):
        some = ids[start : start + _MOST_AT_ONCE]
        sql = f"{_TASK} where t.id in ({', '.join('?' * len(some))})"
        found += map(_task, db.execute_sql(sql, tuple(some)).fetchall())
    return found


def list_page(
    db: Database, session: str, state: TaskState | None, size: int, token: str
) -> tuple[list[Task], str]:
    """One page of tasks by due time, and the token for the next. A task that is put off meanwhile
    comes again, none is left out."""
    _, limit = lookup.window(size, "")
    values = (session, state or "", *lookup.place_of(token), limit + 1)
    rows = db.execute_sql(_PAGE, values).fetchall()
    more = len(rows) > limit
    after = lookup.token_at(*_place(db, rows[limit - 1][0])) if more else ""
    return [_task(row) for row in rows[:limit]], after


def ids_after(db: Database, number: int) -> tuple[list[str], int]:
    """Some tasks in the order in which they were made, after this number, and the last number."""
    sql = "select id, number from task where number > ? order by number limit ?"
    rows = db.execute_sql(sql, (number, _MOST_AT_ONCE)).fetchall()
    return [row[0] for row in rows], rows[-1][1] if rows else number


def occurrences(
    db: Database, given: str, outcome: Outcome | None, size: int, token: str
) -> tuple[list[Occurrence], str]:
    """One page of a task's occurrences, the newest nominal time first, and the next token."""
    task_id = lookup.full_id(db, TaskRow, "task", given)
    offset, limit = lookup.window(size, token)
    sql = (
        f"{_OCCURRENCES} and (?2 = '' or o.outcome = ?2) order by o.nominal_at desc"
        " limit ?3 offset ?4"
    )
    values = (task_id, outcome or "", limit + 1, offset)
    rows = [_occurrence(row) for row in db.execute_sql(sql, values).fetchall()]
    return lookup.next_token(rows, offset, limit)


def occurrence(db: Database, task_id: str, nominal_at: datetime) -> Occurrence:
    """The occurrence of a task with this nominal time; there is one."""
    sql = f"{_OCCURRENCES} and o.nominal_at = ?2"
    return _occurrence(db.execute_sql(sql, (task_id, micros(nominal_at))).fetchone())


def paused(db: Database) -> Pause | None:
    """The pause of all firing; None when there is none."""
    sql = "select paused_by, paused_at, pause_note from scheduler where paused_at is not null"
    row = db.execute_sql(sql).fetchone()
    return None if row is None else Pause(row[0], from_micros(row[1]), row[2])


def count_open(db: Database) -> int:
    """How many tasks are open."""
    return int(db.execute_sql("select coalesce(sum(open_tasks), 0) from task_load").fetchone()[0])


def _place(db: Database, task_id: str) -> tuple[int, int]:
    row = db.execute_sql("select due_at, number from task where id = ?", (task_id,)).fetchone()
    return row[0], row[1]


def _task(columns: tuple[Any, ...]) -> Task:
    row = _Row._make(columns)
    is_open = row.state in OPEN
    put_off = is_open and row.deferred_to is not None and row.look_at < NEVER
    return Task(
        id=row.id,
        agent_id=row.agent_id,
        session=row.session,
        role=row.role,
        note=row.note,
        schedule=schedule_of(row),
        next_at=_time(row.next_at),
        due_at=from_micros(row.due_at),
        creator=row.creator,
        created_at=from_micros(row.created_at),
        state=TaskState(row.state),
        catch_up=from_span(row.catch_up),
        missed=Missed(row.missed),
        mode=DeliveryMode(row.mode),
        version=row.version,
        fired_at=_time(row.fired_at),
        delivery_id=row.delivery_id,
        delivery_state=_delivery(row.delivery_state),
        delivery_detail=row.delivery_detail or "",
        deferred_to=_time(row.deferred_to) if put_off else None,
        pause=_pause(row),
        last=None if row.task_id is None else _occurrence(columns[-8:]),
    )


def _pause(row: _Row) -> Pause | None:
    if row.state != TaskState.PAUSED or row.paused_at is None:
        return None
    return Pause(row.paused_by, from_micros(row.paused_at), row.pause_note)


def _occurrence(columns: tuple[Any, ...]) -> Occurrence:
    task_id, nominal_at, outcome, reason, decided_at, delivery_id, state, detail = columns
    return Occurrence(
        task_id,
        from_micros(nominal_at),
        Outcome(outcome),
        Reason(reason),
        from_micros(decided_at),
        delivery_id or "",
        _delivery(state),
        detail or "",
    )


def _time(at: int | None) -> datetime | None:
    return None if at is None else from_micros(at)


def _delivery(word: str | None) -> DeliveryState | None:
    return None if word is None else DeliveryState(word)
