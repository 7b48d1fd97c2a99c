"""What the tests use: real servers, real tmux, real clients, and one way to wait.

Nothing here is a fake. Everything that is started is ended by its own process id.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

BIN = Path(sys.executable).parent
RECORDER = Path(__file__).parent / "recorder.py"
PATIENCE = 15.0
_tick = threading.Event()


def until(probe: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """Returns the probe's first true result; fails, saying `what` was awaited, when none comes."""
    end = time.monotonic() + patience
    while True:
        result = probe()
        if result:
            return result
        assert time.monotonic() < end, f"waited {patience:g} s in vain for {what}; last: {result!r}"
        _tick.wait(0.02)


def hold(seconds: float) -> None:
    """How long a fault lasts. It is the fault itself, never a way to wait for something."""
    threading.Event().wait(seconds)


class Home:
    """A private ORCH_HOME with a short path, since a socket's path is limited."""

    def __init__(self, beat: float = 0.2) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="orch-t-", dir="/tmp"))
        self.config = self.path / "orch-config.toml"
        self.configure(f"beat_interval = {beat}\n")

    @property
    def socket(self) -> Path:
        return self.path / "orch.sock"

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    def configure(self, text: str) -> None:
        self.config.write_text(text)

    def env(self, **more: str) -> dict[str, str]:
        """The environment of a user: nothing of the machine's own tmux or home."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TMUX", "ORCH_", "XDG_"))}
        return {
            **kept,
            "PATH": f"{BIN}:{kept['PATH']}",
            "ORCH_HOME": str(self.path),
            "ORCH_CONFIG": str(self.config),
            "LC_ALL": "C.UTF-8",
            **more,
        }

    def client(
        self, *args: str, stdin: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs orch-client as a person outside tmux would."""
        return subprocess.run(
            [str(BIN / "orch-client"), *args],
            env=self.env(**env),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def json(self, *args: str, **env: str) -> Any:
        """What a command prints with --json. Fails when the command fails."""
        done = self.client(*args, "--json", **env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class Server:
    """A real orch-server process."""

    def __init__(self, home: Home, *args: str) -> None:
        self.home = home
        self.args = args
        self.process: subprocess.Popen[str] | None = None
        self.ready_line = ""
        self._log = home.path / "orch-server.log"

    def start(self) -> Server:
        """Starts it and waits for the line that says it is ready."""
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [str(BIN / "orch-server"), "run", *self.args],
                env=self.home.env(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        assert " ready on " in self.ready_line, self.log
        return self

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self._close()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(15)
        self._close()
        return status

    def end(self) -> None:
        """Whatever state it is in, it ends."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()

    def _close(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.stdout.close()


class Tmux:
    """A private tmux server without configuration."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.socket = home.path / "orch-tmux.sock"

    def run(self, *args: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self.socket), "-f", "/dev/null", *args],
            env=self.home.env(),
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def pane(self, session: str, window: str, command: str = "bash --norc --noprofile") -> str:
        """Opens a window, in a new session if there is none of this name; returns the pane's id."""
        exists = self.run("has-session", "-t", f"={session}", check=False) == "" and self._has(
            session
        )
        where = (
            ["new-window", "-d", "-t", f"={session}:"]
            if exists
            else [
                "new-session",
                "-d",
                "-x",
                "200",
                "-y",
                "50",
                "-s",
                session,
            ]
        )
        return self.run(*where, "-n", window, "-P", "-F", "#{pane_id}", command)

    def recorder(self, session: str, window: str, record: Path) -> str:
        """A pane with a raw program that writes all it reads into a file."""
        pane = self.pane(session, window, f"exec {sys.executable} {RECORDER} {record}")
        until(lambda: record.exists(), "the recorder")
        return pane

    def type(self, pane: str, line: str) -> None:
        """Types a line into a shell, as a person does."""
        self.run("send-keys", "-t", pane, "-l", "--", line)
        self.run("send-keys", "-t", pane, "Enter")

    def screen(self, pane: str) -> str:
        """All that the pane shows and has shown."""
        return self.run("capture-pane", "-p", "-J", "-S", "-", "-t", pane, check=False)

    def wait_for(self, pane: str, text: str, patience: float = PATIENCE) -> str:
        """Waits until the pane shows the text."""
        until(
            lambda: text in self.screen(pane), f"{text!r} in {pane}:\n{self.screen(pane)}", patience
        )
        return self.screen(pane)

    def env(self, pane: str) -> dict[str, str]:
        """The variables by which a process believes to be in a pane."""
        pid = self.run("display-message", "-p", "#{pid}")
        return {"TMUX": f"{self.socket},{pid},0", "TMUX_PANE": pane}

    def end(self) -> None:
        self.run("kill-server", check=False)

    def _has(self, session: str) -> bool:
        names = self.run("list-sessions", "-F", "#{session_name}", check=False)
        return session in names.splitlines()


class Client:
    """A real `orch-client heartbeat` outside the pane it serves."""

    def __init__(self, tmux: Tmux, pane: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [str(BIN / "orch-client"), "heartbeat", "--pane", pane, *args],
            env=tmux.home.env(TMUX=f"{tmux.socket},0,0"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self, patience: float = PATIENCE) -> tuple[int, str]:
        """Waits for its end; returns exit status and output."""
        out, _ = self.process.communicate(timeout=patience)
        return self.process.returncode, out

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


def agent(home: Home, address: str) -> dict[str, Any]:
    """The agent as `orch-client agents` shows it; {} when there is none."""
    for found in home.json("agents"):
        if f"{found['session']}:{found['role']}" == address:
            return dict(found)
    return {}


def liveness(home: Home, address: str) -> str:
    """The agent's liveness as one word; "" when there is none."""
    return str(agent(home, address).get("liveness", "")).removeprefix("LIVENESS_")
