"""Writes into a store without end and prints each row's id after it was acknowledged."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from orch_server.core.clock import SystemClock
from orch_server.storage import agents, tasks
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store
from tests.storage.parts import agent, task

WRITERS = 8


async def write(store: Store) -> None:
    """One of many writers."""
    while True:
        task_id = new_id()
        kept = await store.write(lambda tx, t=task_id: tasks.insert(tx, task(t), t, 100_000))
        os.write(1, f"{kept}\n".encode())


async def main() -> None:
    """Runs until it is killed."""
    store = Store(Path(sys.argv[1]), SystemClock(), lambda events: None)
    await store.open()
    await store.write(lambda tx: agents.register(tx, agent(), "test"))
    await asyncio.gather(*(write(store) for _ in range(WRITERS)))


asyncio.run(main())
