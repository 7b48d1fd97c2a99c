"""Authorizations in the store. Each change goes into the audit in the same transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from orch_server.core.authorization import (
    Action,
    Authorization,
    AuthorizationState,
    Level,
    Proof,
)
from orch_server.core.policy import AuthorizationPriority
from orch_server.storage import lookup
from orch_server.storage.audit import ARGUMENTS, arguments_hash
from orch_server.storage.columns import from_micros, micros
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import AuthorizationLevelRow, AuthorizationRow

_NEXT = """select min(at) from (
    select min(deadline_at) as at from authorization where state = 'PENDING' union all
    select min(lapses_at) from authorization where state = 'APPROVED' union all
    select min(due_at) from authorization_level where open = 1)"""
_LEVELS = """select receiver, due_at, told_at from authorization_level
    where authorization_id = ? order by level"""
_FITTING = """select id from authorization where digest = ? and state = ?
    order by number desc limit 1"""


def insert(tx: Transaction, asked: Authorization, request_id: str) -> str:
    """Writes a new request and returns its id; with a request id seen before, that request's id."""
    if request_id:
        rows = tx.execute("select id from authorization where request_id = ?", (request_id,))
        if rows:
            return str(rows[0][0])
    AuthorizationRow.insert(**_columns(asked), request_id=request_id or None).execute(tx.db)
    for number, level in enumerate(asked.levels, 1):
        tx.execute(
            "insert into authorization_level (authorization_id, level, receiver, due_at)"
            " values (?, ?, ?, ?)",
            (asked.id, number, level.receiver, micros(level.due_at)),
        )
    tx.audit(
        "authorization.requested",
        asked.id,
        session=asked.session,
        agent=asked.agent_id,
        actor=asked.requester,
        state=asked.state,
        digest=asked.digest,
        approvers=" ".join(asked.approvers),
        asked=asked.approver_role,
        action_class=asked.action_class,
        human=int(asked.human),
        deadline_at=micros(asked.deadline_at),
        action=asked.action,
        tool=asked.bound.tool,
        cwd=asked.bound.cwd,
        **{ARGUMENTS: arguments_hash(asked.bound.arguments.encode())},
    )
    return asked.id


def get(db: Database, given: str) -> Authorization:
    """The authorization with this id or prefix. Raises NotFound or Ambiguous."""
    found = lookup.full_id(db, AuthorizationRow, "authorization", given)
    row = AuthorizationRow.select().where(AuthorizationRow.id == found).get(db)
    return _authorization(db, row)


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
    rows = [_authorization(db, row) for row in list(paged.execute(db))]
    return lookup.next_token(rows, offset, limit)


def resolve(
    tx: Transaction,
    asked: Authorization,
    state: AuthorizationState,
    resolver: str,
    reason: str,
    proof: Proof = Proof.NONE,
    pane: str = "",
) -> Authorization:
    """Ends the waiting: writes what was decided, from which pane (its key) and how that one was
    known; returns the authorization as it now is."""
    approved = state is AuthorizationState.APPROVED
    resolved = replace(
        asked,
        state=state,
        resolved_at=tx.now,
        resolver=resolver,
        reason=reason,
        proof=proof,
        lapses_at=tx.now + asked.lapse if approved else None,
    )
    tx.execute(
        "update authorization set state = ?, resolved_at = ?, resolver = ?, reason = ?, proof = ?,"
        " lapses_at = ? where id = ?",
        (
            state,
            micros(tx.now),
            resolver,
            reason,
            proof,
            micros(resolved.lapses_at) if resolved.lapses_at else None,
            asked.id,
        ),
    )
    tx.execute("update authorization_level set open = 0 where authorization_id = ?", (asked.id,))
    ends = {} if resolved.lapses_at is None else {"lapses_at": micros(resolved.lapses_at)}
    _audit(tx, resolved, resolver, reason, pane=pane, **ends)
    return resolved


def close(
    tx: Transaction, asked: Authorization, state: AuthorizationState, actor: str, request_id: str
) -> Authorization:
    """Ends an approval: it was used, or it lapsed. Returns the authorization as it now is."""
    closed = replace(asked, state=state, closed_at=tx.now)
    tx.execute(
        "update authorization set state = ?, closed_at = ?, consume_request = ? where id = ?",
        (state, micros(tx.now), request_id or None, asked.id),
    )
    _audit(tx, closed, actor, "")
    return closed


def tell_level(
    tx: Transaction, asked: Authorization, index: int, actor: str, outcome: str
) -> Authorization:
    """Writes that a level, counted from 0, was told or passed over; returns the authorization."""
    level = replace(asked.levels[index], told_at=tx.now)
    tx.execute(
        "update authorization_level set told_at = ?, open = 0"
        " where authorization_id = ? and level = ?",
        (micros(tx.now), asked.id, index + 1),
    )
    tx.audit(
        "authorization.escalated",
        asked.id,
        session=asked.session,
        agent=asked.agent_id,
        actor=actor,
        detail=f"{level.receiver}: {outcome}",
        state=asked.state,
        level=index + 1,
    )
    levels = (*asked.levels[:index], level, *asked.levels[index + 1 :])
    return replace(asked, levels=levels)


