"""Liveness: what steady beats cost, how soon the dead are known, and that nobody else is.

A false death is an agent that was LOST although its client never ended; it is counted in the
server's own log of events.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import apsw
import grpc
from tests.support import BIN, Home, Server, Tmux

from bench import wal
from bench.memory import open_panes, running
from bench.processes import Child, bare, cpu_seconds, home, product
from bench.report import Figure, Plain
from bench.scale import Scale
from orch.v1 import agent_pb2, heartbeat_pb2
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub

_SEED = 20261121
_CPU_GOAL, _COMMITS_GOAL = 1.25, 20
_NOTICED_GOAL, _LATE_GOAL, _BACK_GOAL = 1.0, 50.0, 10.0
_PATIENCE = 60.0
_OPENING = 11.0  # longer than the server waits for a hello
_pause = threading.Event()


def measure(scale: Scale) -> Iterator[Figure | Plain]:
    """The figures, the cheap ones first."""
    yield _cpu(scale)
    with _server(scale) as (at, server):
        yield _silence(scale, at)
        yield _crowd(scale, at, server)
    with _server(scale) as (at, _):
        yield _kills(scale, at)
    with ThreadPoolExecutor(3) as run:  # each waits most of the time
        for part in [run.submit(part, scale) for part in (_steady, _outages, _stops)]:
            yield from part.result()
    yield from _fencing(scale)


@contextmanager
def _server(scale: Scale) -> Iterator[tuple[Home, Server]]:
    """A real server with the pace of this scale."""
    with home() as at:
        at.configure(f"beat_interval = {scale.liveness.beat:g}\n")
        server = Server(at)
        try:
            yield at, server.start()
        finally:
            server.end()


def _agents(address: str, count: int, session: str = "steady", beat: float = 0) -> Child:
    return Child("agents", address, count, session, beat)


# ---- what it costs ----


def _cpu(scale: Scale) -> Figure:
    """CPU in percent of a core, of the product and of the bare server in turn."""
    agents, beat, pairs = scale.liveness.agents, scale.liveness.beat, []
    for _ in range(scale.liveness.starts):
        with (
            home() as at,
            product(at) as (ours, pid),
            bare(at) as (theirs, bare_pid),
        ):
            with _agents(theirs, agents, beat=beat) as load:
                alone = _percent(load, bare_pid, scale.liveness.watched)
            with _agents(ours, agents, beat=beat) as load:
                pairs.append((_percent(load, pid, scale.liveness.watched), alone))
    return Figure(f"server CPU (%), {agents:,} agents at {1 / beat:g} Hz", pairs, at_most=_CPU_GOAL)


def _percent(load: Child, server: int, seconds: float) -> float:
    load.measure(1)
    before = cpu_seconds(server)
    load.measure(seconds)
    return 100 * (cpu_seconds(server) - before) / seconds


def _steady(scale: Scale) -> list[Plain]:
    """Commits while nothing changes."""
    agents, seconds = scale.liveness.agents, scale.liveness.steady
    with _server(scale) as (at, _), _agents(at.address, agents) as load:
        load.measure(1)
        log = at.path / "orch.db-wal"
        before = wal.commits(log)
        for _ in range(2):
            load.measure(seconds / 2)
        commits = wal.commits(log) - before
    name = f"commits in {seconds:g} s of beats, {agents:,} agents"
    return [Plain(name, [commits], at_most=_COMMITS_GOAL)]


# ---- the dead ----


def _silence(scale: Scale, at: Home) -> Plain:
    """Milliseconds between the end of the lease and the verdict, among agents that go on."""
    count = scale.liveness.silent
    with (
        _agents(at.address, scale.liveness.agents, "others"),
        Child("silence", at.address, count, "silent") as silent,
    ):
        told = silent.measure(scale.liveness.watched)
    return Plain(f"LOST after the lease, {count} silent, p99 (ms)", [told["p99"] * 1e3], _LATE_GOAL)


def _crowd(scale: Scale, at: Home, server: Server) -> Plain:
    """How many of the steady agents' streams ended while a crowd came."""
    count = scale.liveness.crowd
    with (
        _agents(at.address, 100, "bystanders") as steady,
        Child("crowd", at.address, count, "crowd") as crowd,
    ):
        steady.measure(1)
        told = crowd.measure(max(_OPENING, count / 400))
        ended = steady.measure(1)["ended"]
    assert server.process is not None
    assert server.process.poll() is None
    assert told["unanswered"] == 0, told
    return Plain(f"{count:,} streams at once, others' streams ended", [ended], at_most=0)


