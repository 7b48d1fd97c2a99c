"""A real agent at work: its model, its pane, its heartbeat client and a server, all real but the
model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.agents.cli import Agent, Setup, start
from tests.agents.model import Answer, Model
from tests.support import Client, Home, Server, Tmux, agent, hold, liveness, until

DEFAULT = Setup()


class Desk:
    """Where an agent of one kind sits; end it with `end`."""

    def __init__(
        self, kind: str, setup: Setup = DEFAULT, *, hooks: bool = False, beat: float = 0.2
    ) -> None:
        self.kind = kind
        self.address = f"atlas:{kind}"
        self.home = Home(beat)
        self.server = Server(self.home)
        self.tmux = Tmux(self.home)
        self.model = Model()
        self.agent: Agent | None = None
        self.beat: Client | None = None
        self.setup = setup
        self.hooks = hooks  # Claude Code's own take messages and tell its state

    def open(self) -> Desk:
        """Starts all of it, and waits until the agent can be written to, or asks whether it may
        work in the folder. Ends what a failure leaves."""
        try:
            self._open()
        except BaseException:
            self.end()
            raise
        return self

    def _open(self) -> None:
        self.server.start()
        self.model.__enter__()
        env = {"ORCH_HOME": str(self.home.path), "ORCH_CONFIG": str(self.home.config)}
        hooks = self._hooks() if self.hooks else None
        setup = replace(self.setup, env=env, hooks=hooks)
        self.agent = start(self.kind, self.model, self.tmux, setup)
        if self.setup.trusted:
            self.agent.ready()
        if self.setup.under[:1] != ("orch-client",):  # `run` beats itself
            self.beat = Client(self.tmux, self.agent.pane, "--kind", self.kind)
        until(lambda: liveness(self.home, self.address) == "ALIVE", f"the heartbeat of {self.kind}")

    @property
    def pane(self) -> Agent:
        assert self.agent is not None
        return self.agent

    def end(self) -> None:
        """Ends all of it, whatever its state."""
        if self.beat is not None:
            self.beat.end()
        try:
            if self.agent is not None:
                self.agent.end()
        finally:
            self.tmux.end()
            self.server.end()
            self.model.__exit__(None, None, None)
            self.home.remove()

    def _hooks(self) -> dict[str, Any]:
        settings = self.home.path / "settings.json"
        done = self.home.client("hooks", "install", "--file", str(settings))
        assert done.returncode == 0, done.stderr
        return dict(json.loads(settings.read_text())["hooks"])

    def settle(self) -> None:
        """Lets the agent end its work; returns when it is idle with an empty composer."""
        self.model.plan.clear()
        self.model.release()
        until(self.is_idle, f"{self.kind} to be idle; it shows:\n{self.pane.screen()}", 5.0)

    def is_idle(self) -> bool:
        """Whether it waits for a prompt and its composer is empty."""
        return not self.pane.busy and self.pane.composer == ""

    def keep_busy(self) -> None:
        """Has it work on a turn that lasts until the model is released."""
        before = len(self.model.turns)
        self.model.then(Answer(held=True))
        self.pane.paste("please work")
        until(lambda: self.pane.composer == "please work", "the prompt")
        self.pane.keys("Enter")
        until(lambda: len(self.model.turns) > before, "the turn")
        until(lambda: self.pane.busy, f"{self.kind} at work")

    def shown(self) -> dict[str, Any]:
        """The agent as `orch-client agents --json` shows it now."""
        return agent(self.home, self.address)

    def send(self, text: str, *args: str, wait: str = "") -> dict[str, Any]:
        """Sends a text through a pipe; returns the delivery as the API shows it."""
        more = ("--wait", wait) if wait else ()
        done = self.home.client("send", self.address, *args, *more, "--json", stdin=text)
        assert done.stdout, done.stderr
        sent = json.loads(done.stdout)["results"][0]["delivery"]
        return dict(sent)

    def delivery(self, sent: dict[str, Any]) -> dict[str, Any]:
        """The delivery as it is now."""
        return dict(self.home.json("delivery", sent["id"]))

    def state(self, sent: dict[str, Any]) -> str:
        """The delivery's state as one word."""
        return word(self.delivery(sent), "state")

    def becomes(self, sent: dict[str, Any], *states: str, patience: float = 20.0) -> dict[str, Any]:
        """Waits until the delivery has one of these states; returns it."""
        until(
            lambda: self.state(sent) in states,
            f"{' or '.join(states)}; {self.delivery(sent)}\n{self.pane.screen()}",
            patience,
        )
        return self.delivery(sent)

    def is_held(self, sent: dict[str, Any], reason: str, seconds: float = 1.0) -> None:
        """Asserts that the delivery waits for this reason, and goes on waiting."""
        until(
            lambda: word(self.delivery(sent), "reason") == reason,
            f"{reason}; {self.delivery(sent)}\n{self.pane.screen()}",
        )
        hold(seconds)
        found = self.delivery(sent)
        assert (word(found, "state"), word(found, "reason")) == ("PENDING", reason), found
        assert "PASTED" not in steps(found)

    def received(self, sent: dict[str, Any]) -> str:
        """What the model must have been told."""
        header = sent.get("header", "")
        return f"{header}\n{sent['text']}" if header else str(sent["text"])


def word(delivery: dict[str, Any], field: str) -> str:
    """An enum's value without its prefix; "" when it is not set."""
    prefix = {"state": "DELIVERY_STATE_", "reason": "REFUSAL_REASON_"}[field]
    found = str(delivery.get(field, "")).removeprefix(prefix)
    return "" if found == "UNSPECIFIED" else found


def steps(delivery: dict[str, Any]) -> list[str]:
    """The delivery's story in words."""
    return [str(step["step"]).upper() for step in delivery.get("steps", [])]
