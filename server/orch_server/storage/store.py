"""The store: one thread writes, with group commit; a few threads read.

`write(unit)` puts a unit of work into the queue and returns when it is on disk. The writing thread
takes all units that wait, runs them in one transaction, commits once and answers them all. When one
of them raises, all is rolled back and run again with a savepoint for each, so that it fails alone:
a unit must therefore change nothing but the transaction. Events that a unit emits are stored in the
same transaction and published after the commit, in order; so are links of the audit, whose head is
written before anybody is answered. Never await inside a unit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import apsw
from peewee import IntegrityError, PeeweeException

from orch_server.core.audit import Link, facts_text
from orch_server.core.clock import Clock
from orch_server.core.errors import Conflict, StartupError, StoreUnavailable
from orch_server.core.event import Event
from orch_server.storage import audit, database
from orch_server.storage.columns import micros

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
        self.links: list[Link] = []
        self._first = first_event
        self._connection: apsw.Connection = db.connection()

    def execute(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Runs one statement to its end and returns all of its rows."""
        return self._connection.execute(sql, params).fetchall()

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

    def audit(
        self,
        kind: str,
        subject: str,
        *,
        session: str = "",
        agent: str = "",
        actor: str = "",
        detail: str = "",
        **facts: str | int,
    ) -> None:
        """Records a change as `emit` does, and in the audit's chain, with more that is known."""
        event = self._first + len(self.events)
        self.emit(kind, subject, session=session, agent=agent, actor=actor, detail=detail)
        said = (kind, subject, session, agent, actor, detail)
        self.links.append(Link(event, micros(self.now), *said, facts_text(facts)))


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

    async def prune_audit(self, before: datetime) -> int:
        """Removes links of the audit from before this time behind a signed checkpoint; returns how
        many, 0 when no more may go."""
        return await self.write(lambda tx: audit.prune(tx, self._chain.seal, before))

    async def read(self, query: Callable[[database.Database], T]) -> T:
        """Runs a query on a reading thread."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._readers, query, self._read_db)
        except (PeeweeException, apsw.Error) as exc:  # apsw's own come from reading on in rows
            raise StoreUnavailable(f"The database cannot be read ({exc}); see the log.") from exc

    # ---- on the writing thread ----

    def _run(self) -> None:
        try:
            identity = self._prepare()
        except Exception as exc:  # the thread must not die without a word
            self._answer(self._opened, exc)
            return
        self._answer(self._opened, identity)
        while (batch := self._take()) is not None:
            self._commit(batch)
        self._chain.catch_up()
        with contextlib.suppress(PeeweeException, apsw.Error):
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
        self._open_audit(row[0])
        return StoreIdentity(row[0], bytes.fromhex(row[1]))

    def _open_audit(self, generation: str) -> None:
        """Goes on with the audit; what is wrong with it becomes its next link."""
        try:
            self._chain, broken = audit.open_chain(self._db, self._path, generation)
            with self._transaction() as tx:
                audit.tell_start(tx, self._chain, broken)
        except (OSError, OverflowError, apsw.Error, PeeweeException, StoreUnavailable) as exc:
            raise StartupError(
                f"The audit of {self._path} cannot go on ({exc}); see docs/reference/audit.md."
            ) from exc
        self._chain.catch_up()
        self._next_event += len(tx.events)

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
        events: list[Event] = []
        try:
            results, events = self._together(batch)
        except Exception as exc:  # top of the writing loop: whatever it is goes to its caller
            results, events = self._one_failed(batch, exc)
        self._next_event += len(events)
        self.commits += 1
        self._call(self._settle, [job.future for job in batch], results, events)

    def _together(self, batch: list[_Job[Any]]) -> tuple[list[Any], list[Event]]:
        """Runs all units in one transaction; raises what the first of them raises."""
        with self._transaction() as tx:
            return [job.unit(tx) for job in batch], tx.events

    def _one_failed(self, batch: list[_Job[Any]], exc: Exception) -> tuple[list[Any], list[Event]]:
        """After a rollback: each unit on its own, unless the database itself is at fault."""
        if len(batch) == 1 and not _is_database_fault(exc):
            return [_told(exc)], []
        try:
            with self._transaction() as tx:
                return [self._attempt(tx, job) for job in batch], tx.events
        except Exception as again:  # the database, or the disk under it
            logger.exception("commit failed", extra={"units": len(batch)})
            return [_unavailable(again)] * len(batch), []

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        tx = Transaction(self._db, self._clock.now(), self._next_event)
        tx.execute("begin immediate")
        tx.now = self._clock.now()  # the lock may have come late
        try:
            yield tx
            self._store_events(tx)
            end = self._chain.store(tx) if tx.links else None
            tx.execute("commit")
        finally:
            if self._db.connection().in_transaction:
                tx.execute("rollback")
        if end is not None:
            self._chain.committed(end)

    def _attempt(self, tx: Transaction, job: _Job[Any]) -> Any:
        """Runs one unit in a savepoint; returns its result, or the exception it raised."""
        events, links = len(tx.events), len(tx.links)
        tx.execute("savepoint unit")
        try:
            result = job.unit(tx)
        except Exception as exc:  # it goes to the caller of the unit
            if _is_database_fault(exc):
                raise
            del tx.events[events:], tx.links[links:]
            tx.execute("rollback to unit")
            result = _told(exc)
        tx.execute("release unit")
        return result

    def _store_events(self, tx: Transaction) -> None:
        if tx.events:
            rows = [
                (e.number, micros(e.at), e.kind, e.subject, e.session, e.agent, e.actor, e.detail)
                for e in tx.events
            ]
            self._db.connection().executemany(_INSERT_EVENT, rows).fetchall()

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


def _is_database_fault(exc: Exception) -> bool:
    """Whether the database failed, rather than the unit."""
    constraint = (IntegrityError, apsw.ConstraintError)
    return isinstance(exc, PeeweeException | apsw.Error) and not isinstance(exc, constraint)


def _told(exc: Exception) -> Exception:
    """What the caller of a unit hears: a broken constraint means that something else changed."""
    if isinstance(exc, IntegrityError | apsw.ConstraintError):
        conflict = Conflict(f"Something this needs was changed meanwhile ({exc}); try again.")
        conflict.__cause__ = exc
        return conflict
    return exc


def _unavailable(exc: Exception) -> StoreUnavailable:
    text = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    return StoreUnavailable(f"The database took no write ({text}); nothing was changed, try again.")
