"""The store: one thread writes, with group commit; a few threads read.

`write(unit)` puts a unit of work into the queue and returns when it is on disk. The writing thread
takes all units that wait, runs each in its own savepoint inside one transaction, commits once and
answers them all. A unit that raises rolls back alone. Events that a unit emits are stored in the
same transaction and published after the commit, in order. Never await inside a unit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from peewee import IntegrityError, PeeweeException

from orch_server.core.clock import Clock
from orch_server.core.errors import OrchError, StoreUnavailable
from orch_server.core.event import Event
from orch_server.storage import database
from orch_server.storage.tables import micros

logger = logging.getLogger(__name__)

T = TypeVar("T")
_BATCH = 256
_READERS = 2
_INSERT_EVENT = (
    "insert into event (number, at, kind, subject, session, agent, actor, detail)"
    " values (?, ?, ?, ?, ?, ?, ?, ?)"
)


class Transaction:
    """What a unit of work may use: the database and the events of this transaction."""

    def __init__(self, db: database.Database, now: datetime, first_event: int) -> None:
        self.db = db
        self.now = now
        self.events: list[Event] = []
        self._first = first_event

    def execute(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Runs one statement to its end and returns all of its rows."""
        rows: list[tuple[Any, ...]] = self.db.execute_sql(sql, params).fetchall()
        return rows

    def emit(
        self,
        kind: str,
        subject: str,
        *,
        session: str = "",
        agent: str = "",
        actor: str = "",
        detail: str = "",
    ) -> None:
        """Records a change, to be published after the commit."""
        number = self._first + len(self.events)
        self.events.append(Event(number, self.now, kind, subject, session, agent, actor, detail))


@dataclass(slots=True)
class _Job(Generic[T]):
    unit: Callable[[Transaction], T]
    future: asyncio.Future[T]


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """What a store is: its generation (new for each database) and the key that signs tokens."""

    generation: str
    token_key: bytes


class Store:
    """The one owner of the database file."""

    def __init__(self, path: Path, clock: Clock, publish: Callable[[list[Event]], None]) -> None:
        self._path = path
        self._clock = clock
        self._publish = publish
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._db = database.writer(path)
        self._read_db = database.reader(path)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")
        self._opened: asyncio.Future[StoreIdentity] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.commits = 0

    async def open(self) -> StoreIdentity:
        """Starts the writing thread; raises StartupError when the database cannot be used."""
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self._thread.start()
        return await self._opened

    async def close(self) -> None:
        """Writes what waits, checkpoints and closes."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._readers.shutdown)

    async def write(self, unit: Callable[[Transaction], T]) -> T:
        """Runs the unit and returns its result once it is on disk.

        Raises what the unit raised, or StoreUnavailable when nothing could be committed.
        """
        if self._closed or self._loop is None:
            raise StoreUnavailable("The store is closed, since the server stops; try again.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(unit, future))
        return await future

    async def read(self, query: Callable[[database.Database], T]) -> T:
        """Runs a query on a reading thread."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, query, self._read_db)
        except PeeweeException as exc:
            raise StoreUnavailable(f"The database cannot be read ({exc}); see the log.") from exc

    # ---- on the writing thread ----

    def _run(self) -> None:
        try:
            identity = self._prepare()
        except OrchError as exc:
            self._answer(self._opened, exc)
            return
        self._answer(self._opened, identity)
        while (batch := self._take()) is not None:
            self._commit(batch)
        with contextlib.suppress(PeeweeException):
            self._db.execute_sql("pragma wal_checkpoint(truncate)").fetchall()
        self._db.close()

    def _prepare(self) -> StoreIdentity:
        stamp = self._clock.now().strftime("%Y%m%dT%H%M%SZ")
        database.prepare(self._db, self._path, self._path.parent / "backups", stamp)
        self._db.execute_sql(
            "insert or ignore into store (only, generation, token_key, offer_sequence)"
            " values (1, ?, ?, 0)",
            (secrets.token_hex(4), secrets.token_hex(32)),
        ).fetchall()
        row = self._db.execute_sql("select generation, token_key from store").fetchone()
        last = self._db.execute_sql("select coalesce(max(number), 0) from event").fetchone()
        self._next_event = last[0] + 1
        return StoreIdentity(row[0], bytes.fromhex(row[1]))

    def _take(self) -> list[_Job[Any]] | None:
        """Waits for a job, then takes all that wait with it. None: the end."""
        job = self._jobs.get()
        if job is None:
            return None
        batch = [job]
        while len(batch) < _BATCH:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            batch.append(job)
        return batch

    def _commit(self, batch: list[_Job[Any]]) -> None:
        tx = Transaction(self._db, self._clock.now(), self._next_event)
        results: list[Any] = []
        try:
            with self._db.atomic("IMMEDIATE"):
                for job in batch:
                    results.append(self._attempt(tx, job))
                self._store_events(tx.events)
        except PeeweeException as exc:
            logger.exception("commit failed", extra={"error": str(exc), "units": len(batch)})
            tx.events.clear()
            results = [_unavailable(exc)] * len(batch)
        self._next_event += len(tx.events)
        self.commits += 1
        self._call(self._settle, [job.future for job in batch], results, tx.events)

    def _attempt(self, tx: Transaction, job: _Job[Any]) -> Any:
        """Runs one unit in its savepoint; returns its result, or the exception it raised."""
        events = len(tx.events)
        try:
            with self._db.savepoint():
                return job.unit(tx)
        except IntegrityError as exc:
            del tx.events[events:]
            return exc
        except PeeweeException:
            raise  # the database itself: the whole batch fails
        except Exception as exc:  # top of a loop: it goes to the caller of the unit
            del tx.events[events:]
            return exc

    def _store_events(self, events: list[Event]) -> None:
        if events:
            rows = [
                (e.number, micros(e.at), e.kind, e.subject, e.session, e.agent, e.actor, e.detail)
                for e in events
            ]
            self._db.cursor().executemany(_INSERT_EVENT, rows).fetchall()

    def _answer(self, future: asyncio.Future[Any] | None, result: Any) -> None:
        self._call(self._settle, [future], [result], [])

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            self._loop.call_soon_threadsafe(function, *args)

    # ---- on the event loop ----

    def _settle(
        self, futures: list[asyncio.Future[Any]], results: list[Any], events: list[Event]
    ) -> None:
        for future, result in zip(futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if events:
            self._publish(events)


def _unavailable(exc: Exception) -> StoreUnavailable:
    text = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    return StoreUnavailable(f"The database took no write ({text}); nothing was changed, try again.")
