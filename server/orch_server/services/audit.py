"""The audit's care: a person is told when it does not hold, and what is too old is pruned."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from orch_server.core.alert import NewAlert, Severity
from orch_server.core.clock import Clock
from orch_server.storage.alerts import raise_alert
from orch_server.storage.audit import untold
from orch_server.storage.store import Store, Transaction

ALERT = "audit"
_AGAIN = timedelta(days=1)


class AuditService:
    """Looks once a day. `days` is how long links are kept; 0: for ever."""

    def __init__(self, store: Store, clock: Clock, days: int) -> None:
        self._store = store
        self._clock = clock
        self._days = days
        self.changed = asyncio.Event()  # the clock was set: look anew

    async def run_due(self) -> datetime:
        """Tells what was found at starts, prunes, and returns when it wants to be called again."""
        broken = await self._store.read(lambda db: untold(db, ALERT))
        if broken:
            await self._store.write(lambda tx: _tell(tx, broken))
        now = self._clock.now()
        if self._days:
            while await self._store.prune_audit(now - timedelta(days=self._days)):
                continue
        return now + _AGAIN


def _tell(tx: Transaction, broken: list[tuple[str, str]]) -> None:
    for subject, found in broken:
        text = f"The audit log does not hold ({found}); look at it with: orch-server audit verify"
        raise_alert(tx, NewAlert(Severity.CRITICAL, ALERT, subject, text))
