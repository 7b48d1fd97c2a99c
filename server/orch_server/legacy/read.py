"""Reads all that the old system left, and writes nothing; see docs/howto/migrate.md."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from os import fsencode
from pathlib import Path
from typing import Any, TypeVar

from orch_server.core.errors import InvalidInput
from orch_server.core.legacy import (
    Finding,
    LegacyMessage,
    LegacyRow,
    LegacySession,
    LegacyTask,
    Raw,
    Refused,
    Source,
)
from orch_server.core.legacy_join import (
    MAX_DIRECTORY,
    Hints,
    is_directory,
    is_name,
    join,
    names_in,
)
from orch_server.core.legacy_json import Unreadable, decode
from orch_server.core.legacy_parse import StateFile, parse_session
from orch_server.core.legacy_queue import contradictions, parse_message, parse_row, parse_task
from orch_server.core.text import printable
from orch_server.legacy.daemons import daemons
from orch_server.legacy.files import Denied, Folder, Missing, walk
from orch_server.legacy.queue import NAME, Queue, read_queue

_STATE = "session_state.json"
_METADATA = "orchestration_metadata.json"
_LIMIT = 16 * 1024 * 1024
_DIRECTORY = (
    "the name of its directory is not given back by an export: it begins with a dot, holds control"
    f" characters or has more than {MAX_DIRECTORY} bytes"
)

_Record = TypeVar("_Record", LegacyTask, LegacyMessage)
_Parse = Callable[[Raw, tzinfo, datetime, list[Finding]], _Record | Refused]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the old system is: its root, and the name of its registry in there."""

    root: Path
    registry: str


@dataclass(slots=True)
class _Found:
    """What a reading has come upon so far."""

    count: int = 0
    states: list[StateFile] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read(directory: Path, zone: tzinfo, now: datetime) -> Source:
    """Reads the old system below `directory`: its repository, or its registry folder alone.

    `zone` is that of the times without an offset. Raises InvalidInput when there is no old system,
    and Unavailable when there is no room to copy its queue to.
    """
    place = _locate(directory)
    found = _Found()
    with _opened(place.root) as root:
        queue = read_queue(root)
        _registry(root, place.registry, found)
    running = daemons(place.root / NAME)
    rows = [row for table in queue.tables.values() for row in table.values()]
    hints = Hints(
        metadata=found.metadata,
        projects=list(queue.tables.get("project_queue", {}).values()),
        names=names_in(rows),
    )
    sessions = tuple(_sessions(found, hints, zone, now))
    found.refused += queue.refused
    found.findings += queue.findings
    tasks = tuple(_records(queue.take("tasks"), parse_task, found, zone, now))
    messages = tuple(_records(queue.take("message_queue"), parse_message, found, zone, now))
    kept = tuple(_rows(queue))
    by_name = {session.session.name: session for session in sessions}
    found.findings += contradictions(kept, by_name)
    return Source(
        root=str(place.root),
        found=found.count,
        sessions=sessions,
        tasks=tasks,
        messages=messages,
        rows=kept,
        refused=tuple(found.refused),
        findings=tuple(found.findings),
        daemons=running,
        files=tuple(sorted(found.files + queue.files)),
        digests=queue.digests,
    )


