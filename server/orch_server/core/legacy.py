"""What the old system's files say, as they were read. Its fields are described in the pages of its
import (docs/howto/migrate.md).

Records are named "session:NAME", "agent:SESSION:ROLE", "task:ID", "message:ID" and, for rows of
tables that mean nothing here, "TABLE:KEY". `raw` is a record as it was read: field -> value as JSON
has it, agents left out of their session's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from orch_server.core.session import AgentDetail, CompletedPhase, Session, StatusReport

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to be told of a record that is imported all the same."""

    record: str
    text: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that is not imported, and why: `where` is a path in the registry, or a record."""

    where: str
    why: str


@dataclass(frozen=True, slots=True)
class LegacyWait:
    """An agent waits for leave: whom it asked, for what, since when and how long."""

    role: str
    request: str
    request_id: str
    since: datetime
    timeout: timedelta
    escalated: bool


@dataclass(frozen=True, slots=True)
class LegacyAgent:
    """One agent; its role is in our spelling. `key` is its name in the file's `agents`."""

    role: str
    detail: AgentDetail
    checked_in_at: datetime | None
    waiting: LegacyWait | None
    raw: Raw
    key: str = ""


@dataclass(frozen=True, slots=True)
class LegacySession:
    """One session_state.json. `session.name` is never ""; when the file names none and nothing else
    does, `session.name_missing` is set and the name is a label made from `directory`."""

    directory: str
    session: Session
    agents: tuple[LegacyAgent, ...]
    phases: tuple[CompletedPhase, ...]
    reports: tuple[StatusReport, ...]
    dependencies: tuple[tuple[str, tuple[str, ...]], ...]
    metrics: Mapping[str, float]
    raw: Raw
    digest: str

    @property
    def record(self) -> str:
        """Its name as a record."""
        return f"session:{self.session.name}"


@dataclass(frozen=True, slots=True)
class LegacyTask:
    """One row of `tasks`. `every` is None for a note that is sent once; `disabled`: the old system
    had given it up (retry_count -1). `key` stays the same wherever the database is copied to."""

    id: int
    key: str
    session: str
    role: str
    window_index: int
    note: str
    every: timedelta | None
    next_at: datetime
    last_at: datetime | None
    created_at: datetime
    disabled: bool
    raw: Raw

    @property
    def record(self) -> str:
        """Its name as a record."""
        return f"task:{self.id}"


@dataclass(frozen=True, slots=True)
class LegacyMessage:
    """One row of `message_queue`; `state` is "pending", "pulled" or "delivered". The agent is named
    by its window's index or name, or by its role."""

    id: int
    key: str
    session: str
    window: str
    text: str
    priority: int
    state: str
    queued_at: datetime
    delivered_at: datetime | None
    raw: Raw

    @property
    def record(self) -> str:
        """Its name as a record."""
        return f"message:{self.id}"


@dataclass(frozen=True, slots=True)
class LegacyRow:
    """A row of a table that means nothing here; kept as it is. `session` is "" for none."""

    record: str
    session: str
    raw: Raw


@dataclass(frozen=True, slots=True)
class Source:
    """All that was read. `found` counts the directories below registry/projects; `files` are the
    paths to back up, relative to `root`; `digests` the SHA-256 of those of the queue, as it was
    read; `daemons` the old system's processes, each as one line."""

    root: str
    found: int
    sessions: tuple[LegacySession, ...] = ()
    tasks: tuple[LegacyTask, ...] = ()
    messages: tuple[LegacyMessage, ...] = ()
    rows: tuple[LegacyRow, ...] = ()
    refused: tuple[Refused, ...] = ()
    findings: tuple[Finding, ...] = ()
    daemons: tuple[str, ...] = ()
    files: tuple[str, ...] = field(default=())
    digests: Mapping[str, str] = field(default_factory=dict)
