"""The mailbox in the store: the hot path, in plain SQL.

What an agent's own hook takes is in claims.py, what time does to deliveries in sweep.py, how they
are shown in history.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from orch_server.core.alert import NewAlert, Severity
from orch_server.core.delivery import (
    CLAIM_PATIENCE,
    NOT_NOW,
    OPEN,
    REPORTED,
    DeliveryEvent,
    DeliveryMode,
    DeliveryState,
    NewDelivery,
    Offering,
    RefusalReason,
    Reply,
    Report,
    after,
    check_cancel,
    check_redrive,
    judge,
    offered_mode,
    whole_text,
)
from orch_server.core.errors import NotFound
from orch_server.core.identity import Incarnation
from orch_server.core.text import one_line
from orch_server.storage import agents, alerts
from orch_server.storage.columns import from_micros, from_span, micros, span
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Transaction

#: Stands in `offered_to` for the agent's own hook.
CLAIM = "claim"

_INSERT = """insert into delivery (id, agent_id, text, origin, dedupe_key, priority, state, detail,
    sequence, offer_epoch, offered_to, refusals, not_before, expires_at, created_at, updated_at,
    sender, header, mode, message_key, reason, attempts, retry_at, time_to_live, reply_patience,
    reply, reply_complete)
    values (?, ?, ?, ?, ?, ?, 'PENDING', '', 0, 0, '', 0, ?, ?, ?, ?, ?, ?, ?, ?, '', 0, 0, ?, ?,
    '', 0) returning (select session from agent where id = agent_id)"""
_COLUMNS = """id, header, text, state, sequence, offered_to, mode, not_before, reply_patience,
    reason, retry_at, updated_at"""
# The planner would take the index of the history, and read all of an agent's.
_OUT = f"""select {_COLUMNS} from delivery indexed by delivery_out
    where agent_id = ? and state in ('OFFERED', 'PASTED') order by number"""  # noqa: S608
_HEAD = f"""select {_COLUMNS} from delivery indexed by delivery_waiting
    where agent_id = ? and state = 'PENDING' and not_before <= ? and expires_at > ?
    order by priority desc, number limit 1"""  # noqa: S608
_NEXT = """select min(not_before) from delivery indexed by delivery_waiting
    where agent_id = ?1 and state = 'PENDING' and not_before > ?2 and expires_at > ?2"""
_NEXT_NUMBER = "update store set offer_sequence = offer_sequence + 1 returning offer_sequence"
_WAITS = ", ".join(f"'{reason}'" for reason in sorted(NOT_NOW))
_READY = f"""update delivery indexed by delivery_refused set retry_at = 0
    where agent_id = ? and state = 'PENDING' and retry_at > 0 and retry_at > ?
    and reason in ({_WAITS})"""  # noqa: S608 - constants
_REFUSED_BY_OTHERS = f"""update delivery indexed by delivery_refused set retry_at = 0
    where agent_id = ? and state = 'PENDING' and retry_at > 0 and offer_epoch <> ?
    and reason in ({_WAITS}, 'PANE_GONE')"""  # noqa: S608 - constants
_WATCHED_BEFORE = f"""update delivery set retry_at = 0
    where state = 'PENDING' and retry_at > 0 and reason in ({_WAITS})"""  # noqa: S608 - constants


class Owned(NamedTuple):
    """A delivery and whose it is; what each of its events names."""

    id: str
    agent_id: str
    session: str


class _Row(NamedTuple):
    """What an offer needs to know; in the order of _COLUMNS."""

    id: str
    header: str
    text: str
    state: str
    sequence: int
    offered_to: str
    mode: str
    not_before: int
    reply_patience: int
    reason: str
    retry_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Offered:
    """What was put into the courier's hands by `offer_next`."""

    delivery_id: str
    sequence: int
    text: str
    tried_before: bool
    mode: DeliveryMode
    reply_patience: timedelta


