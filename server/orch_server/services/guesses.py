"""Wrong passphrases: each goes into the audit, and a person hears of many."""

from __future__ import annotations

import logging
from collections import deque

from orch_server.core.alert import NewAlert, Severity
from orch_server.core.clock import Clock
from orch_server.core.errors import OrchError
from orch_server.storage.alerts import raise_alert
from orch_server.storage.store import Store, Transaction

logger = logging.getLogger(__name__)

_MANY = 5
_WINDOW = 600.0


class Guesses:
    """Counts the wrong passphrases of the last ten minutes."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lately: deque[float] = deque(maxlen=_MANY)

    async def tell(self, what: str) -> None:
        """Writes that a wrong one was given, and for what; the fifth raises an alert."""
        now = self._clock.monotonic()
        self._lately.append(now)
        many = len(self._lately) == _MANY and now - self._lately[0] < _WINDOW

        def unit(tx: Transaction) -> None:
            tx.audit("passphrase.refused", "operator", detail=what)
            if many:
                text = f"{_MANY} wrong passphrases within 10 min; the last one to {what}."
                raise_alert(tx, NewAlert(Severity.CRITICAL, "passphrase", "", text))

        try:
            await self._store.write(unit)
        except OrchError as exc:  # it was refused all the same
            logger.warning("wrong passphrase not written", extra={"error": exc.message})
