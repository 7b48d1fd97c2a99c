"""Reads task_queue.db. The file is never opened where it lies, since SQLite would write beside it:
it is copied, with its -wal, into a private folder, and read there."""

from __future__ import annotations

import base64
import hashlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from orch_server.core.errors import Unavailable
from orch_server.core.legacy import Finding, Raw, Refused
from orch_server.core.text import printable
from orch_server.legacy.files import Denied, Folder, Missing

NAME = "task_queue.db"
_WAL, _JOURNAL = f"{NAME}-wal", f"{NAME}-journal"
_LIMIT = 1024**3
_TRIES = 3
_MAGIC = b"SQLite format 3\0"
_HOT = bytes.fromhex("d9d505f920a163d7")  # a rollback journal that is not finished
_RECORDS = {"tasks": "task", "message_queue": "message"}
_ENCODINGS = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}


@dataclass(slots=True)
class Queue:
    """The rows of each table, by their key; and what could not be read."""

    tables: dict[str, dict[str, Raw]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    def take(self, table: str) -> dict[str, Raw]:
        """The rows of one table, which is then no longer among the others."""
        return self.tables.pop(table, {})


class _Torn(Exception):
    """The copy is not one moment's."""


def read_queue(root: Folder) -> Queue:
    """Reads all tables of the queue in this folder; it may be missing. Waits for nothing: a queue
    that is written to is copied again, three times in all, and then refused.

    Raises Unavailable when there is no room for the copy.
    """
    queue = Queue()
    why = ""
    for _ in range(_TRIES):
        with tempfile.TemporaryDirectory(prefix="orch-import-") as private:
            try:
                queue.digests = _copy(root, Path(private))
                queue.files = list(queue.digests)
                _read(Path(private) / NAME, queue)
            except Missing:
                return queue
            except _Torn as exc:
                why = str(exc)
                continue
            except Denied as exc:
                why = str(exc)
            except OSError as exc:
                raise Unavailable(
                    f"The queue cannot be copied to {private} ({exc.strerror}); make room there, or"
                    " name another folder with TMPDIR."
                ) from exc
            else:
                return queue
        break
    queue.tables.clear()
    queue.refused = [Refused(NAME, why)]
    queue.files = [name for name in (NAME, _WAL, _JOURNAL) if _is_file(root, name)]
    queue.digests.clear()
    return queue


def _is_file(root: Folder, name: str) -> bool:
    try:
        root.first(name, 1)
    except Denied:
        return False
    return True


def _copy(root: Folder, private: Path) -> dict[str, str]:
    """Copies the database and its -wal, as they were at one moment; returns the SHA-256 of both.

    Raises Denied, Missing when there is no database, _Torn when it was written to meanwhile.
    """
    before = [root.stamp(name) for name in (NAME, _WAL, _JOURNAL)]
    files = [NAME]
    stamps = [root.copy(NAME, private / NAME, _LIMIT)]
    try:
        stamps.append(root.copy(_WAL, private / _WAL, _LIMIT))
        files.append(_WAL)
    except Missing:
        pass
    hot = _is_hot(root)
    after = [root.stamp(name) for name in (NAME, _WAL, _JOURNAL)]
    if before != after or stamps != [stamp for stamp in after[:2] if stamp]:
        raise _Torn("it is written to all the time; end the old system's processes first")
    if hot:
        raise _Torn(
            "a change to it is unfinished (task_queue.db-journal); let the old system open it once,"
            " end it, and try again"
        )
    if not stamps[0].size:
        raise Denied("empty (0 bytes)")
    return {name: _digest(private / name) for name in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_hot(root: Folder) -> bool:
    try:
        return root.first(_JOURNAL, len(_HOT)) == _HOT
    except Missing:
        return False


def _read(path: Path, queue: Queue) -> None:
    with path.open("rb") as copy:
        if copy.read(len(_MAGIC)) != _MAGIC:
            raise Denied("no SQLite database")
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        _distrust(db)
        damage = db.execute("pragma quick_check(1)").fetchone()
        if damage is None or damage[0] != "ok":
            raise _Torn(f"damaged ({printable(str(damage[0] if damage else damage))})")
        encoding = _ENCODINGS[str(db.execute("pragma encoding").fetchall()[0][0])]
        for table in _tables(db):
            queue.tables[table] = dict(_rows(db, table, encoding, queue.findings))
    except (apsw.Error, UnicodeDecodeError) as exc:
        raise _Torn(f"damaged ({printable(str(exc))})") from exc
    finally:
        db.close()


def _distrust(db: apsw.Connection) -> None:
    """Lets nothing that the file says run: no triggers, views or functions of its schema."""
    for setting, value in (
        (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
        (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0),
    ):
        db.config(setting, value)
    db.execute("pragma cell_size_check = on").fetchall()


def _tables(db: apsw.Connection) -> list[str]:
    found = db.execute(
        "select name from pragma_table_list where schema = 'main' and type = 'table'"
        " and name not like 'sqlite~_%' escape '~' order by name"
    )
    return [str(row[0]) for row in found]


def _rows(
    db: apsw.Connection, table: str, encoding: str, findings: list[Finding]
) -> Iterator[tuple[str, Raw]]:
    """The rows of a table, each with a key that is its own: its primary key, else its place.

    Text is taken as bytes, since what is stored as text may be none.
    """
    info = db.execute("select name, pk from pragma_table_info(?) order by cid", (table,)).fetchall()
    names = [str(name) for name, _ in info]
    keys = [str(name) for pk, name in sorted((pk, name) for name, pk in info) if pk]
    wanted = ", ".join(
        f"typeof({name}) = 'text', iif(typeof({name}) = 'text', cast({name} as blob), {name})"
        for name in map(_quoted, names)
    )
    seen = set[str]()
    for place, row in enumerate(db.execute(f"select {wanted} from {_quoted(table)}")):  # noqa: S608
        raw: dict[str, Any] = {}
        told: list[str] = []
        for at, name in enumerate(names):
            raw[name], note = _value(bool(row[2 * at]), row[2 * at + 1], encoding)
            if note:
                told.append(f"{printable(name, 40)} holds {note}")
        key = ":".join(str(raw[name]) for name in keys)
        if not key or key in seen:
            key = f"{key}#{place}"
        seen.add(key)
        where = printable(f"{_RECORDS.get(table, table)}:{key}") if told else ""
        findings.extend(Finding(where, text) for text in told)
        yield key, raw


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _value(is_text: bool, value: Any, encoding: str) -> tuple[Any, str]:
    """A value as JSON has it, and what is to be told when that is another."""
    if is_text:
        try:
            return bytes(value).decode(encoding), ""
        except UnicodeDecodeError:
            mended = bytes(value).decode(encoding, errors="replace")
            return mended, "text that is no Unicode; read with U+FFFD"
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}, ""
    if isinstance(value, float) and not math.isfinite(value):
        text = "Infinity" if value > 0 else "-Infinity"
        return text, f"an infinite number; kept as the text '{text}'"
    return value, ""
