"""Kills, and meddles: each of these tasks goes on until it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tests.faults.arena import Arena

_DELETE = "C-x"  # how the person at a fake agent deletes a draft that has stood for a second


class Chaos:
    """`pace` is about how many seconds lie between two kills of the server."""

    def __init__(self, arena: Arena, pace: float) -> None:
        self._arena = arena
        self._pace = pace
        self._dice = random.Random(f"chaos {arena.seed}")
        self._tasks: list[asyncio.Task[None]] = []
        self.kills: Counter[str] = Counter()

    def start(self) -> None:
        """Starts all of it."""
        todo = (
            self._servers(),
            self._clients(),
            self._tmux_clients(),
            self._views(),
            self.person(),
        )
        self._tasks = [asyncio.create_task(one) for one in todo]

    async def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work; raises at once when a part of the chaos fails."""
        task = asyncio.create_task(work)
        done, _ = await asyncio.wait([task, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        for one in done:
            one.result()

    async def stop(self) -> None:
        """Ends all of it but the person; what is being restarted is running again then. Raises
        what one of them has raised."""
        for task in self._tasks[:-1]:
            task.cancel()
        await self._gather(self._tasks[:-1])

    async def leave(self) -> None:
        """Ends the person too."""
        for task in self._tasks:
            task.cancel()
        await self._gather(self._tasks)

    async def person(self) -> None:
        """Deletes what stands unsent in a composer and keeps a delivery out."""
        arena = self._arena
        panes = {agent.address: arena.where for agent in arena.agents}
        while True:
            await asyncio.sleep(0.5)
            for address in _blocked(arena.home.path / "orch.db"):
                if address in panes:
                    agent = next(a for a in arena.agents if a.address == address)
                    await self._tmux("send-keys", "-t", arena.where[agent], _DELETE)

    async def _servers(self) -> None:
        while True:
            await asyncio.sleep(self._dice.uniform(0.3, 2 * self._pace))
            await _finished(asyncio.to_thread(self._arena.restart_server))
            self.kills["server"] += 1

    async def _clients(self) -> None:
        while True:
            await asyncio.sleep(self._dice.uniform(0.2, self._pace))
            args = self._dice.choice(list(self._arena.clients))
            await _finished(asyncio.to_thread(self._arena.restart_client, args))
            self.kills["--all" if args[0] == "--all" else "client"] += 1

    async def _tmux_clients(self) -> None:
        """They live for milliseconds, so it looks closely for a moment, then rests."""
        while True:
            await asyncio.sleep(self._dice.uniform(0.05, 0.4))
            parent = self._dice.choice(self._arena.own_processes())
            for _ in range(20):
                found = _tmux_children(parent)
                if found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self._dice.choice(found), signal.SIGKILL)
                        self.kills["tmux client"] += 1
                    break
                await asyncio.sleep(0.002)

    async def _views(self) -> None:
        """Enters and leaves copy mode, and changes sizes."""
        while True:
            await asyncio.sleep(self._dice.uniform(0.1, 0.8))
            pane = self._dice.choice(list(self._arena.where.values()))
            if self._dice.random() < 0.6:
                await _finished(self._scroll_back(pane, self._dice.uniform(0.05, 0.8)))
                self.kills["(copy mode)"] += 1
            else:
                width, height = self._dice.randint(45, 180), self._dice.randint(16, 60)
                await self._tmux("resize-window", "-t", pane, "-x", str(width), "-y", str(height))
                self.kills["(resized)"] += 1

    async def _scroll_back(self, pane: str, seconds: float) -> None:
        await self._tmux("copy-mode", "-t", pane)
        await asyncio.sleep(seconds)
        await self._tmux("send-keys", "-t", pane, "-X", "cancel")

    async def _tmux(self, *args: str) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(lambda: self._arena.tmux.run(*args, check=False))

    @staticmethod
    async def _gather(tasks: list[asyncio.Task[None]]) -> None:
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Awaits to the end, also when this task is cancelled meanwhile."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _blocked(store: Path) -> list[str]:
    """The agents before whom a draft stands, while nothing of ours is on its way in."""
    db = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)
    try:
        rows = db.execute(
            "select distinct a.session || ':' || a.role from delivery d"
            " join agent a on a.id = d.agent_id"
            " where d.state = 'PENDING' and d.reason = 'DRAFT_IN_COMPOSER' and not exists (select 1"
            " from delivery o where o.agent_id = a.id and o.state in ('OFFERED', 'PASTED'))"
        ).fetchall()
        return [row[0] for row in rows]
    finally:
        db.close()


def _tmux_children(parent: int) -> list[int]:
    """The tmux clients that this process has started."""
    found = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in task.read_text().split():
                if Path(f"/proc/{pid}/comm").read_text().startswith("tmux"):
                    found.append(int(pid))
    return found
