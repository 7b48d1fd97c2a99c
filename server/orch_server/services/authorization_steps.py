"""What happens to authorizations, step by step: each function is part of the transaction in which
it is done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from orch_server.core import authorization as rules
from orch_server.core.authorization import (
    Authorization,
    AuthorizationState,
    Decider,
    Proof,
    Verdict,
)
from orch_server.core.errors import Conflict, LimitReached
from orch_server.services import authorization_texts as texts
from orch_server.storage import authorizations as table
from orch_server.storage.store import Transaction

_NOBODY = Decider("")


class ActionVerdict(StrEnum):
    """Whether an action may be taken; see authorization.proto."""

    ALLOWED = "ALLOWED"
    DENIED = "DENIED"
    PENDING = "PENDING"


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer to the gate. `authorization` is None when a rule of the policy decided alone;
    `woken` are the agents that have mail because of it."""

    verdict: ActionVerdict
    reason: str
    authorization: Authorization | None = None
    woken: tuple[str, ...] = ()


def insert(tx: Transaction, asked: Authorization, seen: str) -> tuple[str, tuple[str, ...]]:
    """Writes a request and asks its first approver; returns its id and who has mail."""
    stored = table.insert(tx, asked, seen)
    if stored != asked.id:
        if table.get(tx.db, stored).digest != asked.digest:
            raise used_before()
        return stored, ()
    if table.count_pending(tx, asked.agent_id) > rules.MAX_PENDING:
        raise LimitReached(
            f"{asked.requester} has {rules.MAX_PENDING} pending requests already; withdraw some"
            " first: orch-client pending."
        )
    return stored, texts.ask_first(tx, asked)


def used_before() -> Conflict:
    """The error for a request id that was given for another action."""
    return Conflict("This request_id stands for another action already; choose a new one.")


def check(tx: Transaction, asked: Authorization, seen: str) -> Checked:
    """What is known of this very action; `asked` is the request that is made when nothing is."""
    before = table.consumed_by(tx, asked.agent_id, seen)
    if before is not None:
        if before.digest != asked.digest:
            raise used_before()
        if before.closed_at and tx.now < before.closed_at + before.lapse:
            return Checked(ActionVerdict.ALLOWED, _allowed(before), before)
        return Checked(ActionVerdict.DENIED, f"Authorization {before.id} was used before.", before)
    approved = table.fitting(tx, asked.digest, AuthorizationState.APPROVED)
    if approved is not None and approved.lapses_at and tx.now < approved.lapses_at:
        used = consume(tx, approved, seen)
        return Checked(ActionVerdict.ALLOWED, _allowed(used), used)
    denied = table.fitting(tx, asked.digest, AuthorizationState.DENIED)
    if denied is not None and denied.resolved_at and tx.now < denied.resolved_at + denied.lapse:
        return Checked(ActionVerdict.DENIED, rules.decision_text(denied), denied)
    pending = table.fitting(tx, asked.digest, AuthorizationState.PENDING)
    if pending is not None and tx.now < pending.deadline_at:
        return Checked(ActionVerdict.PENDING, _pending(pending), pending)
    _, woken = insert(tx, asked, "")
    made = table.get(tx.db, asked.id)
    return Checked(ActionVerdict.PENDING, _pending(made), made, woken)


def _allowed(used: Authorization) -> str:
    return f"Authorization {used.id} was approved by {used.resolver}, for this once."


def _pending(asked: Authorization) -> str:
    return (
        f"Authorization {asked.id} is pending with {asked.approver_role}; try the same again when"
        " it was approved."
    )


def consume(tx: Transaction, asked: Authorization, request_id: str) -> Authorization:
    """Uses an approval. Raises Conflict."""
    state = rules.resolve(asked, Verdict.CONSUME, tx.now)
    used = table.close(tx, asked, state, asked.requester, request_id)
    texts.tell_used(tx, used)
    return used


def decide(
    tx: Transaction,
    asked: Authorization,
    verdict: Verdict,
    decider: Decider,
    reason: str = "",
    proof: Proof = Proof.NONE,
    after: timedelta = timedelta(0),
) -> Authorization:
    """Writes what was decided, and tells the requester after this time, unless he withdrew it
    himself."""
    state = rules.resolve(asked, verdict, tx.now)
    resolved = table.resolve(tx, asked, state, decider.name, reason, proof, decider.pane)
    texts.withdraw_questions(tx, asked, decider.name)
    if verdict is not Verdict.CANCEL:
        text = rules.decision_text(resolved)
        texts.mail(
            tx, asked, asked.agent_id, text, f"decided:{asked.id}", decider.name, after=after
        )
    return resolved


def run_due(tx: Transaction) -> tuple[str, ...]:
    """All that is due; returns who has mail."""
    woken: list[str] = []
    for asked in table.overdue(tx):
        decide(tx, asked, Verdict.EXPIRE, _NOBODY, "Nobody decided in time.")
        woken.append(asked.agent_id)
    for asked in table.unused(tx):
        table.close(tx, asked, rules.resolve(asked, Verdict.LAPSE, tx.now), "", "")
    for asked in table.due_levels(tx):
        current = asked
        while any(one.told_at is None and one.due_at <= tx.now for one in current.levels):
            current, told = texts.next_level(tx, current, "")
            woken.extend(told)
    return tuple(woken)
