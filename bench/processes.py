"""The processes of a run: started here, ended by their own id whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tests.support import Home, Server

ROOT = Path(__file__).parent.parent
_PATIENCE = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Child:
    """A helper process, `python -m bench.MODULE`; ready when this returns."""

    def __init__(self, module: str, *args: object) -> None:
        self._module = module
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"bench.{module}", *map(str, args)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._answer()
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def measure(self, seconds: float) -> dict[str, float]:
        """One measurement of so many seconds. Raises RuntimeError when the helper died."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Closes its input, which ends it; kills it when that does not help."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process.stdout.close()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        with deadline(self.process):
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"bench.{self._module} died or gave no answer")
        return dict(json.loads(line))


@contextmanager
def deadline(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> Iterator[None]:
    """Kills a process that is silent for too long, so that waiting for it has an end."""
    watchdog = threading.Timer(_PATIENCE, process.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


@contextmanager
def home() -> Iterator[Home]:
    """A private ORCH_HOME whose server expects a beat a minute, so leases play no part."""
    made = Home(beat=60)
    try:
        yield made
    finally:
        made.remove()


@contextmanager
def product(at: Home) -> Iterator[tuple[str, int]]:
    """A real orch-server in this home, its address and its process id."""
    server = Server(at)
    try:
        server.start()
        assert server.process is not None
        yield at.address, server.process.pid
        server.stop()
    except BaseException:
        if server.process is not None and server.process.poll() is not None:
            print(f"the server has ended:\n{server.log[-4000:]}", file=sys.stderr)
        raise
    finally:
        server.end()


@contextmanager
def bare(at: Home, folder: Path | None = None) -> Iterator[tuple[str, int]]:
    """A bare server in this home, its address and its process id; with a folder it also commits."""
    address = f"unix:{at.path}/bare{'' if folder is None else '-commit'}.sock"
    with Child("baseline_server", address, *([] if folder is None else [folder])) as child:
        yield address, child.pid


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def cpu_nanoseconds(pid: int) -> int:
    """CPU time, with that of children that have ended.

    For the process itself the ticks of /proc/PID/stat are too coarse.
    """
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    own = sum(int(thread.read_text().split()[0]) for thread in threads)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + (int(fields[13]) + int(fields[14])) * (10**9 // _TICKS)


def memory_kilobytes(pid: int, kind: str) -> float:
    """Memory of a process: "Rss", or "Pss" where what it shares counts in proportion."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return float(line.split()[1])
    raise RuntimeError(f"no {kind} in smaps_rollup")