def enqueue(tx: Transaction, new: NewDelivery) -> str:
    """Puts a text into the mailbox and returns its id. The dedupe key must be new."""
    delivery_id = new.id or new_id()
    at = micros(new.created_at)
    since = max(new.created_at, new.not_before or new.created_at)
    values = (
        delivery_id,
        new.agent_id,
        new.text,
        new.origin,
        new.dedupe_key,
        int(new.priority),
        micros(since),
        micros(since + new.time_to_live),
        at,
        at,
        new.sender,
        new.header,
        new.mode,
        new.message_key,
        span(new.time_to_live),
        span(new.reply_patience),
    )
    session = tx.execute(_INSERT, values)[0][0]
    owned = Owned(delivery_id, new.agent_id, session or "")
    tell(tx, owned, "delivery.created", new.origin, actor=new.sender)
    return delivery_id


def offer_next(
    tx: Transaction, agent_id: str, epoch: int, pane: Incarnation
) -> Offered | datetime | None:
    """Chooses what the pane's courier gets now, and writes that it has it.

    One offer is outstanding at a time, and none while a hook's claim is. What an earlier courier
    had is offered again under the same number, so that the guard in the tmux server can tell what
    became of it; when the pane was of another incarnation nobody can tell, and it is UNCONFIRMED.
    Returns the time when to ask again when the first text has to wait, None when nothing waits or
    all is held back. Raises StaleEpoch.
    """
    session, held_back = agents.check_epoch(tx, agent_id, epoch)
    found = _outstanding(tx, agent_id, session, epoch, pane)
    if found is not None or held_back:
        return found
    now = micros(tx.now)
    tx.execute(_REFUSED_BY_OTHERS, (agent_id, epoch))  # it is another courier, or another pane
    rows = tx.execute(_HEAD, (agent_id, now, now))
    head = _Row._make(rows[0]) if rows else None
    if head is None or head.retry_at > now:
        later = tx.execute(_NEXT, (agent_id, now))[0][0]
        times = [at for at in (later, head and head.retry_at) if at]
        return from_micros(min(times)) if times else None
    return _offer(tx, Owned(head.id, agent_id, session), head, next_number(tx), epoch, pane)


def record(tx: Transaction, agent_id: str, report: Report) -> DeliveryState:
    """Writes what a courier reports and returns the new state.

    Raises StaleEpoch when the pane was granted to another courier meanwhile; a report that repeats
    what is written is taken as such.
    """
    session, _ = agents.check_epoch(tx, agent_id, report.grant)
    rows = tx.execute(
        "select state, sequence, mode, not_before, updated_at, refusals, reason from delivery"
        " where id = ? and agent_id = ?",
        (report.delivery_id, agent_id),
    )
    if not rows:
        raise NotFound(f"There is no delivery '{report.delivery_id}' for this agent.")
    word, sequence, mode, since, offered_at, refusals, reason = rows[0]
    state = DeliveryState(word)
    repeated = state is report.state or (
        state is DeliveryState.PENDING and report.state is DeliveryState.REFUSED
    )
    if sequence != report.sequence or repeated or state not in OPEN:
        return state
    owned = Owned(report.delivery_id, agent_id, session)
    if report.state is DeliveryState.REFUSED:
        at, offered = from_micros(since), from_micros(offered_at)
        was = Offering(DeliveryMode(mode), at, offered, refusals, RefusalReason(reason))
        return _refuse(tx, owned, state, was, report)
    new = finish(tx, owned, after(state, REPORTED[report.state]), report.detail)
    if new not in OPEN:  # it may have overtaken one whose pane nobody watches any more
        let_go(tx, agent_id)
    return new


def ready(tx: Transaction, agent_id: str, epoch: int) -> None:
    """The pane can take text: what waits for that is offered at once. Raises StaleEpoch."""
    agents.check_epoch(tx, agent_id, epoch)
    let_go(tx, agent_id)


