"""What time does to scheduled notes in the store: the hot path of the firing loop, in plain SQL.

A task, its occurrence, its delivery and their events are one transaction; an occurrence and the
key of its delivery name the task and the nominal time. So a note becomes one delivery, whatever is
killed when.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from orch_server.core.alert import NewAlert, Severity
from orch_server.core.delivery import DeliveryMode, NewDelivery, Priority
from orch_server.core.errors import OrchError
from orch_server.core.firing import Decision, Due, Round, look
from orch_server.core.schedule import Form, Missed
from orch_server.core.task import Outcome, Reason, TaskState, check_open
from orch_server.core.text import one_line
from orch_server.storage import alerts, deliveries, lookup
from orch_server.storage.columns import from_micros, from_span, micros
from orch_server.storage.store import Transaction
from orch_server.storage.tables import TaskRow
from orch_server.storage.tasks import NEVER, next_due, schedule_of

_COLUMNS = """t.id, t.agent_id, t.note, t.creator, t.state, t.form, t.every, t.cron, t.time_zone,
    t.jitter, t.end_at, t.first_at, t.next_at, t.due_at, t.catch_up, t.missed, t.mode,
    t.deferred_from, t.deferred_to, t.waited, t.delivery_id, a.session, a.role"""
_DUE = f"""select {_COLUMNS} from task t indexed by task_look join agent a on a.id = t.agent_id
    where t.state in ('PENDING', 'PAUSED') and t.look_at <= ? order by t.look_at, t.due_at, t.number
    limit ?"""  # noqa: S608 - constants
_ONE = f"""select {_COLUMNS} from task t join agent a on a.id = t.agent_id
    where t.id = ?"""  # noqa: S608 - constants
_OCCURRENCE = """insert into occurrence (task_id, nominal_at, outcome, reason, decided_at,
    delivery_id, request_id) values (?, ?, ?, ?, ?, ?, ?)"""
_KNOWN = "select nominal_at from occurrence where task_id = ? and nominal_at between ? and ?"
_ADVANCE = """update task set state = ?, next_at = ?, due_at = ?, look_at = ?,
    fired_at = coalesce(?, fired_at), delivery_id = coalesce(?, delivery_id) where id = ?"""
_CAUGHT_UP = "update task set deferred_from = null, deferred_to = null, waited = 0 where id = ?"
_PUT_OFF = """update task set look_at = ?1, deferred_from = coalesce(deferred_from, ?2),
    deferred_to = ?1 where id = ?3"""
_LET_GO = """update task indexed by task_agent set deferred_to = ?1,
    look_at = case look_at when ?3 then look_at else ?1 end
    where agent_id = ?2 and look_at > ?1 and deferred_to > ?1
    and state in ('PENDING', 'PAUSED')"""
_OF_SESSION = f"""select {_COLUMNS} from task t join agent a on a.id = t.agent_id
    where t.state in ('PENDING', 'PAUSED') and a.session = ?"""  # noqa: S608 - constants
_EXPIRE = "update task set state = 'EXPIRED', next_at = null, paused_at = null where id = ?"
_MOST_EXPIRED = 100_000
#: What the times of a task raise when they cannot be told, such as for a zone that is not known any
#: more.
_BROKEN = (OrchError, ValueError, ArithmeticError)


class _Row(NamedTuple):
    """A task as a look needs it; in the order of _COLUMNS."""

    id: str
    agent_id: str
    note: str
    creator: str
    state: str
    form: str
    every: int
    cron: str
    time_zone: str
    jitter: int
    end_at: int | None
    first_at: int
    next_at: int
    due_at: int
    catch_up: int
    missed: str
    mode: str
    deferred_from: int | None
    deferred_to: int | None
    waited: int
    delivery_id: str | None
    session: str
    role: str

    @property
    def whose(self) -> str:
        return f"{self.session}:{self.role}"


@dataclass(frozen=True, slots=True)
class Fired:
    """What one batch did: the agents that got a delivery, whether more is due, and else when."""

    agents: list[str]
    more: bool
    next_due: datetime | None


def fire_due(
    tx: Transaction,
    most: int,
    held: Mapping[str, datetime],
    freed: Collection[str] = (),
) -> Fired:
    """Decides on what is due, at most so many occurrences, the earliest task first.

    `held` says until when agents are usage-limited, `freed` who is not any more.
    """
    for agent_id in freed:
        tx.execute(_LET_GO, (micros(tx.now), agent_id, NEVER))
    all_paused = tx.execute("select paused_at from scheduler")[0][0] is not None
    agents: list[str] = []
    left = most
    rows = tx.execute(_DUE, (micros(tx.now), most))
    for row in map(_Row._make, rows):
        if left <= 0:
            break
        done = _look(tx, row, all_paused, held.get(row.agent_id), left, agents)
        left -= max(1, done)
    more = left <= 0 or len(rows) == most
    return Fired(agents, more, None if more else next_due(tx.db))


def run_now(tx: Transaction, given: str, actor: str, request_id: str) -> tuple[str, datetime, str]:
    """Fires a task now; returns its id, the nominal time and, when it fired just now, its agent.

    Raises Conflict when the task is over. A request id seen before fires nothing.
    """
    task_id = lookup.full_id(tx.db, TaskRow, "task", given)
    if request_id:
        seen = tx.execute(
            "select nominal_at from occurrence where task_id = ? and request_id = ?",
            (task_id, request_id),
        )
        if seen:
            return task_id, from_micros(seen[0][0]), ""
    row = _Row._make(tx.execute(_ONE, (task_id,))[0])
    check_open(task_id, TaskState(row.state))
    nominal = row.next_at if row.form == Form.ONCE else micros(tx.now)
    while tx.execute(_KNOWN, (task_id, nominal, nominal)):
        nominal += 1
    delivery = _deliver(tx, row, nominal)
    now = micros(tx.now)
    tx.execute(
        _OCCURRENCE,
        (task_id, nominal, Outcome.FIRED, Reason.RUN_NOW, now, delivery, request_id or None),
    )
    if row.form == Form.ONCE:
        tx.execute(_ADVANCE, (TaskState.FIRED, None, now, now, now, delivery, task_id))
        tx.execute(_CAUGHT_UP, (task_id,))
    else:
        tx.execute(
            "update task set fired_at = ?, delivery_id = ? where id = ?", (now, delivery, task_id)
        )
    _tell(tx, row, "task.fired", f"run now: {delivery}", actor)
    return task_id, from_micros(nominal), row.agent_id


def expire_session(tx: Transaction, session: str, actor: str) -> None:
    """Ends the open tasks of a session's agents, since the session has ended."""
    now = micros(tx.now)
    for row in map(_Row._make, tx.execute(_OF_SESSION, (session,))):
        for nominal in _undecided(tx, row):
            if not tx.execute(_KNOWN, (row.id, nominal, nominal)):
                values = (row.id, nominal, Outcome.EXPIRED, Reason.SESSION_ENDED, now, None, None)
                tx.execute(_OCCURRENCE, values)
        tx.execute(_EXPIRE, (row.id,))
        _tell(tx, row, "task.expired", "", actor)


