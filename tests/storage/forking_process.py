"""A process that reads a database on several threads while its event loop starts processes."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import uvloop

from orch_server.storage import database

_BUSY = """with recursive c(x) as (select 1 union all select x + 1 from c where x < 200)
    select group_concat(x), hex(randomblob(100)) from c"""


def _idle(db: database.Database, connected: threading.Event, over: threading.Event) -> None:
    db.connect()
    connected.set()
    over.wait()


def _busy(path: Path, over: threading.Event) -> None:
    db = database.reader(path)
    db.connect()
    while not over.is_set():
        db.execute_sql(_BUSY).fetchall()


async def _start(count: int) -> None:
    for _ in range(count):
        await (await asyncio.create_subprocess_exec("true")).wait()


def main(path: Path, count: int) -> None:
    database.writer(path).connect()
    shared, over = database.reader(path), threading.Event()
    for _ in range(3):
        connected = threading.Event()
        args = (shared, connected, over)
        threading.Thread(target=_idle, args=args, daemon=True).start()
        connected.wait()
    for _ in range(2):
        threading.Thread(target=_busy, args=(path, over), daemon=True).start()
    uvloop.run(_start(count))
    over.set()
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
