"""The server's own pulse: it tells when the server stood still, and how busy it is. Pure.

`now` is monotonic seconds, `cpu` the seconds of CPU that the process has used up to now.
"""

from __future__ import annotations

from dataclasses import dataclass

from orch_server.core.pace import next_stretch

#: Seconds from one beat of the pulse to the next.
PULSE = 0.25
#: A gap that is longer than that by so much was a stall.
STALL = 0.5
#: Seconds of running after which the pace is thought over.
PACING = 5.0


@dataclass(slots=True)
class Pulse:
    """Beats every PULSE seconds, as long as the server runs. Before the first beat nobody feels
    it, and no stall can be told."""

    patience: float = STALL
    stretch: int = 1
    _last: tuple[float, float] | None = None
    _since: tuple[float, float] | None = None

    def stall(self, now: float, cpu: float) -> float:
        """How many seconds the server stood still since the last beat; each is told once."""
        if self._last is None or self._since is None:
            return 0.0
        at, used = self._last
        gap = now - at - PULSE
        if gap <= self.patience:
            return 0.0
        since, before = self._since
        stopped = max(0.0, gap - (cpu - used))  # a process that is stopped is not idle
        self._since = (since + stopped, before)
        self._last = (now, cpu)
        return gap

    def beat(self, now: float, cpu: float) -> bool:
        """Returns whether the stretch has changed. `stall` was asked before."""
        self._last = (now, cpu)
        since, before = self._since = self._since or self._last
        if now - since < PACING:
            return False
        old, self.stretch = self.stretch, next_stretch(self.stretch, (cpu - before) / (now - since))
        self._since = self._last
        return self.stretch != old
