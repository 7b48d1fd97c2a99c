"""The whole `orch-server import --execute`, with its backup and its proof, of a registry that is
made for it; and the dry run beside it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.legacy.samples import write_registry
from tests.support import BIN, Home

from bench.processes import home
from bench.report import Plain
from bench.scale import Scale

_GOAL = 5.0
_AGENTS = 7


def measure(scale: Scale) -> Iterator[Plain]:
    """Seconds of whole processes, each into a home of its own."""
    with tempfile.TemporaryDirectory(prefix="orch-old-") as folder:
        old = write_registry(
            Path(folder), scale.imported, agents=_AGENTS, tasks=_AGENTS, messages=2
        )
        looked, done = [], []
        for _ in range(scale.starts):
            with home() as at:
                looked.append(_seconds(at, old))
                done.append(_seconds(at, old, "--execute"))
                shutil.rmtree(at.path / "backups")
    size = f"{scale.imported:,} sessions"
    yield Plain(f"import of {size}, whole command (s)", done, at_most=_GOAL)
    yield Plain("  - the dry run of it", looked)


def _seconds(at: Home, old: Path, *flags: str) -> float:
    """From fork to exit. Raises when the command fails."""
    start = time.perf_counter()
    subprocess.run(
        [str(BIN / "orch-server"), "import", str(old), *flags],
        env=at.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=120,
        check=True,
    )
    return time.perf_counter() - start
