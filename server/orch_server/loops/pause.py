"""How loops wait: until a time or until something has changed, whichever comes first."""

from __future__ import annotations

import asyncio
from datetime import datetime

from orch_server.core.clock import Clock


async def until_changed(changed: asyncio.Event, seconds: float | None) -> None:
    """Waits for the event, at most so many seconds; None: for ever."""
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        pass


def seconds_until(at: datetime | None, clock: Clock) -> float | None:
    """How long to sleep for something that is due at a wall-clock time; None: for ever. When the
    clock is set meanwhile, clock_watch.py has the loops look anew."""
    return None if at is None else max(0.0, (at - clock.now()).total_seconds())
