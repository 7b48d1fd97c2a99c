"""Runs the named loops of the server. The death of one is loud and stops the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loop:
    """A background task that runs until it is cancelled."""

    name: str
    run: Callable[[], Awaitable[None]]


class LoopDied(Exception):
    """A loop ended, which none should; `str()` is its name."""


async def supervise(loops: Sequence[Loop]) -> None:
    """Runs all loops until cancelled. Raises LoopDied when one ends, after cancelling the rest."""
    tasks = {asyncio.create_task(_named(loop), name=loop.name): loop for loop in loops}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        dead = next(iter(done))
        logger.critical("loop died", extra={"loop": tasks[dead].name}, exc_info=dead.exception())
        raise LoopDied(tasks[dead].name) from dead.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _named(loop: Loop) -> None:
    await loop.run()
