"""The gate before the real Claude Code: a tool call that was not approved never runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.agents.cli import Setup, start
from tests.agents.desk import Desk
from tests.agents.model import Answer
from tests.support import BIN, until

pytestmark = pytest.mark.agents

#: As `hooks install --gate` writes it, only shorter, and with a folder for orch-client of its own.
_TIMES = {"timeout -k 1 290": "timeout -k 1 7", "gate ||": "gate --deadline 4 ||"}
_HOOK_TIMEOUT = 12


class GatedDesk(Desk):
    """A Claude Code with the gate; `asks`: it has its own permissions, else it bypasses them."""

    def __init__(self, *, asks: bool) -> None:
        super().__init__("claude", hooks=True)
        self.asks = asks
        self.programs = self.home.path / "programs"

    def _open(self) -> None:
        self.programs.mkdir()
        self.install()
        self.server.start()
        self.model.__enter__()
        env = {"ORCH_HOME": str(self.home.path), "ORCH_CONFIG": str(self.home.config)}
        env["IS_SANDBOX"] = "1"
        args = () if self.asks else ("--dangerously-skip-permissions",)
        setup = replace(Setup(), env=env, hooks=self._hooks(), args=args)
        self.agent = start("claude", self.model, self.tmux, setup)
        if not self.asks:
            self.agent.shows("Yes, I accept")
            self.agent.keys("Down")
            until(lambda: "❯ 2. Yes" in self.pane.screen(), "the choice")
            self.agent.keys("Enter")
        self.agent.ready()  # no heartbeat: nothing is typed into the pane but the prompts here

    def install(self) -> None:
        """Puts orch-client where the hook finds it."""
        (self.programs / "orch-client").symlink_to(BIN / "orch-client")

    def remove(self) -> None:
        """Takes it away."""
        (self.programs / "orch-client").unlink()

    def _hooks(self) -> dict[str, Any]:
        settings = self.home.path / "settings.json"
        done = self.home.client("hooks", "install", "--gate", "--file", str(settings))
        assert done.returncode == 0, done.stderr
        hooks = dict(json.loads(settings.read_text())["hooks"])
        assert list(hooks) == ["PreToolUse"]
        entry = hooks["PreToolUse"][0]["hooks"][0]
        for long, short in _TIMES.items():
            assert long in entry["command"]
            entry["command"] = entry["command"].replace(long, short)
        path = shlex.quote(f"{self.programs}:/usr/bin:/bin")
        entry["command"] = f"PATH={path} {entry['command']}"
        entry["timeout"] = _HOOK_TIMEOUT
        return hooks

    def marker(self, name: str) -> Path:
        """What the command makes when it runs."""
        return self.pane.work / name

    def told(self, tool: str | tuple[str, dict[str, Any]]) -> Callable[[], str]:
        """Has the model use a tool, or run this command; returns what waits for what the model is
        told of it."""
        before = len(self.model.turns)
        answer = Answer(command=tool) if isinstance(tool, str) else Answer(tool=tool)
        self.model.then(answer, Answer("Noted."))
        self.pane.paste("please work")
        until(lambda: self.pane.composer == "please work", "the prompt")
        self.pane.keys("Enter")
        until(lambda: len(self.model.turns) > before, "the turn")

        def wait() -> str:
            until(
                lambda: len(self.model.turns) > before + 1,
                f"the tool's result; the screen:\n{self.pane.screen()}",
                25.0,
            )
            return _result(self.model.turns[before + 1].body["messages"])

        return wait

    def asked(self) -> str:
        """The id of the one request that waits for a decision, once it is there."""
        (found,) = until(lambda: self.home.json("pending"), "the request")
        return str(found["id"])

    def decide(self, *words: str) -> None:
        """The operator decides."""
        done = self.home.client(*words)
        assert done.returncode == 0, done.stderr


def _result(messages: list[dict[str, Any]]) -> str:
    """What the model is told of the last use of a tool."""
    blocks = [
        one for said in messages if isinstance(said["content"], list) for one in said["content"]
    ]
    results = [one for one in blocks if one["type"] == "tool_result"]
    return json.dumps(results[-1])


@dataclass
class Desks:
    """A desk of each sort, opened when it is needed."""

    asking: GatedDesk | None = None
    bypassing: GatedDesk | None = None


@pytest.fixture(scope="module")
def desks(agents: None) -> Iterator[Desks]:
    """The desks of this module."""
    made = Desks()
    yield made
    for desk in (made.asking, made.bypassing):
        if desk is not None:
            desk.end()


@pytest.fixture
def asking(desks: Desks) -> GatedDesk:
    """A Claude Code that opens its own dialogs."""
    if desks.asking is None:
        made = GatedDesk(asks=True)
        made.open()
        desks.asking = made
    return desks.asking


@pytest.fixture
def bypassing(desks: Desks) -> Iterator[GatedDesk]:
    """A Claude Code that runs all that no hook blocks; all is well again afterwards."""
    if desks.bypassing is None:
        made = GatedDesk(asks=False)
        made.open()
        desks.bypassing = made
    yield desks.bypassing
    desks.bypassing.settle()


def test_what_the_policy_allows_runs(bypassing: GatedDesk) -> None:
    bypassing.told("touch plain")()
    assert bypassing.marker("plain").exists()


def test_what_nobody_approves_does_not_run_and_runs_when_it_is_tried_again_after_an_approval(
    bypassing: GatedDesk,
) -> None:
    said = bypassing.told("touch deploy-a")()
    asked = bypassing.asked()
    assert f"blocked: pending, try again: Authorization {asked}" in said
    assert not bypassing.marker("deploy-a").exists()
    bypassing.decide("approve", asked)
    bypassing.told("touch deploy-a")()
    assert bypassing.marker("deploy-a").exists()


def test_what_is_denied_does_not_run_and_the_model_hears_why(bypassing: GatedDesk) -> None:
    wait = bypassing.told("touch deploy-b")
    bypassing.decide("deny", bypassing.asked(), "--reason", "not on a Friday")
    said = wait()
    assert "denied by operator: not on a Friday" in said
    assert not bypassing.marker("deploy-b").exists()


@pytest.mark.parametrize("name", ["plain-c", "deploy-c"])
def test_without_a_client_nothing_runs(bypassing: GatedDesk, name: str) -> None:
    bypassing.remove()
    try:
        said = bypassing.told(f"touch {name}")()
    finally:
        bypassing.install()
    assert "orch-client" in said
    assert not bypassing.marker(name).exists()


def test_without_a_server_no_tool_is_used_at_all(bypassing: GatedDesk) -> None:
    bypassing.server.kill()
    try:
        said = bypassing.told("touch plain-d")()
        read = bypassing.told(("Read", {"file_path": str(bypassing.pane.work / "README")}))()
        new = str(bypassing.marker("new"))
        bypassing.told(("Write", {"file_path": new, "content": "x"}))()
    finally:
        bypassing.server.start()
    assert "no orch-server answers" in said
    assert "no orch-server answers" in read
    assert "A project." not in read
    assert not bypassing.marker("plain-d").exists()
    assert not bypassing.marker("new").exists()


def test_a_server_that_dies_while_the_gate_waits_lets_nothing_run(bypassing: GatedDesk) -> None:
    wait = bypassing.told("touch deploy-e")
    bypassing.asked()
    bypassing.server.kill()
    try:
        said = wait()
    finally:
        bypassing.server.start()
    assert "blocked: pending, try again" in said
    assert not bypassing.marker("deploy-e").exists()
    bypassing.decide("withdraw", bypassing.asked())


def test_what_is_approved_while_it_waits_runs_without_a_dialog(asking: GatedDesk) -> None:
    wait = asking.told("touch deploy-f")
    screens: list[str] = []
    asking.decide("approve", asking.asked())
    until(lambda: screens.append(asking.pane.screen()) or asking.marker("deploy-f").exists(), "it")
    wait()
    assert not any("Do you want to proceed?" in screen for screen in screens)


def test_what_the_policy_allows_is_still_asked_of_the_person(asking: GatedDesk) -> None:
    wait = asking.told("touch plain-g")
    asking.pane.shows("Do you want to proceed?")
    assert not asking.marker("plain-g").exists()
    asking.pane.keys("Enter")
    wait()
    assert asking.marker("plain-g").exists()
