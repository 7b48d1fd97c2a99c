"""Authorizations in the store. Each change goes into the audit in the same transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from orch_server.core.audit import ToldLevel, levels_fact, told_fact
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
from orch_server.storage.columns import from_micros, from_span, micros, span
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import AuthorizationRow

#: In the order of _values.
_COLUMNS = (
    *("id", "agent_id", "session", "requester_role", "requester_pane", "approver_role", "action"),
    *("priority", "priority_derived", "state", "created_at", "deadline_at", "action_class"),
    *("approvers", "human", "reason_required", "lapse", "tool", "arguments", "cwd", "digest"),
    *("resolver", "reason", "proof", "resolved_at", "lapses_at", "closed_at"),
)
_INSERT = f"""insert into authorization ({", ".join(_COLUMNS)}, request_id)
    values ({", ".join("?" * (len(_COLUMNS) + 1))})"""  # noqa: S608 - constants
_NEXT = """select min(at) from (
    select min(deadline_at) as at from authorization where state = 'PENDING' union all
    select min(lapses_at) from authorization where state = 'APPROVED' union all
    select min(due_at) from authorization_level where open = 1)"""
_LEVELS = """select receiver, due_at, told_at, passed_over from authorization_level
    where authorization_id = ? order by level"""
_FITTING = """select id from authorization where digest = ? and state = ?
    order by number desc limit 1"""


def insert(tx: Transaction, asked: Authorization, request_id: str) -> str:
    """Writes a new request and returns its id; with a request id of this agent's that was seen
    before, that request's id."""
    key = f"{asked.agent_id}:{request_id}" if request_id else None
    if key is not None:
        rows = tx.execute("select id from authorization where request_id = ?", (key,))
        if rows:
            return str(rows[0][0])
    tx.execute(_INSERT, (*_values(asked), key))
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
        **_as_asked(asked),
    )
    return asked.id


def get(db: Database, given: str) -> Authorization:
    """The authorization with this id or prefix. Raises NotFound or Ambiguous."""
    found = lookup.full_id(db, AuthorizationRow, "authorization", given)
    return _read(db, "id = ?", found)[0]


def list_page(
    db: Database, session: str, state: AuthorizationState | None, size: int, token: str
) -> tuple[list[Authorization], str]:
    """One page by priority, deadline and age, and the token for the next."""
    offset, limit = lookup.window(size, token)
    where, params = [], []
    for column, value in (("session", session), ("state", state or "")):
        if value:
            where.append(f"{column} = ?")
            params.append(value)
    found = _read(
        db,
        " and ".join(where) or "1",
        *params,
        order=f"priority desc, deadline_at, number limit {limit + 1} offset {offset}",
    )
    return lookup.next_token(found, offset, limit)


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
    _audit(tx, closed, actor, "", consume_request=request_id)
    return closed


