"""Which file is which session. Joined on the session's name, never on its directory's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any

from orch_server.core.errors import InvalidInput
from orch_server.core.legacy import Raw, Refused
from orch_server.core.legacy_json import kind
from orch_server.core.legacy_parse import StateFile
from orch_server.core.legacy_queue import agent_of
from orch_server.core.legacy_times import read_time
from orch_server.core.naming import project_of, repair_name, sanitised
from orch_server.core.text import MAX_NAME_LENGTH, check_name, printable

_NEVER = datetime(1, 1, 1, tzinfo=UTC)
#: The longest name of a directory that an export writes, in bytes.
MAX_DIRECTORY = 200
_UNSAFE = re.compile(r"[/\x00-\x1f\x7f]")
_NOT_IN_NAMES = re.compile("[:\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Named:
    """A file and its session's name; `missing`: the name is only a label. `note` is to be told."""

    file: StateFile
    name: str
    missing: bool = False
    note: str = ""


@dataclass(slots=True)
class Joined:
    """The files that are read, by directory, and those that are not."""

    named: list[Named] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Hints:
    """Where names of sessions are found beside the state files: `metadata` by directory, the rows
    of project_queue, and the names in the rows of all other tables."""

    metadata: Mapping[str, str]
    projects: Sequence[Raw]
    names: Iterable[str]


def join(files: Sequence[StateFile], hints: Hints, zone: tzinfo) -> Joined:
    """Gives each file its session's name. Of several files of one session the one that was updated
    last is read; a file that names none is repaired when exactly one name is known for it."""
    found = Joined()
    nameless: list[StateFile] = []
    by_name: dict[str, list[StateFile]] = {}
    for file in files:
        name = _said(file.value)
        if name:
            by_name.setdefault(name, []).append(file)
        else:
            nameless.append(file)
    for name, same in by_name.items():
        newest, *older = sorted(same, key=lambda file: _updated(file, zone), reverse=True)
        found.named.append(Named(newest, name))
        found.refused.extend(_older(file, newest) for file in older)
    _repair(nameless, by_name, hints, found)
    found.named.sort(key=lambda named: named.file.directory)
    return found


def _said(value: Mapping[str, Any]) -> str:
    """The name that the file says, "" when that is none."""
    name = value.get("session_name")
    return name if isinstance(name, str) and is_name(name) else ""


def is_name(name: str) -> bool:
    """Whether tmux can have a session of this name."""
    try:
        return bool(name.strip()) and check_name("session_name", name) == name
    except InvalidInput:
        return False


def is_directory(name: str) -> bool:
    """Whether an export gives a session's directory this name: it leads nowhere else, and is not
    hidden."""
    return (
        name != ""
        and not name.startswith(".")
        and not _UNSAFE.search(name)
        and len(name.encode(errors="surrogatepass")) <= MAX_DIRECTORY
    )


def _updated(file: StateFile, zone: tzinfo) -> datetime:
    try:
        return read_time(file.value.get("updated_at"), zone) or _NEVER
    except ValueError:
        return _NEVER


def _older(file: StateFile, newest: StateFile) -> Refused:
    how = "an identical copy" if file.digest == newest.digest else "older"
    return Refused(file.where, f"same session as {printable(newest.where)}, {how}")


def _repair(
    nameless: Sequence[StateFile], taken: Collection[str], hints: Hints, found: Joined
) -> None:
    free = _Free(hints, taken) if nameless else None
    repaired = {file.directory: free.name(file) for file in nameless} if free else {}
    claims = Counter(name for name in repaired.values() if name)
    used = set(taken) | {name for name, count in claims.items() if count == 1}
    for file in nameless:
        name, said = repaired[file.directory], file.value.get("session_name")
        if name and claims[name] == 1:
            note = f"{_wrong(said)}; the name {printable(name)} is known from elsewhere and used"
            found.named.append(Named(file, name, note=note))
        elif isinstance(said, str) and said.strip():
            found.refused.append(Refused(file.where, f"{_wrong(said)}: tmux cannot have it"))
        else:
            label = _label(file.directory, used)
            used.add(label)
            note = f"{_wrong(said)}, and no single one is known for it; {label} is only a label"
            found.named.append(Named(file, label, missing=True, note=note))


def _wrong(said: object) -> str:
    if isinstance(said, str) and said.strip():
        return f"session_name is '{printable(said)}'"
    return f"session_name is {kind(said) if said != '' else 'empty'}"


class _Free:
    """The names that are known and that no file has, by where they come from."""

    def __init__(self, hints: Hints, taken: Collection[str]) -> None:
        self._metadata = {d: n for d, n in hints.metadata.items() if n not in taken}
        self._by_project: dict[str, list[str]] = {}
        for name in dict.fromkeys(hints.names):
            project = project_of(name)
            if project and name not in taken and is_name(name):
                self._by_project.setdefault(project, []).append(name)
        self._by_path: dict[str, set[str]] = {}
        for row in hints.projects:
            names = (row.get("main_session"), row.get("session_name"))
            free = {n for n in names if isinstance(n, str) and is_name(n) and n not in taken}
            for path in (row.get("spec_path"), row.get("project_path")):
                if isinstance(path, str) and path:
                    self._by_path.setdefault(path, set()).update(free)

    def name(self, file: StateFile) -> str | None:
        """The only name that fits the file; None when none or several do."""
        found = set[str]()
        if file.directory in self._metadata:
            found.add(self._metadata[file.directory])
        for name in ("spec_path", "implementation_spec_path", "project_path"):
            path = file.value.get(name)
            found |= self._by_path.get(path, set()) if isinstance(path, str) else set()
        labels = [file.directory]
        if isinstance(project := file.value.get("project_name"), str):
            labels.append(project)
        spelled = {way for label in labels for way in sanitised(label)}
        candidates = [name for way in spelled for name in self._by_project.get(way, ())]
        if by_label := repair_name(labels, candidates):
            found.add(by_label)
        elif candidates:
            return None
        return found.pop() if len(found) == 1 else None


def _label(directory: str, used: Collection[str]) -> str:
    base = _NOT_IN_NAMES.sub("_", directory)[: MAX_NAME_LENGTH - 10].strip() or "session"
    label, number = base, 1
    while label in used:
        number += 1
        label = f"{base}-{number}"
    return label


def names_in(raws: Iterable[Raw]) -> list[str]:
    """The sessions that these rows name, once each, in their order."""
    found: dict[str, None] = {}
    for raw in raws:
        for name in (raw.get("session_name"), agent_of(raw).rpartition(":")[0]):
            if isinstance(name, str) and name:
                found[name] = None
    return list(found)
