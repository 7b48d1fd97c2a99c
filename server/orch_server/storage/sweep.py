"""What time does to deliveries: it ends some, and shows which were left in between."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from orch_server.core.delivery import (
    CLAIM_PATIENCE,
    COURIER_PATIENCE,
    REPLY_SLACK,
    DeliveryEvent,
    DeliveryState,
    after,
)
from orch_server.storage.columns import micros, span
from orch_server.storage.database import Database
from orch_server.storage.deliveries import (
    CLAIM,
    Owned,
    dead_letter,
    finish,
    forget_claim,
    tell,
)
from orch_server.storage.store import Transaction

_SOON, _LONGER = timedelta(minutes=1), timedelta(hours=1)
_OPEN = """(select number from delivery where state = 'PENDING' union all
    select number from delivery where state in ('OFFERED', 'PASTED'))"""
_EXPIRED = f"""select d.id, d.agent_id, a.session, d.state, d.detail, d.origin
    from delivery d join agent a on a.id = d.agent_id
    where d.number in {_OPEN} and d.expires_at <= ?"""  # noqa: S608 - constants
_CLAIMED = """select d.id, d.agent_id, a.session
    from delivery d join agent a on a.id = d.agent_id
    where d.state in ('OFFERED', 'PASTED') and d.offered_to = ? and d.updated_at <= ?"""
_SILENT = """select d.id, d.agent_id, a.session
    from delivery d join agent a on a.id = d.agent_id
    where d.reply_patience > 0 and d.reply_at is null
    and d.state not in ('PENDING', 'OFFERED', 'PASTED') and d.updated_at + d.reply_patience <= ?"""
_ENDING = """select id from delivery indexed by delivery_waiting
    where agent_id = ? and state = 'PENDING' and origin like 'task:%' and expires_at <= ?"""
_AGENTS = """select agent_id from delivery where state = 'PENDING' union
    select agent_id from delivery where state in ('OFFERED', 'PASTED')"""
_LATELY = """select distinct agent_id from delivery
    where state in ('OFFERED', 'PASTED') and offered_to <> ? and updated_at > ?"""


def sweep(tx: Transaction) -> int:
    """Ends what is older than its time to live, claims that were never acknowledged, and replies
    that never came; returns how many.

    What waited is EXPIRED. What a courier had, and never said what became of, is UNCONFIRMED.
    """
    expired = tx.execute(_EXPIRED, (micros(tx.now),))
    for delivery_id, agent_id, session, word, detail, origin in expired:
        owned = Owned(delivery_id, agent_id, session)
        _expire(tx, owned, DeliveryState(word), detail, is_note=origin.startswith("task:"))
    claimed = tx.execute(_CLAIMED, (CLAIM, micros(tx.now - CLAIM_PATIENCE)))
    for row in claimed:
        forget_claim(tx, Owned._make(row))
    silent = tx.execute(_SILENT, (micros(tx.now) - span(REPLY_SLACK),))
    for row in silent:
        tx.execute("update delivery set reply_at = ? where id = ?", (micros(tx.now), row[0]))
        tell(tx, Owned._make(row), "delivery.replied", "nothing was heard")
    return len(expired) + len(claimed) + len(silent)


def overdue(db: Database, now: datetime) -> bool:
    """Whether `sweep` would find anything; only a read."""
    asked = (
        (_EXPIRED, (micros(now),)),
        (_CLAIMED, (CLAIM, micros(now - CLAIM_PATIENCE))),
        (_SILENT, (micros(now) - span(REPLY_SLACK),)),
    )
    return any(
        db.execute_sql(f"select exists ({sql})", params).fetchone()[0] for sql, params in asked
    )


def ending(db: Database, agents: Collection[str], now: datetime) -> list[str]:
    """The scheduled notes of these agents whose time to live is about to end."""
    soon = micros(now + _SOON)
    return [
        row[0]
        for agent_id in agents
        for row in db.execute_sql(_ENDING, (agent_id, soon)).fetchall()
    ]


def prolong(tx: Transaction, notes: Collection[str]) -> None:
    """Lets these notes wait on, since their agents are usage-limited."""
    until = micros(tx.now + _LONGER)
    for delivery_id in notes:
        tx.execute("update delivery set expires_at = ? where id = ?", (until, delivery_id))


def agents_with_open(db: Database) -> list[str]:
    """The agents for whom something is in the mailbox."""
    return [row[0] for row in db.execute_sql(_AGENTS).fetchall()]


def agents_being_served(db: Database, now: datetime) -> set[str]:
    """The agents whose courier has something, and got it or spoke of it lately."""
    rows = db.execute_sql(_LATELY, (CLAIM, micros(now - COURIER_PATIENCE))).fetchall()
    return {row[0] for row in rows}


def _expire(
    tx: Transaction, owned: Owned, state: DeliveryState, detail: str, is_note: bool
) -> None:
    if state is DeliveryState.PENDING:
        ended = after(state, DeliveryEvent.EXPIRE)
        said = detail or "No courier came for it in time."
        finish(tx, owned, ended, said)
        if is_note:
            dead_letter(tx, owned, said)
    else:
        ended = after(state, DeliveryEvent.DOUBT)
        finish(tx, owned, ended, "Its courier never said what became of it.")
