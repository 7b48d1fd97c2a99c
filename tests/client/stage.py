"""A scripted agent: a program under an agent's name whose screen and end the test decides."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orch_client.courier import kinds
from tests.support import Home

PLAYER = Path(__file__).parent / "player.py"


class Agent:
    """One kind of agent; `command` starts it."""

    def __init__(self, home: Home, kind: str = "claude", folder: str = "stage") -> None:
        self.kind = kind
        where = home.path / folder
        where.mkdir(exist_ok=True)
        program = where / kind
        program.write_text(PLAYER.read_text())
        self.fifo = where / f"{kind}.fifo"
        os.mkfifo(self.fifo)
        self.command = f"{sys.executable} {program} {self.fifo}"

    def show(self, name: str) -> None:
        """Draws the newest recorded screen of this name, such as "busy"."""
        self._order(f"show {recorded(self.kind, name)}")

    def say(self, text: str) -> None:
        """Prints a line."""
        self._order(f"say {text}")

    def exit(self, status: int) -> None:
        """Ends with this status."""
        self._order(f"exit {status}")

    def _order(self, order: str) -> None:
        self.fifo.write_text(f"{order}\n")


def recorded(kind: str, name: str) -> Path:
    """The newest recorded screen of this name."""
    folder = Path(kinds.SHIPPED) / "fixtures" / kind
    return sorted(p for p in folder.iterdir() if p.stem.partition("-")[2] == name)[-1]
