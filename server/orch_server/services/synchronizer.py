"""The synchroniser: compares the store with tmux, repairs what is safe, reports the rest.

core/sync.py says what a difference is; services/sync_repairs.py repairs. Nothing here ends anything
in tmux, and a tmux that does not answer is never taken for one that is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import tenacity

from orch_server.core import sync, sync_names
from orch_server.core.clock import Clock
from orch_server.core.errors import Draining, Unavailable
from orch_server.core.sync import Mismatch, MismatchKind
from orch_server.core.sync_view import StoreView, TmuxServer
from orch_server.services.agents import AgentRegistry
from orch_server.services.events import LocalBus
from orch_server.services.sync_repairs import Repairs
from orch_server.storage import mismatches
from orch_server.storage.store import Store
from orch_server.tmux import worktrees
from orch_server.tmux.finder import PaneFinder
from orch_server.tmux.watch import ProcessWatch

_EVERY = timedelta(minutes=5)
_QUIET, _LONGEST = 1.0, 5.0
_PANES = 256
_WAKING = frozenset({"agent.registered", "agent.ended", "agent.lost"})


class _Nameless(Exception):
    """Names are missing that could not be told from what tmux and the store know."""


_NAME_TRIES = tenacity.AsyncRetrying(
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_exponential(multiplier=1, max=2),
    retry=tenacity.retry_if_exception_type(_Nameless),
    reraise=True,
)
_View = tuple[StoreView, dict[str, TmuxServer]]


class Synchronizer:
    """Compares every 5 min, and soon after a tmux server or a pane has ended. `generation` is the
    store's, by which it knows its marks."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        finder: PaneFinder,
        clock: Clock,
        generation: str,
        backups: Path,
        bus: LocalBus,
        repairs: Repairs,
    ) -> None:
        self._store = store
        self._registry = registry
        self._finder = finder
        self._clock = clock
        self.generation = generation
        self._backups = backups
        self._bus = bus
        self._repairs = repairs
        self._running = asyncio.Lock()
        self.changed = asyncio.Event()
        self._burst = Burst(self.changed.set)
        self._processes = ProcessWatch(self._burst.poke)
        self._watching = False

    async def run_due(self) -> datetime:
        """Compares and repairs; returns when it wants to be called again."""
        await self.synchronize(dry_run=False)
        return self._clock.now() + _EVERY

    async def watch(self) -> None:
        """Listens for what may have changed tmux, until cancelled."""
        self._watching = True
        try:
            while True:
                try:
                    with self._bus.subscribe(lambda event: event.kind in _WAKING) as events:
                        async for _ in events:
                            self._burst.poke()
                except Draining:  # the server stops: this loop is cancelled in a moment
                    await asyncio.Event().wait()
                except Unavailable:  # too many came: that is a reason to look
                    self._burst.poke()
        finally:
            self._watching = False
            self._burst.close()
            self._processes.close()

    async def synchronize(self, dry_run: bool) -> tuple[list[Mismatch], list[str]]:
        """The differences by kind and subject, and the sockets that did not answer.

        With `dry_run` nothing is repaired and nothing is written.
        """
        async with self._running:
            named: list[Mismatch] = []
            store, tmux = await self._look()
            if not dry_run and not sync.unanswered(tmux) and sync_names.missing_names(store, tmux):
                named = await self._repair_names()
                store, tmux = await self._look()
            found = sync.compare(store, tmux, self._clock.now())
            silent = sync.unanswered(tmux)
            if not dry_run:
                found = [*named, *await self._repairs.repair(store, tmux, found)]
                await self._store.write(lambda tx: mismatches.record(tx, found, silent))
                # Only now: that the session is gone is known from its agents' panes until then.
                await self._repairs.release(sync.homeless(store, tmux, found))
                if self._watching:
                    self._follow(store, tmux)
        told = sorted((m for m in found if not m.in_grace), key=lambda m: m.key)
        return told, silent

    async def _look(self) -> _View:
        """What the store holds, and then what tmux has: a pane that came between is no difference
        then."""
        agents = tuple(self._registry.all())
        stored = await self._store.read(mismatches.load)
        host, default = self._finder.host, self._finder.default_socket
        sockets = {default, *self._registry.sockets(host), *(s for *_, s in stored.known if s)}
        servers = await asyncio.gather(*(self._finder.look(socket) for socket in sorted(sockets)))
        tmux = {server.socket: server for server in servers}
        here = [a for a in agents if a.incarnation is None or a.incarnation.host == host]
        known = {agent.id: stored.details[agent.id] for agent in here if agent.id in stored.details}
        seen = await worktrees.look(
            self._finder.calls,
            {detail.worktree_path for detail in known.values() if detail.worktree_path},
            {pane.pid for agent in here for pane in sync.places(agent, tmux)},
            {a.incarnation.server_pid for a in here if a.incarnation is not None},
        )
        view = StoreView(
            host=host,
            generation=self.generation,
            default_socket=default,
            backups=str(self._backups),
            sessions=stored.sessions,
            agents=agents,
            details=stored.details,
            names=stored.names,
            living=seen.servers,
            lost_paths=seen.lost,
            worktrees=seen.worktrees,
            known=stored.known,
            imported=stored.imported,
        )
        return view, tmux

    async def _repair_names(self) -> list[Mismatch]:
        """Gives sessions their missing names; those that get none in three tries are given up."""
        repaired: list[Mismatch] = []
        try:
            async for attempt in _NAME_TRIES.copy():
                with attempt:
                    if await self._try_names(repaired):
                        raise _Nameless
        except _Nameless:
            await self._give_up_nameless()
        return repaired

    async def _try_names(self, repaired: list[Mismatch]) -> bool:
        """Repairs what can be; returns whether another try may tell more."""
        store, tmux = await self._look()
        if sync.unanswered(tmux):
            return False  # no verdict: the next run looks again
        names = sync_names.missing_names(store, tmux)
        found = sync.compare(store, tmux, self._clock.now())
        for mismatch in found:
            name = names[mismatch.session][0] if mismatch.session in names else None
            if (
                mismatch.kind is MismatchKind.NAME_MISSING
                and name is not None
                and await self._repairs.rename(mismatch.session, name)
            ):
                repaired.append(replace(mismatch, repaired=True))
        return any(name is None for name, _ in names.values())

    async def _give_up_nameless(self) -> None:
        store, tmux = await self._look()
        if sync.unanswered(tmux):
            return
        for session, (name, fitting) in sync_names.missing_names(store, tmux).items():
            if name is None:
                why = sync_names.why_unnamed(store.sessions[session], store, fitting)
                await self._repairs.give_up(session, why)

    def _follow(self, store: StoreView, tmux: dict[str, TmuxServer]) -> None:
        """Watches the tmux servers, and the first processes of the agents' panes."""
        places = (sync.places(agent, tmux)[:1] for agent in store.agents)
        panes = [pane.pid for found in places for pane in found if not pane.dead]
        servers = [server.pid for server in tmux.values()]
        self._processes.follow([*servers, *panes[:_PANES]])


class Burst:
    """Calls `fire` once for many pokes: after a second without one, at the latest after five."""

    def __init__(self, fire: Callable[[], None]) -> None:
        self._fire = fire
        self._timer: asyncio.TimerHandle | None = None
        self._latest = 0.0

    def poke(self) -> None:
        """Something happened."""
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._latest = loop.time() + _LONGEST
        else:
            self._timer.cancel()
        self._timer = loop.call_at(min(loop.time() + _QUIET, self._latest), self._over)

    def close(self) -> None:
        """Nothing is fired any more for what happened before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        self._timer = None
        self._fire()
