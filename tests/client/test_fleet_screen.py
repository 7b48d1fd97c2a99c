"""The screen of one pane of many is captured only when its window has written something since."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from orch_client.courier.tmux import DEADLINE, Subprocess, TmuxSilent
from orch_client.fleet.panes import Seen, list_panes
from orch_client.fleet.screen import Screen
from tests.client.conftest import address
from tests.support import Home, Tmux, hold, until


class Counting(Subprocess):
    """A real tmux, and how often it was asked."""

    asked = 0

    async def run(self, *args: str, stdin: bytes | None = None, deadline: float = DEADLINE) -> str:
        self.asked += 1
        return await super().run(*args, stdin=stdin, deadline=deadline)


class Window:
    """A pane as the fleet follows it."""

    def __init__(self, tmux: Tmux, pane: str) -> None:
        self._socket = str(tmux.socket)
        self._at = address(tmux, pane)
        self.tmux = Counting(self._socket)
        self.seen = self._run(self._list)
        self._screen = Screen(self.tmux, lambda: self.seen)

    def list(self) -> None:
        """Lists the panes, as the fleet does each second."""
        self.seen = self._run(self._list)

    def capture(self, *, fresh: bool = False) -> str | None:
        return self._run(lambda: self._screen.capture(fresh))

    async def _list(self) -> Seen:
        found = await list_panes(Subprocess(self._socket), self._socket, "")
        return found[self._at]

    def _run(self, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run(body())


@pytest.fixture
def window(home: Home, tmux: Tmux) -> Window:
    return Window(tmux, tmux.pane("atlas", "one", "cat"))


def settle(window: Window) -> None:
    """Until the second of the last output is over and the screen was captured after it."""
    until(lambda: vouched(window) is None, "a screen that is not captured any more")


def vouched(window: Window) -> str | None:
    """A capture after a list, made again when the list was too old by then."""

    def captured() -> tuple[str | None] | None:
        window.list()
        with contextlib.suppress(TmuxSilent):
            return (window.capture(),)
        return None

    return until(captured, "a list that is young enough")[0]


def test_a_screen_that_stays_is_captured_once_more_and_not_again(window: Window) -> None:
    began = time.monotonic()
    settle(window)
    assert time.monotonic() > began + 1.0, "more may come in the second of the last output"
    asked = window.tmux.asked
    for _ in range(5):
        assert vouched(window) is None
    assert window.tmux.asked == asked
    assert window.capture(fresh=True) is not None


def test_whatever_is_written_is_captured_whenever_it_comes(window: Window, tmux: Tmux) -> None:
    for round_ in range(3):
        settle(window)
        hold(0.2 * round_)
        tmux.run("send-keys", "-t", window.seen.at.pane, f"round {round_}", "Enter")
        tmux.wait_for(window.seen.at.pane, f"round {round_}\nround {round_}")
        window.list()
        assert f"round {round_}\nround {round_}" in (window.capture() or "")


def test_two_outputs_within_one_second_are_both_captured(window: Window, tmux: Tmux) -> None:
    """tmux tells seconds only: a second output may leave no trace in the list."""
    pane = window.seen.at.pane
    for number in range(10):
        tmux.run("send-keys", "-t", pane, f"n{number}", "Enter")
        tmux.wait_for(pane, f"n{number}\nn{number}")
        window.list()
        assert f"n{number}\nn{number}" in (window.capture() or "")


def test_an_old_list_vouches_for_nothing(window: Window) -> None:
    settle(window)
    window.list()
    hold(1.0)
    with pytest.raises(TmuxSilent, match="not listed just now"):
        window.capture()
    assert vouched(window) is None
