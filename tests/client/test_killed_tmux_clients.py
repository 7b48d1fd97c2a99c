"""The same offer from many couriers at once, whose tmux clients are killed at random moments."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from orch_client.courier import deliver
from orch_client.courier.deliver import Courier, Offer
from orch_client.courier.offer import CONFIRMED
from tests.client.conftest import Recorded, served

PANES = 4
OFFERS = 52
ATTEMPTS = 5
KILLS = 8  # of the tmux clients of one offer; then it is left in peace


class Killer:
    """Kills tmux clients of this process that work for a pane under fire. Nothing else."""

    def __init__(self, socket: str, chance: random.Random) -> None:
        self._socket = socket.encode()
        self._chance = chance
        self.under_fire: dict[str, int] = {}
        self.killed = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._chance.uniform(0, 0.004))  # the moment is the fault
            for pid in _children():
                if self._chance.random() < 0.5:
                    self._kill(pid)

    def _kill(self, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            pane = next((p for p in self.under_fire if p.encode() in line), "")
            if self._socket in line and self.under_fire.get(pane):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                self.under_fire[pane] -= 1
                self.killed += 1
        except (ProcessLookupError, FileNotFoundError):
            pass
        finally:
            os.close(handle)


def _children() -> list[int]:
    found: list[int] = []
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            found.extend(int(pid) for pid in task.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def _serve(pane: Recorded, numbers: range, killer: Killer) -> bytes:
    """Delivers each offer under fire, then once in peace; returns what must have been typed."""
    expected = b""
    for number in numbers:
        offer = Offer(number, "0a1b2c3d", f"offer {number} " + "x" * (number % 700), "generic")
        killer.under_fire[pane.pane] = KILLS
        await asyncio.gather(*(served(Courier(), offer, pane.at) for _ in range(ATTEMPTS)))
        killer.under_fire[pane.pane] = 0
        settled = await served(Courier(), offer, pane.at)
        assert settled.state == CONFIRMED, (number, settled)
        expected += offer.text.encode() + b"\r"
    return expected


def test_nothing_is_missing_and_nothing_is_doubled(
    recorders: Callable[[str], Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "_SILENT_PAUSE", 0.005)
    panes = [recorders(f"p{n}") for n in range(PANES)]
    killer = Killer(panes[0].at.socket, random.Random(20261121))

    async def body() -> list[bytes]:
        killing = asyncio.create_task(killer.run())
        try:
            return await asyncio.gather(
                *(
                    _serve(pane, range(n + 1, PANES * OFFERS + 1, PANES), killer)
                    for n, pane in enumerate(panes)
                )
            )
        finally:
            killing.cancel()

    expected = asyncio.run(body())
    for pane, typed in zip(panes, expected, strict=True):
        assert pane.settled() == typed
    assert killer.killed > PANES * OFFERS, "too little was killed to prove anything"
