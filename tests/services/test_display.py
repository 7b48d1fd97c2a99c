"""Showing a line on the terminals attached to real tmux servers: as it is, on each, in time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orch_server.tmux.display import TmuxDisplay
from tests.support import Home, Tmux, until

HOSTILE = (
    "#(touch {mark}) #{{pid}} %H:%M #[fg=red]x #{{q:pid}} #{{E:@orch_alert}} $(touch {mark})"
    ' `touch {mark}` "; kill-server; \\; #S ##'
)


class Watcher:
    """A person who looks at a tmux server: its client runs in a pane of another tmux server."""

    def __init__(self, home: Home, tmux: Tmux, name: str) -> None:
        self.outer = Tmux(home)
        self.outer.socket = home.path / f"outer-{name}.sock"
        command = f"env -u TMUX tmux -u -S {tmux.socket} attach -t atlas"
        self.pane = self.outer.pane("outer", "watch", command)
        until(lambda: "[atlas]" in self.sees(), "the attached client")

    def sees(self) -> str:
        return self.outer.run("capture-pane", "-p", "-t", self.pane)

    def status_line(self) -> str:
        """The last line, where tmux shows messages."""
        return self.sees().split("\n")[-1]


@pytest.fixture
def watchers(home: Home, tmux: Tmux) -> Iterator[list[Watcher]]:
    """Two people who look at a session."""
    tmux.pane("atlas", "developer", "exec cat")
    made: list[Watcher] = []
    try:
        made += [Watcher(home, tmux, "a")]
        made += [Watcher(home, tmux, "b")]
        yield made
    finally:
        for watcher in made:
            watcher.outer.end()


def _show(text: str, *sockets: Path) -> int:
    display = TmuxDisplay(lambda: {str(path) for path in sockets})
    return asyncio.run(asyncio.wait_for(display.show(text), 20))


def test_every_attached_client_is_shown_the_line(tmux: Tmux, watchers: list[Watcher]) -> None:
    assert _show("orch: warning deadlock atlas:dev: It is.", tmux.socket) == 2
    for watcher in watchers:
        until(lambda w=watcher: "deadlock atlas:dev: It is." in w.status_line(), "the line")


def test_nothing_in_the_line_is_expanded_or_run(
    home: Home, tmux: Tmux, watchers: list[Watcher]
) -> None:
    mark = home.path / "touched"
    text = HOSTILE.format(mark=mark)
    assert _show(text, tmux.socket) == 2
    shown = text.replace("#[", "[")[:100]
    for watcher in watchers:
        until(lambda w=watcher: shown in w.status_line(), f"{shown!r}")
    assert not mark.exists()
    assert tmux.run("show-options", "-gv", "@orch_alert") == text.replace("#[", "[") + " "
    assert "[atlas]" in tmux.run("list-sessions", "-F", "[#{session_name}]")


@pytest.mark.parametrize(
    "text", ["-x", ";", "\\;", "a;", "--", "#{", "%", "你好 🚀", "x" * 5000, "\x1b]0;x\x07\n"]
)
def test_any_text_can_be_shown(tmux: Tmux, watchers: list[Watcher], text: str) -> None:
    assert _show(text, tmux.socket) == 2
    stored = tmux.run("show-options", "-gv", "@orch_alert").rstrip()
    assert stored[:20] == text.replace("\n", "").replace("\x1b", "?").replace("\x07", "?")[:20]


def test_programs_that_are_attached_in_control_mode_are_not_shown_it(
    tmux: Tmux, watchers: list[Watcher]
) -> None:
    control = subprocess.Popen(
        ["tmux", "-S", str(tmux.socket), "-C", "attach", "-t", "atlas"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        modes = "#{client_control_mode}"
        until(lambda: "1" in tmux.run("list-clients", "-F", modes), "the program in control mode")
        assert _show("for people", tmux.socket) == 2
    finally:
        said, _ = control.communicate("detach\n", timeout=10)
    assert "%message" not in said


def test_a_server_that_hangs_costs_some_seconds_and_the_others_are_shown_it(
    home: Home, tmux: Tmux, watchers: list[Watcher]
) -> None:
    hung = Tmux(home)
    hung.socket = home.path / "hung.sock"
    hung.pane("atlas", "x", "exec cat")
    pid = int(hung.run("display-message", "-p", "#{pid}"))
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with ThreadPoolExecutor(1) as beside:  # the line is there for five seconds only
            showing = beside.submit(_show, "to the others", hung.socket, tmux.socket)
            until(lambda: "to the others" in watchers[0].status_line(), "the line")
        assert showing.result() == 2
        assert time.monotonic() - begun < 15
    finally:
        os.kill(pid, signal.SIGCONT)
        hung.end()


def test_no_server_no_client_and_what_is_no_tmux_are_left_out(home: Home, tmux: Tmux) -> None:
    tmux.pane("atlas", "developer", "exec cat")
    assert _show("x", home.path / "nothing.sock", tmux.socket) == 0
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(home.path / "silent.sock"))
        silent.listen()
        assert _show("x", home.path / "silent.sock") == 0
    assert not (home.path / "nothing.sock").exists(), "no server was started"
