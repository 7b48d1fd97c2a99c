"""The mailbox in the store: the hot path, in plain SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orch_server.core.delivery import (
    OPEN,
    REPORTED,
    TIME_TO_LIVE,
    DeliveryEvent,
    DeliveryState,
    NewDelivery,
    Report,
    after,
    retry_delay,
)
from orch_server.core.errors import NotFound
from orch_server.core.identity import Incarnation
from orch_server.storage import agents
from orch_server.storage.database import Database
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Transaction
from orch_server.storage.tables import from_micros, micros

_INSERT = """insert into delivery (id, agent_id, text, origin, dedupe_key, priority, state, detail,
    sequence, offer_epoch, offered_to, refusals, not_before, expires_at, created_at, updated_at)
    values (?, ?, ?, ?, ?, ?, 'PENDING', '', 0, 0, '', 0, ?, ?, ?, ?)"""
_OUTSTANDING = """select id, text, state, sequence, offered_to from delivery
    where agent_id = ? and state in ('OFFERED', 'PASTED') limit 1"""
_PENDING = """select id, text, not_before from delivery
    where agent_id = ? and state = 'PENDING' and expires_at > ?
    order by priority desc, number limit 1"""


_NEXT_NUMBER = "update store set offer_sequence = offer_sequence + 1 returning offer_sequence"


@dataclass(frozen=True, slots=True)
class Offered:
    """What was put into the courier's hands by `offer_next`."""

    delivery_id: str
    sequence: int
    text: str
    tried_before: bool


def enqueue(tx: Transaction, new: NewDelivery) -> str:
    """Puts a text into the mailbox and returns its id. The dedupe key must be new."""
    delivery_id = new_id()
    at = micros(new.created_at)
    expires = micros(new.created_at + TIME_TO_LIVE)
    tx.execute(
        _INSERT,
        (
            delivery_id,
            new.agent_id,
            new.text,
            new.origin,
            new.dedupe_key,
            int(new.priority),
            at,
            expires,
            at,
            at,
        ),
    )
    tx.emit("delivery.created", delivery_id, agent=new.agent_id, detail=new.origin)
    return delivery_id


def offer_next(
    tx: Transaction, agent_id: str, epoch: int, pane: Incarnation
) -> Offered | datetime | None:
    """Chooses what the pane's courier gets now, and writes that it has it.

    One offer is outstanding at a time. What an earlier courier had is offered again under the same
    number, so that the guard in the tmux server can tell what became of it; when the pane was of
    another incarnation nobody can tell, and it is UNCONFIRMED. Returns the time when to ask again
    when the next text was refused shortly before, None when nothing waits. Raises StaleEpoch.
    """
    agents.check_epoch(tx, agent_id, epoch)
    outstanding = tx.execute(_OUTSTANDING, (agent_id,))
    if outstanding:
        delivery_id, text, state, sequence, offered_to = outstanding[0]
        if offered_to == pane.key():
            _write_offer(tx, delivery_id, after(state, DeliveryEvent.OFFER), sequence, epoch, pane)
            return Offered(delivery_id, sequence, text, tried_before=True)
        _finish(
            tx,
            delivery_id,
            after(state, DeliveryEvent.DOUBT),
            "The pane it was offered to is gone; whether the text arrived there is not known.",
        )
    waiting = tx.execute(_PENDING, (agent_id, micros(tx.now)))
    if not waiting:
        return None
    delivery_id, text, not_before = waiting[0]
    if not_before > micros(tx.now):
        return from_micros(not_before)
    number = int(tx.execute(_NEXT_NUMBER)[0][0])
    _write_offer(tx, delivery_id, DeliveryState.OFFERED, number, epoch, pane)
    return Offered(delivery_id, number, text, tried_before=False)


def record(tx: Transaction, agent_id: str, report: Report) -> DeliveryState:
    """Writes what a courier reports and returns the new state.

    Raises StaleEpoch when the pane was granted to another courier meanwhile; a report that repeats
    what is written is taken as such.
    """
    agents.check_epoch(tx, agent_id, report.grant)
    rows = tx.execute(
        "select state, sequence, refusals from delivery where id = ? and agent_id = ?",
        (report.delivery_id, agent_id),
    )
    if not rows:
        raise NotFound(f"There is no delivery '{report.delivery_id}' for this agent.")
    state, sequence, refusals = DeliveryState(rows[0][0]), rows[0][1], rows[0][2]
    repeated = state is report.state or (
        state is DeliveryState.PENDING and report.state is DeliveryState.REFUSED
    )
    if sequence != report.sequence or repeated or state not in OPEN:
        return state
    new = after(state, REPORTED[report.state])
    if report.state is DeliveryState.REFUSED:
        again = micros(tx.now + retry_delay(refusals + 1))
        tx.execute(
            "update delivery set refusals = refusals + 1, not_before = ? where id = ?",
            (again, report.delivery_id),
        )
        _finish(tx, report.delivery_id, new, report.detail, kind="delivery.refused")
    else:
        _finish(tx, report.delivery_id, new, report.detail)
    return new


def expire(tx: Transaction) -> int:
    """Ends what is older than its time to live; returns how many.

    What waited is EXPIRED. What a courier had, and never said what became of, is UNCONFIRMED.
    """
    rows = tx.execute(
        "select id, state, detail from delivery"
        " where state in ('PENDING', 'OFFERED', 'PASTED') and expires_at <= ?",
        (micros(tx.now),),
    )
    for delivery_id, word, detail in rows:
        state = DeliveryState(word)
        if state is DeliveryState.PENDING:
            ended = after(state, DeliveryEvent.EXPIRE)
            _finish(tx, delivery_id, ended, detail or "No courier came for it in time.")
        else:
            ended = after(state, DeliveryEvent.DOUBT)
            _finish(tx, delivery_id, ended, "Its courier never said what became of it.")
    return len(rows)


def agents_with_open(db: Database) -> list[str]:
    """The ids of all agents for whom something waits or is under way."""
    sql = "select distinct agent_id from delivery where state in ('PENDING', 'OFFERED', 'PASTED')"
    return [row[0] for row in db.execute_sql(sql).fetchall()]


def _write_offer(
    tx: Transaction,
    delivery_id: str,
    state: DeliveryState,
    number: int,
    epoch: int,
    to: Incarnation,
) -> None:
    tx.execute(
        "update delivery set state = ?, sequence = ?, offer_epoch = ?, offered_to = ?,"
        " updated_at = ? where id = ?",
        (state, number, epoch, to.key(), micros(tx.now), delivery_id),
    )
    tx.emit("delivery.offered", delivery_id, detail=f"offer {number}")


def _finish(
    tx: Transaction, delivery_id: str, state: DeliveryState, detail: str, kind: str = ""
) -> None:
    tx.execute(
        "update delivery set state = ?, detail = ?, updated_at = ? where id = ?",
        (state, detail, micros(tx.now), delivery_id),
    )
    tx.emit(kind or f"delivery.{state.lower()}", delivery_id, detail=detail)
