"""Opens the database file: SQLite from apsw, the pragmas, the checks and the migrations.

SQLite comes with apsw since the operating system's own may have the WAL-reset bug (3.7.0-3.51.2).
Exactly one connection writes and checkpoints; readers cannot write (`query_only`).
"""

from __future__ import annotations

import logging
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import apsw
from peewee import DatabaseError, PeeweeException
from playhouse.apsw_ext import APSWDatabase
from playhouse.migrations import Runner

from orch_server.core.errors import StartupError

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
_FIRST_SAFE_SQLITE = (3, 51, 3)


class Database(APSWDatabase):  # type: ignore[misc]
    """A database whose connections also bind datetimes, which peewee's migration runner needs.

    It holds its connections itself, beside the threads that use them: when uvloop starts a process,
    the forked child drops what belongs to other threads, and closing a connection there would wait
    for ever for a mutex that one of them held. The event loop would wait with it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._held: list[apsw.Connection] = []

    def _connect(self) -> apsw.Connection:
        connection: apsw.Connection = super()._connect()
        connection.convert_binding = _bind
        self._held.append(connection)
        return connection

    def _close(self, connection: apsw.Connection) -> None:
        super()._close(connection)
        self._held.remove(connection)


def _bind(_cursor: apsw.Cursor, _index: int, value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(" ")
    raise TypeError(f"cannot store a {type(value).__name__}")


def writer(path: Path) -> Database:
    """The database for the one writing thread: an acknowledged commit is on disk."""
    return Database(
        str(path),
        pragmas={
            "journal_mode": "wal",
            "synchronous": "full",
            "foreign_keys": 1,
            "cache_size": -16_384,  # KiB; with SQLite's 2 MiB a write slows down as tables grow
        },
        lock_type="IMMEDIATE",
    )


def reader(path: Path) -> Database:
    """The database for a reading thread."""
    return Database(str(path), pragmas={"query_only": 1, "wal_autocheckpoint": 0})


def prepare(db: Database, path: Path, backups: Path, stamp: str) -> None:
    """Opens the file for writing, checks it and brings its schema up to date.

    Called on the writing thread, before anything else. Raises StartupError, in one sentence, when
    the file is read-only, damaged, or written by a newer version. A file that holds data is backed
    up to `backups` before its schema changes; `stamp` names that backup.
    """
    if db.server_version < _FIRST_SAFE_SQLITE:
        raise StartupError(f"apsw brings SQLite {db.server_version}; install apsw 3.51.3 or newer.")
    _check_writable(path)
    try:
        db.connect(reuse_if_open=True)
        db.execute_sql("begin immediate").fetchall()
        db.execute_sql("rollback").fetchall()
        damage = db.execute_sql("pragma quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise DatabaseError(damage)
    except (PeeweeException, apsw.Error) as exc:
        raise _explain(path, exc) from exc
    _migrate(db, path, backups, stamp)


def _check_writable(path: Path) -> None:
    if path.exists() and not path.stat().st_mode & stat.S_IWUSR:
        raise StartupError(f"The database {path} is read-only; make it writable: chmod u+w {path}")


def _explain(path: Path, exc: Exception) -> StartupError:
    text = str(exc).splitlines()[0]
    lowered = text.lower()
    if "readonly" in lowered or "unable to open" in lowered:
        return StartupError(
            f"The database {path} cannot be written ({text}); make the file and its folder writable"
            " for this user."
        )
    if "locked" in lowered or "busy" in lowered:
        return StartupError(f"Another program writes to {path}; end it, then start again.")
    return StartupError(
        f"The database {path} is damaged ({text}); move it away and put a backup from the folder"
        f" {path.parent / 'backups'} in its place, or start without it."
    )


def _migrate(db: Database, path: Path, backups: Path, stamp: str) -> None:
    runner = Runner(db, str(MIGRATIONS))
    status = runner.status()
    unknown = [m.name for m in status if m.path is None]
    if unknown:
        raise StartupError(
            f"The database {path} was written by a newer version (it has the migration"
            f" {unknown[-1]}); run that version, or put back a backup made before."
        )
    pending = [m.name for m in status if not m.applied]
    if not pending:
        return
    try:
        if any(m.applied for m in status):
            backup(db, backups / f"before-{pending[0]}-{stamp}.db")
        applied = runner.up()
    except Exception as exc:  # a migration is a program; whatever it raises, it was rolled back
        raise StartupError(
            f"The database {path} could not be brought up to date ({exc}); it is unchanged, run the"
            " version that wrote it or put back a backup."
        ) from exc
    for name in applied:
        logger.info("migration applied", extra={"migration": name})


def backup(db: Database, target: Path) -> None:
    """Writes a copy of the database, as it is at this moment, into a new file for this user alone,
    and checks it. Raises FileExistsError, OSError, peewee's or apsw's error; then there is no file.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.touch(mode=0o600, exist_ok=False)
    try:
        _copy(db, target)
    except BaseException:
        target.unlink()
        raise
    logger.info("database backed up", extra={"file": str(target)})


def _copy(db: Database, target: Path) -> None:
    source: apsw.Connection = db.connection()
    outside = not source.in_transaction
    copy = apsw.Connection(str(target))
    try:
        if outside:  # one snapshot, else each commit of the writer would begin the copy anew
            source.execute("begin; select count(*) from sqlite_schema").fetchall()
        with copy.backup("main", source, "main") as running:
            while not running.done:
                running.step(1000)
        damage = copy.execute("pragma quick_check(1)").get
        if damage != "ok":
            raise DatabaseError(f"the copy {target.name} is damaged: {damage}")
    finally:
        copy.close()
        if outside and source.in_transaction:
            source.execute("rollback")
