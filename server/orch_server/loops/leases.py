"""Watches the leases: gives the verdict when one ends, and feels the server's own pulse."""

from __future__ import annotations

import asyncio
import logging

from orch_server.core.clock import Clock
from orch_server.core.errors import OrchError
from orch_server.core.pulse import PULSE
from orch_server.loops.pause import until_changed
from orch_server.services.heartbeat import HeartbeatService

logger = logging.getLogger(__name__)


async def watch_leases(heartbeat: HeartbeatService, clock: Clock) -> None:
    """Sleeps until the earliest deadline and expires what has ended."""
    while True:
        heartbeat.changed.clear()
        check = heartbeat.leases.next_check()
        await until_changed(
            heartbeat.changed, None if check is None else max(0.0, check - clock.monotonic())
        )
        try:
            await heartbeat.expire()
        except OrchError as exc:
            logger.warning("verdict not stored", extra={"error": exc.message})


async def feel_pulse(heartbeat: HeartbeatService) -> None:
    """Lets the service notice when this process itself stood still, and how busy it is."""
    while True:
        heartbeat.pulse()
        await asyncio.sleep(PULSE)
