"""Writes the old system's files from the store: the way back, and how an import is checked."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Any

import apsw

from orch_server.core.errors import Conflict, StartupError
from orch_server.core.session import Session
from orch_server.legacy import ddl
from orch_server.legacy.compare import overlay
from orch_server.legacy.layout import Fields, Layout, layout
from orch_server.storage.exports import Snapshot

_UNSAFE = re.compile(r"[/\x00-\x1f\x7f]")
_LONGEST = 200  # bytes of a directory's name
_TABLES = {"task": "tasks", "message": "message_queue"}


@dataclass(frozen=True, slots=True)
class Exported:
    """How much was written."""

    sessions: int
    tasks: int
    messages: int


def export(store: Snapshot, target: Path, zone: tzinfo) -> Exported:
    """Writes registry/ and task_queue.db into a folder that is new or empty.

    Raises Conflict when it is neither, StartupError when it cannot be written.
    """
    made = layout(store, zone)
    fields = {
        record: overlay(columns, store.kept.get(record, ()))
        for record, columns in made.fields.items()
    }
    tables = _tables(store, made, fields)
    try:
        _make_folder(target)
        for session, directory in zip(store.sessions, _directories(store), strict=True):
            folder = target / "registry" / "projects" / directory
            folder.mkdir(mode=0o700)
            state = _state(session.name, store, made, fields)
            _put(folder / "session_state.json", json.dumps(state, indent=2).encode())
        _queue(target / "task_queue.db", tables)
    except (OSError, apsw.Error) as exc:
        raise StartupError(
            f"The export to {target} failed ({exc}); remove what is there and try again."
        ) from exc
    return Exported(len(store.sessions), len(tables["tasks"]), len(tables["message_queue"]))


def _tables(store: Snapshot, made: Layout, fields: Mapping[str, Fields]) -> dict[str, list[Fields]]:
    """The rows of the queue's tables. What was kept of a deleted session went with it."""
    tables = {
        "tasks": [fields[record] for record in made.tasks],
        "message_queue": [fields[record] for record in made.messages],
    }
    for record in store.rows:
        if row := overlay({}, store.kept.get(record, ())):
            tables.setdefault(_table(record), []).append(row)
    return tables


def _make_folder(target: Path) -> None:
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise Conflict(f"The folder {target} is not empty; name a new one.")
    (target / "registry").mkdir(mode=0o700)
    (target / "registry" / "projects").mkdir(mode=0o700)


def _old_name(store: Snapshot, record: str, otherwise: str) -> str:
    """A name that stood outside of its record."""
    kept = [json.loads(one.value) for one in store.kept.get(record, ())]
    return kept[0] if kept and isinstance(kept[0], str) else otherwise


def _keys(session: str, roles: list[str], store: Snapshot) -> Iterator[str]:
    """What each agent is called in its session's file: as it was, unless another has that role."""
    for role in roles:
        old = _old_name(store, f"key:{session}:{role}", role)
        yield role if old in roles else old


def _state(name: str, store: Snapshot, made: Layout, fields: Mapping[str, Fields]) -> Fields:
    """A session's file: its agents stand where the old system wrote them."""
    members = made.agents[name]
    keys = _keys(name, [role for role, _ in members], store)
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
    if _is_component(old):
        return old, True
    name = _UNSAFE.sub("-", (session.project_name or session.name).lower().replace(" ", "-"))
    short = name.encode(errors="replace")[:_LONGEST].decode(errors="ignore")
    return short if _is_component(short) else f"session-{short.strip('.')}", False


def _is_component(name: str) -> bool:
    """Whether this is the name of one entry of a folder, which leads nowhere else."""
    return (
        name not in ("", ".", "..")
        and not name.startswith(".")
        and not _UNSAFE.search(name)
        and len(os.fsencode(name)) <= _LONGEST
    )


def _table(record: str) -> str:
    kind, _, rest = record.partition(":")
    return _TABLES.get(kind) or rest.partition(":")[0]


def _put(path: Path, content: bytes) -> None:
    """Puts a private file there at once."""
    new = path.with_name(f"{path.name}.new")
    number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as file:
        file.write(content)
    new.rename(path)


def _queue(path: Path, tables: Mapping[str, list[Fields]]) -> None:
    new = path.with_name(f"{path.name}.new")
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(apsw.Connection(str(new))) as db, db:
        for table, rows in tables.items():
            if not rows and table != "tasks":
                continue
            columns = tuple(dict.fromkeys(name for row in rows for name in row))
            for statement in ddl.create(table, columns):
                db.execute(statement)
            _insert(db, table, rows)
    new.rename(path)


def _insert(db: apsw.Connection, table: str, rows: list[Fields]) -> None:
    """Rows with their old ids; the others, and those whose id is taken, get new ones after them."""
    with_id = table in _TABLES.values()
    first, rest, taken = [], [], set()
    for row in rows:
        if with_id and (row.get("id") is None or row["id"] in taken):
            rest.append({name: value for name, value in row.items() if name != "id"})
        else:
            first.append(row)
            taken.add(row.get("id") if with_id else None)
    for row in (*first, *rest):
        names = ", ".join(map(ddl.quoted, row))
        marks = ", ".join("?" * len(row))
        sql = f"insert into {ddl.quoted(table)} ({names}) values ({marks})"  # noqa: S608 - quoted
        db.execute(sql, tuple(map(_value, row.values())))


def _value(value: Any) -> Any:
    """A value as SQLite takes it; bytes were kept as {"base64": …}."""
    if isinstance(value, dict) and set(value) == {"base64"}:
        return base64.b64decode(value["base64"])
    if isinstance(value, dict | list):
        return json.dumps(value)
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
