"""What one screen shows of the store, in one read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orch_server.core.session import CompletedPhase, Session, StatusReport
from orch_server.storage import events, sessions
from orch_server.storage.columns import from_micros, micros
from orch_server.storage.database import Database

_RECENT = timedelta(hours=1)
_COUNTS = """select
    (select count(*) from authorization where state = 'PENDING'),
    (select count(*) from authorization where state = 'PENDING' and human = 1),
    (select count(*) from alert where created_at > ?1 and created_at <= ?2),
    (select count(*) from mismatch where told_at is not null),
    (select count(*) from scheduler where paused_at is not null)"""
_LAST_PHASES = """select p.session, p.name, p.began_at, p.ended_at, p.length from session_phase p
    where p.position = (select max(o.position) from session_phase o where o.session = p.session)
    and (?1 = '' or p.session = ?1)"""
_REPORTS = """select session, role, topic, status, at from status_report
    where ?1 = '' or session = ?1 order by session, role"""


@dataclass(frozen=True, slots=True)
class Counts:
    """How the server is, in numbers."""

    pending_authorizations: int
    pending_for_human: int
    recent_alerts: int
    mismatches: int
    scheduler_paused: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """What was found. `sessions` are by name; the last phase and the reports, without their
    details, are by session. `hidden` ended sessions are left out; `event`: the newest of all."""

    sessions: list[Session]
    phases: dict[str, CompletedPhase]
    reports: dict[str, list[StatusReport]]
    hidden: int
    counts: Counts
    event: int


def look(db: Database, name: str, include_ended: bool, now: datetime) -> Stored:
    """One session, or all. Raises NotFound."""
    event = events.newest(db)  # first, so that whatever comes meanwhile is told again
    if name:
        chosen, hidden = [sessions.get(db, name)], 0
    else:
        known = sorted(sessions.all_sessions(db), key=lambda session: session.name)
        chosen = [one for one in known if include_ended or not one.ended]
        hidden = len(known) - len(chosen)
    return Stored(
        sessions=chosen,
        phases=dict(_phases(db, name)),
        reports=_reports(db, name),
        hidden=hidden,
        counts=_counts(db, now),
        event=event,
    )


def _counts(db: Database, now: datetime) -> Counts:
    row = db.execute_sql(_COUNTS, (micros(now - _RECENT), micros(now))).fetchone()
    pending, human, alerts, mismatches, paused = row
    return Counts(pending, human, alerts, mismatches, bool(paused))


def _phases(db: Database, name: str) -> Iterator[tuple[str, CompletedPhase]]:
    for session, phase, began, ended, length in _rows(db, _LAST_PHASES, name):
        yield (
            session,
            CompletedPhase(
                phase,
                None if began is None else from_micros(began),
                None if ended is None else from_micros(ended),
                None if length is None else timedelta(microseconds=length),
            ),
        )


def _reports(db: Database, name: str) -> dict[str, list[StatusReport]]:
    found: dict[str, list[StatusReport]] = {}
    for session, role, topic, status, at in _rows(db, _REPORTS, name):
        report = StatusReport(role, topic, status, "", from_micros(at))
        found.setdefault(session, []).append(report)
    return found


def _rows(db: Database, sql: str, name: str) -> list[tuple[Any, ...]]:
    return list(db.execute_sql(sql, (name,)).fetchall())
