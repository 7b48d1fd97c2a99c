"""The clock: a port, since tests must move time.

`now()` is the wall clock and may jump; it says when something is due. `monotonic()` never jumps;
leases and time-outs are measured by it. Nothing else in the product asks the time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Both clocks of one machine."""

    def now(self) -> datetime:
        """Wall-clock time, with the zone UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...

    def cpu(self) -> float:
        """Seconds of CPU that this process has used."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - this is the port

    def monotonic(self) -> float:
        return time.monotonic()

    def cpu(self) -> float:
        return time.process_time()


class ManualClock:
    """A clock that moves only when told to; the twin of SystemClock for tests."""

    def __init__(self, now: datetime, monotonic: float = 1000.0) -> None:
        self._now = now
        self._monotonic = monotonic
        self._cpu = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def cpu(self) -> float:
        return self._cpu

    def advance(self, seconds: float, busy: float = 0.0) -> None:
        """Moves both clocks, while the process uses this share of a core."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
        self._cpu += seconds * busy

    def set(self, now: datetime) -> None:
        """Sets the wall clock alone, as a person or NTP does."""
        self._now = now