def tell_level(
    tx: Transaction, asked: Authorization, index: int, actor: str, *, passed_over: bool
) -> Authorization:
    """Writes that a level, counted from 0, was told or passed over; returns the authorization."""
    level = replace(asked.levels[index], told_at=tx.now, passed_over=passed_over)
    tx.execute(
        "update authorization_level set told_at = ?, passed_over = ?, open = 0"
        " where authorization_id = ? and level = ?",
        (micros(tx.now), passed_over, asked.id, index + 1),
    )
    outcome = "passed over, no agent has this role" if passed_over else "told"
    tx.audit(
        "authorization.escalated",
        asked.id,
        session=asked.session,
        agent=asked.agent_id,
        actor=actor,
        detail=f"{level.receiver}: {outcome}",
        state=asked.state,
        level=index + 1,
        passed_over=int(passed_over),
        **_as_asked(asked),
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
    return _read(tx.db, "state = 'PENDING' and deadline_at <= ?", micros(tx.now))


def unused(tx: Transaction) -> list[Authorization]:
    """All approvals whose end has come."""
    return _read(tx.db, "state = 'APPROVED' and lapses_at <= ?", micros(tx.now))


def due_levels(tx: Transaction) -> list[Authorization]:
    """All pending requests of which a level is due."""
    due = "select authorization_id from authorization_level where open = 1 and due_at <= ?"
    return _read(tx.db, f"state = 'PENDING' and id in ({due})", micros(tx.now))


def next_deadline(db: Database) -> datetime | None:
    """When something is due next: an expiry, a level, a lapse; None when nothing is."""
    row = db.execute_sql(_NEXT).fetchone()
    return None if row[0] is None else from_micros(row[0])


def waiting(db: Database) -> dict[str, Authorization]:
    """For each agent that waits, the oldest of its pending requests, by agent id."""
    newest_first = _read(db, "state = 'PENDING'", order="number desc")
    return {asked.agent_id: asked for asked in newest_first}


def _as_asked(asked: Authorization) -> dict[str, Any]:
    """What each link tells of the request: a row that somebody changes for a decision, and back
    after it, is found by that."""
    return {
        "digest": asked.digest,
        "requester_role": asked.requester_role,
        "requester_pane": asked.requester_pane,
        "approvers": " ".join(asked.approvers),
        "asked": asked.approver_role,
        "action_class": asked.action_class,
        "human": int(asked.human),
        "reason_required": int(asked.reason_required),
        "priority": int(asked.priority),
        "priority_derived": int(asked.priority_derived),
        "created_at": micros(asked.created_at),
        "deadline_at": micros(asked.deadline_at),
        "lapse": span(asked.lapse),
        "levels": levels_fact(_levels(asked)),
        "action": asked.action,
        "tool": asked.bound.tool,
        "cwd": asked.bound.cwd,
        ARGUMENTS: arguments_hash(asked.bound.arguments.encode()),
    }


def _levels(asked: Authorization) -> list[ToldLevel]:
    return [
        ToldLevel(
            at.receiver,
            micros(at.due_at),
            None if at.told_at is None else micros(at.told_at),
            int(at.passed_over),
        )
        for at in asked.levels
    ]


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
        resolver=now.resolver,
        proof=now.proof,
        told=told_fact(_levels(now)),
        **_as_asked(now),
        **facts,
    )


def _values(asked: Authorization) -> tuple[Any, ...]:
    """What _INSERT takes, but for the last."""
    bound = asked.bound
    return (
        asked.id,
        asked.agent_id,
        asked.session,
        asked.requester_role,
        asked.requester_pane,
        asked.approver_role,
        asked.action,
        int(asked.priority),
        asked.priority_derived,
        asked.state,
        micros(asked.created_at),
        micros(asked.deadline_at),
        asked.action_class,
        " ".join(asked.approvers),
        asked.human,
        asked.reason_required,
        span(asked.lapse),
        bound.tool,
        bound.arguments,
        bound.cwd,
        asked.digest,
        *("", "", Proof.NONE, None, None, None),
    )


def _read(db: Database, where: str, *params: Any, order: str = "number") -> list[Authorization]:
    """The authorizations that fulfil a condition. Plain SQL: peewee takes ten times as long to
    make the same words anew, and a decision needs three such reads."""
    sql = f"select {', '.join(_COLUMNS)} from authorization where {where} order by {order}"  # noqa: S608
    return [_authorization(db, row) for row in db.execute_sql(sql, params).fetchall()]


def _authorization(db: Database, row: tuple[Any, ...]) -> Authorization:
    """One row of _COLUMNS, with its levels."""
    found = dict(zip(_COLUMNS, row, strict=True))
    levels = db.execute_sql(_LEVELS, (found["id"],)).fetchall()
    bound = Action(found.pop("tool"), found.pop("arguments"), found.pop("cwd"))
    for name in ("created_at", "deadline_at", "resolved_at", "lapses_at", "closed_at"):
        found[name] = _time(found[name])
    return Authorization(
        **{
            **found,
            "priority": AuthorizationPriority(found["priority"]),
            "priority_derived": bool(found["priority_derived"]),
            "state": AuthorizationState(found["state"]),
            "approvers": tuple(found["approvers"].split()),
            "human": bool(found["human"]),
            "reason_required": bool(found["reason_required"]),
            "lapse": from_span(found["lapse"]),
            "proof": Proof(found["proof"]),
            "bound": bound,
            "levels": tuple(
                Level(receiver, from_micros(due), _time(told), bool(passed_over))
                for receiver, due, told, passed_over in levels
            ),
        }
    )


def _time(value: int | None) -> datetime | None:
    return None if value is None else from_micros(value)
