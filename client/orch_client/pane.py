"""Watches the pane's first process, so that the heartbeat ends with its pane."""

from __future__ import annotations

import asyncio
import os

from orch_client.courier import tmux

_PAUSE = 1.0


class PaneWatch:
    """The pane `pane_id` on `socket`, whose first process is `pid`."""

    def __init__(self, socket: str, pane_id: str, pid: int) -> None:
        self._tmux = tmux.Subprocess(socket)
        self._pane_id = pane_id
        self.pid = pid

    async def ended(self) -> None:
        """Returns when the pane is gone, or dead with its frame kept on the screen."""
        while True:
            await self._process_end()
            if await self.is_gone():
                return
            await asyncio.sleep(_PAUSE)

    async def is_gone(self) -> bool:
        """Whether tmux says so; a silent tmux says nothing. A respawned pane is watched anew."""
        try:
            facts = await tmux.pane_facts(self._tmux, self._pane_id)
        except (tmux.PaneGone, tmux.TmuxDied):
            return True
        except (tmux.TmuxSilent, tmux.TmuxFailed):
            return False
        self.pid = facts.pane_pid
        return facts.dead

    async def _process_end(self) -> None:
        """Waits, without polling, for the end of the pane's first process."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def settle() -> None:
            if not ended.done():
                ended.set_result(None)

        loop.add_reader(descriptor, settle)
        try:
            await ended
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