def let_go(tx: Transaction, agent_id: str) -> None:
    """What was refused with a not-now is tried again at once, whoever the courier is."""
    tx.execute(_READY, (agent_id, micros(tx.now)))


def forget_watches(tx: Transaction) -> None:
    """After a start of the server nobody watches the panes that it serves itself."""
    tx.execute(_WATCHED_BEFORE)


def record_reply(tx: Transaction, agent_id: str, epoch: int, reply: Reply) -> None:
    """Writes what the agent's screen said after a delivery. Raises StaleEpoch.

    One that nobody asked for, that belongs to an earlier offer, or that comes twice is left out.
    """
    session, _ = agents.check_epoch(tx, agent_id, epoch)
    rows = tx.execute(
        "update delivery set reply = ?, reply_at = ?, reply_complete = ? where id = ?"
        " and agent_id = ? and sequence = ? and reply_patience > 0 and reply_at is null"
        " returning id",
        (
            reply.text,
            micros(tx.now),
            reply.complete,
            reply.delivery_id,
            agent_id,
            reply.sequence,
        ),
    )
    if rows:
        said = one_line(reply.text) or "nothing"
        tell(tx, Owned(reply.delivery_id, agent_id, session), "delivery.replied", said)


def cancel(tx: Transaction, delivery_id: str, actor: str) -> None:
    """Withdraws what waits. Raises Conflict when it does not wait."""
    owned, state = _known(tx, delivery_id)
    check_cancel(delivery_id, state)
    finish(tx, owned, after(state, DeliveryEvent.CANCEL), f"Withdrawn by {actor}.", actor=actor)


def reword(tx: Transaction, dedupe_key: str, text: str) -> None:
    """Gives what waits another text, and lets it go at once. What does not wait stays as it is."""
    tx.execute(
        "update delivery set text = ?, not_before = ? where dedupe_key = ? and state = 'PENDING'",
        (text, micros(tx.now), dedupe_key),
    )


def redrive(tx: Transaction, delivery_id: str, force: bool, actor: str) -> None:
    """Puts what ended without effect back, with all of its time to live.

    Raises Conflict when it did not end so. Late reports on its earlier offers no longer count.
    """
    owned, state = _known(tx, delivery_id)
    new = check_redrive(delivery_id, state, force)
    tx.execute(
        "update delivery set state = ?1, detail = '', reason = '', refusals = 0, retry_at = 0,"
        " sequence = 0, offered_to = '', not_before = max(not_before, ?2),"
        " expires_at = max(not_before, ?2) + time_to_live, updated_at = ?2,"
        " reply = '', reply_at = null, reply_complete = 0 where id = ?3",
        (new, micros(tx.now), delivery_id),
    )
    tell(tx, owned, "delivery.redriven", f"It was {state.lower()}.", actor=actor)


# ---- parts that claims.py and sweep.py share ----


def finish(
    tx: Transaction, owned: Owned, state: DeliveryState, detail: str, actor: str = ""
) -> DeliveryState:
    """Writes a new state and what was seen, with its event; returns the state."""
    tx.execute(
        "update delivery set state = ?, detail = ?, updated_at = ? where id = ?",
        (state, detail, micros(tx.now), owned.id),
    )
    tell(tx, owned, f"delivery.{state.lower()}", detail, actor=actor)
    return state


def tell(tx: Transaction, owned: Owned, kind: str, detail: str, actor: str = "") -> None:
    """Emits an event of this delivery."""
    tx.emit(kind, owned.id, session=owned.session, agent=owned.agent_id, actor=actor, detail=detail)


def next_number(tx: Transaction) -> int:
    """The next number of an offer; numbers grow over the whole store."""
    return int(tx.execute(_NEXT_NUMBER)[0][0])


# ---- offers and refusals ----


