"""What an agent's own hook takes out of the mailbox at the boundary of its turn."""

from __future__ import annotations

from orch_server.core.delivery import (
    CLAIM_PATIENCE,
    DeliveryEvent,
    DeliveryMode,
    DeliveryState,
    after,
    whole_text,
)
from orch_server.core.errors import NotFound
from orch_server.core.text import printable
from orch_server.storage.columns import from_micros, micros
from orch_server.storage.deliveries import (
    CLAIM,
    Owned,
    finish,
    forget_claim,
    next_number,
    tell,
)
from orch_server.storage.store import Transaction

_MOST = 100
_OUT = """select id, offered_to, updated_at from delivery indexed by delivery_out
    where agent_id = ? and state in ('OFFERED', 'PASTED')"""
_RUN = """select id, header, text, mode, reply_patience from delivery indexed by delivery_waiting
    where agent_id = ? and state = 'PENDING' and not_before <= ? and expires_at > ?
    order by priority desc, number limit ?"""


def claim(tx: Transaction, agent_id: str, most_bytes: int, hook: str) -> list[str]:
    """Hands the head run of TURN_BOUNDARY deliveries to the agent's hook; returns their ids.

    The run ends at the first of another mode or with a reply to watch for, which only a courier
    can, and before `most_bytes` of text, but for the first. Nothing while a courier or another
    claim has something, or while all is held back. The claim has a number of its own, so that late
    reports on earlier offers do not touch it.
    """
    rows = tx.execute("select session, do_not_disturb from agent where id = ?", (agent_id,))
    if not rows or rows[0][1] or _taken(tx, agent_id, rows[0][0]):
        return []
    run = _run(tx, agent_id, most_bytes)
    number = next_number(tx) if run else 0
    for delivery_id in run:
        tx.execute(
            "update delivery set state = ?, sequence = ?, offer_epoch = 0, offered_to = ?,"
            " attempts = attempts + 1, updated_at = ? where id = ?",
            (
                after(DeliveryState.PENDING, DeliveryEvent.CLAIM),
                number,
                CLAIM,
                micros(tx.now),
                delivery_id,
            ),
        )
        owned = Owned(delivery_id, agent_id, rows[0][0])
        tell(tx, owned, "delivery.claimed", f"claim {number} by the hook {hook}")
    return run


def acknowledge(tx: Transaction, agent_id: str, ids: tuple[str, ...]) -> None:
    """The hook printed what it claimed. Raises NotFound for what is not this agent's.

    What is not claimed, or not any more, stays as it is.
    """
    for delivery_id in dict.fromkeys(ids):
        rows = tx.execute(
            "select d.state, d.offered_to, a.session from delivery d"
            " join agent a on a.id = d.agent_id where d.id = ? and d.agent_id = ?",
            (delivery_id, agent_id),
        )
        if not rows:
            raise NotFound(f"There is no delivery '{printable(delivery_id)}' for this agent.")
        state, offered_to, session = rows[0]
        if state == DeliveryState.OFFERED and offered_to == CLAIM:
            confirmed = after(DeliveryState.OFFERED, DeliveryEvent.CONFIRM)
            owned = Owned(delivery_id, agent_id, session)
            finish(tx, owned, confirmed, "Taken by the agent's own hook.")


def _taken(tx: Transaction, agent_id: str, session: str) -> bool:
    """Whether something is out; a claim that is too old is ended."""
    taken = False
    for delivery_id, offered_to, since in tx.execute(_OUT, (agent_id,)):
        if offered_to == CLAIM and from_micros(since) + CLAIM_PATIENCE <= tx.now:
            forget_claim(tx, Owned(delivery_id, agent_id, session))
        else:
            taken = True
    return taken


def _run(tx: Transaction, agent_id: str, most_bytes: int) -> list[str]:
    now = micros(tx.now)
    run: list[str] = []
    room = most_bytes
    for row in tx.execute(_RUN, (agent_id, now, now, _MOST)):
        delivery_id, header, text, mode, patience = row
        room -= len(whole_text(header, text).encode())
        if mode != DeliveryMode.TURN_BOUNDARY or patience or (run and room < 0):
            break
        run.append(delivery_id)
    return run
