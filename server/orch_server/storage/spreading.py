"""The first start after an import: overdue notes get new times, before any loop runs."""

from __future__ import annotations

from orch_server.core.spread import Overdue, spread
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
_MOVE = """update task set first_at = ?1, next_at = ?1, due_at = ?1, look_at = ?1,
    version = version + 1 where id = ?2"""


def waits(db: Database) -> bool:
    """Whether there is an import after which the server has not started."""
    return bool(db.execute_sql(_WAITS).fetchone()[0])


def spread_overdue(tx: Transaction) -> None:
    """Gives them their times, once for each import. No occurrence counts as missed."""
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
    tx.execute("update import_run set spread_at = ? where spread_at is null", (micros(tx.now),))
