"""Writes what is imported from the old system, in bulk, and tells what of it is there already.

What the rows say is decided in legacy/; the way back is read in exports.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import apsw
from peewee import DatabaseError

from orch_server.core.authorization import Authorization, AuthorizationState
from orch_server.core.session import Session
from orch_server.core.text import one_line
from orch_server.storage import authorizations, database, firing, sessions
from orch_server.storage.columns import micros
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Transaction

#: Who did it, in events and as the sender of texts.
ACTOR = "import"
OVER = "Its session was over when it was imported."
OVERDUE = "It was overdue when it was imported; nobody had decided in time."
LATE = "It was overdue when the server first started after its import; nobody had decided in time."

#: The tables that are filled in bulk, in the order in which they refer to each other.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "project": ("id", "name", "path", "created_at"),
    "session": (
        *("name", "created_at", "updated_at", "version", "project_id", "specification_path"),
        *("parent_branch", "phase", "plan", "completion", "failure_reason", "project_size"),
        *("original_specification_path", "worktree_base_path", "batch_id"),
        *("orchestrator_window", "completed_at", "name_missing"),
    ),
    "agent": (
        *("id", "session", "role", "kind", "host", "tmux_socket", "tmux_server_pid"),
        *("tmux_server_started", "pane", "pane_pid", "epoch", "liveness", "liveness_changed_at"),
        *("last_check_in_at", "client_version", "created_at"),
    ),
    "agent_detail": (
        *("agent_id", "version", "updated_at", "window_index", "window_name", "briefed_at"),
        *("worktree_path", "branch", "commit_hash", "imported_alive", "imported_exhausted"),
        "imported_credit_reset",
    ),
    "session_phase": ("session", "position", "name", "began_at", "ended_at", "length"),
    "status_report": ("session", "role", "topic", "status", "detail", "at"),
    "role_dependency": ("session", "role", "needs"),
    "metric": ("period", "begins_at", "session", "name", "value", "samples"),
    "task": (
        *("id", "agent_id", "note", "due_at", "state", "creator", "created_at", "fired_at"),
        *("request_id", "form", "every", "first_at", "next_at", "look_at", "catch_up"),
        *("note_key", "paused_at", "paused_by", "pause_note"),
    ),
    "occurrence": ("task_id", "nominal_at", "outcome", "reason", "decided_at"),
    "delivery": (
        *("id", "agent_id", "text", "origin", "dedupe_key", "priority", "state", "detail"),
        *("sequence", "offer_epoch", "offered_to", "refusals", "not_before", "expires_at"),
        *("created_at", "updated_at", "sender", "header"),
    ),
    "imported": ("run_id", "record", "subject", "digest"),
    "legacy_value": ("session", "record", "field", "value", "read_as"),
}
#: What may be there already when a session is: ours stays.
_OURS_STAYS = frozenset({"session_phase", "status_report", "role_dependency", "metric"})
#: Of an agent that is there, what is empty is filled.
_FILL = " on conflict (agent_id) do update set version = version + 1, " + ", ".join(
    f"{name} = coalesce(nullif({name}, ''), excluded.{name})"
    for name in COLUMNS["agent_detail"][3:]
)
_SET = ", ".join(f"{name} = ?" for name in COLUMNS["session"])
_TAKE_OVER = f"update session set {_SET} where name = ?"  # noqa: S608 - constants
_SEEN = "update agent set last_check_in_at = ? where id = ? and epoch = 0"
_ENDED_BY_IMPORT = """update occurrence set decided_at = ? where decided_at = ? and task_id in
    (select t.id from task t join agent a on a.id = t.agent_id where a.session = ?)"""
_BARE = """select s.name from session s join import_run r on r.at = s.created_at where s.version = 1
    and not exists (select 1 from agent a where a.session = s.name and a.epoch > 0)
    and not exists (select 1 from imported i where i.record = 'session:' || s.name)"""


@dataclass(slots=True)
class Known:
    """What is in the store already. `imported` has the digest of each record that was imported;
    `windows` the agent of a window, by session and index; `projects` the id of a path and name;
    `kept` the imported sessions that are still there, under the names by which they came; `bare`
    those that an import made of their notes and messages alone, untouched since."""

    sessions: dict[str, Session] = field(default_factory=dict)
    agents: dict[tuple[str, str], str] = field(default_factory=dict)
    windows: dict[tuple[str, int], str] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    projects: dict[tuple[str, str], str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    bare: set[str] = field(default_factory=set)

    def was_deleted(self, session: str) -> bool:
        """Whether this session was imported and deleted since; its new name does not matter."""
        return f"session:{session}" in self.imported and session not in self.kept


def known(db: database.Database) -> Known:
    """Reads it; the schema must be of this version."""
    run = db.connection().execute
    agents = run(
        "select a.session, a.role, a.id, d.window_index from agent a"
        " left join agent_detail d on d.agent_id = a.id order by a.number"
    ).fetchall()
    projects = run("select path, name, id from project").fetchall()
    kept = run(
        "select substr(record, 11) from legacy_value"
        " where record >= 'directory:' and record < 'directory;'"
    ).fetchall()
    return Known(
        {session.name: session for session in sessions.all_sessions(db)},
        {(session, role): agent for session, role, agent, _ in agents},
        {(session, window): agent for session, _, agent, window in agents if window is not None},
        dict(run("select record, digest from imported").fetchall()),
        {(path, name): made for path, name, made in projects},
        {name for (name,) in kept},
        {name for (name,) in run(_BARE).fetchall()},
    )


def known_at(path: Path) -> Known | None:
    """What the database at this path knows, read without writing anything beside it. None when
    there is a database, of an older schema or in a state that cannot be read in this way."""
    if not path.exists():
        return Known()
    log = path.with_name(f"{path.name}-wal")
    how = "mode=ro" if log.exists() else "immutable=1"
    db = database.Database(
        f"{path.absolute().as_uri()}?{how}",
        flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
    )
    if log.exists() and not path.with_name(f"{path.name}-shm").exists():
        return None  # reading would have to make that file
    try:
        db.connect()
        return known(db)
    except (apsw.Error, DatabaseError):
        return None
    finally:
        db.close()


def put(tx: Transaction, table: str, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows of one table of COLUMNS; a lone half of a character becomes "?"."""
    columns = COLUMNS[table]
    verb = "insert or ignore" if table in _OURS_STAYS else "insert"
    sql = f"{verb} into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))})"
    if table == "agent_detail":
        sql += _FILL
    safe = (tuple(map(_safe, row)) for row in rows)
    tx.db.connection().executemany(sql, safe).fetchall()


