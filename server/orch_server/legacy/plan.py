"""What an import would write, decided of what was read and what is there; writes nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from orch_server.core.authorization import Authorization
from orch_server.core.legacy import Finding, Raw, Refused, Source
from orch_server.core.session import Session
from orch_server.legacy.compare import stored_name
from orch_server.legacy.layout import KNOWN_FIELDS
from orch_server.storage.imports import Known

IMPORTABLE, IMPORTED = "importable", "imported"
ALREADY, CHANGED, DELETED, REFUSED = "already there", "changed", "deleted here", "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory of the registry and what becomes of it. `result` is one of the words above."""

    directory: str
    session: str
    agents: int
    tasks: int
    result: str
    why: str = ""


@dataclass(slots=True)
class Count:
    """How many of a kind of record were found, and what becomes of them: `found` is the sum of the
    others. `deleted`: imported before, and deleted here with their session."""

    found: int = 0
    importable: int = 0
    imported: int = 0
    already: int = 0
    deleted: int = 0
    refused: int = 0


@dataclass(slots=True, repr=False)  # asyncio shows results in texts that nobody reads
class Plan:
    """What is to be written: rows by table, and what needs more than a row. `raw` is what an export
    has to give back, by record, with the session it belongs to; `values` are kept as they are.
    `takeovers` are rows for sessions that an earlier import made bare, `endings` those of them that
    have ended; `seen` when agents that are here had checked in; `waits` are requests with their ids
    and why each has expired, "" for a pending one.
    """

    source: Source
    known: Known
    now: datetime
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    fills: list[Session] = field(default_factory=list)
    takeovers: list[tuple[Any, ...]] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    seen: list[tuple[int, str]] = field(default_factory=list)
    waits: list[tuple[Authorization, str, str]] = field(default_factory=list)
    raw: dict[str, tuple[str, Raw]] = field(default_factory=dict)
    values: list[tuple[str, str, str, str]] = field(default_factory=list)
    imported: list[tuple[str, str, str]] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    created: list[tuple[str, str, str]] = field(default_factory=list)
    queued: list[tuple[str, str, str, str]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    counts: dict[str, Count] = field(
        default_factory=lambda: {kind: Count() for kind in ("tasks", "messages", "rows")}
    )
    refused: list[Refused] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is new."""
        return not self.imported

    @property
    def failed(self) -> bool:
        """Whether something was found and nothing of it is, or can be, imported."""
        there = any(entry.result != REFUSED for entry in self.entries)
        counted = any(count.found > count.refused for count in self.counts.values())
        return bool(self.entries or self.refused) and not there and not counted

    def put(self, table: str, *values: Any) -> None:
        """A row of storage.imports.COLUMNS."""
        self.rows.setdefault(table, []).append(values)

    def find(self, record: str, text: str) -> None:
        """Something to be told."""
        self.findings.append(Finding(record, text))

    def take(self, record: str, subject: str, digest: str, session: str, raw: Raw) -> None:
        """A record that is imported, and as what."""
        self.imported.append((record, subject, digest))
        self.raw[record] = (session, raw)

    def keep(self, record: str, session: str, raw: Raw, digest: str) -> None:
        """A record that nothing of ours stands for."""
        self.imported.append((record, "", digest))
        for name, value in raw.items():
            self.values.append((session, record, stored_name(name), json.dumps(value)))

    def is_there(self, record: str, digest: str, kind: str, session: str) -> bool:
        """Whether this was imported before; counts it."""
        count = self.counts[kind]
        count.found += 1
        before = self.known.imported.get(record)
        if before is None:
            count.importable += 1
            return False
        if self.known.was_deleted(session):
            count.deleted += 1
            return True
        count.already += 1
        if before != digest:
            self.find(record, "It has changed since it was imported; our state is the truth now.")
        return True

    def refuse(self, record: str) -> None:
        """Counts a record of the queue that is refused."""
        for kind in ("tasks", "messages"):
            if record.startswith(f"{kind.removesuffix('s')}:"):
                self.counts[kind].found += 1
                self.counts[kind].refused += 1

    def done(self) -> None:
        """It was written: what was importable is imported."""
        self.entries = [
            replace(entry, result=IMPORTED) if entry.result == IMPORTABLE else entry
            for entry in self.entries
        ]
        for count in self.counts.values():
            count.imported, count.importable = count.importable, 0

    def warnings(self) -> Counter[str]:
        """How many findings there are of each session."""
        of_tasks = {f"task:{task.id}": task.session for task in self.source.tasks}
        of_tasks |= {f"task:{task.key}": task.session for task in self.source.tasks}
        found: Counter[str] = Counter()
        for finding in self.findings:
            kind, _, rest = finding.record.partition(":")
            if kind == "task":
                found[of_tasks.get(finding.record, "")] += 1
            elif kind == "agent":
                found[rest.rpartition(":")[0]] += 1
            else:
                found[rest] += 1
        return found

    def unknown_fields(self) -> Counter[str]:
        """Fields that the old system did not have, as "kind.name", and how often they are there."""
        source = self.source
        kinds: list[tuple[str, Iterable[Raw]]] = [
            ("session", (one.raw for one in source.sessions)),
            ("agent", (agent.raw for one in source.sessions for agent in one.agents)),
            ("task", (task.raw for task in source.tasks)),
            ("message", (message.raw for message in source.messages)),
        ]
        return Counter(
            f"{kind}.{name}"
            for kind, raws in kinds
            for raw in raws
            for name in raw
            if name not in KNOWN_FIELDS[kind]
        )


def digest(raw: Raw) -> str:
    """What tells whether a record is as it was."""
    return sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:16]
