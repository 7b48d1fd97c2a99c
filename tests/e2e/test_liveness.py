"""A real server under streams that misbehave, stands still, or is killed: nobody else is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from bench.processes import Child, memory_kilobytes

from orch.v1 import agent_pb2, heartbeat_pb2
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub
from tests.support import Client, Home, Server, Tmux, hold, liveness, until

ROOT = Path(__file__).parents[2]
_FLOODS = 5
_GROWTH = 1024  # KB a stream


def _pid(server: Server) -> int:
    assert server.process is not None
    return server.process.pid


@contextmanager
def _agents(home: Home, count: int) -> Iterator[Child]:
    """Agents that beat and come back as the real client does."""
    with Child("agents", home.address, count, "steady", 0) as load:
        yield load


def _lost(home: Home) -> list[str]:
    return [a["role"] for a in home.json("agents") if a["liveness"] == "LIVENESS_LOST"]


@pytest.fixture
def flood(home: Home) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a client whose streams beat without end and read nothing."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.flood", home.address, str(_FLOODS)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def test_streams_that_never_read_are_lost_and_the_servers_buffers_stay_bounded(
    home: Home, flood: Callable[[], subprocess.Popen[str]]
) -> None:
    home.configure("beat_interval = 1.5\n")
    server = Server(home).start()
    try:
        with _agents(home, 5) as load:
            load.measure(1)
            before = memory_kilobytes(_pid(server), "Rss")
            flood()
            flooders = {f"agent-{n}" for n in range(1000, 1000 + _FLOODS)}
            until(lambda: flooders <= set(_lost(home)), "the end of their leases", 60)
            grown = memory_kilobytes(_pid(server), "Rss") - before
            told = load.measure(1)
            assert (told["alive"], told["ended"]) == (5, 0)
            assert set(_lost(home)) == flooders
        assert "Traceback" not in server.log
        assert grown < _FLOODS * _GROWTH, f"{grown:.0f} KB for {_FLOODS} streams"
    finally:
        server.end()


def test_a_crowd_of_useless_streams_ends_nobody_elses(home: Home) -> None:
    """`python -m bench liveness` does it with ten thousand."""
    home.configure("beat_interval = 3\n")
    server = Server(home).start()
    try:
        with _agents(home, 10) as load, Child("crowd", home.address, 900, "crowd") as crowd:
            load.measure(0.5)
            told = crowd.measure(20)  # the server waits 10 s for a hello, once a stream is open
            assert told == {"welcomed": 300, "refused": 600, "unanswered": 0}
            assert load.measure(1)["ended"] == 0
        assert server.process is not None
        assert server.process.poll() is None
    finally:
        server.end()


def test_a_server_that_is_killed_or_stopped_declares_nobody_dead(home: Home) -> None:
    home.configure("beat_interval = 1\n")
    server = Server(home).start()
    try:
        with _agents(home, 50) as load:
            server.kill()
            hold(1)
            server.start()
            until(lambda: load.measure(0.1)["alive"] == 50, "all agents after the restart")
            load.measure(6.2)  # the amnesty is over
            assert _lost(home) == []
            os.kill(_pid(server), signal.SIGSTOP)
            hold(6.5)  # longer than two leases
            os.kill(_pid(server), signal.SIGCONT)
            until(lambda: load.measure(0.1)["alive"] == 50, "all agents after the stop")
            load.measure(6.2)
            assert _lost(home) == []
            assert "server stalled" in server.log
        sql = "select count(*) from event where kind = 'agent.lost'"
        assert _count(home, sql) == 0
    finally:
        server.end()


def test_a_client_that_is_killed_is_noticed_within_a_second(
    home: Home, tmux: Tmux, heartbeat: Callable[..., Client]
) -> None:
    """A busy machine only ever adds to the time, so the shortest of three is the server's own."""
    times = [_noticed(home, tmux, heartbeat, role) for role in ("one", "two", "three")]
    assert min(times) < 1, f"{times}; the lease is 3 s"


def _noticed(home: Home, tmux: Tmux, heartbeat: Callable[..., Client], role: str) -> float:
    """Kills the client of a new agent; returns after how many seconds it is a suspect."""
    client = heartbeat(tmux.pane("atlas", role, "cat"))
    until(lambda: liveness(home, f"atlas:{role}") == "ALIVE", role)
    killed = 0.0
    with grpc.insecure_channel(home.address) as channel:
        request = heartbeat_pb2.WatchAgentsRequest()
        for change in HeartbeatServiceStub(channel).WatchAgents(request, timeout=30):
            if change.agent.role != role:
                continue
            if not killed:
                client.signal(signal.SIGKILL)
                killed = time.monotonic()
            elif change.agent.liveness == agent_pb2.LIVENESS_SUSPECT:
                return time.monotonic() - killed
    raise AssertionError("the watch ended")


def _count(home: Home, sql: str) -> int:
    import sqlite3

    with sqlite3.connect(f"file:{home.path}/orch.db?mode=ro", uri=True) as db:
        return int(db.execute(sql).fetchone()[0])
