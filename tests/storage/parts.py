"""What the tests of the store share: a store in a folder of its own, and rows to put into it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from orch_server.core.agent import Agent, Liveness
from orch_server.core.clock import ManualClock
from orch_server.core.delivery import NewDelivery, Priority
from orch_server.core.event import Event
from orch_server.core.identity import Incarnation
from orch_server.core.schedule import Form, Schedule
from orch_server.core.task import Task
from orch_server.storage import agents
from orch_server.storage.store import Store, StoreIdentity

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
PANE = Incarnation("elsewhere", "/tmp/tmux.sock", 100, 1_700_000_000, "%1")
PATIENCE = 20.0


@dataclass
class Opened:
    """An open store, its clock, and what it has published."""

    store: Store
    clock: ManualClock
    identity: StoreIdentity
    path: Path
    batches: list[list[Event]] = field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Opened]:
    """A store on orch.db in this folder; closed at the end."""
    batches: list[list[Event]] = []
    clock = ManualClock(START)
    store = Store(folder / "orch.db", clock, batches.append)
    try:
        identity = await asyncio.wait_for(store.open(), PATIENCE)
        yield Opened(store, clock, identity, folder / "orch.db", batches)
    finally:
        await asyncio.wait_for(store.close(), PATIENCE)


@asynccontextmanager
async def writer_held(store: Store) -> AsyncIterator[None]:
    """Keeps the writing thread busy for as long as the block lasts: what is written, waits."""
    entered, release = threading.Event(), threading.Event()

    def unit(_: object) -> None:
        entered.set()
        assert release.wait(PATIENCE)

    held = asyncio.create_task(store.write(unit))
    assert await asyncio.to_thread(entered.wait, PATIENCE)
    try:
        yield
    finally:
        release.set()
        await held


def agent(name: str = "dev", epoch: int = 1, pane: Incarnation | None = PANE) -> Agent:
    """An agent with this id and role, in session atlas."""
    return Agent(
        id=name,
        session="atlas",
        role=name,
        kind="generic",
        incarnation=pane,
        pane_pid=4242,
        epoch=epoch,
        liveness=Liveness.ALIVE,
        liveness_changed_at=START,
        last_check_in_at=None,
        client_version="0.1.0",
        created_at=START,
    )


async def add_agent(store: Store, known: Agent) -> None:
    """Writes the agent."""
    await store.write(lambda tx: agents.register(tx, known, "test"))


def text(
    key: str, priority: Priority = Priority.NORMAL, agent_id: str = "dev", **more: Any
) -> NewDelivery:
    """A delivery whose text and dedupe key are the same."""
    return NewDelivery(agent_id, key, "test", key, priority, START, **more)


def task(task_id: str, seconds: float = 0.0, note: str = "", **more: Any) -> Task:
    """A task for the agent dev, due so many seconds after the start."""
    at = START + timedelta(seconds=seconds)
    return Task(
        id=task_id,
        agent_id="dev",
        session="atlas",
        role="dev",
        note=note or f"note {task_id}",
        schedule=more.pop("schedule", Schedule(Form.ONCE, at)),
        next_at=at,
        due_at=at,
        creator="operator",
        created_at=START,
        **more,
    )
