"""The first start after an import, before any loop runs: overdue notes and the messages that wait
get new times, and requests for leave that are overdue have expired."""

from __future__ import annotations

from orch_server.core.spread import Overdue, paced, spread
from orch_server.storage import authorizations, imports
from orch_server.storage.columns import from_span, micros
from orch_server.storage.database import Database
from orch_server.storage.imports import ACTOR
from orch_server.storage.store import Transaction

_WAITS = "select exists (select 1 from import_run where spread_at is null)"
# A paused note that is sent once waits for its resumption, whatever its time.
_OVERDUE = """select t.id, t.agent_id, t.every, a.session
    from import_run r join imported i on i.run_id = r.id join task t on t.id = i.subject
    join agent a on a.id = t.agent_id
    where r.spread_at is null and i.record >= 'task:' and i.record < 'task;' and t.next_at <= ?
    and (t.state = 'PENDING' or (t.state = 'PAUSED' and t.form = 'EVERY'))
    order by a.session, a.role, t.number"""
# An imported request came from no pane.
_ASKED = """select z.id from authorization z join agent a on a.id = z.agent_id
    where z.state = 'PENDING' and z.requester_pane = '' and z.deadline_at <= ?
    and a.session in (select i.subject from import_run r join imported i on i.run_id = r.id
    where r.spread_at is null and i.record >= 'session:' and i.record < 'session;')"""
_TEXTS = """select d.id, d.agent_id
    from import_run r join imported i on i.run_id = r.id join delivery d on d.id = i.subject
    join agent a on a.id = d.agent_id
    where r.spread_at is null and i.record >= 'message:' and i.record < 'message;'
    and d.state = 'PENDING' order by a.session, a.role, d.priority desc, d.number"""
_PACE = "update delivery set not_before = ?1, expires_at = ?1 + time_to_live where id = ?2"
_MOVE = """update task set first_at = ?1, next_at = ?1, due_at = ?1, look_at = ?1,
    version = version + 1 where id = ?2"""


def waits(db: Database) -> bool:
    """Whether there is an import after which the server has not started."""
    return bool(db.execute_sql(_WAITS).fetchone()[0])


def spread_overdue(tx: Transaction) -> None:
    """Gives them their times, once for each import. No occurrence counts as missed; a message lives
    from its time on; nobody is told of a request that has expired."""
    _spread_notes(tx)
    for message, at in paced(dict(tx.execute(_TEXTS)), tx.now).items():
        tx.execute(_PACE, (micros(at), message))
    for (asked,) in tx.execute(_ASKED, (micros(tx.now),)):
        imports.expire(tx, authorizations.get(tx.db, asked))
    tx.execute("update import_run set spread_at = ? where spread_at is null", (micros(tx.now),))


def _spread_notes(tx: Transaction) -> None:
    rows = tx.execute(_OVERDUE, (micros(tx.now),))
    sessions = {task: (agent, session) for task, agent, _, session in rows}
    tasks = [Overdue(task, agent, from_span(every)) for task, agent, every, _ in rows]
    for task, at in spread(tasks, tx.now).items():
        agent, session = sessions[task]
        tx.execute(_MOVE, (micros(at), task))
        tx.emit(
            "task.rescheduled",
            task,
            session=session,
            agent=agent,
            actor=ACTOR,
            detail=at.isoformat(),
        )
