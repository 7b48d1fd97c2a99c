"""The bare group commit: one writing thread, the product's tables, and nothing else.

    python -m bench.group_commit FOLDER CALLERS [update]

A new task for each row, or with `update` a change of the caller's own session. As many asyncio
waiters as the RPC has callers, each with its next row as soon as the one before is
on disk. A fresh database for each measurement, since a longer table is slower.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import uvloop

from bench import child, frames
from orch_server.storage import database

_BATCH = 256
_AGENT = "0" * 12
_INSERT = """insert into task (id, agent_id, note, due_at, state, creator, created_at, request_id,
    form, every, cron, time_zone, jitter, end_at, first_at, next_at, look_at, catch_up, missed,
    mode, note_key)
    values (?1, ?2, ?3, ?4, 'PENDING', ?5, ?6, ?7, 'ONCE', 0, '', '', 0, null, ?4, ?4, ?4,
    3600000000, 'ONE', 'WAIT_IDLE', ?8)"""
_SESSION_ROW = """insert into session (name, created_at, updated_at, version, specification_path,
    parent_branch, phase, plan, completion, failure_reason)
    values ('bench', 0, 0, 1, '', '', 'ACTIVE', '', 'PENDING', '')"""
_AGENT_ROW = f"""insert into agent values
    (1, '{_AGENT}', 'bench', 'agent-0', '', '', '', 0, 0, '', 0, 0, '', 0, null, '', 0, 0, 0, '')"""

_SESSIONS = f"""insert into session (name, created_at, updated_at, version, specification_path,
    parent_branch, phase, plan, completion, failure_reason)
    with recursive n (i) as (select 0 union all select i + 1 from n where i < 99)
    select '{frames.SESSION}-' || i, 0, 0, 1, '', '', 'ACTIVE', '', 'PENDING', '' from n"""
_UPDATE = """update session set parent_branch = ?, phase = 'REVIEW', version = version + 1,
    updated_at = ? where name = ?"""

_Job = tuple[str, tuple[Any, ...], "asyncio.Future[None]"]


class Writer:
    """One connection on one thread; `write` returns when the row is on disk."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._db = apsw.Connection(str(path))
        for pragma in ("journal_mode=wal", "synchronous=full", "foreign_keys=1"):
            self._db.execute(f"pragma {pragma}").fetchall()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def write(self, request_id: str) -> None:
        """Writes a task; returns when it is on disk."""
        future = self._loop.create_future()
        now = time.time_ns() // 1000
        due = now + 3_600_000_000
        note, key = frames.note(request_id), secrets.randbits(63)
        row = (secrets.token_hex(6), _AGENT, note, due, "operator", now, request_id, key)
        self._jobs.put((_INSERT, row, future))
        await future

    async def update(self, index: int) -> None:
        """Changes a caller's session; returns when that is on disk."""
        future = self._loop.create_future()
        row = (secrets.token_hex(8), time.time_ns() // 1000, frames.session_name(index))
        self._jobs.put((_UPDATE, row, future))
        await future

    async def close(self) -> None:
        """Ends the thread, once nobody waits for a row."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._db.close()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            while len(batch) < _BATCH:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                assert more is not None, "closed while rows wait"
                batch.append(more)
            self._commit([(sql, row) for sql, row, _ in batch])
            self._loop.call_soon_threadsafe(_settle, [future for *_, future in batch])

    def _commit(self, rows: list[tuple[str, tuple[Any, ...]]]) -> None:
        execute = self._db.execute
        execute("begin immediate")
        for sql, row in rows:
            execute("savepoint unit")
            execute(sql, row)
            execute("release unit")
        execute("commit")


def _settle(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


async def _call(writer: Writer, index: int, updates: bool, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        await (writer.update(index) if updates else writer.write(secrets.token_hex(16)))
        count += 1
    return count


def template(path: Path) -> None:
    """An empty database with the product's schema, one agent and a hundred sessions."""
    path.unlink(missing_ok=True)
    db = database.writer(path)
    database.prepare(db, path, path.parent, "")
    for row in (_SESSION_ROW, _AGENT_ROW, _SESSIONS):
        db.execute_sql(row).fetchall()
    db.close()


def _measuring(folder: Path, callers: int, updates: bool) -> Callable[[float], Any]:
    empty, path = folder / "bare-template.db", folder / "bare.db"
    template(empty)

    async def measure(seconds: float) -> child.Answer:
        shutil.copy(empty, path)
        writer = Writer(path)
        start = time.perf_counter()
        end = start + seconds
        calls = (_call(writer, index, updates, end) for index in range(callers))
        counts = await asyncio.gather(*calls)
        elapsed = time.perf_counter() - start
        await writer.close()
        return {"count": sum(counts), "seconds": elapsed}

    return measure


if __name__ == "__main__":
    _updates = sys.argv[3:] == ["update"]
    uvloop.run(child.serve(_measuring(Path(sys.argv[1]), int(sys.argv[2]), _updates)))
