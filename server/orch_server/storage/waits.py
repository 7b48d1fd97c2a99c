"""Who waits for whom, in the store: declared dependencies, and pending authorizations as edges."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from orch_server.core.deadlock import Wait, WaitKind
from orch_server.core.errors import Conflict
from orch_server.storage import lookup
from orch_server.storage.columns import from_micros, micros
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import DependencyRow

REMOVED = "REMOVED"
EXPIRED = "EXPIRED"
#: Open dependencies of one agent.
MOST = 20
_DEPENDENCIES = """select id, 'DEPENDENCY', agent_id, holder_id, reason, priority, created_at,
    deadline_at from dependency where ended_at is null"""
_OPEN = f"""{_DEPENDENCIES} union all
    select z.id, 'AUTHORIZATION', z.agent_id, a.id, z.action, z.priority, z.created_at,
        z.deadline_at
    from authorization z join agent a on a.session = z.session and a.role = z.approver_role
    where z.state = 'PENDING' and a.id <> z.agent_id"""  # noqa: S608 - constants
_EDGES = f"{_OPEN} order by 7, 1"


def add(tx: Transaction, wait: Wait, session: str, actor: str, request_id: str) -> str:
    """Writes a dependency and returns its id; with a request id seen before, that one's id.

    Raises Conflict when the agent has too many already.
    """
    if request_id:
        seen = "select id from dependency where request_id = ? and agent_id = ?"
        rows = tx.execute(seen, (request_id, wait.waiter))
        if rows:
            return str(rows[0][0])
    count = "select count(*) from dependency where agent_id = ? and ended_at is null"
    if tx.execute(count, (wait.waiter,))[0][0] >= MOST:
        raise Conflict(
            f"{actor} waits for {MOST} things already; end some first: orch-client waiting remove"
            " ID."
        )
    DependencyRow.insert(
        id=wait.id,
        agent_id=wait.waiter,
        holder_id=wait.holder,
        reason=wait.reason,
        priority=wait.priority,
        created_at=wait.created_at,
        deadline_at=wait.deadline_at,
        ended_at=None,
        outcome="",
        request_id=request_id or None,
    ).execute(tx.db)
    tx.emit("dependency.added", wait.id, session=session, agent=wait.waiter, actor=actor)
    return wait.id


def get(db: Database, given: str) -> tuple[Wait, str]:
    """The dependency with this id or prefix, and its outcome, "" while it is open. Raises NotFound
    or Ambiguous."""
    found = lookup.full_id(db, DependencyRow, "dependency", given)
    row = DependencyRow.select().where(DependencyRow.id == found).get(db)
    wait = Wait(
        row.id,
        WaitKind.DEPENDENCY,
        row.agent_id,
        row.holder_id,
        row.reason,
        row.priority,
        row.created_at,
        row.deadline_at,
    )
    return wait, row.outcome


def end(tx: Transaction, wait: Wait, outcome: str, actor: str = "", detail: str = "") -> None:
    """Writes that a dependency is over, with its event. Raises Conflict when it was already."""
    rows = tx.execute(
        "update dependency set ended_at = ?, outcome = ? where id = ? and ended_at is null"
        " returning (select session from agent where id = agent_id)",
        (micros(tx.now), outcome, wait.id),
    )
    if not rows:
        raise Conflict(f"The wait {wait.id} is over already.")
    tx.emit(
        f"dependency.{outcome.lower()}",
        wait.id,
        session=rows[0][0] or "",
        agent=wait.waiter,
        actor=actor,
        detail=detail,
    )


def dependencies(db: Database) -> list[Wait]:
    """The open dependencies, the oldest first."""
    sql = f"{_DEPENDENCIES} order by created_at, id"
    return [_wait(row) for row in db.execute_sql(sql).fetchall()]


def overdue(db: Database, now: datetime) -> list[Wait]:
    """The open dependencies whose deadline has come."""
    sql = f"{_DEPENDENCIES} and deadline_at <= ? order by deadline_at, id"
    return [_wait(row) for row in db.execute_sql(sql, (micros(now),)).fetchall()]


def edges(db: Database) -> list[Wait]:
    """The whole graph, the oldest wait first: a pending authorization is an edge to the agent that
    has the approver's role in its session, if there is one and it is another."""
    return [_wait(row) for row in db.execute_sql(_EDGES).fetchall()]


def open_edges(tx: Transaction) -> set[tuple[str, str]]:
    """What the graph is now: of each wait its id and its holder's."""
    return set(tx.execute(f"select id, holder_id from ({_OPEN})"))  # noqa: S608 - a constant


def addresses(tx: Transaction, of: Iterable[Wait]) -> dict[str, str]:
    """The addresses, "session:role", of those who wait and of those who are waited for, by id."""
    found: dict[str, str] = {}
    for agent_id in {agent for wait in of for agent in (wait.waiter, wait.holder)}:
        rows = tx.execute("select session, role from agent where id = ?", (agent_id,))
        found[agent_id] = f"{rows[0][0]}:{rows[0][1]}"
    return found


def next_deadline(db: Database) -> datetime | None:
    """The earliest deadline of an open dependency; None when there is none."""
    sql = "select min(deadline_at) from dependency where ended_at is null"
    row = db.execute_sql(sql).fetchone()
    return None if row[0] is None else from_micros(row[0])


def _wait(row: tuple[Any, ...]) -> Wait:
    wait_id, kind, waiter, holder, reason, priority, created_at, deadline_at = row
    return Wait(
        wait_id,
        WaitKind(kind),
        waiter,
        holder,
        reason,
        priority,
        from_micros(created_at),
        from_micros(deadline_at),
    )