def _undecided(tx: Transaction, row: _Row) -> list[int]:
    """The next nominal time, and those after it that came due while the task was put off."""
    found = [row.next_at]
    if row.form != Form.ONCE and row.due_at <= micros(tx.now):
        due = _due(tx, row, paused=False)
        with contextlib.suppress(*_BROKEN):  # then nobody knows its other times any more
            found = [micros(one.nominal_at) for one in look(due, tx.now, _MOST_EXPIRED).decisions]
    return found


def _look(
    tx: Transaction,
    row: _Row,
    all_paused: bool,
    held_until: datetime | None,
    most: int,
    agents: list[str],
) -> int:
    """Looks at one task; returns how many occurrences it decided on."""
    paused = all_paused or row.state == TaskState.PAUSED
    if paused and row.form == Form.ONCE:
        tx.execute("update task set look_at = ?, waited = 1 where id = ?", (NEVER, row.id))
        return 0
    if held_until is not None and not paused and held_until > tx.now:
        tx.execute(_PUT_OFF, (micros(held_until), micros(tx.now), row.id))
        if row.deferred_to != micros(held_until):
            _tell(tx, row, "task.deferred", held_until.isoformat())
        return 0
    due = _due(tx, row, paused)
    try:
        found = look(due, tx.now, most)
    except _BROKEN as exc:
        _park(tx, row, exc)
        return 0
    fired = _write(tx, row, found.decisions)
    agents.extend([row.agent_id] * fired.firings)
    _advance(tx, row, found, fired)
    return len(found.decisions)


def _advance(tx: Transaction, row: _Row, found: Round, fired: _Written) -> None:
    """Moves a task to its next occurrence, or to its end."""
    state, following, at = TaskState(row.state), None, row.due_at
    if found.next_at is None or found.due_at is None:
        skipped = found.decisions[-1].outcome is Outcome.SKIPPED
        once = TaskState.SKIPPED if skipped else TaskState.FIRED
        state = once if row.form == Form.ONCE else TaskState.ENDED
    else:
        following, at = micros(found.next_at), micros(found.due_at)
    fired_at = micros(tx.now) if fired.firings else None
    tx.execute(_ADVANCE, (state, following, at, at, fired_at, fired.delivery, row.id))
    was_put_off = row.deferred_to is not None or row.waited
    if was_put_off and (following is None or at > micros(tx.now)):
        tx.execute(_CAUGHT_UP, (row.id,))


