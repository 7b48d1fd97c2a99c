"""Writes the old system's files from the store: the way back, and how an import is checked."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Any

import apsw

from orch_server.core.errors import Conflict, StartupError
from orch_server.core.legacy_join import MAX_DIRECTORY, is_directory
from orch_server.core.session import Session
from orch_server.core.text import printable
from orch_server.legacy import ddl
from orch_server.legacy.compare import overlay
from orch_server.legacy.layout import Fields, Layout, layout
from orch_server.storage.exports import Snapshot

_UNSAFE = re.compile(r"[/\x00-\x1f\x7f]")
_TABLES = {"task": "tasks", "message": "message_queue"}
QUEUE = "task_queue.db"


@dataclass(frozen=True, slots=True)
class Exported:
    """How much was written."""

    sessions: int
    tasks: int
    messages: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record of the queue was written: its table, the number of its row, and whether that
    is its old id."""

    table: str
    number: int
    has_own_id: bool


#: The rows of each table of the queue, by their records.
Tables = dict[str, dict[str, Fields]]


def export(store: Snapshot, target: Path, zone: tzinfo) -> Exported:
    """Writes registry/ and task_queue.db into a folder that is new or empty.

    Raises Conflict when it is neither, or no folder; StartupError when it cannot be written, and
    then leaves nothing there.
    """
    return write(store, target, zone)[0]


def write(store: Snapshot, target: Path, zone: tzinfo) -> tuple[Exported, dict[str, Place]]:
    """As `export`; also says where the records of the queue are."""
    made = layout(store, zone)
    fields = {
        record: overlay(columns, store.kept.get(record, ()))
        for record, columns in made.fields.items()
    }
    tables = _tables(store, made, fields)
    is_new = _make_folder(target)
    try:
        _write_states(store, made, fields, target)
        places = _write_queue(target / QUEUE, tables)
    except BaseException as exc:
        _remove(target, is_new)
        if isinstance(exc, OSError | apsw.Error):
            raise StartupError(f"The export to {target} failed ({exc}).") from exc
        raise
    counts = len(store.sessions), len(tables["tasks"]), len(tables["message_queue"])
    return Exported(*counts), places


def _write_states(
    store: Snapshot, made: Layout, fields: Mapping[str, Fields], target: Path
) -> None:
    for folder in (target / "registry", target / "registry" / "projects"):
        folder.mkdir(mode=0o700)
    for name, path in state_files(store, target):
        path.parent.mkdir(mode=0o700)
        state = _state(name, store, made, fields)
        _put(path, json.dumps(state, indent=2).encode())


def _remove(target: Path, is_new: bool) -> None:
    """Takes back what was written of an export."""
    shutil.rmtree(target / "registry", ignore_errors=True)
    for path in (target / QUEUE, *target.glob(f"{QUEUE}.new*")):
        path.unlink(missing_ok=True)
    if is_new:
        with suppress(OSError):
            target.rmdir()


def state_files(store: Snapshot, target: Path) -> Iterator[tuple[str, Path]]:
    """The name of each session, and its file."""
    for session, directory in zip(store.sessions, _directories(store), strict=True):
        yield session.name, target / "registry" / "projects" / directory / "session_state.json"


def _tables(store: Snapshot, made: Layout, fields: Mapping[str, Fields]) -> Tables:
    """The rows of the queue's tables. What was kept of a deleted session went with it."""
    tables = {
        "tasks": {record: fields[record] for record in made.tasks},
        "message_queue": {record: fields[record] for record in made.messages},
    }
    names = {name: name for name in tables}  # of those that differ in case SQLite has only one
    for record in store.rows:
        if row := overlay({}, store.kept.get(record, ())):
            table = _table(record)
            name = names.setdefault(ddl.folded(table), table)
            tables.setdefault(name, {})[record] = row
    return tables


def _make_folder(target: Path) -> bool:
    """Makes it unless it is there, and says whether. What is in the way stays as it is."""
    try:
        str(target).encode()
        is_new = not target.exists()
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_empty = not any(target.iterdir())
    except (FileExistsError, NotADirectoryError) as exc:
        raise Conflict(f"{target} is no folder, or is in none; name a new one.") from exc
    except UnicodeEncodeError as exc:
        said = printable(str(target), 4096)
        raise StartupError(f"The name of the folder {said} is not UTF-8; name another.") from exc
    except OSError as exc:
        raise StartupError(
            f"The folder {target} cannot be made or read ({exc.strerror}); name another."
        ) from exc
    if not is_empty:
        raise Conflict(f"The folder {target} is not empty; name a new one.")
    return is_new


