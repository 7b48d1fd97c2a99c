"""What is too old, and its removal. services/retention.py leads.

Portions are found on reading threads, and removed by the writer in short transactions that look
again. A table is walked by its numbers, each time from its beginning: that needs no index, a
portion is bounded, and rows that came out of order (an import, a clock that was set) are found too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from orch_server.core import cleanup as rules
from orch_server.core.cleanup import Cleaned
from orch_server.storage import sessions
from orch_server.storage.columns import from_micros, micros
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction

#: A read looks at no more numbers than this, and a transaction removes no more rows.
SPAN = 10_000
BATCH = 500


@dataclass(frozen=True, slots=True)
class Prunable:
    """A table, when a row of it is too old (?1: the time before which it is), and what must be done
    first, with the numbers of the rows as ?1."""

    table: str
    too_old: str
    before: tuple[str, ...] = ()


def _unlink(table: str) -> str:
    return f"""update {table} set delivery_id = null where delivery_id in
        (select id from delivery where number in (select value from json_each(?1)))"""  # noqa: S608


#: In an order in which what refers to others goes first. The newest event stays, since numbers go
#: on after it; alerts about the audit stay, since they are what says that somebody was told. Texts
#: of an import keep their old times and are as old as the import, which is their `not_before`.
PRUNABLE = (
    Prunable("occurrence", "decided_at < ?1"),
    Prunable(
        "task",
        """state not in ('PENDING', 'PAUSED')
            and max(created_at, due_at, coalesce(fired_at, 0)) < ?1""",
        (
            """delete from occurrence where task_id in
                (select id from task where number in (select value from json_each(?1)))""",
        ),
    ),
    Prunable(
        "delivery",
        """state not in ('PENDING', 'OFFERED', 'PASTED') and max(updated_at,
                iif(origin >= 'import:' and origin < 'import;', not_before, 0)) < ?1
            and (reply_patience = 0 or reply_at is not null)""",
        (_unlink("task"), _unlink("occurrence")),
    ),
    Prunable(
        "authorization",
        """state in ('DENIED', 'EXPIRED', 'CANCELLED', 'CONSUMED', 'LAPSED')
            and max(created_at, coalesce(resolved_at, 0), coalesce(closed_at, 0)) < ?1""",
        (
            """delete from authorization_level where authorization_id in
                (select id from authorization where number in (select value from json_each(?1)))""",
        ),
    ),
    Prunable("nudge", "created_at < ?1"),
    Prunable("nudge_count", "hour < ?1"),
    Prunable("escalation", "ended_at < ?1"),
    Prunable("dependency", "ended_at < ?1"),
    Prunable("operation", "ends_at < ?1"),
    Prunable("alert", "created_at < ?1 and webhook_next_at is null and kind <> 'audit'"),
    Prunable("metric", "period = 'HOUR' and begins_at < ?1"),
    Prunable("event", "at < ?1 and number < (select max(number) from event)"),
)


@dataclass(frozen=True, slots=True)
class Portion:
    """The numbers of the rows that are too old among those up to `reached`; None: it was the last
    portion."""

    numbers: list[int]
    reached: int | None


def find(db: Database, what: Prunable, after: int, before: datetime) -> Portion:
    """The rows of the next portion after a number that are from before this time."""
    bounds = f"""select (select min(number) from {what.table} where number > ?),
        (select max(number) from {what.table})"""  # noqa: S608 - constants
    first, last = db.execute_sql(bounds, (after,)).fetchall()[0]
    if first is None:
        return Portion([], None)
    upper = first - 1 + SPAN
    sql = f"""select number from {what.table} not indexed
        where number >= ?2 and number <= ?3 and {what.too_old}"""  # noqa: S608 - constants
    rows = db.execute_sql(sql, (micros(before), first, upper)).fetchall()
    return Portion([row[0] for row in rows], upper if upper < last else None)


def remove(tx: Transaction, what: Prunable, numbers: list[int], before: datetime) -> int:
    """Removes those of these rows that are still too old; returns how many went."""
    known = json.dumps(numbers)
    sql = f"""select number from {what.table} not indexed
        where number in (select value from json_each(?2)) and {what.too_old}"""  # noqa: S608
    gone = json.dumps([row[0] for row in tx.execute(sql, (micros(before), known))])
    for statement in what.before:
        tx.execute(statement, (gone,))
    deletion = f"""delete from {what.table}
        where number in (select value from json_each(?)) returning 1"""  # noqa: S608 - constants
    return len(tx.execute(deletion, (gone,)))


def batches(numbers: list[int]) -> list[list[int]]:
    """The numbers in portions for one transaction each."""
    rest = iter(numbers)
    return list(iter(lambda: list(islice(rest, BATCH)), []))


_ENDED = """select s.name, s.completed_at,
    (select count(*) from agent a where a.session = s.name),
    (select count(*) from task t join agent a on a.id = t.agent_id where a.session = s.name),
    (select count(*) from delivery d join agent a on a.id = d.agent_id where a.session = s.name)
    from session s where s.completed_at is not null and s.completed_at <= ?
    and s.completion <> 'PENDING'"""


def ended(db: Database, before: datetime, name: str = "") -> list[Cleaned]:
    """The sessions that ended by this time, those that ended first at the front, and why some are
    kept; only the one with this name when one is given."""
    only = " and s.name = ?" if name else ""
    params = (micros(before), name) if name else (micros(before),)
    rows = db.execute_sql(f"{_ENDED}{only} order by s.completed_at, s.name", params).fetchall()
    return [
        Cleaned(session, from_micros(at), agents, tasks, deliveries, _kept_because(db, session))
        for session, at, agents, tasks, deliveries in rows
    ]


def _kept_because(db: Database, session: str) -> str:
    living = sessions.living_agents(db, session)
    return rules.kept_because(living, sessions.pending_work(db, session))


def clean(
    tx: Transaction, name: str, before: datetime, actor: str
) -> tuple[Cleaned | None, list[str]]:
    """Removes a session that still has ended by this time and that nothing keeps; returns it as it
    was, None when it is no such session any more, and the ids of the agents that went with it."""
    found = ended(tx.db, before, name)
    if not found:
        return None, []
    if found[0].kept_because:
        return found[0], []
    return found[0], sessions.delete(tx, name, actor, "cleanup")
