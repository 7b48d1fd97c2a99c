"""Where the gate is tried: a server, its store, a private tmux, agents with tokens, cases."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shlex
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from orch.v1 import authorization_pb2 as pb
from orch.v1.authorization_pb2_grpc import AuthorizationServiceStub
from orch_server.services.tokens import TokenFiles
from tests.faults.gate_host import Outcome, Use
from tests.support import Home, Server, Tmux, until

POLICY = """
[authorization]
gate_default = "ask"
[[authorization.classes]]
name = "quick"
words = ["quick"]
timeout = "1s"
[[authorization.classes]]
name = "brief"
words = ["brief"]
lapse = "1s"
[[authorization.gate]]
input = "^free"
then = "allow"
[[authorization.gate]]
input = "^never"
then = "deny"
"""
_HOST = Path(__file__).parent / "gate_host.py"
_CALL = 10.0
_UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@dataclass(frozen=True)
class Times:
    """The gate's own deadline, that of `timeout`, and the host's, in seconds; as in life each is
    longer than the one before."""

    gate: float
    limit: float
    host: float

    @property
    def hook(self) -> str:
        """The command, in the form that `hooks install --gate` writes."""
        limit = f"timeout -k 0.2 {self.limit:g}"
        return f"{limit} orch-client gate --deadline {self.gate:g} || exit 2"


AT_ONCE, SHORT, PATIENT = Times(1, 3, 10), Times(2, 4, 12), Times(20, 22, 30)
#: The client is stopped: `timeout` is what ends it.
STUCK = Times(10, 1.5, 10)


class Stand:
    """A server in its own home, used by one case at a time."""

    def __init__(self, seed: str) -> None:
        self.dice = random.Random(seed)
        self.home = Home(beat=5)
        self.home.configure(POLICY)
        # While the server is dead, nobody else gets its port.
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._kept.getsockname()[1]}"
        self.server = Server(self.home, "--listen", self.home.address, "--listen", self.address)
        self.tmux = Tmux(self.home)
        self._number = 0

    def open(self) -> Stand:
        """Starts the server."""
        self.server.start()
        return self

    def close(self) -> None:
        """Ends everything, and removes the folder."""
        self.server.end()
        self.tmux.end()
        self.home.remove()
        self._kept.close()

    def signal(self, number: int) -> None:
        """Signals the server."""
        assert self.server.process is not None
        self.server.process.send_signal(number)

    def fill(self) -> None:
        """From now on the server's disk is full: it can make no file longer."""
        self._limit((0, resource.RLIM_INFINITY))

    def heal(self) -> None:
        """The server runs, whatever was done to it."""
        process = self.server.process
        if process is not None and process.poll() is None:
            self._limit(_UNLIMITED)
            process.send_signal(signal.SIGCONT)
        else:
            self.server.end()
            self.server.start()

    def _limit(self, limits: tuple[int, int]) -> None:
        assert self.server.process is not None
        resource.prlimit(self.server.process.pid, resource.RLIMIT_FSIZE, limits)

    def case(self) -> Case:
        """The next case, with an agent of its own."""
        self._number += 1
        role = f"n{self._number}"
        token = TokenFiles(self.home.path / "tokens").create("atlas", role, "2026-11-21")
        return Case(self, role, token, self.home.path / f"ran-{self._number}")


