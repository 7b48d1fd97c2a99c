"""What the metrics are computed from, and the table in which they are kept.

Events are read in portions, and only those after a number: what is older than the time that is
asked for is not looked at. With each hour it is kept which number it ends with (THROUGH).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from orch_server.core.event import Event, Wanted
from orch_server.core.metrics import Period
from orch_server.core.metrics_course import KINDS, MEASURED, Doing, Timed, started_after
from orch_server.core.metrics_figures import PERCENTILES
from orch_server.core.metrics_parts import (
    ALL,
    DAY,
    HOUR,
    BySession,
    Ended,
    Part,
    Parts,
    Span,
    floor,
)
from orch_server.storage import events
from orch_server.storage.columns import from_micros, from_span, micros
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction

THROUGH = "events_through"
#: So many events are taken at once, so that the event loop is not held up.
_PORTION = 1000
_OFFERED = """select at from event where subject = ? and number < ?
    and kind >= 'delivery.' and kind < 'delivery/'
    and kind in ('delivery.offered', 'delivery.claimed') order by number desc limit 1"""
_REQUESTED = "select created_at from authorization where id = ?"
_KEEP = """insert into metric (period, begins_at, session, name, value, samples)
    values (?, ?, ?, ?, ?, ?) on conflict do nothing"""
_NOT_SUMS = ", ".join(f"'{name}'" for name in (*PERCENTILES, THROUGH))
_DAY = f"""insert into metric (period, begins_at, session, name, value, samples)
    select 'DAY', ?1, session, name, sum(value), sum(samples) from metric
    where period = 'HOUR' and begins_at >= ?1 and begins_at < ?2 and name not in ({_NOT_SUMS})
    group by session, name
    on conflict do nothing"""  # noqa: S608 - constants
_ROWS = """select begins_at, name, value, samples from metric
    where period = ? and begins_at >= ? and session = ? and name <> ?"""
_THROUGH = """select value from metric where period = 'HOUR' and begins_at < ? and session = ''
    and name = ? order by begins_at desc limit 1"""
_WORKTREES = """select s.name, d.worktree_path, p.path from session s
    left join project p on p.id = s.project_id
    left join agent a on a.session = s.name
    left join agent_detail d on d.agent_id = a.id
    where s.completed_at is null or s.completed_at > ?"""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is kept: the hours up to `ends_at`, the events up to `number`, and what each agent did
    then. What comes after is measured `since` then, or since the first event of all."""

    ends_at: datetime
    since: datetime
    number: int
    agents: Mapping[str, Doing]


@dataclass(frozen=True, slots=True)
class Look:
    """What one read found: events up to the number `reached`, of `newest` that there are."""

    found: list[Timed]
    reached: int
    newest: int


# ---- what they are computed from ----


def read(db: Database, after: int, kinds: tuple[str, ...] = KINDS, session: str = "") -> Look:
    """The next events of these kinds after a number, with the time that each one ended."""
    portion = events.read(db, after, Wanted(session, kinds), _PORTION)
    found = [Timed(event, _took(db, event)) for event in portion.events]
    return Look(found, portion.reached, portion.newest)


def _took(db: Database, event: Event) -> float | None:
    """Seconds since what the event ended began: the last offer of a text, or a request."""
    if event.kind not in MEASURED:
        return None
    if event.kind.startswith("delivery."):
        row = db.connection().execute(_OFFERED, (event.subject, event.number)).fetchone()
    else:
        row = db.connection().execute(_REQUESTED, (event.subject,)).fetchone()
    return None if row is None else max(0.0, (event.at - from_micros(row[0])).total_seconds())


def oldest_event(db: Database) -> tuple[int, datetime] | None:
    """The number and the time of the oldest event that is still there; the first of all is 1."""
    row = db.execute_sql("select number, at from event order by number limit 1").fetchone()
    return None if row is None else (row[0], from_micros(row[1]))


def tell_start(tx: Transaction) -> None:
    """Writes that the server runs again, and until when it is known to have run before. The first
    start of all is no change of anything."""
    rows = tx.execute("select at from event order by number desc limit 1")
    if rows:
        tx.emit("server.started", "server", detail=started_after(from_micros(rows[0][0])))


def spans(db: Database) -> list[Span]:
    """From when until when each session was worked on."""
    rows = db.execute_sql("select name, created_at, completed_at from session").fetchall()
    return [
        Span(name, from_micros(begins), None if ends is None else from_micros(ends))
        for name, begins, ends in rows
    ]