def _kills(scale: Scale, at: Home) -> Plain:
    """Seconds from kill -9 of a real client to SUSPECT, as a watch shows it."""
    count = scale.liveness.kills
    with open_panes(at, count) as (tmux, panes):
        took = [_kill(at, tmux, pane) for pane in panes]
    return Plain(f"kill -9 of a client noticed (s), {count} times", took, at_most=_NOTICED_GOAL)


def _kill(at: Home, tmux: Tmux, pane: str) -> float:
    env = at.env(TMUX=f"{tmux.socket},0,0")
    command = [str(BIN / "orch-client"), "heartbeat", "--pane", pane]
    with running(command, env) as client, grpc.insecure_channel(at.address) as channel:
        request = heartbeat_pb2.WatchAgentsRequest()
        changes = HeartbeatServiceStub(channel).WatchAgents(request, timeout=_PATIENCE)
        here = (change.agent for change in changes if change.agent.pane.pane_id == pane)
        killed = 0.0
        for agent in here:
            if not killed and agent.liveness == agent_pb2.LIVENESS_ALIVE:
                client.kill()
                killed = time.monotonic()
            elif killed and agent.liveness != agent_pb2.LIVENESS_ALIVE:
                break
        took = time.monotonic() - killed
        changes.cancel()
    return took


# ---- the living ----


def _outages(scale: Scale) -> list[Plain]:
    """The server is killed and started again; seconds until all are back, and who was lost."""
    back, deaths = [], []
    with _server(scale) as (at, server), _agents(at.address, scale.liveness.agents) as load:
        for seconds in scale.liveness.outages:
            lost = _lost(at)
            load.measure(1)
            server.kill()
            _pause.wait(seconds)
            server.start()
            back.append(_until_all_alive(load, scale.liveness.agents))
            load.measure(7 * scale.liveness.beat)  # the amnesty is over
            deaths.append(_lost(at) - lost)
    name = f"server killed, away {_list(scale.liveness.outages)} s"
    return _returned(name, back, deaths)


def _stops(scale: Scale) -> list[Plain]:
    """The server is stopped and goes on; seconds until all are back, and who was lost."""
    back, deaths = [], []
    with _server(scale) as (at, server), _agents(at.address, scale.liveness.agents) as load:
        assert server.process is not None
        for seconds in scale.liveness.stops:
            lost = _lost(at)
            load.measure(1)
            os.kill(server.process.pid, signal.SIGSTOP)
            _pause.wait(seconds)
            os.kill(server.process.pid, signal.SIGCONT)
            back.append(_until_all_alive(load, scale.liveness.agents))
            load.measure(7 * scale.liveness.beat)
            deaths.append(_lost(at) - lost)
    name = f"server stopped for {_list(scale.liveness.stops)} s"
    return _returned(name, back, deaths)


def _returned(name: str, back: list[float], deaths: list[float]) -> list[Plain]:
    return [
        Plain(f"{name}: all back (s)", back, at_most=_BACK_GOAL),
        Plain("  - false deaths", deaths, at_most=0),
    ]


def _until_all_alive(load: Child, count: int) -> float:
    start = time.monotonic()
    while load.measure(0.1)["alive"] < count:
        assert time.monotonic() - start < _PATIENCE, "not all agents came back"
    return time.monotonic() - start


def _lost(at: Home) -> float:
    """How many verdicts LOST the server has ever given."""
    flags = apsw.SQLITE_OPEN_READONLY
    with apsw.Connection(str(at.path / "orch.db"), flags=flags) as db:
        return float(db.execute("select count(*) from event where kind = 'agent.lost'").get)


def _list(seconds: tuple[float, ...]) -> str:
    return ", ".join(f"{one:g}" for one in seconds)


# ---- the stale ----


def _fencing(scale: Scale) -> Iterator[Plain]:
    """Stale writes that were accepted, in interleavings on two processes."""
    parts, part = scale.liveness.parts, scale.liveness.part
    with (
        Child("fencing", part) as one,
        Child("fencing", part) as other,
        ThreadPoolExecutor(2) as run,
    ):
        halves = [
            run.submit(
                lambda c, first: [c.measure(_SEED + n) for n in range(first, parts, 2)], c, f
            )
            for f, c in enumerate((one, other))
        ]
        told = [answer for half in halves for answer in half.result()]
    count = sum(answer["interleavings"] for answer in told)
    name = f"{count:,.0f} interleavings (seed {_SEED})"
    yield Plain(f"{name}: stale writes", [sum(a["stale"] for a in told)], at_most=0)
    yield Plain("  - writes of living connections", [sum(a["written"] for a in told)])
    yield Plain("  - refused", [sum(a["refused"] for a in told)])
