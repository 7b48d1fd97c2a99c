"""Retention: what is too old goes, so that the database stays bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

from orch_server.core import cleanup as rules
from orch_server.core.cleanup import Cleaned
from orch_server.core.clock import Clock
from orch_server.core.errors import NotAllowed, StoreUnavailable
from orch_server.core.identity import Caller
from orch_server.services.agents import AgentRegistry
from orch_server.services.targets import Targets
from orch_server.storage import database, retention
from orch_server.storage.retention import Prunable
from orch_server.storage.store import Store, Transaction

logger = logging.getLogger(__name__)

_AGAIN = timedelta(days=1)


class Retention:
    """Prunes history once a day, and removes ended sessions when it is asked to. `days` is how long
    history is kept; 0: for ever. `forget` is told the ids of agents that were removed."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        targets: Targets,
        clock: Clock,
        days: int,
        backups: Path,
        forget: Callable[[Iterable[str]], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._targets = targets
        self._clock = clock
        self._days = days
        self._backups = backups
        self._forget = forget
        self._cleaning = asyncio.Lock()
        self.changed = asyncio.Event()

    async def run_due(self) -> datetime:
        """Prunes, and returns when it wants to be called again."""
        now = self._clock.now()
        if self._days:
            before = now - timedelta(days=self._days)
            gone = {what.table: await self._prune(what, before) for what in retention.PRUNABLE}
            told = ", ".join(f"{count:,} {table}" for table, count in gone.items() if count)
            if told:
                await self._store.write(lambda tx: tx.emit("history.pruned", "", detail=told))
                logger.info("history pruned", extra={"rows": told})
        return now + _AGAIN

    async def _prune(self, what: Prunable, before: datetime) -> int:
        """Removes what is too old in one table; returns how many rows. Other writers never wait for
        more than one batch."""
        gone = 0
        portion: retention.Portion | None = await self._find(what, 0, before)
        while portion is not None:
            for batch in retention.batches(portion.numbers):
                gone += await self._remove(what, batch, before)
            more = portion.reached
            portion = None if more is None else await self._find(what, more, before)
        return gone

    async def _find(self, what: Prunable, after: int, before: datetime) -> retention.Portion:
        return await self._store.read(lambda db: retention.find(db, what, after, before))

    async def _remove(self, what: Prunable, numbers: list[int], before: datetime) -> int:
        return await self._store.write(lambda tx: retention.remove(tx, what, numbers, before))

    async def cleanup(
        self, caller: Caller, older_than: timedelta | None, execute: bool
    ) -> tuple[list[Cleaned], str]:
        """The sessions that ended longer ago than this (None: 30 days), and the path of the backup
        that was made before they were removed, "" when none was.

        Raises NotAllowed for an agent, InvalidInput for an age that makes no sense,
        StoreUnavailable when there could be no backup; then nothing was removed.
        """
        self._check_operator(caller)
        before = self._clock.now() - rules.age(older_than)
        async with self._cleaning:
            found = await self._store.read(lambda db: retention.ended(db, before))
            if not execute or all(one.kept_because for one in found):
                return found, ""
            backup = await self._backup()
            actor = self._targets.name(caller)
            done = [await self._clean(one.name, before, actor) for one in found]
            return [one for one in done if one is not None], str(backup)

    def _check_operator(self, caller: Caller) -> None:
        if not self._targets.decider(caller).operator:
            raise NotAllowed(
                "Only the operator may clean up sessions; run it outside an agent's pane, or with"
                " the operator's token."
            )

    async def _backup(self) -> Path:
        stamp = self._clock.now().strftime("%Y%m%dT%H%M%SZ")
        target = self._backups / f"before-cleanup-{stamp}.db"
        try:
            await self._store.read(lambda db: database.backup(db, target))
        except (OSError, StoreUnavailable) as exc:
            raise StoreUnavailable(
                f"The backup {target} could not be written ({exc}); no session was removed."
            ) from exc
        return target

    async def _clean(self, name: str, before: datetime, actor: str) -> Cleaned | None:
        epochs = {agent.id: agent.epoch for agent in self._registry.all(name)}

        def unit(tx: Transaction) -> tuple[Cleaned | None, list[str]]:
            return retention.clean(tx, name, before, actor)

        found, gone = await self._store.write(unit)
        self._forget([i for i in gone if self._is_unchanged(i, epochs.get(i, 0))])
        return found

    def _is_unchanged(self, agent_id: str, epoch: int) -> bool:
        """Whether no client has connected as this agent since it had this epoch."""
        agent = self._registry.get(agent_id)
        return agent is not None and agent.epoch == epoch