def _park(tx: Transaction, row: _Row, exc: Exception) -> None:
    """A task that cannot be fired must not keep the others from firing: it is paused, aloud."""
    said = exc.message if isinstance(exc, OrchError) else f"{type(exc).__name__}: {exc}"
    tx.execute(
        "update task set state = 'PAUSED', look_at = ?, paused_at = ?, paused_by = 'server',"
        " pause_note = ?, version = version + 1 where id = ?",
        (NEVER, micros(tx.now), said, row.id),
    )
    _tell(tx, row, "task.paused", said)
    text = f"Task {row.id} for {row.whose} cannot be fired and is paused: {said}"
    subject = f"task {row.id}"
    alerts.raise_alert(tx, NewAlert(Severity.WARNING, "task-broken", subject, text, row.session))


class _Written(NamedTuple):
    """How many fired, and the last delivery that came of it."""

    firings: int
    delivery: str | None


def _write(tx: Transaction, row: _Row, decisions: tuple[Decision, ...]) -> _Written:
    """Writes the occurrences that have no row yet, and the deliveries of those that fire."""
    if not decisions:
        return _Written(0, None)
    nominals = [micros(d.nominal_at) for d in decisions]
    known = {n for (n,) in tx.execute(_KNOWN, (row.id, nominals[0], nominals[-1]))}
    now, count, last = micros(tx.now), 0, None
    fresh = [(n, d) for n, d in zip(nominals, decisions, strict=True) if n not in known]
    for nominal, decision in fresh:
        delivery = None
        if decision.outcome is Outcome.FIRED:
            last = delivery = _deliver(tx, row, nominal)
            count += 1
            _tell(tx, row, "task.fired", delivery)
        elif decision.reason is Reason.STILL_WAITING:
            delivery = row.delivery_id
        values = (row.id, nominal, decision.outcome, decision.reason, now, delivery, None)
        tx.execute(_OCCURRENCE, values)
    _tell_of_others(tx, row, [d for _, d in fresh])
    return _Written(count, last)


def _tell_of_others(tx: Transaction, row: _Row, decisions: list[Decision]) -> None:
    """One event for a run of occurrences that did not fire for the same reason."""
    for (outcome, reason), run in groupby(decisions, lambda d: (d.outcome, d.reason)):
        if outcome is Outcome.FIRED:
            continue
        count = len(list(run))
        word = reason.lower().replace("_", " ")
        _tell(tx, row, f"task.{outcome.lower()}", word if count == 1 else f"{word}, {count} times")
    if row.form == Form.ONCE and decisions and decisions[-1].outcome is Outcome.SKIPPED:
        _alert(tx, row, decisions[-1].reason)


def _alert(tx: Transaction, row: _Row, reason: Reason) -> None:
    """A note that was to fire once never will."""
    why = "it was paused" if reason is Reason.PAUSED else "the server could not fire it in time"
    text = (
        f"Task {row.id} for {row.whose} was skipped, since {why}: {one_line(row.note)}"
        f" - 'orch-client task {row.id}' shows it."
    )
    subject = f"task {row.id}"  # each such note is a matter of its own
    alerts.raise_alert(tx, NewAlert(Severity.WARNING, "note-skipped", subject, text, row.session))


def _deliver(tx: Transaction, row: _Row, nominal: int) -> str:
    return deliveries.enqueue(
        tx,
        NewDelivery(
            agent_id=row.agent_id,
            text=row.note,
            origin=f"task:{row.id}",
            dedupe_key=f"task:{row.id}:{nominal}",
            priority=Priority.NORMAL,
            created_at=tx.now,
            sender=row.creator,
            mode=DeliveryMode(row.mode),
        ),
    )


def _due(tx: Transaction, row: _Row, paused: bool) -> Due:
    deferred = None
    if row.deferred_from is not None and row.deferred_to is not None:
        deferred = (from_micros(row.deferred_from), from_micros(row.deferred_to))
    schedule = schedule_of(row)
    return Due(
        task_id=row.id,
        schedule=schedule,
        next_at=from_micros(row.next_at),
        due_at=from_micros(row.due_at),
        catch_up=from_span(row.catch_up),
        missed=Missed(row.missed),
        paused=paused,
        deferred=deferred,
        waited=bool(row.waited),
        last_waits=schedule.repeats and _waits(tx, row.delivery_id),
    )


def _waits(tx: Transaction, delivery_id: str | None) -> bool:
    if delivery_id is None:
        return False
    rows = tx.execute("select state from delivery where id = ?", (delivery_id,))
    return bool(rows) and rows[0][0] == "PENDING"


def _tell(tx: Transaction, row: _Row, kind: str, detail: str, actor: str = "") -> None:
    tx.emit(kind, row.id, session=row.session, agent=row.agent_id, actor=actor, detail=detail)
