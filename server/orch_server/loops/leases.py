"""Watches the leases: gives the verdict when one ends.

A stall of the server itself is nobody else's fault: all leases are extended by it.
"""

from __future__ import annotations

import logging

from orch_server.core.clock import Clock
from orch_server.core.errors import OrchError
from orch_server.loops.pause import until_changed
from orch_server.services.heartbeat import HeartbeatService

logger = logging.getLogger(__name__)
_STALL = 0.5


async def watch_leases(heartbeat: HeartbeatService, clock: Clock) -> None:
    """Sleeps until the earliest deadline and expires what has ended."""
    while True:
        heartbeat.changed.clear()
        check = heartbeat.leases.next_check()
        await until_changed(
            heartbeat.changed, None if check is None else max(0.0, check - clock.monotonic())
        )
        late = 0.0 if check is None else clock.monotonic() - check
        if late > _STALL:
            logger.warning("server stalled", extra={"seconds": round(late, 3)})
            heartbeat.leases.extend_all(late)
        try:
            await heartbeat.expire()
        except OrchError as exc:
            logger.warning("verdict not stored", extra={"error": exc.message})
