"""How much is measured: a full run and a quick one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Liveness:
    """Agents, and the seconds between their beats; `starts` and `watched` as below; seconds of
    steady beats, of outages (the server is killed and started again) and of stops (SIGSTOP);
    clients that are killed, streams that fall silent, streams in a crowd; interleavings, in parts
    with a seed each."""

    agents: int
    beat: float
    starts: int
    watched: float
    steady: float
    outages: tuple[float, ...]
    stops: tuple[float, ...]
    kills: int
    silent: int
    crowd: int
    parts: int
    part: int


@dataclass(frozen=True, slots=True)
class Scheduling:
    """Notes of a round, the panes they are typed into, and how many rounds; tasks that are pending,
    and how few in the comparison, for so many agents; in each of `repeats`, so many `calls`;
    restarts; windows of so many seconds in which the server is idle."""

    notes: int
    panes: int
    rounds: int
    pending: int
    few: int
    agents: int
    repeats: int
    calls: int
    restarts: int
    windows: int
    idle: float


@dataclass(frozen=True, slots=True)
class Authorizing:
    """Interleavings, in parts with a seed each; requests of a round that nobody answers, of so many
    agents, and how many rounds; pending requests in each of `repeats`, with the processes and the
    seconds between two decisions; round trips of the bare stream beside them."""

    parts: int
    part: int
    unanswered: int
    agents: int
    rounds: int
    pending: int
    waiters: int
    pause: float
    trips: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts, and seconds of one measurement. `starts` of the repeats begin with new processes;
    an idle one is `watched` for so many seconds. `teams` are sessions of five agents,
    `imported` sessions of seven that are imported."""

    repeats: int
    starts: int
    seconds: float
    streams: tuple[int, ...]
    callers: tuple[int, ...]
    cold_runs: int
    teams: int
    clients: int
    connections: int
    panes: int
    watched: float
    imported: int
    liveness: Liveness
    scheduling: Scheduling
    authorizing: Authorizing


FULL = Scale(
    repeats=15,
    starts=5,
    seconds=0.8,
    streams=(1, 100, 1000),
    callers=(1, 64),
    cold_runs=25,
    teams=100,
    clients=20,
    connections=500,
    panes=100,
    watched=20.0,
    imported=1000,
    liveness=Liveness(
        agents=1000,
        beat=1.0,
        starts=5,
        watched=6.0,
        steady=60.0,
        outages=(0.0, 5.0, 60.0),
        stops=(1.0, 10.0, 60.0),
        kills=10,
        silent=200,
        crowd=10_000,
        parts=20,
        part=5_000,
    ),
    scheduling=Scheduling(
        notes=1000,
        panes=100,
        rounds=5,
        pending=100_000,
        few=1000,
        agents=200,
        repeats=15,
        calls=200,
        restarts=5,
        windows=3,
        idle=20.0,
    ),
    authorizing=Authorizing(
        parts=200,  # a part may take a minute at most
        part=500,
        unanswered=1000,
        agents=20,
        rounds=3,
        pending=500,
        waiters=4,
        pause=0.005,
        trips=500,
        repeats=7,
    ),
)
QUICK = Scale(
    repeats=2,
    starts=2,
    seconds=0.5,
    streams=(1, 100),
    callers=(1, 64),
    cold_runs=3,
    teams=10,
    clients=4,
    connections=50,
    panes=10,
    watched=2.0,
    imported=50,
    liveness=Liveness(
        agents=100,
        beat=0.4,
        starts=1,
        watched=1.0,
        steady=1.0,
        outages=(0.5,),
        stops=(1.0,),
        kills=1,
        silent=20,
        crowd=300,
        parts=2,
        part=200,
    ),
    scheduling=Scheduling(
        notes=50,
        panes=10,
        rounds=1,
        pending=2000,
        few=100,
        agents=20,
        repeats=2,
        calls=20,
        restarts=1,
        windows=1,
        idle=1.0,
    ),
    authorizing=Authorizing(
        parts=2,
        part=100,
        unanswered=100,
        agents=4,
        rounds=1,
        pending=40,
        waiters=2,
        pause=0.005,
        trips=100,
        repeats=2,
    ),
)
