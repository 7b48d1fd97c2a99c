"""kill -9 while it writes: what was acknowledged is there, and the file is whole."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import apsw

from tests.support import hold

ROUNDS = 6
ROOT = Path(__file__).parents[2]


def _killed(path: Path, acknowledged: int, moment: float) -> list[str]:
    """Runs the writing process, kills it a moment after so many rows; returns what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.storage.writing_process", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as out:
        lines = [out.readline() for _ in range(acknowledged)]
        hold(moment)
        process.kill()
        process.wait(10)
        lines += out.readlines()
    return [line.strip() for line in lines if line.endswith("\n")]


def test_nothing_acknowledged_is_lost_by_kill_9(folder: Path) -> None:
    chance = random.Random(20261121)
    path = folder / "orch.db"
    acknowledged: set[str] = set()
    for _ in range(ROUNDS):
        printed = _killed(path, chance.randrange(1, 400), chance.uniform(0, 0.02))
        assert all(printed)
        acknowledged.update(printed)
        connection = apsw.Connection(str(path))
        assert connection.execute("pragma integrity_check").get == "ok"
        kept = {row[0] for row in connection.execute("select id from task")}
        events = {row[0] for row in connection.execute("select subject from event")}
        connection.close()
        assert acknowledged <= kept
        assert kept <= events
    assert len(acknowledged) > ROUNDS
