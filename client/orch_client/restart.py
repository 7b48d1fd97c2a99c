"""Whether an agent that has ended is started again, and when. Pure: times are monotonic seconds.

Only a crash is a reason: a status other than 0, or a signal that nobody sends to ask for an end.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

FIRST, LONGEST = 1.0, 60.0  # seconds of back-off, doubled with each crash
LONG_LIFE = 300.0  # seconds after which earlier crashes do not lengthen the back-off
MOST, WINDOW = 5, 600.0  # the breaker: so many crashes within so many seconds
_ASKED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_SHELLS = 128  # a program that was asked by signal N may say so by the status 128 + N


@dataclass(frozen=True, slots=True)
class End:
    """How a program has ended: its exit status, 0 when a signal ended it, and the signal, or 0."""

    status: int
    signal: int

    @property
    def shown(self) -> int:
        """The status by which a shell tells it."""
        return _SHELLS + self.signal if self.signal else self.status

    @property
    def is_crash(self) -> bool:
        """Whether nobody asked for it."""
        return self.shown != 0 and self.shown - _SHELLS not in _ASKED

    def __str__(self) -> str:
        return f"was killed by signal {self.signal}" if self.signal else f"ended with {self.status}"


@dataclass(frozen=True, slots=True)
class History:
    """The crashes so far: the times of those within the window, and how many came one after the
    other without a long life between them."""

    crashes: tuple[float, ...] = ()
    streak: int = 0


def after_crash(history: History, began: float, now: float) -> tuple[History, float | None]:
    """The history with this crash of a life that began at `began`, and after how many seconds to
    start again; None to give up."""
    streak = 0 if now - began >= LONG_LIFE else history.streak
    recent = tuple(at for at in history.crashes if now - at < WINDOW)
    history = replace(history, crashes=(*recent, now), streak=streak + 1)
    if len(history.crashes) >= MOST:
        return history, None
    return history, min(LONGEST, FIRST * 2.0 ** min(streak, 16))
