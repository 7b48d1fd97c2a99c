"""The tables of the old system's task_queue.db, as far as what is put into them allows.

The old system made them with types, defaults and constraints, and some of its versions without.
What a row says must come back as it is: a type that would turn a value into another, a NOT NULL or
a key that a row breaks is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase, ascii_uppercase
from typing import Any

_SMALL = str.maketrans(ascii_uppercase, ascii_lowercase)
_NOW = "DEFAULT (strftime('%s', 'now'))"
#: Each column with its type, and what else it says.
_TABLES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "tasks": (
        ("id", "INTEGER", "PRIMARY KEY AUTOINCREMENT"),
        ("session_name", "TEXT", "NOT NULL"),
        ("agent_role", "TEXT", "NOT NULL"),
        ("window_index", "INTEGER", "NOT NULL"),
        ("next_run", "REAL", "NOT NULL"),
        ("interval_minutes", "INTEGER", "NOT NULL"),
        ("note", "TEXT", ""),
        ("last_run", "REAL", ""),
        ("created_at", "REAL", _NOW),
        ("retry_count", "INTEGER", "DEFAULT 0"),
        ("max_retries", "INTEGER", "DEFAULT 3"),
    ),
    "project_queue": (
        ("id", "INTEGER", "PRIMARY KEY AUTOINCREMENT"),
        ("spec_path", "TEXT", "NOT NULL"),
        ("project_path", "TEXT", ""),
        ("status", "TEXT", "DEFAULT 'queued'"),
        ("enqueued_at", "", _NOW),
        ("started_at", "", ""),
        ("completed_at", "", ""),
        ("priority", "INTEGER", "DEFAULT 0"),
        ("error_message", "TEXT", ""),
        ("batch_id", "TEXT", ""),
        ("retry_count", "INTEGER", "DEFAULT 0"),
        ("enhanced_spec_path", "TEXT", ""),
        ("orchestrator_session", "TEXT", ""),
        ("main_session", "TEXT", ""),
    ),
    "message_queue": (
        ("id", "INTEGER", "PRIMARY KEY AUTOINCREMENT"),
        ("agent_id", "TEXT", ""),
        ("message", "TEXT", "NOT NULL"),
        ("priority", "INTEGER", "DEFAULT 0"),
        ("sequence_number", "INTEGER", ""),
        ("dependency_id", "INTEGER", ""),
        ("project_name", "TEXT", ""),
        ("status", "TEXT", "DEFAULT 'pending'"),
        ("enqueued_at", "", ""),
        ("pulled_at", "", ""),
        ("delivered_at", "", ""),
        ("delivery_method", "TEXT", "DEFAULT 'queued'"),
        ("fifo_scope", "TEXT", "DEFAULT 'agent'"),
    ),
    "scheduler_state": (("key", "TEXT", "PRIMARY KEY"), ("value", "TEXT", "")),
}


def create(table: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The statement that makes a table for these rows, whose columns may differ. One that we do not
    know has columns without types, which hold every value as it is."""
    named = {folded(name): name for row in rows for name in row}
    low = [{folded(name): value for name, value in row.items()} for row in rows]
    parts = []
    for name, kind, more in _TABLES.get(folded(table), ()):
        named.pop(name, None)
        parts.append(_column(name, kind, more, [row[name] for row in low if name in row], low))
    return f"create table {quoted(table)} ({', '.join((*parts, *map(quoted, named.values())))})"


def _column(name: str, kind: str, more: str, values: list[Any], rows: Sequence[Any]) -> str:
    fits = all(_holds(kind, value) for value in values)
    if more.startswith("PRIMARY KEY"):
        is_key = fits and None not in values and len(set(values)) == len(values)
        return " ".join((quoted(name), kind, more)) if is_key else quoted(name)
    if more == "NOT NULL" and (None in values or len(values) < len(rows)):
        more = ""
    return " ".join(filter(None, (quoted(name), kind if fits else "", more)))


def _holds(kind: str, value: Any) -> bool:
    """Whether a column of this type gives the value back as it is."""
    if value is None or not kind:
        return True
    if kind == "TEXT":
        return isinstance(value, str)
    if kind == "REAL":
        return isinstance(value, float)
    return type(value) is int


def folded(name: str) -> str:
    """A name as SQLite compares it: of the letters only A to Z have small ones."""
    return name.translate(_SMALL)


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def listed(names: Iterable[str]) -> str:
    """Names as SQL has them, for a list."""
    return ", ".join(map(quoted, names))