@dataclass
class Case:
    """One use of a tool that does nothing but write a line into the file `marker`."""

    stand: Stand
    role: str
    token: str
    marker: Path
    uses: list[Use] = field(default_factory=list)

    @property
    def dice(self) -> random.Random:
        return self.stand.dice

    @property
    def tool(self) -> str:
        """The command that shows that the tool ran."""
        return f"echo ran >> {self.marker}"

    def call(self, word: str = "ask", **changes: Any) -> bytes:
        """What the host tells the hook; `word` begins the command, and decides what the policy says
        of it."""
        said = {
            "hook_event_name": "PreToolUse",
            "tool_name": "Bash",
            "tool_input": {"command": f"{word}; {self.tool}", "description": "It runs."},
            "cwd": "/srv/atlas",
        }
        return json.dumps({**said, **changes}).encode()

    def start(self, call: bytes, times: Times = SHORT, **more: Any) -> Use:
        """Begins a use of the tool. `env`: other variables; `hook`: another command."""
        address = {"ORCH_ADDRESS": self.stand.address, "ORCH_TOKEN": self.token}
        env = self.stand.home.env(**{**address, **more.pop("env", {})})
        hook = more.pop("hook", times.hook)
        self.uses.append(Use(hook, call, self.tool, env, times.host, **more))
        return self.uses[-1]

    def use(self, call: bytes, times: Times = SHORT, **more: Any) -> Outcome:
        """A whole use of the tool."""
        return self.start(call, times, **more).finish()

    # ---- decisions ----

    def ask(self, call: bytes) -> str:
        """Has the agent ask by itself, as its gate would; returns the request's id."""
        said = json.loads(call)
        arguments = json.dumps(said["tool_input"], sort_keys=True, separators=(",", ":"))
        action = pb.Action(tool=said["tool_name"], arguments=arguments, cwd=said["cwd"])
        request = pb.CheckActionRequest(action=action, request_id=f"{self.dice.random()}")
        with self.operator() as stub:
            how = (("authorization", f"Bearer {self.token}"),)
            return str(stub.CheckAction(request, timeout=_CALL, metadata=how).authorization.id)

    def approve(self, asked: str) -> None:
        """The operator says yes."""
        with self.operator() as stub:
            stub.ApproveAuthorization(pb.ApproveAuthorizationRequest(id=asked), timeout=_CALL)

    def deny(self, asked: str) -> None:
        """The operator says no."""
        with self.operator() as stub:
            request = pb.DenyAuthorizationRequest(id=asked, reason="not today")
            stub.DenyAuthorization(request, timeout=_CALL)

    def cancel(self, asked: str) -> None:
        """The operator withdraws it."""
        with self.operator() as stub:
            stub.CancelAuthorization(pb.CancelAuthorizationRequest(id=asked), timeout=_CALL)

    @contextmanager
    def operator(self) -> Iterator[AuthorizationServiceStub]:
        """Calls over the Unix socket; the server is in open mode."""
        with grpc.insecure_channel(self.stand.home.address) as channel:
            yield AuthorizationServiceStub(channel)

    def pending(self, use: Use | None = None) -> str:
        """The request that was made in this case, once it is there; "" if the use ends before."""
        until(
            lambda: self.asked("PENDING") or (use and use.process.poll() is not None), "a request"
        )
        return next(iter(self.asked("PENDING")), "")

    def asked(self, *states: str) -> list[str]:
        """The requests of this case in one of these states, from the store."""
        marks = ", ".join("?" * len(states))
        sql = f"select id from authorization where arguments like ? and state in ({marks})"
        return [row[0] for row in self._rows(sql, (f'%{self.marker}"%', *states))]

    def count_consumed(self) -> int:
        """How many approvals of this case were used."""
        sql = "select id from authorization where arguments like ? and state = 'CONSUMED'"
        return len(self._rows(sql, (f'%{self.marker}"%',)))

    def _rows(self, sql: str, values: tuple[str, ...]) -> list[Any]:
        store = self.stand.home.path / "orch.db"
        with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
            return db.execute(sql, values).fetchall()

    @property
    def ran(self) -> int:
        """How many times the tool ran."""
        return len(self.marker.read_text().splitlines()) if self.marker.exists() else 0

    def end(self) -> None:
        """Ends what a failure has left."""
        for use in self.uses:
            use.end()

    # ---- in a pane ----

    def pane(self, *uses: tuple[bytes, Times], env: dict[str, str] | None = None) -> Pane:
        """A pane whose host uses the tool so many times, each when it is told to."""
        return Pane(self, uses, env or {})


class Pane:
    """A host in a pane of its own; the server knows it by the kernel's word."""

    def __init__(
        self, case: Case, uses: tuple[tuple[bytes, Times], ...], env: dict[str, str]
    ) -> None:
        self._case = case
        self._spec = case.stand.home.path / f"spec-{case.role}-{case.dice.getrandbits(32):x}"
        listed = [
            {
                "go": f"{self._spec}.go{number}",
                "hook": times.hook,
                "call": call.decode(),
                "tool": case.tool,
                "patience": times.host,
                "env": env,
            }
            for number, (call, times) in enumerate(uses)
        ]
        self._spec.write_text(json.dumps(listed))
        self._done = 0
        self.command = shlex.join(["exec", sys.executable, "-SE", str(_HOST), str(self._spec)])
        self.command = self.command.replace("'exec'", "exec")
        tmux = case.stand.tmux
        self.id = tmux.pane("atlas", self._spec.name, self.command)

    def use(self) -> Outcome:
        """The next use."""
        return self.start()()

    def start(self) -> Callable[[], Outcome]:
        """Begins the next use; returns what waits for its end."""
        number, self._done = self._done, self._done + 1
        Path(f"{self._spec}.go{number}").touch()
        result = Path(f"{self._spec}.{number}")

        def wait() -> Outcome:
            until(result.exists, f"the end of {result}", 60.0)
            return Outcome(**json.loads(result.read_text()))

        return wait

    def respawn(self) -> None:
        """The same pane with another first process, which begins with the first use anew."""
        for number in range(self._done):
            Path(f"{self._spec}.{number}").unlink()
            Path(f"{self._spec}.go{number}").unlink()
        self._done = 0
        self._case.stand.tmux.run("respawn-pane", "-k", "-t", self.id, self.command)

    def close(self) -> None:
        """Ends the host, if it has not ended."""
        self._case.stand.tmux.run("kill-pane", "-t", self.id, check=False)
