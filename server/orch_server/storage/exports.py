"""Reads the store for the way back into the old system's files. Plain SQL, one query a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from orch_server.core.session import Session
from orch_server.storage import sessions
from orch_server.storage.columns import from_micros
from orch_server.storage.database import Database

N = TypeVar("N", bound=tuple[Any, ...])

_AGENTS = """select a.id, a.session, a.role, a.epoch, a.liveness, a.last_check_in_at,
    d.window_index, d.window_name, d.briefed_at, d.worktree_path, d.branch, d.commit_hash,
    d.imported_alive, d.imported_exhausted, d.imported_credit_reset, s.state, s.reset_at
    from agent a left join agent_detail d on d.agent_id = a.id
    left join agent_status s on s.agent_id = a.id order by a.number"""
_WAITS = """select agent_id, approver_role, action, request_id, id, created_at, deadline_at
    from authorization where state = 'PENDING' order by number desc"""
# An imported note that ended with its session is there, too, unless it ended later.
_TASKS = """select t.id, t.agent_id, t.note, t.state, t.form, t.every,
    coalesce(t.next_at, t.due_at), t.fired_at, t.created_at, i.record
    from task t left join imported i on i.subject = t.id and i.record >= 'task:'
        and i.record < 'task;'
    where t.state in ('PENDING', 'PAUSED') or (t.state = 'EXPIRED' and exists
        (select 1 from occurrence o join import_run e on e.at = o.decided_at
            where o.task_id = t.id and i.record is not null))
    order by t.number"""
# Texts of users that have not arrived; those of notes too, since a note that was sent is over.
_MESSAGES = """select d.id, d.agent_id, d.text, d.priority, d.state, d.created_at, d.updated_at,
    i.record
    from delivery d left join imported i on i.subject = d.id and i.record >= 'message:'
        and i.record < 'message;'
    where (i.record is not null and d.state not in ('CANCELLED', 'EXPIRED', 'DEAD', 'REFUSED'))
        or (d.state in ('PENDING', 'OFFERED', 'PASTED')
            and (d.origin >= 'message:' and d.origin < 'message;'
                or d.origin >= 'task:' and d.origin < 'task;'))
    order by d.number"""
# The name by which a session came may be another than its present one.
_ZONES = """select v.session, r.zone from legacy_value v
    join imported i on i.record = 'session:' || substr(v.record, 11)
    join import_run r on r.id = i.run_id
    where v.record >= 'directory:' and v.record < 'directory;'"""
_METRICS = """select session, name, value from metric where period = 'IMPORTED' order by number"""


class AgentOut(NamedTuple):
    """An agent with what is known beside its client; in the order of _AGENTS."""

    id: str
    session: str
    role: str
    epoch: int
    liveness: str
    checked_in_at: int | None
    window_index: int | None
    window_name: str | None
    briefed_at: int | None
    worktree_path: str | None
    branch: str | None
    commit_hash: str | None
    alive: int | None
    exhausted: int | None
    credit_reset: str | None
    state: str | None
    reset_at: int | None


class WaitOut(NamedTuple):
    """A pending request for leave; in the order of _WAITS."""

    agent_id: str
    approver_role: str
    action: str
    request_id: str | None
    id: str
    created_at: int
    deadline_at: int


class TaskOut(NamedTuple):
    """A note; `record` is None when it is none of the old system's."""

    id: str
    agent_id: str
    note: str
    state: str
    form: str
    every: int
    next_at: int
    fired_at: int | None
    created_at: int
    record: str | None


class MessageOut(NamedTuple):
    """A text that waits, or one of the old system's."""

    id: str
    agent_id: str
    text: str
    priority: int
    state: str
    created_at: int
    updated_at: int
    record: str | None


class PhaseOut(NamedTuple):
    """A completed phase; `length` in microseconds."""

    session: str
    position: int
    name: str
    length: int | None


class ReportOut(NamedTuple):
    """What a role last reported."""

    session: str
    role: str
    topic: str
    status: str
    detail: str
    at: int


class KeptOut(NamedTuple):
    """A value that was kept as it was written; see LegacyValueRow."""

    record: str
    field: str
    value: str
    read_as: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is exported, of one moment. `rows` are the records that are only kept; `zones` the
    names of the zones that the imported sessions' times had, by session."""

    sessions: list[Session]
    agents: dict[str, list[AgentOut]]
    waits: dict[str, WaitOut]
    phases: dict[str, list[PhaseOut]]
    reports: dict[str, list[ReportOut]]
    needs: dict[str, list[tuple[str, str]]]
    metrics: dict[str, dict[str, float]]
    tasks: list[TaskOut]
    messages: list[MessageOut]
    kept: dict[str, list[KeptOut]]
    rows: list[str]
    zones: dict[str, str]


def snapshot(db: Database) -> Snapshot:
    """Reads it all; within a transaction of the caller's."""
    run = db.connection().execute

    def rows(make: Callable[[Any], N], sql: str) -> list[N]:
        return [make(row) for row in run(sql).fetchall()]

    needs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for session, role, need in run(
        "select session, role, needs from role_dependency order by number"
    ):
        needs[session].append((role, need))
    metrics: dict[str, dict[str, float]] = defaultdict(dict)
    for session, name, value in run(_METRICS):
        metrics[session][name] = value
    phases = "select session, position, name, length from session_phase order by session, position"
    reports = "select session, role, topic, status, detail, at from status_report order by number"
    return Snapshot(
        sorted(sessions.all_sessions(db), key=lambda one: one.name),
        _by(rows(AgentOut._make, _AGENTS), "session"),
        {wait.agent_id: wait for wait in rows(WaitOut._make, _WAITS)},
        _by(rows(PhaseOut._make, phases), "session"),
        _by(rows(ReportOut._make, reports), "session"),
        needs,
        metrics,
        rows(TaskOut._make, _TASKS),
        rows(MessageOut._make, _MESSAGES),
        kept_values(db),
        [row[0] for row in run("select record from imported where subject = '' order by number")],
        dict(run(_ZONES).fetchall()),
    )


def kept_values(db: Database) -> dict[str, list[KeptOut]]:
    """What was kept of each record."""
    sql = "select record, field, value, read_as from legacy_value order by number"
    return _by([KeptOut._make(row) for row in db.connection().execute(sql)], "record")


def local_text(at: int | datetime | None, zone: Any) -> str | None:
    """A time as the old system wrote it: local, without its zone; None for None."""
    if at is None:
        return None
    moment = at if isinstance(at, datetime) else from_micros(at)
    return moment.astimezone(zone).replace(tzinfo=None).isoformat()


def _by(rows: list[N], name: str) -> dict[str, list[N]]:
    found: dict[str, list[N]] = defaultdict(list)
    for row in rows:
        found[getattr(row, name)].append(row)
    return found
