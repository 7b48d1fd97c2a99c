"""Lets the supervisor act when something is due or has changed, and at least twice a minute."""

from __future__ import annotations

import asyncio
import logging

from orch_server.core.clock import Clock
from orch_server.core.errors import OrchError
from orch_server.loops.pause import until_changed
from orch_server.services.supervisor import Supervisor

logger = logging.getLogger(__name__)
_BETWEEN = 1.0
_LONGEST = 30.0


async def serve_supervision(supervisor: Supervisor, clock: Clock) -> None:
    """Runs for ever. Changes that come together are looked at together."""
    while True:
        supervisor.changed.clear()
        wait = _LONGEST
        try:
            due = await supervisor.run_due()
            if due is not None:
                wait = min(_LONGEST, max(0.0, due - clock.monotonic()))
        except OrchError as exc:
            logger.warning("supervision not done", extra={"error": exc.message})
            wait = 1.0
        await until_changed(supervisor.changed, wait)
        await asyncio.sleep(_BETWEEN)
