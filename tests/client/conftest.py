"""Fixtures of the client's tests: a pane with a recorder in it, and the courier's view of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orch_client.courier.deliver import Courier, Offer, Outcome, PaneAddress, Reply
from tests.client.terminal import Terminal, opened
from tests.support import Home, Tmux, until


@dataclass
class Heard:
    """A listener that keeps what it hears."""

    outcomes: list[Outcome] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    replied: asyncio.Event = field(default_factory=asyncio.Event)

    async def report(self, offer: Offer, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    async def ready(self, at: PaneAddress) -> None:
        self.is_ready.set()

    async def reply(self, offer: Offer, said: Reply) -> None:
        self.replies.append(said)
        self.replied.set()


async def served(courier: Courier, offer: Offer, at: PaneAddress) -> Outcome:
    """Serves the offer and returns its outcome, before which only a paste was reported."""
    heard = Heard()
    await courier.serve(offer, at, heard)
    assert all(o.state == "PASTED" for o in heard.outcomes[:-1])
    return heard.outcomes[-1]


def deliver(at: PaneAddress, offer: Offer) -> Outcome:
    """Serves the offer with a courier of its own."""

    async def body() -> Outcome:
        courier = Courier()
        try:
            return await served(courier, offer, at)
        finally:
            await courier.close()

    return asyncio.run(body())


@dataclass(frozen=True)
class Recorded:
    """A pane whose program writes every byte it reads into a file."""

    tmux: Tmux
    pane: str
    record: Path
    at: PaneAddress

    def typed(self, size: int) -> bytes:
        """All that was typed, once it is so many bytes or more."""
        until(lambda: self.record.stat().st_size >= size, f"{size} bytes; {self._tail()!r}")
        return self.record.read_bytes()

    def settled(self) -> bytes:
        """All that was typed until now: a mark typed last has arrived, and is cut off."""
        mark = b"\x1e-settled-\x1e"
        self.tmux.run("send-keys", "-t", self.pane, "-l", mark.decode())
        until(lambda: self.record.read_bytes().endswith(mark), f"the mark; {self._tail()!r}")
        return self.record.read_bytes().replace(mark, b"")

    def _tail(self) -> bytes:
        return self.record.read_bytes()[-200:]


def address(tmux: Tmux, pane: str) -> PaneAddress:
    """The pane as an offer names it."""
    pid, started = tmux.run("display-message", "-p", "#{pid} #{start_time}").split()
    return PaneAddress(str(tmux.socket), int(pid), int(started), pane)


@pytest.fixture
def recorded(home: Home, tmux: Tmux) -> Recorded:
    """One pane with a recorder."""
    record = home.path / "orch-record"
    pane = tmux.recorder("atlas", "tester", record)
    return Recorded(tmux, pane, record, address(tmux, pane))


@pytest.fixture
def recorders(home: Home, tmux: Tmux) -> Callable[[str], Recorded]:
    """Makes panes with recorders."""

    def make(name: str) -> Recorded:
        record = home.path / f"orch-record-{name}"
        pane = tmux.recorder("atlas", name, record)
        return Recorded(tmux, pane, record, address(tmux, pane))

    return make


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A user in Vienna whose server is elsewhere, with a token."""
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    with opened(monkeypatch) as ready:
        yield ready
    monkeypatch.undo()
    time.tzset()