def consumed_by(tx: Transaction, agent_id: str, request_id: str) -> Authorization | None:
    """The approval that this call of the agent has used before."""
    if not request_id:
        return None
    found = tx.execute(
        "select id from authorization where agent_id = ? and consume_request = ?",
        (agent_id, request_id),
    )
    return get(tx.db, found[0][0]) if found else None


def fitting(tx: Transaction, digest: str, state: AuthorizationState) -> Authorization | None:
    """The newest authorization in this state that covers exactly this."""
    found = tx.execute(_FITTING, (digest, state))
    return get(tx.db, found[0][0]) if found else None


def count_pending(tx: Transaction, agent_id: str) -> int:
    """How many requests of the agent are pending."""
    sql = "select count(*) from authorization where agent_id = ? and state = 'PENDING'"
    return int(tx.execute(sql, (agent_id,))[0][0])


def overdue(tx: Transaction) -> list[Authorization]:
    """All pending requests whose deadline has come."""
    return _all(
        tx.db,
        AuthorizationRow.state == AuthorizationState.PENDING,
        AuthorizationRow.deadline_at <= tx.now,
    )


def unused(tx: Transaction) -> list[Authorization]:
    """All approvals whose end has come."""
    return _all(
        tx.db,
        AuthorizationRow.state == AuthorizationState.APPROVED,
        AuthorizationRow.lapses_at <= tx.now,
    )


def due_levels(tx: Transaction) -> list[Authorization]:
    """All pending requests of which a level is due."""
    due = AuthorizationLevelRow.select(AuthorizationLevelRow.authorization_id).where(
        AuthorizationLevelRow.open == 1, AuthorizationLevelRow.due_at <= tx.now
    )
    return _all(
        tx.db,
        AuthorizationRow.state == AuthorizationState.PENDING,
        AuthorizationRow.id.in_(due),
    )


def next_deadline(db: Database) -> datetime | None:
    """When something is due next: an expiry, a level, a lapse; None when nothing is."""
    row = db.execute_sql(_NEXT).fetchone()
    return None if row[0] is None else from_micros(row[0])


def waiting(db: Database) -> dict[str, Authorization]:
    """For each agent that waits, the oldest of its pending requests, by agent id."""
    query = (
        AuthorizationRow.select()
        .where(AuthorizationRow.state == AuthorizationState.PENDING)
        .order_by(AuthorizationRow.number.desc())
    )
    oldest = {row.agent_id: row for row in list(query.execute(db))}
    return {agent_id: _authorization(db, row) for agent_id, row in oldest.items()}


def _all(db: Database, *where: Any) -> list[Authorization]:
    query = AuthorizationRow.select().where(*where).order_by(AuthorizationRow.number)
    return [_authorization(db, row) for row in list(query.execute(db))]


def _audit(
    tx: Transaction, now: Authorization, actor: str, detail: str, **facts: str | int
) -> None:
    tx.audit(
        f"authorization.{now.state.lower()}",
        now.id,
        session=now.session,
        agent=now.agent_id,
        actor=actor,
        detail=detail,
        state=now.state,
        digest=now.digest,
        resolver=now.resolver,
        proof=now.proof,
        **facts,
    )


def _columns(asked: Authorization) -> dict[str, Any]:
    bound = asked.bound
    return {
        "id": asked.id,
        "agent_id": asked.agent_id,
        "session": asked.session,
        "requester_role": asked.requester_role,
        "requester_pane": asked.requester_pane,
        "approver_role": asked.approver_role,
        "action": asked.action,
        "priority": int(asked.priority),
        "priority_derived": asked.priority_derived,
        "state": asked.state,
        "created_at": asked.created_at,
        "deadline_at": asked.deadline_at,
        "resolver": "",
        "reason": "",
        "action_class": asked.action_class,
        "approvers": " ".join(asked.approvers),
        "human": asked.human,
        "reason_required": asked.reason_required,
        "lapse": asked.lapse,
        "tool": bound.tool,
        "arguments": bound.arguments,
        "cwd": bound.cwd,
        "digest": asked.digest,
        "proof": Proof.NONE,
    }


def _authorization(db: Database, row: AuthorizationRow) -> Authorization:
    fields: dict[str, Any] = row.fields()
    for name in ("request_id", "consume_request"):
        del fields[name]
    bound = Action(fields.pop("tool"), fields.pop("arguments"), fields.pop("cwd"))
    levels = db.execute_sql(_LEVELS, (row.id,)).fetchall()
    return Authorization(
        **{
            **fields,
            "priority": AuthorizationPriority(fields["priority"]),
            "approvers": tuple(fields["approvers"].split()),
            "bound": bound,
            "levels": tuple(
                Level(receiver, from_micros(due), None if told is None else from_micros(told))
                for receiver, due, told in levels
            ),
        }
    )