def _old_name(store: Snapshot, record: str, otherwise: str) -> str:
    """A name that stood outside of its record."""
    kept = [json.loads(one.value) for one in store.kept.get(record, ())]
    return kept[0] if kept and isinstance(kept[0], str) else otherwise


def agent_keys(session: str, roles: list[str], store: Snapshot) -> Iterator[str]:
    """What each agent is called in its session's file: as it was, unless another has that role."""
    for role in roles:
        old = _old_name(store, f"key:{session}:{role}", role)
        yield role if old in roles else old


def _state(name: str, store: Snapshot, made: Layout, fields: Mapping[str, Fields]) -> Fields:
    """A session's file: its agents stand where the old system wrote them."""
    members = made.agents[name]
    keys = agent_keys(name, [role for role, _ in members], store)
    agents = {key: fields[record] for key, (_, record) in zip(keys, members, strict=True)}
    state: Fields = {}
    for field, value in fields[f"session:{name}"].items():
        state[field] = value
        if field == "updated_at":
            state["agents"] = agents
    return state


def _directories(store: Snapshot) -> Iterator[str]:
    """A directory for each session: the old one, else one made of its project's name, or its own;
    each of them only once."""
    wanted = [_wanted(session, store) for session in store.sessions]
    taken = {name for name, is_old in wanted if is_old}
    given: set[str] = set()
    for name, is_old in wanted:
        chosen, number = name, 1
        while chosen in given or (not is_old and chosen in taken):
            number += 1
            chosen = f"{name}-{number}"
        given.add(chosen)
        yield chosen


def _wanted(session: Session, store: Snapshot) -> tuple[str, bool]:
    old = _old_name(store, f"directory:{session.name}", "")
    if is_directory(old):
        return old, True
    name = _UNSAFE.sub("-", (session.project_name or session.name).lower().replace(" ", "-"))
    short = name.encode(errors="replace")[:MAX_DIRECTORY].decode(errors="ignore")
    return short if is_directory(short) else f"session-{short.strip('.')}", False


def _table(record: str) -> str:
    kind, _, rest = record.partition(":")
    table = rest.partition(":")[0].replace("%3A", ":").replace("%25", "%")
    return _TABLES.get(kind) or table


def _put(path: Path, content: bytes) -> None:
    """Puts a private file there at once."""
    new = path.with_name(f"{path.name}.new")
    number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as file:
        file.write(content)
    new.rename(path)


def _write_queue(path: Path, tables: Tables) -> dict[str, Place]:
    places: dict[str, Place] = {}
    new = path.with_name(f"{path.name}.new")
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(apsw.Connection(str(new))) as db, db:
        for table, rows in tables.items():
            if not rows and table != "tasks":
                continue
            written = [(record, _values(row)) for record, row in _ordered(table, rows)]
            db.execute(ddl.create(table, [row for _, row in written]))
            for record, row in written:
                marks = ", ".join("?" * len(row))
                sql = f"insert into {ddl.quoted(table)} ({ddl.listed(row)}) values ({marks})"  # noqa: S608
                db.execute(sql, tuple(row.values()))
                has_own_id = table not in _TABLES.values() or "id" in row
                places[record] = Place(table, db.last_insert_rowid(), has_own_id)
    new.rename(path)
    return places


def _ordered(table: str, rows: Mapping[str, Fields]) -> Iterator[tuple[str, Fields]]:
    """Rows with their old ids; then those whose id is taken, or that have none, for new ones."""
    if table not in _TABLES.values():
        yield from rows.items()
        return
    rest, taken = [], set()
    for record, row in rows.items():
        if row.get("id") is None or row["id"] in taken:
            rest.append((record, {name: value for name, value in row.items() if name != "id"}))
        else:
            yield record, row
            taken.add(row["id"])
    yield from rest


def _values(row: Fields) -> dict[str, Any]:
    """A row as SQLite takes it: names that differ only in case are one, the last of them."""
    last = set({ddl.folded(name): name for name in row}.values())
    return {name: _value(value) for name, value in row.items() if name in last}


def _value(value: Any) -> Any:
    """A value as SQLite takes it; bytes were kept as {"base64": …}."""
    if isinstance(value, dict) and set(value) == {"base64"}:
        return base64.b64decode(value["base64"])
    if isinstance(value, dict | list):
        return json.dumps(value)
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
