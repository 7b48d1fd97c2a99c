"""The table of events, read in portions.

A portion looks at a bounded range of numbers, however few of the events in it are wanted: no query
reads the whole table, and a reading thread is soon free again. Only the writer puts events in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orch_server.core.errors import Ambiguous
from orch_server.core.event import Event, Wanted
from orch_server.storage.columns import from_micros
from orch_server.storage.database import Database

#: A portion looks at no more numbers than this.
SPAN = 50_000
#: A portion ends early when its events have more bytes than this; a message of gRPC is limited.
_PORTION_BYTES = 2 * 1024 * 1024
_PREFIX = re.compile(r"[0-9a-f]{1,11}\Z")
_WITH_IDS = (
    "agent",
    "delivery",
    "task",
    "authorization",
    "nudge",
    "escalation",
    "dependency",
    "alert",
)
_SUBJECTS = " union ".join(
    ["select name from session where name = ?1"]
    + [f"select id from {table} where id >= ?1 and id < ?2" for table in _WITH_IDS]  # noqa: S608
)
# "not indexed" leaves the order of the numbers, and so the bound on the range, as the only way.
_SELECT = """select number, at, kind, subject, session, agent, actor, detail from event not indexed
    where number > ? and number <= ?"""


@dataclass(frozen=True, slots=True)
class Portion:
    """What one read found: of the events up to the number `reached`, those that are wanted.
    `newest` is the number of the newest event that there was."""

    events: list[Event]
    reached: int
    newest: int


def newest(db: Database) -> int:
    """The number of the newest event; 0 when there is none."""
    rows = db.execute_sql("select coalesce(max(number), 0) from event").fetchall()
    return int(rows[0][0])


def whole(db: Database, after: int, upto: int) -> bool:
    """Whether all events after one number up to another are kept; each number was given."""
    sql = "select count(*) from event where number > ? and number <= ?"
    return int(db.execute_sql(sql, (after, upto)).fetchall()[0][0]) == upto - after


def read(db: Database, after: int, wanted: Wanted, limit: int) -> Portion:
    """The next events after a number, at most `limit`, in order."""
    # What retention has removed is skipped.
    first = db.execute_sql("select min(number) from event where number > ?", (after,)).fetchall()
    last = newest(db)
    if first[0][0] is None:
        return Portion([], after, last)
    upper = min(first[0][0] - 1 + SPAN, last)
    where, params = _conditions(wanted)
    sql = f"{_SELECT}{where} order by number limit ?"
    cursor = db.execute_sql(sql, (after, upper, *params, limit))
    try:
        found, is_cut = _cut(cursor, limit)
    finally:
        cursor.close(True)  # force: the portion may have ended early
    return Portion(found, found[-1].number if is_cut else upper, last)


def full_subject(db: Database, given: str) -> str:
    """The whole subject for a prefix of an id; what is no such prefix stays as it is. Raises
    Ambiguous."""
    if not _PREFIX.match(given):
        return given
    # "g" comes after every hex digit
    rows = db.execute_sql(f"{_SUBJECTS} limit 6", (given, given + "g")).fetchall()
    found = [row[0] for row in rows]
    if given in found or not found:
        return given
    if len(found) > 1:
        raise Ambiguous(
            f"'{given}' is the beginning of several ids: {', '.join(found)}; give more digits."
        )
    return str(found[0])


def _conditions(wanted: Wanted) -> tuple[str, list[str]]:
    sql, params = "", []
    if wanted.session:
        sql += " and session = ?"
        params.append(wanted.session)
    if wanted.subject:
        sql += " and subject = ?"
        params.append(wanted.subject)
    if wanted.kinds:
        any_of = []
        for kind in wanted.kinds:
            any_of.append("kind = ?" if "." in kind else "(kind > ? and kind < ?)")
            params += [kind] if "." in kind else [f"{kind}.", f"{kind}/"]  # "/" comes after "."
        sql += f" and ({' or '.join(any_of)})"
    return sql, params


def _cut(rows: Iterable[tuple[Any, ...]], limit: int) -> tuple[list[Event], bool]:
    """The events, and whether there may be more of them."""
    found: list[Event] = []
    room = _PORTION_BYTES
    for number, at, *words in rows:
        room -= sum(len(word.encode()) for word in words)
        if found and room < 0:
            return found, True
        found.append(Event(number, from_micros(at), *words))
    return found, len(found) == limit
