"""The screen of one pane of many: captured only when its window has written something since.

tmux tells the second of a window's last output. A screen that was captured after that second is
over, as it stands then, stays so until tmux tells another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from orch_client.courier.tmux import Tmux, TmuxSilent
from orch_client.fleet.panes import Seen

_SECOND = 1.0
_STALE = 0.9  # seconds after which the list of panes does not vouch for a screen any more


class Screen:
    """The screen of the pane that `seen` tells of, as the list of panes has it last."""

    def __init__(self, tmux: Tmux, seen: Callable[[], Seen]) -> None:
        self._tmux = tmux
        self._seen = seen
        self._activity = -1
        self._since = 0.0
        self._settled = False

    async def capture(self, fresh: bool) -> str | None:
        """The screen; None, unless it must be `fresh`, when it is as it was the last time.

        Raises TmuxSilent when that is not known just now, and what `glimpse` raises.
        """
        from orch_client.courier.look import glimpse

        seen, now = self._seen(), time.monotonic()
        if seen.activity != self._activity:
            self._activity, self._since, self._settled = seen.activity, now, False
        if self._settled and not fresh:
            if now - seen.when > _STALE:
                raise TmuxSilent("the panes were not listed just now")
            return None
        captured = await glimpse(self._tmux, seen.at)
        self._settled = now >= self._since + _SECOND
        return captured