def begin(tx: Transaction, at: datetime, source: str, backup: str, zone: str) -> str:
    """Writes that there is an import, of this time, with times of that zone; returns its id."""
    run = new_id()
    tx.execute(
        "insert into import_run (id, at, source, backup, zone) values (?, ?, ?, ?, ?)",
        (run, micros(at), _safe(source), backup, zone),
    )
    return run


def change(tx: Transaction, session: Session) -> None:
    """Writes a session whose empty fields were filled."""
    filled = replace(session, version=session.version + 1)
    sessions.save(tx, filled, ACTOR, ("empty fields",))


def take_over(tx: Transaction, row: Sequence[Any]) -> None:
    """Writes all columns of a session that an import had made bare."""
    tx.execute(_TAKE_OVER, (*map(_safe, row), row[0]))


def see(tx: Transaction, seen: Iterable[tuple[int, str]]) -> None:
    """Writes when agents, of which no client of ours was heard yet, had last checked in."""
    tx.db.connection().executemany(_SEEN, seen).fetchall()


def end(tx: Transaction, session: str, at: datetime) -> None:
    """Ends the open notes of a session that turns out to have ended, by the import of this time."""
    firing.expire_session(tx, session, ACTOR)
    tx.execute(_ENDED_BY_IMPORT, (micros(at), micros(tx.now), session))


def wait(tx: Transaction, asked: Authorization, request_id: str, why: str) -> None:
    """Writes a request for leave; one that has expired says why."""
    authorizations.insert(tx, asked, request_id)
    if why:
        expire(tx, asked, why)


def expire(tx: Transaction, asked: Authorization, why: str = LATE) -> None:
    """Writes that a request for leave has expired; nobody is told."""
    authorizations.resolve(tx, asked, AuthorizationState.EXPIRED, "", why)


def tell_session(tx: Transaction, name: str, detail: str) -> None:
    """A session was imported."""
    tx.emit("session.imported", name, session=name, actor=ACTOR, detail=detail)


def tell_created(tx: Transaction, task: str, agent: str, session: str) -> None:
    """A task was made."""
    tx.emit("task.created", task, session=session, agent=agent, actor=ACTOR)


def tell_queued(tx: Transaction, delivery: str, agent: str, session: str, origin: str) -> None:
    """A text came into the mailbox."""
    tx.emit("delivery.created", delivery, session=session, agent=agent, actor=ACTOR, detail=origin)


def tell_done(tx: Transaction, run: str, detail: str) -> None:
    """All of it is written."""
    tx.emit("import.done", run, actor=ACTOR, detail=one_line(detail, 200))


def _safe(value: Any) -> Any:
    if isinstance(value, datetime):
        return micros(value)
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode(errors="replace").decode()
