"""Sleeps until the next deadline of a service and lets it do what is due: notes, authorizations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from orch_server.core.clock import Clock
from orch_server.core.errors import OrchError
from orch_server.loops.pause import seconds_until, until_changed

logger = logging.getLogger(__name__)
_RETRY = 1.0


async def serve_deadlines(
    do_due: Callable[[], Awaitable[datetime | None]], changed: asyncio.Event, clock: Clock
) -> None:
    """Calls `do_due`, which returns when it wants to be called again, for ever.

    `changed` wakes the loop earlier; it does not poll. What could not be done is tried again each
    second.
    """
    while True:
        changed.clear()
        try:
            wait: float | None = seconds_until(await do_due(), clock)
        except OrchError as exc:  # refused or unavailable, and so undone: worth another try
            logger.warning("due work not done", extra={"error": exc.message})
            wait = _RETRY
        await until_changed(changed, wait)
