"""How much is measured: a full run and a quick one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts, and seconds of one measurement. `starts` of the repeats begin with new processes."""

    repeats: int
    starts: int
    seconds: float
    streams: tuple[int, ...]
    callers: tuple[int, ...]
    cold_runs: int
    clients: int
    connections: int


FULL = Scale(
    repeats=15,
    starts=5,
    seconds=0.8,
    streams=(1, 100, 1000),
    callers=(1, 64),
    cold_runs=25,
    clients=20,
    connections=500,
)
QUICK = Scale(
    repeats=2,
    starts=2,
    seconds=0.5,
    streams=(1, 100),
    callers=(1, 64),
    cold_runs=3,
    clients=4,
    connections=50,
)
