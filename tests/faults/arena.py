"""What runs: one server, one tmux, panes with fake agents, and the clients that serve them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import pane
from tests.support import BIN, Home, Server, Tmux, until

#: Probabilities of the faults, at each moment.
CHANCES = {
    "paste": "late=.03 dialog=.006 devour=.003 restart=.003 relaunch=.003 stop=.005 scroll=.02"
    " draft=.006",
    "enter": "swallow=.03 late=.01 dialog=.005 hold=.005 restart=.003 relaunch=.003 stop=.005",
    "submit": "late=.03 dialog=.01 scroll=.02 restart=.003 relaunch=.003 stop=.005 busy=.01",
    "tick": "dialog=.1 draft=.15 scroll=.1 restart=.04 relaunch=.04 stop=.08 late=.1",
}
#: Those after which the courier waits long for a text that is lost.
LENGTHY = ("paste:devour", "paste:restart", "enter:restart")
TICKS = 5.0
SESSIONS = ("fleet", "own", "nobody")


@dataclass(frozen=True)
class Agent:
    """One fake agent; `session` says who serves its pane."""

    session: str
    role: str
    record: Path

    @property
    def address(self) -> str:
        return f"{self.session}:{self.role}"


@dataclass
class Arena:
    """All of it; `open` starts, `close` ends what is left in any state."""

    panes: int
    seed: int
    lengthy: bool = True
    home: Home = field(default_factory=Home)
    agents: list[Agent] = field(default_factory=list)
    where: dict[Agent, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server = Server(self.home)
        self.tmux = Tmux(self.home)
        self.clients: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}
        self._dice = random.Random(self.seed)
        sessions = [("fleet", "own", "fleet", "nobody")[n % 4] for n in range(self.panes)]
        for number, session in enumerate(sessions):
            record = self.home.path / f"record-{number}"
            self.agents.append(Agent(session, f"n{number}", record))

    def open(self) -> None:
        """Starts the server, the agents, and their clients."""
        self.server.start()
        self.open_panes()
        for agent in self.agents:
            if agent.session == "own":
                self.start_client("--pane", self.where[agent])
        self.start_client("--all", "--session", "fleet")
        served = sum(agent.session != "nobody" for agent in self.agents)
        until(lambda: len(self.home.json("agents")) >= served, "the agents")

    def open_panes(self) -> None:
        """Starts the agents in a tmux server, and waits for each of them."""
        for agent in self.agents:
            self.where[agent] = self.tmux.pane(agent.session, agent.role, self._command(agent))
        for agent in self.agents:
            until(lambda agent=agent: "❯" in self._screen(agent), f"the agent {agent.address}")

    def start_client(self, *args: str) -> None:
        """Starts a heartbeat, in place of the one before with these arguments."""
        with (self.home.path / "orch-clients.log").open("ab") as log:
            self.clients[args] = subprocess.Popen(
                [str(BIN / "orch-client"), "heartbeat", *args],
                env=self.home.env(TMUX=f"{self.tmux.socket},0,0"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def restart_client(self, args: tuple[str, ...]) -> None:
        """Kills the client with -9 and starts it again at once."""
        self.clients[args].kill()
        self.clients[args].wait()
        self.start_client(*args)

    def restart_server(self) -> None:
        """Kills the server with -9 and starts it again at once."""
        self.server.kill()
        self.server.start()

    def restart_tmux(self) -> None:
        """Kills the tmux server with -9; everything in it is gone. Then opens the panes anew."""
        os.kill(int(self.tmux.run("display-message", "-p", "#{pid}")), signal.SIGKILL)
        until(lambda: "no server" in self._error() or "connect" in self._error(), "tmux's end")
        self.tmux.socket.unlink(missing_ok=True)
        self.open_panes()
        for args in [args for args in self.clients if args[0] == "--pane"]:
            process = self.clients.pop(args)
            process.kill()
            process.wait()
        for agent in self.agents:
            if agent.session == "own":
                self.start_client("--pane", self.where[agent])

    def own_processes(self) -> list[int]:
        """The process ids of the server and the clients."""
        assert self.server.process is not None
        return [self.server.process.pid, *(p.pid for p in self.clients.values())]

    def close(self) -> None:
        """Ends everything by its process id, and removes the folder."""
        for process in self.clients.values():
            process.kill()
            process.wait()
        self.server.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.tmux.end()
        self.home.remove()

    def _command(self, agent: Agent) -> str:
        chances = ",".join(
            f"{moment}:{entry}"
            for moment, entries in CHANCES.items()
            for entry in entries.split()
            if self.lengthy or f"{moment}:{entry}".partition("=")[0] not in LENGTHY
        )
        options = ["--seed", f"{self.seed}.{agent.role}", "--chances", chances]
        options += ["--turn", "0.02", "0.3", "--ticks", str(TICKS)]
        return pane.command(self.home.path, agent.record, *options)

    def _screen(self, agent: Agent) -> str:
        return self.tmux.run("capture-pane", "-p", "-t", self.where[agent])

    def _error(self) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self.tmux.socket), "display-message", "-p", "x"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        return done.stderr
