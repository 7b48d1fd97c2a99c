"""What the store has, read with plain SQL from a file that is opened read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_OPEN = """select (select count(*) from task where state in ('PENDING', 'PAUSED'))
    + (select count(*) from delivery where state in ('PENDING', 'OFFERED', 'PASTED'))"""


class TaskRow(NamedTuple):
    """A task."""

    id: str
    note: str
    state: str


class Occurrence(NamedTuple):
    """What became of a planned firing; times in microseconds, `reason` "" when there is none."""

    task_id: str
    nominal: int
    outcome: str
    reason: str
    decided: int
    delivery_id: str
    request_id: str


class DeliveryRow(NamedTuple):
    """A delivery of a task."""

    id: str
    origin: str
    dedupe_key: str
    text: str
    state: str


@dataclass
class Stored:
    """All of it, and what the integrity check said."""

    tasks: list[TaskRow] = field(default_factory=list)
    occurrences: list[Occurrence] = field(default_factory=list)
    deliveries: list[DeliveryRow] = field(default_factory=list)
    integrity: str = "ok"


def read(store: Path) -> Stored:
    """Reads it whole; occurrences by nominal time."""
    with _opened(store) as db:
        occurrences = db.execute(
            "select task_id, nominal_at, outcome, reason, decided_at, delivery_id, request_id"
            " from occurrence order by nominal_at"
        )
        return Stored(
            [TaskRow._make(row) for row in db.execute("select id, note, state from task")],
            [_occurrence(*row) for row in occurrences],
            [
                DeliveryRow._make(row)
                for row in db.execute(
                    "select id, origin, dedupe_key, text, state from delivery"
                    " where origin like 'task:%'"
                )
            ],
            str(db.execute("pragma integrity_check").fetchone()[0]),
        )


def count_open(store: Path) -> int:
    """How many tasks and deliveries have not come to an end."""
    with _opened(store) as db:
        return int(db.execute(_OPEN).fetchone()[0])


@contextmanager
def _opened(store: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)
    try:
        yield db
    finally:
        db.close()


def _occurrence(
    task_id: str,
    nominal: int,
    outcome: str,
    reason: str | None,
    decided: int,
    delivery_id: str | None,
    request_id: str | None,
) -> Occurrence:
    said = (reason or "").upper().replace("-", "_")
    return Occurrence(task_id, nominal, outcome, said, decided, delivery_id or "", request_id or "")
