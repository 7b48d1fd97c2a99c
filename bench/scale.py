"""How much is measured: a full run and a quick one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts, and seconds of one measurement. `starts` of the repeats begin with new processes;
    an idle one is `watched` for so many seconds."""

    repeats: int
    starts: int
    seconds: float
    streams: tuple[int, ...]
    callers: tuple[int, ...]
    cold_runs: int
    clients: int
    connections: int
    panes: int
    watched: float


FULL = Scale(
    repeats=15,
    starts=5,
    seconds=0.8,
    streams=(1, 100, 1000),
    callers=(1, 64),
    cold_runs=25,
    clients=20,
    connections=500,
    panes=100,
    watched=20.0,
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
    panes=10,
    watched=2.0,
)
