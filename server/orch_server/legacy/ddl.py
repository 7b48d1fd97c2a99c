"""The tables of the old system's task_queue.db."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_TABLES: dict[str, str] = {
    "tasks": """id INTEGER PRIMARY KEY AUTOINCREMENT, session_name TEXT NOT NULL,
        agent_role TEXT NOT NULL, window_index INTEGER NOT NULL, next_run REAL NOT NULL,
        interval_minutes INTEGER NOT NULL, note TEXT, last_run REAL,
        created_at REAL DEFAULT (strftime('%s', 'now')), retry_count INTEGER DEFAULT 0,
        max_retries INTEGER DEFAULT 3""",
    "project_queue": """id INTEGER PRIMARY KEY AUTOINCREMENT, spec_path TEXT NOT NULL,
        project_path TEXT, status TEXT DEFAULT 'queued',
        enqueued_at DEFAULT (strftime('%s', 'now')), started_at, completed_at,
        priority INTEGER DEFAULT 0, error_message TEXT, batch_id TEXT,
        retry_count INTEGER DEFAULT 0, enhanced_spec_path TEXT, orchestrator_session TEXT,
        main_session TEXT""",
    "message_queue": """id INTEGER PRIMARY KEY AUTOINCREMENT, agent_id TEXT, message TEXT NOT NULL,
        priority INTEGER DEFAULT 0, sequence_number INTEGER, dependency_id INTEGER,
        project_name TEXT, status TEXT DEFAULT 'pending', enqueued_at, pulled_at, delivered_at,
        delivery_method TEXT DEFAULT 'queued', fifo_scope TEXT DEFAULT 'agent'""",
    "scheduler_state": "key TEXT PRIMARY KEY, value TEXT",
}
_COLUMNS: dict[str, tuple[str, ...]] = {
    table: tuple(part.split()[0] for part in body.replace("'%s', 'now'", "").split(","))
    for table, body in _TABLES.items()
}


def create(table: str, columns: Sequence[str]) -> Iterable[str]:
    """The statements that make a table with these columns. One that we do not know has columns
    without types, which hold every value as it is."""
    known = _TABLES.get(table)
    if known is None:
        yield f"create table {quoted(table)} ({', '.join(map(quoted, columns))})"
        return
    yield f"create table {quoted(table)} ({known})"
    there = {column.lower() for column in _COLUMNS[table]}
    for column in columns:
        if column.lower() not in there:
            yield f"alter table {quoted(table)} add column {quoted(column)}"


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
