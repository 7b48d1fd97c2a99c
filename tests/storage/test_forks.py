"""A process that the event loop starts while other threads use the database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

_COUNT = 600  # of which one hung, in each of three runs, while threads alone held connections


def test_starting_processes_never_waits_for_the_databases_threads(folder: Path) -> None:
    command = [sys.executable, "-m", "tests.storage.forking_process", str(folder / "x.db")]
    child = subprocess.Popen(
        [*command, str(_COUNT)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert child.communicate(timeout=100)[0] == "done\n"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # with the children that hang
            child.wait()
