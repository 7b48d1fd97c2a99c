"""Tells approvers, level by level, that a request waits. Part of the transaction of each change."""

from __future__ import annotations

from datetime import datetime, timedelta

from orch_server.core import authorization as rules
from orch_server.core.agent import Liveness
from orch_server.core.alert import NewAlert, Severity
from orch_server.core.authorization import Authorization, AuthorizationState
from orch_server.core.delivery import DeliveryMode, NewDelivery, Priority
from orch_server.core.errors import Conflict
from orch_server.core.policy import HUMAN, AuthorizationPriority
from orch_server.core.text import one_line
from orch_server.storage import authorizations as table
from orch_server.storage import deliveries
from orch_server.storage.alerts import raise_alert
from orch_server.storage.store import Transaction

_HOLDER = """select id from agent where session = ? and role = ? and id <> ? and liveness <> ?"""


def ask_first(tx: Transaction, asked: Authorization) -> tuple[str, ...]:
    """Asks the role that is asked first; when no agent has it, the next level is told at once.
    Returns who has mail."""
    woken = _ask(tx, asked, asked.approver_role, f"asked:{asked.id}", "")
    return next_level(tx, asked, "")[1] if asked.levels and not woken else woken


def next_level(
    tx: Transaction, asked: Authorization, actor: str
) -> tuple[Authorization, tuple[str, ...]]:
    """Tells the first level that was not told yet; one that nobody holds is passed over.

    Returns the authorization as it then is, and who has mail. Raises Conflict when the request is
    not pending, or has no level left.
    """
    _check_open(asked, tx)
    current = asked
    for index, level in enumerate(asked.levels):
        if level.told_at is not None:
            continue
        if level.receiver == HUMAN:
            raise_alert(tx, _alert(current, tx.now))
            return table.tell_level(tx, current, index, actor, passed_over=False), ()
        key = f"level{index + 1}:{asked.id}"
        woken = _ask(tx, current, level.receiver, key, "(escalated to you)")
        current = table.tell_level(tx, current, index, actor, passed_over=not woken)
        if woken:
            return current, woken
    return current, ()


def mail(
    tx: Transaction,
    about: Authorization,
    agent_id: str,
    text: str,
    dedupe_key: str,
    sender: str,
    mode: DeliveryMode = DeliveryMode.WAIT_IDLE,
    after: timedelta = timedelta(0),
) -> None:
    """Puts a text about an authorization into the mailbox; each of its turns once. It waits for
    `after` at least."""
    deliveries.enqueue(
        tx,
        NewDelivery(
            agent_id=agent_id,
            text=text,
            origin=f"authorization:{about.id}",
            dedupe_key=dedupe_key,
            priority=Priority.HIGH,
            created_at=tx.now,
            sender=sender,
            mode=mode,
            not_before=tx.now + after if after else None,
        ),
    )


def withdraw_questions(tx: Transaction, asked: Authorization, actor: str) -> None:
    """Nobody is asked any more for what was decided: questions that still wait are withdrawn."""
    keys = [f"asked:{asked.id}", *(f"level{n}:{asked.id}" for n in range(1, len(asked.levels) + 1))]
    for key in keys:
        _withdraw(tx, key, actor)


def tell_used(tx: Transaction, used: Authorization) -> None:
    """The one who waited for the approval has used it: the text that still waits says so, lest it
    be taken for another yes. One whose tool call has gone through need not be told at all."""
    key = f"decided:{used.id}"
    if used.bound.tool:
        _withdraw(tx, key, used.requester)
    else:
        deliveries.reword(tx, key, rules.decision_text(used))


def _withdraw(tx: Transaction, key: str, actor: str) -> None:
    waiting = "select id from delivery where dedupe_key = ? and state = 'PENDING'"
    for (delivery_id,) in tx.execute(waiting, (key,)):
        deliveries.cancel(tx, delivery_id, actor or "the server")


def _check_open(asked: Authorization, tx: Transaction) -> None:
    if asked.state is not AuthorizationState.PENDING or tx.now >= asked.deadline_at:
        raise Conflict(
            f"Authorization {asked.id} is not pending any more; there is nothing to escalate.",
            state=asked.state,
        )
    if all(level.told_at is not None for level in asked.levels):
        raise Conflict(
            f"Every level of authorization {asked.id} was told already; it expires by itself.",
            state=asked.state,
        )


def _ask(tx: Transaction, asked: Authorization, role: str, key: str, level: str) -> tuple[str, ...]:
    """Puts the question into the mailbox of the role's agent, if there is one that did not ask
    itself. What is urgent is typed at once."""
    holders = tx.execute(_HOLDER, (asked.session, role, asked.agent_id, Liveness.ENDED))
    urgent = asked.priority is AuthorizationPriority.HIGH
    mode = DeliveryMode.IMMEDIATE if urgent else DeliveryMode.WAIT_IDLE
    for (agent_id,) in holders:
        text = rules.asked_text(asked, tx.now, level=level)
        mail(tx, asked, agent_id, text, key, asked.requester, mode)
    return tuple(row[0] for row in holders)


def _alert(asked: Authorization, now: datetime) -> NewAlert:
    urgent = asked.priority is AuthorizationPriority.HIGH
    return NewAlert(
        Severity.CRITICAL if urgent else Severity.WARNING,
        "authorization",
        asked.id,
        f"{asked.requester} waits for leave, {rules.left(asked.deadline_at - now)} more:"
        f" {one_line(asked.action, 300)} - orch-client approve {asked.id}, or deny",
        asked.session,
    )
