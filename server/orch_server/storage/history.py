"""Deliveries as they are shown: one with its story, pages of them, and full-text search."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from orch_server.core.delivery import (
    Delivery,
    DeliveryMode,
    DeliveryState,
    Priority,
    RefusalReason,
    Step,
)
from orch_server.core.errors import InvalidInput, NotFound
from orch_server.core.text import printable
from orch_server.storage import lookup
from orch_server.storage.columns import from_micros, from_span
from orch_server.storage.database import Database
from orch_server.storage.tables import DeliveryRow

MAX_SEARCH = 1000
_MAX_WORDS = 64
#: A page ends early when its texts have more bytes than this; a message of gRPC is limited.
_PAGE_BYTES = 2 * 1024 * 1024
_SELECT = """select d.number, d.id, d.agent_id, a.session, a.role, d.origin, d.sender, d.header,
    d.text, d.mode, d.priority, d.state, d.detail, d.reason, d.attempts, d.created_at,
    d.updated_at, d.not_before, d.expires_at, d.reply_patience, d.reply, d.reply_at,
    d.reply_complete from delivery d join agent a on a.id = d.agent_id"""
_STEPS = """select at, kind, detail, actor from event where subject = ?
    and kind >= 'delivery.' and kind < 'delivery/' order by number"""


@dataclass(frozen=True, slots=True)
class Filter:
    """What to list; "" and None: all. `agent` is an id."""

    agent: str = ""
    session: str = ""
    state: DeliveryState | None = None
    search: str = ""


def full_id(db: Database, given: str) -> str:
    """The whole id for an id or prefix. Raises NotFound or Ambiguous."""
    return lookup.full_id(db, DeliveryRow, "delivery", given)


def get(db: Database, given: str) -> Delivery:
    """The delivery with this id or prefix, with its steps. Raises NotFound or Ambiguous."""
    (found,) = by_ids(db, (full_id(db, given),))
    steps = tuple(
        Step(from_micros(at), kind.removeprefix("delivery."), detail, actor)
        for at, kind, detail, actor in db.execute_sql(_STEPS, (found.id,)).fetchall()
    )
    return replace(found, steps=steps)


def by_ids(db: Database, ids: tuple[str, ...]) -> list[Delivery]:
    """The deliveries with these whole ids, in this order. Raises NotFound."""
    found = []
    for delivery_id in ids:
        row = db.execute_sql(f"{_SELECT} where d.id = ?", (delivery_id,)).fetchone()
        if row is None:
            raise NotFound(f"There is no delivery '{printable(delivery_id)}' any more.")
        found.append(_delivery(row))
    return found


def of_message(db: Database, key: str) -> list[Delivery]:
    """What one call sent, in order."""
    sql = f"{_SELECT} where d.message_key = ?1 and ?1 <> '' and d.message_key <> ''"
    rows = db.execute_sql(f"{sql} order by d.number", (key,)).fetchall()
    return [_delivery(row) for row in rows]


def list_page(db: Database, wanted: Filter, size: int, token: str) -> tuple[list[Delivery], str]:
    """One page, the newest first, and the token for the next. Raises InvalidInput.

    The token holds the number of the page's last row, so that what comes in meanwhile shifts
    nothing. A page has fewer rows when their texts are large.
    """
    before, limit = lookup.window(size, token)
    sql, params = _query(wanted, before)
    cursor = db.execute_sql(f"{sql} limit ?", (*params, limit + 1))
    try:
        return _cut(cursor, limit)
    finally:
        cursor.close(True)  # force: the page may have ended early


def _cut(rows: Iterable[tuple[Any, ...]], limit: int) -> tuple[list[Delivery], str]:
    page: list[Delivery] = []
    room, last = _PAGE_BYTES, 0
    for row in rows:
        found = _delivery(row)
        room -= len(found.text.encode()) + len(found.reply.encode())
        if len(page) == limit or (page and room < 0):
            return page, lookup.token_of(last)
        page.append(found)
        last = row[0]
    return page, ""


def match_words(search: str) -> str:
    """The search as an expression for FTS5: all words, each quoted; "phrases" are kept together.

    What people type is never taken for FTS5's own language, which leaves out what has no letter or
    digit. Returns "" for nothing at all. Raises InvalidInput when it is too long.
    """
    parts = search.replace("\0", " ").split('"')
    phrases = [part for i, part in enumerate(parts) if i % 2]
    words = [word for part in parts[::2] for word in part.split()]
    meant = [word for word in (*words, *phrases) if word.strip()]
    if len(search) > MAX_SEARCH or len(meant) > _MAX_WORDS:
        raise InvalidInput(
            "search",
            f"The search is too long; use at most {_MAX_WORDS} words and {MAX_SEARCH} characters.",
        )
    return " ".join(f'"{word}"' for word in meant)


def _query(wanted: Filter, before: int) -> tuple[str, tuple[Any, ...]]:
    """The statement for the newest first, without its limit."""
    sql, order = _SELECT, "d.number"
    conditions: list[str] = []
    params: list[Any] = []
    if wanted.search.strip():
        sql, order = f"{sql} join delivery_search s on s.rowid = d.number", "s.rowid"
        words = match_words(wanted.search)
        conditions.append("delivery_search match ?" if words else "?")
        params.append(words or False)
    if before:
        conditions.append(f"{order} < ?")
        params.append(before)
    if wanted.agent:
        conditions.append("d.agent_id = ?")
        params.append(wanted.agent)
    if wanted.session:
        conditions.append("a.session = ?")
        params.append(wanted.session)
    if wanted.state is not None:
        conditions.append(f"d.state = '{wanted.state}'")  # literal, for the partial indexes
    where = f" where {' and '.join(conditions)}" if conditions else ""
    return f"{sql}{where} order by {order} desc", tuple(params)


def _delivery(row: tuple[Any, ...]) -> Delivery:
    """A row of _SELECT."""
    (
        _,
        delivery_id,
        agent_id,
        session,
        role,
        origin,
        sender,
        header,
        text,
        mode,
        priority,
        state,
        detail,
        reason,
        attempts,
        created,
        updated,
        not_before,
        expires,
        patience,
        reply,
        reply_at,
        complete,
    ) = row
    return Delivery(
        id=delivery_id,
        agent_id=agent_id,
        session=session,
        role=role,
        origin=origin,
        sender=sender,
        header=header,
        text=text,
        mode=DeliveryMode(mode),
        priority=Priority(priority),
        state=DeliveryState(state),
        detail=detail,
        reason=RefusalReason(reason),
        attempts=attempts,
        created_at=from_micros(created),
        updated_at=from_micros(updated),
        not_before=from_micros(not_before),
        expires_at=from_micros(expires),
        reply_patience=from_span(patience),
        reply=reply,
        reply_at=None if reply_at is None else from_micros(reply_at),
        reply_complete=bool(complete),
    )
