"""The pace of beats: the server's own load stretches it, and the lease with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: How much slower than configured clients may be asked to beat.
MOST = 16
#: Shares of a core. Halving the stretch at most doubles the load of the beats, which 0.3 can bear
#: without reaching 0.8: so the stretch does not swing.
BUSY, FREE = 0.8, 0.3


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between beats, of the lease (three beats), and of grace after a broken stream."""

    beat: float = 5.0
    lease: float = 15.0
    grace: float = 0.75

    def stretched(self, by: int) -> Pace:
        """The pace of a server that is so many times slower than configured."""
        return Pace(self.beat * by, self.lease * by, self.grace)


def next_stretch(stretch: int, busy: float) -> int:
    """The next stretch, after a while in which the server used this share of a core."""
    if busy > BUSY:
        return min(MOST, stretch * 2)
    if busy < FREE:
        return max(1, stretch // 2)
    return stretch
