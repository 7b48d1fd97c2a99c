"""Writes registries and queues as the old system did, of any size; all times are made up.

`write_registry(folder, 1000)` makes folder/registry/projects/… and folder/task_queue.db. The rest
are the pieces it is made of, to be put together with something wrong in them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROLES = (
    "orchestrator",
    "project_manager",
    "developer",
    "tester",
    "testrunner",
    "devops",
    "researcher",
)
CREATED = "2025-09-01T08:00:00.408795"
UPDATED = "2025-09-02T08:00:00.408845"
CHECKED_IN = "2025-09-02T08:00:00"
EPOCH = 1_756_796_400.0

TASKS = """
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_name TEXT NOT NULL,
    agent_role TEXT NOT NULL,
    window_index INTEGER NOT NULL,
    next_run REAL NOT NULL,
    interval_minutes INTEGER NOT NULL,
    note TEXT,
    last_run REAL,
    created_at REAL DEFAULT (strftime('%s', 'now')),
    retry_count INTEGER DEFAULT 0,
    max_retries INTEGER DEFAULT 3
)"""
# Before retries were counted.
TASKS_OLDER = """
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_name TEXT NOT NULL,
    agent_role TEXT NOT NULL,
    window_index INTEGER NOT NULL,
    next_run REAL NOT NULL,
    interval_minutes INTEGER NOT NULL,
    note TEXT,
    last_run REAL,
    created_at REAL DEFAULT (strftime('%s', 'now'))
)"""
PROJECT_QUEUE = """
CREATE TABLE project_queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    spec_path TEXT NOT NULL,
    project_path TEXT,
    status TEXT DEFAULT 'queued',
    enqueued_at REAL DEFAULT (strftime('%s', 'now')),
    started_at REAL,
    completed_at REAL,
    priority INTEGER DEFAULT 0,
    error_message TEXT,
    batch_id TEXT,
    retry_count INTEGER DEFAULT 0,
    enhanced_spec_path TEXT,
    orchestrator_session TEXT,
    main_session TEXT
)"""
# As queue_status.py makes it; any subset of the later columns may be there.
PROJECT_QUEUE_STATUS = """
CREATE TABLE project_queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    spec_path TEXT NOT NULL,
    project_path TEXT,
    status TEXT DEFAULT 'queued',
    enqueued_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    started_at TIMESTAMP,
    completed_at TIMESTAMP,
    priority INTEGER DEFAULT 5,
    error_message TEXT,
    session_name TEXT,
    log_file TEXT,
    fresh_start BOOLEAN,
    auto_orchestrate_args TEXT,
    failed_components TEXT,
    research_session_id TEXT,
    merged_status TEXT,
    merged_at REAL,
    UNIQUE(spec_path, status) ON CONFLICT IGNORE
)"""
MESSAGE_QUEUE = """
CREATE TABLE message_queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id TEXT NOT NULL,
    message TEXT NOT NULL,
    priority INTEGER DEFAULT 0,
    sequence_number INTEGER,
    dependency_id INTEGER,
    project_name TEXT,
    status TEXT DEFAULT 'pending',
    enqueued_at REAL,
    pulled_at REAL,
    delivered_at REAL,
    delivery_method TEXT DEFAULT 'queued',
    fifo_scope TEXT DEFAULT 'agent'
)"""
MESSAGE_QUEUE_OLDER = """
CREATE TABLE message_queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_session TEXT NOT NULL,
    message TEXT NOT NULL,
    priority INTEGER DEFAULT 0,
    status TEXT DEFAULT 'pending',
    enqueued_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
)"""
SCHEDULER_STATE = "CREATE TABLE scheduler_state (key TEXT PRIMARY KEY, value TEXT)"

Row = Mapping[str, Any]


def agent_state(role: str, index: int, **changed: Any) -> dict[str, Any]:
    """One agent of a session_state.json."""
    return {
        "role": role,
        "window_index": index,
        "window_name": role.title(),
        "worktree_path": f"/home/dev/worktrees/{role}",
        "last_briefing_time": CREATED,
        "last_check_in_time": CHECKED_IN,
        "is_alive": True,
        "is_exhausted": False,
        "credit_reset_time": None,
        "current_branch": f"{role}-work",
        "commit_hash": "0c250a03e023033d364e433ff7c882f4202cc828",
        "waiting_for": None,
    } | changed


def waiting_for(role: str = "project_manager", **changed: Any) -> dict[str, Any]:
    """What an agent waits for."""
    return {
        "role": role,
        "reason": "authorization",
        "request": 'Deploy to production; "now" & `then`',
        "since": "2025-09-02T09:15:00",
        "request_id": "REQ-c6b3fa7aa7",
        "timeout_minutes": 15,
    } | changed


def session_state(
    name: str | None, *, roles: Sequence[str] = ROLES, **changed: Any
) -> dict[str, Any]:
    """One session_state.json; `changed` replaces fields or adds unknown ones."""
    project = (name or "no-name").split("-impl")[0]
    return {
        "session_name": name,
        "project_path": f"/home/dev/src/{project}",
        "project_name": project,
        "implementation_spec_path": f"/home/dev/specs/{project}.md",
        "created_at": CREATED,
        "updated_at": UPDATED,
        "agents": {role: agent_state(role, index) for index, role in enumerate(roles)},
        "orchestrator_window": 0,
        "project_size": "medium",
        "parent_branch": "main",
        "completion_status": "pending",
        "completion_time": None,
        "failure_reason": None,
        "phases_completed": ["requirements", "design"],
        "spec_path": f"/home/dev/specs/{project}.md",
        "dependencies": {"tester": ["developer"]},
        "worktree_base_path": None,
        "status_reports": {},
        "batch_id": None,
        "worktrees": {role: f"/home/dev/worktrees/{role}" for role in roles},
    } | changed


def task(session: str, role: str, index: int, **changed: Any) -> dict[str, Any]:
    """One row of `tasks`."""
    return {
        "session_name": session,
        "agent_role": role,
        "window_index": index,
        "next_run": EPOCH + 86_400,
        "interval_minutes": 30,
        "note": "Standard check-in",
        "last_run": EPOCH + 84_600,
        "created_at": EPOCH,
        "retry_count": 0,
        "max_retries": 3,
    } | changed


def write_state(folder: Path, directory: str, state: object) -> Path:
    """Writes registry/projects/<directory>/session_state.json; a str or bytes goes in as it is."""
    path = folder / "registry" / "projects" / directory / "session_state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(state, bytes):
        path.write_bytes(state)
    else:
        path.write_text(state if isinstance(state, str) else json.dumps(state, indent=2))
    return path


def write_queue(folder: Path, tables: Mapping[str, tuple[str, Iterable[Row]]]) -> Path:
    """Writes task_queue.db, in WAL mode: table name -> (its DDL, its rows)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "task_queue.db"
    db = sqlite3.connect(path)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        for table, (ddl, rows) in tables.items():
            db.execute(ddl)
            _insert(db, table, rows)
        db.commit()
    finally:
        db.close()
    return path


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    for row in rows:
        columns = ", ".join(_quoted(column) for column in row)
        marks = ", ".join("?" * len(row))
        db.execute(
            f"INSERT INTO {_quoted(table)} ({columns}) VALUES ({marks})", tuple(row.values())
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def session_name(number: int) -> str:
    """The name of the n-th session of `write_registry`."""
    return f"project-{number}-impl-{number:08x}"


def write_registry(
    folder: Path,
    sessions: int,
    *,
    agents: int = 7,
    tasks: int = 2,
    messages: int = 0,
    next_run: float = EPOCH + 86_400,
) -> Path:
    """A registry of that many sessions below `folder` and a queue with so many tasks (30 minutes,
    recurring, all due at `next_run`) and pending messages each; returns `folder`."""
    roles = ROLES[:agents]
    (folder / "registry" / "projects").mkdir(parents=True, exist_ok=True)
    names = [session_name(number) for number in range(sessions)]
    for number, name in enumerate(names):
        write_state(folder, f"project-{number}", session_state(name, roles=roles))
    write_queue(
        folder,
        {
            "tasks": (
                TASKS,
                (
                    task(name, roles[n % len(roles)], n % len(roles), next_run=next_run)
                    for name in names
                    for n in range(tasks)
                ),
            ),
            "project_queue": (
                PROJECT_QUEUE,
                (
                    {
                        "spec_path": f"/home/dev/specs/project-{number}.md",
                        "project_path": f"/home/dev/src/project-{number}",
                        "status": "processing",
                        "enqueued_at": EPOCH,
                        "main_session": name,
                    }
                    for number, name in enumerate(names)
                ),
            ),
            "message_queue": (
                MESSAGE_QUEUE,
                (
                    {
                        "agent_id": f"{name}:{n % len(roles)}",
                        "message": f"message {n} of {name}",
                        "status": "pending",
                        "enqueued_at": EPOCH,
                    }
                    for name in names
                    for n in range(messages)
                ),
            ),
            "scheduler_state": (
                SCHEDULER_STATE,
                [{"key": "last_boot_time", "value": "1756700000.0"}],
            ),
        },
    )
    return folder
