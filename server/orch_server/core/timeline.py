"""When something was by the monotonic clock whose time was stored by the wall clock. Pure.

The wall clock may be set at any time. Whoever keeps a timeline notes both clocks now and then; what
was stored while the server ran is then as old as it is, whatever the wall clock was set to.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Clocks that drift apart by less are taken to agree; seconds.
_SAME = 1.0
_MOST = 100


class Timeline:
    """Pieces of time, in each of which the wall clock ran like the monotonic one."""

    def __init__(self) -> None:
        self._pieces: list[tuple[float, float]] = []  # its beginning, the wall clock's lead in it

    def note(self, now: datetime, monotonic: float) -> None:
        """Both clocks say this now."""
        lead = (now - _EPOCH).total_seconds() - monotonic
        if not self._pieces:
            self._pieces.append((-inf, lead))
        elif abs(lead - self._pieces[-1][1]) > _SAME:
            self._pieces = [*self._pieces[-_MOST + 1 :], (monotonic, lead)]

    def monotonic(self, at: datetime, now: float) -> float:
        """When it was; not later than `now`. What fits to several pieces belongs to the newest, and
        what fits to none to the beginning of the piece that it came before."""
        wall = (at - _EPOCH).total_seconds()
        end = now
        for begin, lead in reversed(self._pieces):
            if begin <= wall - lead <= end:
                return wall - lead
            if wall - lead < begin:
                end = begin
        return end
