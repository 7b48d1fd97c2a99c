"""Memory of idle clients, and of the server for each connected agent.

Clients are compared by PSS, since many run at once and share their libraries. The server's growth
is one of RSS, since its PSS shrinks when one more process shares its libraries.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from tests.support import BIN, Home, Tmux

from bench import bare_stream
from bench.processes import Child, bare, home, memory_kilobytes, product
from bench.report import Figure
from bench.scale import Scale
from orch.v1 import agent_pb2, heartbeat_pb2
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub

_CLIENT_GOAL = 1.15
_SERVER_GOAL = 1.5
_DEADLINE = 30.0
_SETTLED = 0.005
_pause = threading.Event()


def measure(scale: Scale) -> Iterator[Figure]:
    """Megabytes of an idle client, then kilobytes of the server for an agent."""
    yield _clients(scale)
    yield _server(scale)


# ---- clients ----


def _clients(scale: Scale) -> Figure:
    pairs = []
    with (
        home() as at,
        product(at),
        bare(at) as (address, _),
        open_panes(at, scale.clients) as (tmux, panes),
    ):
        for _ in range(scale.starts):
            alone = _bare_clients(at, address, scale.clients)
            pairs.append((_product_clients(at, tmux, panes), alone))
    name = f"idle heartbeat client, PSS (MB), {scale.clients} at once"
    return Figure(name, pairs, at_most=_CLIENT_GOAL)


@contextmanager
def open_panes(at: Home, count: int, command: str = "cat") -> Iterator[tuple[Tmux, list[str]]]:
    """A private tmux server with so many panes, each with this program."""
    tmux = Tmux(at)
    try:
        yield tmux, [tmux.pane("bench", f"agent-{i}", command) for i in range(count)]
    finally:
        tmux.end()


def _bare_clients(at: Home, address: str, count: int) -> float:
    command = [sys.executable, str(Path(bare_stream.__file__)), address]
    with ExitStack() as stack:
        started = [stack.enter_context(running(command, at.env())) for _ in range(count)]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        return settled(started)


def _product_clients(at: Home, tmux: Tmux, panes: list[str]) -> float:
    env = at.env(TMUX=f"{tmux.socket},0,0")
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                running([str(BIN / "orch-client"), "heartbeat", "--pane", pane], env)
            )
            for pane in panes
        ]
        wait_alive(at, len(panes))
        return settled(started)


@contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is asked to end, and killed when it does not."""
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def wait_alive(at: Home, count: int) -> None:
    """Waits until the server hears so many agents."""
    alive = set()
    with grpc.insecure_channel(at.address) as channel:
        request = heartbeat_pb2.WatchAgentsRequest()
        changes = HeartbeatServiceStub(channel).WatchAgents(request, timeout=_DEADLINE)
        for change in changes:
            if change.agent.liveness == agent_pb2.LIVENESS_ALIVE:
                alive.add(change.agent.id)
            if len(alive) == count:
                break
        changes.cancel()


def settled(processes: list[subprocess.Popen[str]]) -> float:
    """The median megabytes of the processes, once that no longer changes."""
    before = 0.0
    for _ in range(20):
        now = (
            statistics.median(memory_kilobytes(process.pid, "Pss") for process in processes) / 1024
        )
        if abs(now - before) <= _SETTLED * now:
            return now
        before = now
        _pause.wait(0.3)
    raise RuntimeError("the clients' memory did not settle")


# ---- the server ----


def _server(scale: Scale) -> Figure:
    pairs = []
    for _ in range(scale.starts):
        with home() as at, bare(at) as server:
            alone = _growth(*server, scale.connections)
        with home() as at, product(at) as server:
            pairs.append((_growth(*server, scale.connections), alone))
    name = f"server memory an agent (KB), {scale.connections} channels"
    return Figure(name, pairs, at_most=_SERVER_GOAL)


def _growth(address: str, server: int, connections: int) -> float:
    """Kilobytes of the server for each stream on a channel of its own, after its first beat."""
    with Child("load", "heartbeat", address, 1, 1, "first") as first:
        first.measure(0)
        before = memory_kilobytes(server, "Rss")
        with Child("load", "heartbeat", address, connections, 1, "many") as many:
            many.measure(0)
            return (memory_kilobytes(server, "Rss") - before) / connections
