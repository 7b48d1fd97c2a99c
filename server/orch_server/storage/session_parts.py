"""What belongs to sessions beside their own fields: completed phases, reports, dependencies between
roles, what is known of their agents; and the projects they work on.

`read` takes a range of names, so that a page of sessions costs as many queries as one session.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from orch_server.core.agent import Agent
from orch_server.core.session import (
    NO_DETAIL,
    AgentDetail,
    CompletedPhase,
    Dependencies,
    Project,
    StatusReport,
)
from orch_server.storage import lookup
from orch_server.storage.columns import from_micros, from_span, micros, span
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction

#: Comes after every name of a session.
LAST = "\U0010ffff" * 4
_PHASES = """select session, name, began_at, ended_at, length from session_phase
    where session between ? and ? order by session, position"""
_REPORTS = """select session, role, topic, status, detail, at from status_report
    where session between ? and ? order by session, role"""
_NEEDS = """select session, role, needs from role_dependency
    where session between ? and ? order by number"""
_FIGURES = """select session, name, value from metric
    where period = 'IMPORTED' and session between ? and ? order by name"""
_COLUMNS = (
    *("version", "window_index", "window_name", "briefed_at", "worktree_path", "branch"),
    *("commit_hash", "imported_alive", "imported_exhausted", "imported_credit_reset"),
    "worktree_learned",
)
_DETAIL = f"select d.agent_id, {', '.join('d.' + c for c in _COLUMNS)} from agent_detail d"  # noqa: S608
_DETAILS = f"""{_DETAIL} join agent a on a.id = d.agent_id
    where a.session between ? and ?"""
_PUT_DETAIL = f"""insert or replace into agent_detail
    (number, agent_id, updated_at, {", ".join(_COLUMNS)})
    values ((select number from agent_detail where agent_id = ?1), ?1,
    {", ".join("?" * (len(_COLUMNS) + 1))})"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Parts:
    """What belongs to the sessions of a range, by their names; the details by the agents' ids."""

    phases: dict[str, list[CompletedPhase]] = field(default_factory=dict)
    reports: dict[str, list[StatusReport]] = field(default_factory=dict)
    dependencies: dict[str, Dependencies] = field(default_factory=dict)
    details: dict[str, AgentDetail] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def read(db: Database, first: str = "", last: str = LAST) -> Parts:
    """What belongs to the sessions from one name to another."""
    found: dict[str, list[CompletedPhase]] = defaultdict(list)
    for session, *row in _rows(db, _PHASES, first, last):
        found[session].append(_phase(*row))
    reports: dict[str, list[StatusReport]] = defaultdict(list)
    for session, role, topic, status, detail, at in _rows(db, _REPORTS, first, last):
        reports[session].append(StatusReport(role, topic, status, detail, from_micros(at)))
    needs: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for session, role, need in _rows(db, _NEEDS, first, last):
        needs[session].setdefault(role, []).append(need)
    dependencies = {
        session: tuple((role, tuple(of)) for role, of in roles.items())
        for session, roles in needs.items()
    }
    figures: dict[str, dict[str, float]] = defaultdict(dict)
    for session, name, value in _rows(db, _FIGURES, first, last):
        figures[session][name] = value
    known = details(db, first, last)
    return Parts(dict(found), dict(reports), dependencies, known, dict(figures))


def details(db: Database, first: str = "", last: str = LAST) -> dict[str, AgentDetail]:
    """What is known of the agents of these sessions, by their ids."""
    return {row[0]: _detail(row) for row in _rows(db, _DETAILS, first, last)}


def detail(db: Database, agent_id: str) -> AgentDetail:
    """What is known of one agent; NO_DETAIL when nothing is."""
    rows = _rows(db, f"{_DETAIL} where d.agent_id = ?", agent_id)
    return _detail(rows[0]) if rows else NO_DETAIL


def put_detail(
    tx: Transaction, agent: Agent, known: AgentDetail, actor: str, changed: tuple[str, ...]
) -> None:
    """Writes what is known of an agent; `changed` names the fields for the event."""
    values = [getattr(known, c) for c in _COLUMNS]
    values[_COLUMNS.index("briefed_at")] = _micros(known.briefed_at)
    tx.execute(_PUT_DETAIL, (agent.id, micros(tx.now), *values))
    tx.emit(
        "agent.updated",
        agent.id,
        session=agent.session,
        agent=agent.id,
        actor=actor,
        detail=", ".join(changed),
    )


