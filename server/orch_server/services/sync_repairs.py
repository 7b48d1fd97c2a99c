"""The repairs of the synchroniser: those that lose nothing and end nothing.

Each looks again, just before it changes something, at whether what was seen is still so.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from orch_server.core import sync
from orch_server.core.agent import HELD, Agent
from orch_server.core.errors import Conflict, NotFound
from orch_server.core.sync import Mismatch, MismatchKind
from orch_server.core.sync_view import StoreView, TmuxView
from orch_server.services.agents import AgentRegistry
from orch_server.services.heartbeat import HeartbeatService
from orch_server.storage import agents as table
from orch_server.storage import mismatches
from orch_server.storage.store import Store, Transaction
from orch_server.tmux.bounded import TmuxUnanswered

logger = logging.getLogger(__name__)

#: What is repaired by writing what tmux and the files say.
_LEARNED = frozenset({MismatchKind.WINDOW_CHANGED, MismatchKind.WORKTREE_MISSING})
_Learned = list[tuple[Agent, dict[str, object]]]


class Repairs:
    """Changes agents and sessions to what tmux says. `settle` looks for an agent's pane anew and
    returns whether it has another one; `wake` looks at what waits for an agent."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        heartbeat: HeartbeatService,
        settle: Callable[[Agent], Awaitable[bool]],
        wake: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._heartbeat = heartbeat
        self._settle = settle
        self._wake = wake

    async def repair(
        self, store: StoreView, tmux: TmuxView, found: list[Mismatch]
    ) -> list[Mismatch]:
        """The differences, those that were repaired marked so."""
        by_address = {agent.address: agent for agent in store.agents}
        repaired = set()
        for mismatch in found:
            if mismatch.kind is MismatchKind.PANE_GONE and mismatch.safe:
                if await self._unbind(by_address[mismatch.subject]):
                    repaired.add(mismatch.key)
            elif mismatch.kind in _LEARNED and mismatch.safe:
                repaired.add(mismatch.key)
        await self._learn(store, tmux, found)
        await self._bring_home(store, tmux)
        return [replace(m, repaired=True) if m.key in repaired else m for m in found]

    async def rename(self, old: str, new: str) -> bool:
        """Gives a session its name, in the store and in memory; returns whether it could."""
        try:
            await self._store.write(lambda tx: mismatches.rename_session(tx, old, new))
        except (NotFound, Conflict) as exc:
            logger.info("session not renamed", extra={"session": old, "why": exc.message})
            return False
        for agent in self._registry.all(old):
            self._registry.put(replace(agent, session=new))
        return True

    async def give_up(self, session: str, reason: str) -> None:
        """Marks a session whose name nobody knows as failed."""
        await self._store.write(lambda tx: mismatches.fail_nameless(tx, session, reason))

    async def release(self, agents: list[Agent]) -> None:
        """Takes the panes that are gone from the agents of sessions that are gone."""
        for agent in agents:
            await self._unbind(agent)

    async def _unbind(self, agent: Agent) -> bool:
        """Takes the pane that is gone from an agent without a client, unless it has another one by
        now; returns whether it did."""
        at = agent.incarnation
        if at is None or self._heartbeat.partition_suspected or not self._is_same(agent):
            return False
        if await self._has_another_pane(agent):
            return True
        if not self._is_same(agent):
            return False
        freed = self._registry.unbind_pane(at)
        assert freed is not None
        self._heartbeat.on_liveness(freed)  # what was seen in the pane counts no more
        await self._store.write(lambda tx: table.register(tx, freed, actor=""))
        return True

    async def _bring_home(self, store: StoreView, tmux: TmuxView) -> None:
        """Agents that lost their pane get the one in which their role is now."""
        free = {
            pane.session
            for server in tmux.values()
            for pane in server.panes
            if not pane.dead and self._registry.in_pane(pane.incarnation) is None
        }
        for agent in store.agents:
            lived = agent.epoch > 0 or store.detail(agent).window_index is not None
            lost = lived and agent.incarnation is None and self._is_same(agent)
            if lost and agent.session in free:
                await self._has_another_pane(agent)

    async def _has_another_pane(self, agent: Agent) -> bool:
        try:
            settled = await self._settle(agent)
        except TmuxUnanswered as exc:
            logger.info("pane not looked for", extra={"agent": agent.id, "why": exc.message})
            return False
        home = self._registry.get(agent.id)
        if settled and home is not None:
            self._heartbeat.on_liveness(home)
            self._wake(agent.id)
        return settled

    async def _learn(self, store: StoreView, tmux: TmuxView, found: list[Mismatch]) -> None:
        """Writes windows and worktrees that are not known yet, or have changed."""
        moved = {m.subject for m in found if m.kind is MismatchKind.WINDOW_CHANGED}
        learned: _Learned = []
        for agent in store.agents:
            panes = sync.places(agent, tmux)
            if not panes or agent.incarnation is None or agent.incarnation.host != store.host:
                continue
            known = store.detail(agent)
            news: dict[str, object] = {}
            if known.window_index is None or agent.address in moved:
                news["window_index"] = panes[0].window_index
                news["window_name"] = panes[0].window_name
            if worktree := sync.new_worktree(agent, store, tmux):
                news |= {"worktree_path": worktree, "worktree_learned": True}
            if news:
                learned.append((agent, news))
        if learned:
            await self._store.write(lambda tx: _write(tx, learned))

    def _is_same(self, agent: Agent) -> bool:
        """Whether the agent is as it was seen, without a client."""
        return self._registry.get(agent.id) is agent and agent.liveness not in HELD


def _write(tx: Transaction, learned: _Learned) -> None:
    for agent, news in learned:
        mismatches.learn(tx, agent, news)