def phases(db: Database, begins: datetime, ends: datetime) -> list[Ended]:
    """The phases that ended in this time."""
    sql = "select session, ended_at, length from session_phase where ended_at >= ? and ended_at < ?"
    return [
        Ended(session, from_micros(at), None if length is None else from_span(length))
        for session, at, length in db.execute_sql(sql, (micros(begins), micros(ends))).fetchall()
    ]


def worktrees(db: Database, begins: datetime, session: str) -> dict[str, set[str]]:
    """The directories in which each session that was not over then works: those of its agents, its
    project's where none is known. Of one session, or of all for ""."""
    found: dict[str, set[str]] = {}
    for name, own, project in db.execute_sql(_WORKTREES, (micros(begins),)).fetchall():
        if session in ("", name):
            paths = found.setdefault(name, set())
            paths |= {path for path in (own or project,) if path}
    return found


# ---- what is kept ----


def progress(db: Database) -> Progress | None:
    """How far they are kept; None when nothing is."""
    sql = """select begins_at, value from metric where period = 'HOUR' and session = '' and name = ?
        order by begins_at desc limit 1"""
    row = db.execute_sql(sql, (THROUGH,)).fetchone()
    if row is None:
        return None
    agents = db.execute_sql("select agent_id, session, liveness, state from metric_agent")
    doing = {agent_id: Doing(*known) for agent_id, *known in agents.fetchall()}
    ends_at = from_micros(row[0]) + HOUR
    return Progress(ends_at, ends_at, int(row[1]), doing)


def keep(
    tx: Transaction,
    begins: datetime,
    parts: BySession,
    number: int,
    agents: Mapping[str, Doing] | None,
) -> None:
    """Keeps an hour, the number of its last event, and what the agents did at its end, None when
    that has not changed. What is kept already stays as it is."""
    _keep(tx, Period.HOUR, begins, parts)
    _keep(tx, Period.HOUR, begins, {ALL: {THROUGH: Part(number, 0)}})
    if agents is None:
        return
    tx.execute("delete from metric_agent")
    for agent_id, known in agents.items():
        tx.execute(
            "insert into metric_agent (agent_id, session, liveness, state) values (?, ?, ?, ?)",
            (agent_id, known.session, known.liveness, known.state),
        )


def keep_day(tx: Transaction, begins: datetime, ends: datetime, percentiles: BySession) -> None:
    """Keeps a day whose hours are kept; percentiles are no sums, and so given."""
    tx.execute(_DAY, (micros(begins), micros(ends)))
    _keep(tx, Period.DAY, begins, percentiles)
    _keep(tx, Period.DAY, begins, {ALL: {THROUGH: Part()}})


def _keep(tx: Transaction, period: Period, begins: datetime, parts: BySession) -> None:
    for session, its in parts.items():
        for name, part in its.items():
            row = (period, micros(begins), session, name, part.value, part.samples)
            tx.execute(_KEEP, row)


def kept(db: Database, period: Period, begins: datetime, session: str) -> dict[datetime, Parts]:
    """The steps from then on of one session, or of all together for "", the oldest first."""
    found: dict[datetime, Parts] = {}
    params = (period, micros(begins), session, THROUGH)
    for at, name, value, samples in db.execute_sql(_ROWS, params).fetchall():
        found.setdefault(from_micros(at), {})[name] = Part(value, samples)
    return dict(sorted(found.items()))


def days_due(db: Database) -> tuple[datetime | None, datetime]:
    """The first day that is not kept, None when no hour is, and up to when the hours are."""
    sql = """select (select max(begins_at) from metric where period = 'DAY'),
        (select min(begins_at) from metric where period = 'HOUR'),
        (select max(begins_at) from metric where period = 'HOUR')"""
    day, first, last = db.execute_sql(sql).fetchone()
    if first is None:
        return None, from_micros(0)
    begins = floor(from_micros(first), Period.DAY) if day is None else from_micros(day) + DAY
    return begins, from_micros(last) + HOUR


def number_before(db: Database, at: datetime) -> int:
    """The number of the last event before an hour that begins then; 0 when that is not kept."""
    row = db.execute_sql(_THROUGH, (micros(at), THROUGH)).fetchone()
    return 0 if row is None else int(row[0])


def is_known(db: Database, session: str) -> bool:
    """Whether anything is kept of a session, which may be deleted."""
    sql = "select exists (select 1 from metric where session = ?)"
    return bool(db.execute_sql(sql, (session,)).fetchone()[0])
