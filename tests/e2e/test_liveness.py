"""A real server under streams that misbehave, stands still, or is killed: nobody else is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from bench.processes import Child, memory_kilobytes

from orch.v1 import heartbeat_pb2
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
    home.configure("beat_interval = 0.7\n")
    server = Server(home).start()
    try:
        with _agents(home, 5) as load:
            load.measure(1)
            before = memory_kilobytes(_pid(server), "Rss")
            flood()
            flooders = {f"agent-{n}" for n in range(1000, 1000 + _FLOODS)}
            until(lambda: flooders <= set(_lost(home)), "the end of their leases")
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
    home.configure("beat_interval = 1\n")
    server = Server(home).start()
    try:
        with _agents(home, 10) as load, Child("crowd", home.address, 900, "crowd") as crowd:
            load.measure(0.5)
            told = crowd.measure(11)  # more than the server waits for a hello
            assert told == {"welcomed": 300, "refused": 600, "unanswered": 0}
            assert load.measure(1)["ended"] == 0
        assert server.process is not None
        assert server.process.poll() is None
    finally:
        server.end()


def test_a_server_that_is_killed_or_stopped_declares_nobody_dead(home: Home) -> None:
    home.configure("beat_interval = 0.5\n")
    server = Server(home).start()
    try:
        with _agents(home, 50) as load:
            server.kill()
            hold(1)
            server.start()
            until(lambda: load.measure(0.1)["alive"] == 50, "all agents after the restart")
            load.measure(3.2)  # the amnesty is over
            assert _lost(home) == []
            os.kill(_pid(server), signal.SIGSTOP)
            hold(4)
            os.kill(_pid(server), signal.SIGCONT)
            until(lambda: load.measure(0.1)["alive"] == 50, "all agents after the stop")
            load.measure(3.2)
            assert _lost(home) == []
            assert "server stalled" in server.log
        sql = "select count(*) from event where kind = 'agent.lost'"
        assert _count(home, sql) == 0
    finally:
        server.end()


def test_a_client_that_is_killed_is_noticed_within_a_second(home: Home, server: Server) -> None:
    tmux = Tmux(home)
    try:
        pane = tmux.pane("atlas", "developer", "cat")
        client = Client(tmux, pane)
        try:
            until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the client")
            noticed, seen = threading.Event(), []

            def watch(changes: Any) -> None:
                for change in changes:
                    seen.append(change.agent.liveness)
                    if seen[-1] == 3:  # SUSPECT
                        noticed.set()
                        return

            with grpc.insecure_channel(home.address) as channel:
                request = heartbeat_pb2.WatchAgentsRequest()
                changes = HeartbeatServiceStub(channel).WatchAgents(request, timeout=30)
                watching = threading.Thread(target=watch, args=(changes,))
                watching.start()
                until(lambda: seen, "the first round")
                client.signal(signal.SIGKILL)
                assert noticed.wait(1.0)
                watching.join(5)
        finally:
            client.end()
    finally:
        tmux.end()


def _count(home: Home, sql: str) -> int:
    import sqlite3

    with sqlite3.connect(f"file:{home.path}/orch.db?mode=ro", uri=True) as db:
        return int(db.execute(sql).fetchone()[0])
