"""`orch-client schedule` from fork to exit, against a bare script that makes the same call."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support import BIN, Home

from bench import bare_schedule
from bench.frames import NOTE, SESSION, TARGET
from bench.processes import Child, deadline, home, product
from bench.report import Figure
from bench.scale import Scale

_GOAL = 1.25
#: Runs that are not counted.
WARM_UP = 2


def measure(scale: Scale) -> Iterator[Figure]:
    """Milliseconds of whole processes, one after the other in turn."""
    with home() as at, product(at), Child("load", "heartbeat", at.address, 1, 1, SESSION):
        script = str(Path(bare_schedule.__file__))
        pairs = []
        for number in range(WARM_UP + scale.cold_runs):
            bare = [sys.executable, script, at.address, TARGET, f"{NOTE} (bare {number:03})"]
            note = f"{NOTE} (ours {number:03})"  # the product refuses repeated ones
            ours = [str(BIN / "orch-client"), "schedule", "60", note, "--to", TARGET]
            alone = run(at, bare)
            pairs.append((run(at, ours), alone))
        name = "orch-client schedule, cold process (ms)"
        yield Figure(name, pairs[WARM_UP:], at_most=_GOAL)


def run(at: Home, command: list[str]) -> float:
    """Milliseconds from fork to exit, outside tmux. Raises when the command fails."""
    env, null = at.env(), subprocess.DEVNULL
    start = time.perf_counter()
    with subprocess.Popen(command, env=env, stdin=null, stdout=null) as process:
        with deadline(process):
            status = process.wait()  # with a timeout it would look only every 50 ms
        took = time.perf_counter() - start
    if status != 0:
        raise RuntimeError(f"a cold command ended with status {status}")
    return took * 1e3