def _locate(directory: Path) -> _Place:
    """The only place where a link is followed: the user named it."""
    try:
        real = directory.resolve(strict=True)
        if not real.is_dir():
            raise InvalidInput("directory", f"{directory} is no folder; name the old repository.")
        names = {path.name for path in real.iterdir()}
    except (OSError, RuntimeError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "no path, or a link to itself"
        raise InvalidInput(
            "directory", f"{printable(str(directory), 200)} cannot be read ({why})."
        ) from exc
    if "registry" in names or NAME in names:
        return _Place(real, "registry")
    if "projects" in names:
        return _Place(real.parent, real.name)
    raise InvalidInput(
        "directory",
        f"{printable(str(directory), 200)} holds neither registry/ nor {NAME}; name the old"
        " system's repository, or its registry folder.",
    )


def _opened(root: Path) -> Folder:
    try:
        return Folder.at(root)
    except Denied as exc:
        raise InvalidInput("directory", f"{printable(str(exc), 300)}.") from exc


def _registry(root: Folder, name: str, found: _Found) -> None:
    """Reads all state files; `found` then has the files to back up, too."""
    with ExitStack() as held:
        try:
            registry = held.enter_context(root.enter(name))
            _left_out(registry, name, found)
            projects = held.enter_context(registry.enter("projects"))
            entries = projects.entries()
        except Missing:
            return
        except Denied as exc:
            found.refused.append(Refused(name, str(exc)))
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) or entry.is_symlink():
                found.count += 1
                _project(projects, entry.name, found)


def _left_out(registry: Folder, name: str, found: _Found) -> None:
    walked = walk(registry, name)
    found.files += walked.files
    for count, what in (
        (walked.worktrees, "worktrees (checkouts, which the import does not need)"),
        (walked.links, "symbolic links (they are not followed)"),
        (walked.others, "things that are no files or lie too deep"),
    ):
        if count:
            found.findings.append(Finding("registry", f"not in the backup: {count:,} {what}"))
    found.findings += (Finding(path, f"not in the backup: {why}") for path, why in walked.denied)


def _project(projects: Folder, name: str, found: _Found) -> None:
    where = f"projects/{fsencode(name).decode(errors='replace')}"
    try:
        name.encode()
        with projects.enter(name) as folder:
            data = folder.read(_STATE, _LIMIT)
            decoded = decode(data)
            if not _names_session(decoded.value):
                _note_metadata(folder, name, found)
    except UnicodeEncodeError:
        found.refused.append(Refused(where, "its name is not UTF-8"))
    except Missing:
        found.refused.append(Refused(where, f"has no {_STATE}"))
    except (Denied, Unreadable) as exc:
        found.refused.append(Refused(where, f"{exc}"))
    else:
        digest = hashlib.sha256(data).hexdigest()
        found.states.append(StateFile(name, where, decoded.value, digest, decoded.notes))


def _names_session(value: dict[str, Any]) -> bool:
    name = value.get("session_name")
    return isinstance(name, str) and is_name(name)


def _note_metadata(folder: Folder, directory: str, found: _Found) -> None:
    """Takes the session's name from the other file that has it, if it can be read."""
    try:
        name = decode(folder.read(_METADATA, _LIMIT)).value.get("session_name")
    except (Denied, Unreadable):
        return
    if isinstance(name, str) and is_name(name):
        found.metadata[directory] = name


def _sessions(found: _Found, hints: Hints, zone: tzinfo, now: datetime) -> Iterator[LegacySession]:
    joined = join(found.states, hints, zone)
    found.refused += joined.refused
    for named in joined.named:
        parsed = parse_session(named.file, named.name, named.missing, zone, now)
        if named.note:
            found.findings.append(Finding(parsed.session.record, named.note))
        if not is_directory(named.file.directory):
            found.findings.append(Finding(parsed.session.record, _DIRECTORY))
        found.findings += parsed.findings
        found.refused += parsed.refused
        yield parsed.session


def _records(
    rows: Mapping[str, Raw], parse: _Parse[_Record], found: _Found, zone: tzinfo, now: datetime
) -> Iterator[_Record]:
    """The notes or messages of a table; each id once."""
    seen = set[int]()
    for raw in rows.values():
        record = parse(raw, zone, now, found.findings)
        if isinstance(record, Refused):
            found.refused.append(record)
        elif record.id in seen:
            found.refused.append(Refused(record.record, "another row has the same id"))
        else:
            seen.add(record.id)
            yield record


def _rows(queue: Queue) -> Iterator[LegacyRow]:
    for table, rows in queue.tables.items():
        for key, raw in rows.items():
            yield parse_row(table, key, raw)