def _outstanding(
    tx: Transaction, agent_id: str, session: str, epoch: int, pane: Incarnation
) -> Offered | datetime | None:
    """What is already out, for this courier once more; what nobody can tell of is in doubt."""
    for row in map(_Row._make, tx.execute(_OUT, (agent_id,))):
        owned, state = Owned(row.id, agent_id, session), DeliveryState(row.state)
        if row.offered_to == pane.key():
            return _offer(tx, owned, row, row.sequence, epoch, pane)
        if row.offered_to != CLAIM:
            unknown = (
                "The pane it was offered to is gone; whether the text arrived there is not known."
            )
            finish(tx, owned, after(state, DeliveryEvent.DOUBT), unknown)
            continue
        until = from_micros(row.updated_at) + CLAIM_PATIENCE
        if until > tx.now:
            return until
        forget_claim(tx, owned)
    return None


def forget_claim(tx: Transaction, owned: Owned) -> None:
    """Ends a claim whose hook was not heard again."""
    said = "Claimed by the agent's hook, which never said that it was printed."
    finish(tx, owned, after(DeliveryState.OFFERED, DeliveryEvent.DOUBT), said)


def _offer(
    tx: Transaction, owned: Owned, row: _Row, number: int, epoch: int, to: Incarnation
) -> Offered:
    state = after(DeliveryState(row.state), DeliveryEvent.OFFER)
    tx.execute(
        "update delivery set state = ?, sequence = ?, offer_epoch = ?, offered_to = ?,"
        " attempts = attempts + 1, updated_at = ? where id = ?",
        (state, number, epoch, to.key(), micros(tx.now), row.id),
    )
    if not (row.retry_at and row.reason in NOT_NOW):  # the same wait goes on: no new step
        tell(tx, owned, "delivery.offered", f"offer {number}")
    return Offered(
        delivery_id=row.id,
        sequence=number,
        text=whole_text(row.header, row.text),
        tried_before=row.state != DeliveryState.PENDING,
        mode=offered_mode(DeliveryMode(row.mode), from_micros(row.not_before), tx.now),
        reply_patience=from_span(row.reply_patience),
    )


def _refuse(
    tx: Transaction, owned: Owned, state: DeliveryState, was: Offering, report: Report
) -> DeliveryState:
    """Back into the mailbox, or dead. A wait that goes on for the same reason is no new step."""
    refused = judge(was, report.reason, tx.now, random.random())  # noqa: S311 - spreads retries
    new = after(state, refused.event)
    tx.execute(
        "update delivery set state = ?, detail = ?, reason = ?, refusals = ?, retry_at = ?,"
        " updated_at = ? where id = ?",
        (
            new,
            report.detail,
            report.reason,
            refused.refusals,
            micros(refused.retry_at),
            micros(tx.now),
            owned.id,
        ),
    )
    same_wait = report.reason in NOT_NOW and report.reason is was.reason
    if new is DeliveryState.DEAD:
        tell(tx, owned, "delivery.dead", report.detail)
        dead_letter(tx, owned, report.detail)
    elif not same_wait:
        tell(tx, owned, "delivery.refused", report.detail)
    return new


def dead_letter(tx: Transaction, owned: Owned, detail: str) -> None:
    """Alerts that a text became a dead letter: nothing will ever type it by itself."""
    role = tx.execute("select role from agent where id = ?", (owned.agent_id,))[0][0]
    whose = f"{owned.session}:{role}"
    text = (
        f"Delivery {owned.id} for {whose} is a dead letter: {detail}"
        f" - 'orch-client delivery redrive {owned.id}' sends it again."
    )
    alerts.raise_alert(tx, NewAlert(Severity.WARNING, "dead-letter", whose, text, owned.session))


def _known(tx: Transaction, delivery_id: str) -> tuple[Owned, DeliveryState]:
    rows = tx.execute(
        "select d.agent_id, a.session, d.state from delivery d join agent a on a.id = d.agent_id"
        " where d.id = ?",
        (delivery_id,),
    )
    if not rows:
        raise NotFound(f"There is no delivery '{delivery_id}' any more.")
    agent_id, session, state = rows[0]
    return Owned(delivery_id, agent_id, session), DeliveryState(state)
