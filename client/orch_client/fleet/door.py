"""Asks the server who this process is: once for all panes, and again when the answer is doubted."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from orch_client import channel, identity
from orch_client.connection import Lost

_YOUNG = 300.0  # a token lives for ten minutes; an older one is not used for a new stream
_PAUSE = (0.05, 0.3)


@dataclass(frozen=True, slots=True)
class Entry:
    """What goes with each call, and the server's name for this host. `since` is monotonic."""

    metadata: channel.Metadata
    host: str
    since: float


class Door:
    """The way to the server at an address, unix:/PATH, for panes on one tmux socket."""

    def __init__(self, target: str, socket: str, show: Callable[[str], None]) -> None:
        self._target = target
        self._socket = socket
        self._show = show
        self._entry: Entry | None = None
        self._asking = asyncio.Lock()

    async def entry(self, pane: str, doubted: Entry | None) -> Entry:
        """Another entry than the doubted one; `pane` is one that is there. Raises Lost."""
        async with self._asking:
            known = self._entry
            if known is None or known is doubted or time.monotonic() - known.since > _YOUNG:
                known = self._entry = await self._ask(pane)
            return known

    async def _ask(self, pane: str) -> Entry:
        """The lock is held in the pause too, so that a lost server is not asked once a pane."""
        try:
            who = await asyncio.to_thread(
                identity.ask,
                self._target,
                with_pane=True,
                pane_id=pane,
                socket_of_tmux=self._socket,
            )
        except OSError as exc:
            self._show(f"waiting for the server at {self._target}")
            await asyncio.sleep(random.uniform(*_PAUSE))  # noqa: S311
            raise Lost from exc
        if not who.HasField("pane"):
            raise Lost(who.problem)
        return Entry(channel.bearer(who.token), who.pane.host, time.monotonic())
