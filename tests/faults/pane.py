"""A pane with the fake agent in it, and what the agent wrote down."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orch_client.courier.offer import PaneAddress
from tests.support import Tmux, until

#: What the fake agent's person types.
DRAFT = "perhaps we should "
_AGENT = Path(__file__).parent / "fake_agent.py"
#: A process of its own before the agent: tmux itself continues a stopped first process.
_WRAPPER = 'while :; do "$@"; [ $? -eq 75 ] || exit; done\n'


@dataclass(frozen=True)
class FakePane:
    """The pane, and the record of its agent."""

    tmux: Tmux
    pane: str
    record: Path
    at: PaneAddress

    def events(self) -> list[dict[str, Any]]:
        """All that the agent noted until now."""
        return read(self.record)

    def received(self) -> list[str]:
        """What the model received, in order."""
        return [str(e["text"]) for e in self.events() if e["event"] == "submitted"]

    def count(self, event: str) -> int:
        """How many events there were of this name."""
        return sum(e["event"] == event for e in self.events())

    def screen(self) -> str:
        """What the pane shows now."""
        return self.tmux.run("capture-pane", "-p", "-t", self.pane)


def read(record: Path) -> list[dict[str, Any]]:
    """The events of a record."""
    return [json.loads(line) for line in record.read_text().splitlines()]


def queued(record: Path) -> Counter[str]:
    """What the agent that runs now has taken into its queue and not yet submitted."""
    left: Counter[str] = Counter()
    for event in read(record):
        if event["event"] == "started":
            left.clear()
        elif event["event"] == "queued":
            left[event["text"]] += 1
        elif event["event"] == "submitted":
            left[event["text"]] -= 1
    return +left


def command(folder: Path, record: Path, *args: str) -> str:
    """The shell command of the pane. In the folder there will be a program called claude."""
    program, wrapper = folder / "claude", folder / "launch"
    if not program.exists():
        program.symlink_to(_AGENT)
        wrapper.write_text(_WRAPPER)
    words = ["sh", str(wrapper), sys.executable, "-SE", str(program), str(record), *args]
    return f"exec {shlex.join(words)}"


def opened(tmux: Tmux, window: str, *args: str, shows: str = "❯") -> FakePane:
    """A fake agent in a new window of the session "atlas", once it shows this."""
    folder = tmux.home.path
    record = folder / f"record-{window}"
    pane = tmux.pane("atlas", window, command(folder, record, *args))
    pid, started = tmux.run("display-message", "-p", "#{pid} #{start_time}").split()
    made = FakePane(tmux, pane, record, PaneAddress(str(tmux.socket), int(pid), int(started), pane))
    until(lambda: shows in made.screen(), f"{shows!r} on the screen: {made.screen()}")
    return made
