"""`heartbeat --all`: one client for many panes, in memory beside one bare client that holds one
stream, in CPU time beside one that only beats on as many streams.

The product's memory is that of the client and of its tmux client together.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import BIN, Home, Tmux

from bench import bare_beats, bare_stream
from bench.memory import open_panes, running, settled, wait_alive
from bench.processes import ROOT, bare, cpu_nanoseconds, home, memory_kilobytes, product
from bench.report import Figure
from bench.scale import Scale

_GOAL = 1.5
_BEAT = 5
_pause = threading.Event()


def measure(scale: Scale) -> Iterator[Figure]:
    """Megabytes, then CPU time in percent of one core."""
    memory, cpu = [], []
    with home() as at, bare(at) as (address, _), open_panes(at, scale.panes) as (tmux, panes):
        at.configure(f"beat_interval = {_BEAT}\n")
        with product(at):
            for _ in range(scale.starts):
                with _fleet(at, tmux, len(panes)) as client:
                    mine = (_megabytes(client), _percent(client, scale.watched))
                with running([sys.executable, bare_stream.__file__, address], at.env()) as one:
                    _wait_open(one)
                    memory.append((mine[0], settled([one])))
                with _bare_beats(at, address, len(panes)) as many:
                    cpu.append((mine[1], _percent(many, scale.watched)))
    name = f"heartbeat --all, {scale.panes} panes"
    yield Figure(f"{name}, PSS (MB)", memory, at_most=_GOAL)
    yield Figure(f"{name}, CPU (%)", cpu)


@contextmanager
def _fleet(at: Home, tmux: Tmux, count: int) -> Iterator[subprocess.Popen[str]]:
    env = at.env(TMUX=f"{tmux.socket},0,0")
    with running([str(BIN / "orch-client"), "heartbeat", "--all"], env) as client:
        wait_alive(at, count)
        yield client


@contextmanager
def _bare_beats(at: Home, address: str, count: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", bare_beats.__spec__.name, address, str(count), str(_BEAT)]
    with running(command, {**at.env(), "PYTHONPATH": str(ROOT)}) as many:
        _wait_open(many)
        yield many


def _wait_open(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"


def _megabytes(client: subprocess.Popen[str]) -> float:
    """Of the client, once that no longer changes, with its own tmux client."""
    alone = settled([client])
    return alone + sum(memory_kilobytes(pid, "Pss") for pid in _children(client.pid)) / 1024


def _percent(process: subprocess.Popen[str], seconds: float) -> float:
    pids = [process.pid, *_children(process.pid)]
    before = sum(map(cpu_nanoseconds, pids))
    _pause.wait(seconds)
    return 100 * (sum(map(cpu_nanoseconds, pids)) - before) / 1e9 / seconds


def _children(pid: int) -> list[int]:
    lists = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for children in lists for child in children.split()]