def phases(db: Database, session: str) -> tuple[CompletedPhase, ...]:
    """The completed phases of a session, in order."""
    return tuple(_phase(*row[1:]) for row in _rows(db, _PHASES, session, session))


def phase_of(db: Database, session: str, request_id: str) -> CompletedPhase | None:
    """The phase that a request has completed; None when it has none."""
    sql = "select name, began_at, ended_at, length from session_phase where request_id = ?"
    rows = _rows(db, sql, _key(session, request_id)) if request_id else []
    return _phase(*rows[0]) if rows else None


def add_phase(
    tx: Transaction, session: str, phase: CompletedPhase, actor: str, request_id: str = ""
) -> None:
    """Writes a completed phase after those of the session that there are."""
    sql = """insert into session_phase
        (session, position, name, began_at, ended_at, length, request_id)
        values (?1, (select coalesce(max(position), 0) + 1 from session_phase where session = ?1),
        ?2, ?3, ?4, ?5, ?6)"""
    length = None if phase.length is None else span(phase.length)
    key = _key(session, request_id) if request_id else None
    times = (_micros(phase.began_at), _micros(phase.ended_at), length)
    tx.execute(sql, (session, phase.name, *times, key))
    took = f" after {_rounded(phase.length)}" if phase.length is not None else ""
    detail = f"{phase.name}{took}"
    tx.emit("session.phase_completed", session, session=session, actor=actor, detail=detail)


def put_report(
    tx: Transaction, session: str, report: StatusReport, actor: str, agent_id: str = ""
) -> None:
    """Writes what a role reported, in place of its last report."""
    sql = """insert or replace into status_report (session, role, topic, status, detail, at)
        values (?, ?, ?, ?, ?, ?)"""
    said = (report.role, report.topic, report.status)
    tx.execute(sql, (session, *said, report.detail, micros(report.at)))
    detail = " ".join(said)
    tx.emit(
        "session.reported", session, session=session, agent=agent_id, actor=actor, detail=detail
    )


def set_dependencies(tx: Transaction, session: str, wanted: Dependencies) -> None:
    """Replaces the dependencies between the session's roles; the caller writes the event."""
    tx.execute("delete from role_dependency where session = ?", (session,))
    for role, needs in wanted:
        for need in needs:
            sql = "insert into role_dependency (session, role, needs) values (?, ?, ?)"
            tx.execute(sql, (session, role, need))


def list_projects(db: Database, size: int, token: str) -> tuple[list[Project], str]:
    """One page of projects by name and path, and the token for the next."""
    offset, limit = lookup.window(size, token)
    page = "from project order by name, path limit ? offset ?"
    rows = _rows(db, f"select id, name, path, created_at {page}", limit + 1, offset)
    sql = f"select project_id, name from session where project_id in (select id {page}) order by 2"  # noqa: S608
    sessions: dict[str, list[str]] = defaultdict(list)
    for project_id, name in _rows(db, sql, limit + 1, offset):
        sessions[project_id].append(name)
    found = [
        Project(made, name, path, from_micros(at), tuple(sessions[made]))
        for made, name, path, at in rows
    ]
    return lookup.next_token(found, offset, limit)


def _rows(db: Database, sql: str, *params: Any) -> list[Any]:
    return list(db.execute_sql(sql, params).fetchall())


def _phase(name: str, began: int | None, ended: int | None, length: int | None) -> CompletedPhase:
    took = None if length is None else from_span(length)
    return CompletedPhase(name, _time(began), _time(ended), took)


def _detail(row: tuple[Any, ...]) -> AgentDetail:
    _, version, index, name, briefed, worktree, branch, commit, alive, exhausted, reset = row[:11]
    return AgentDetail(
        version=version,
        window_index=index,
        window_name=name,
        briefed_at=_time(briefed),
        worktree_path=worktree,
        branch=branch,
        commit_hash=commit,
        imported_alive=None if alive is None else bool(alive),
        imported_exhausted=None if exhausted is None else bool(exhausted),
        imported_credit_reset=reset,
        worktree_learned=bool(row[11]),
    )


def _time(value: int | None) -> datetime | None:
    return None if value is None else from_micros(value)


def _micros(at: datetime | None) -> int | None:
    return None if at is None else micros(at)


def _key(session: str, request_id: str) -> str:
    return f"{session}:{request_id}"  # no name of a session has a colon


def _rounded(length: timedelta) -> timedelta:
    """To the second: an event is for people."""
    return timedelta(seconds=round(length.total_seconds()))
