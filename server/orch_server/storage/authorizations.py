"""Authorizations in the store."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from orch_server.core.authorization import (
    Authorization,
    AuthorizationPriority,
    AuthorizationState,
)
from orch_server.storage import lookup
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import AuthorizationRow, from_micros, micros


def insert(tx: Transaction, asked: Authorization, request_id: str) -> str:
    """Writes a new request and returns its id; with a request id seen before, that request's id."""
    if request_id:
        rows = tx.execute("select id from authorization where request_id = ?", (request_id,))
        if rows:
            return str(rows[0][0])
    AuthorizationRow.insert(**asdict(asked), request_id=request_id or None).execute(tx.db)
    requester = f"{asked.session}:{asked.requester_role}"
    tx.emit(
        "authorization.requested",
        asked.id,
        session=asked.session,
        agent=asked.agent_id,
        actor=requester,
    )
    return asked.id


def get(db: Database, given: str) -> Authorization:
    """The authorization with this id or prefix. Raises NotFound or Ambiguous."""
    found = lookup.full_id(db, AuthorizationRow, "authorization", given)
    row = AuthorizationRow.select().where(AuthorizationRow.id == found).get(db)
    return _authorization(row)


def list_page(
    db: Database, session: str, state: AuthorizationState | None, size: int, token: str
) -> tuple[list[Authorization], str]:
    """One page by priority, deadline and age, and the token for the next."""
    query = AuthorizationRow.select().order_by(
        AuthorizationRow.priority.desc(), AuthorizationRow.deadline_at, AuthorizationRow.number
    )
    if session:
        query = query.where(AuthorizationRow.session == session)
    if state is not None:
        query = query.where(AuthorizationRow.state == state)
    paged, offset, limit = lookup.page(query, size, token)
    rows = [_authorization(row) for row in paged.execute(db)]
    return lookup.next_token(rows, offset, limit)


def resolve(
    tx: Transaction, asked: Authorization, state: AuthorizationState, resolver: str, reason: str
) -> Authorization:
    """Writes the final state and returns the authorization as it now is."""
    resolved = replace(asked, state=state, resolved_at=tx.now, resolver=resolver, reason=reason)
    tx.execute(
        "update authorization set state = ?, resolved_at = ?, resolver = ?, reason = ?"
        " where id = ?",
        (state, micros(tx.now), resolver, reason, asked.id),
    )
    tx.emit(
        f"authorization.{state.lower()}",
        asked.id,
        session=asked.session,
        agent=asked.agent_id,
        actor=resolver,
        detail=reason,
    )
    return resolved


def overdue(tx: Transaction) -> list[Authorization]:
    """All pending requests whose deadline has come."""
    query = AuthorizationRow.select().where(
        AuthorizationRow.state == AuthorizationState.PENDING,
        AuthorizationRow.deadline_at <= tx.now,
    )
    return [_authorization(row) for row in query.execute(tx.db)]


def next_deadline(db: Database) -> datetime | None:
    """The earliest deadline of a pending request; None when there is none."""
    sql = "select min(deadline_at) from authorization where state = 'PENDING'"
    row = db.execute_sql(sql).fetchone()
    return None if row[0] is None else from_micros(row[0])


def waiting(db: Database) -> dict[str, Authorization]:
    """For each agent that waits, the oldest of its pending requests, by agent id."""
    query = (
        AuthorizationRow.select()
        .where(AuthorizationRow.state == AuthorizationState.PENDING)
        .order_by(AuthorizationRow.number.desc())
    )
    return {row.agent_id: _authorization(row) for row in query.execute(db)}


def _authorization(row: AuthorizationRow) -> Authorization:
    fields: dict[str, Any] = row.fields()
    del fields["request_id"]
    fields["priority"] = AuthorizationPriority(fields["priority"])
    return Authorization(**fields)
