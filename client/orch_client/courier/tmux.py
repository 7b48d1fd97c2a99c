"""Speaks to tmux: the port, and the transport that runs one subprocess for each call.

The other transports, for many panes, are control.py and batch.py. None knows a shell. Every pane is
named by its server's socket and its id; names never serve as targets, and text never stands in an
argument that tmux expands.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from dataclasses import dataclass
from typing import Protocol

DEADLINE = 5.0
_PANE_ID = re.compile(r"%[0-9]{1,9}\Z")
_FACTS = (
    "#{pid} #{start_time} #{pane_pid} #{pane_dead} #{pane_in_mode} #{pane_tty}"
    " #{pane_current_command}"
)


class TmuxSilent(Exception):
    """tmux could not be asked, or did not answer within the deadline: nothing is known."""


class TmuxFailed(Exception):
    """tmux answered with an error; nothing of the command list after it was done."""


class TmuxDied(Exception):
    """The tmux server ended while it worked on the command; what was done is not known."""


class PaneGone(Exception):
    """tmux answered that it has no such pane, or there is no such tmux server."""


@dataclass(frozen=True, slots=True)
class PaneFacts:
    """What tmux says of a pane now. `started` is the server's start in seconds since 1970."""

    server_pid: int
    started: int
    pane_pid: int
    dead: bool
    in_mode: bool
    tty: str
    command: str


def is_pane_id(text: str) -> bool:
    """Whether the text is a pane's id, such as "%5"."""
    return bool(_PANE_ID.match(text))


class Tmux(Protocol):
    """One tmux server."""

    async def run(self, *args: str, stdin: bytes | None = None, deadline: float = DEADLINE) -> str:
        """Runs one tmux command line and returns what it prints; an argument ";" parts commands.

        `stdin` is the text for a line that starts with "load-buffer -b NAME -"; `deadline` is in
        seconds. Raises PaneGone when the pane or the server is not there, TmuxSilent when tmux
        cannot be run, its client was killed, or after the deadline, TmuxDied when the server ended
        meanwhile, TmuxFailed for any other error.
        """

    async def close(self) -> None:
        """Leaves nothing behind. No call may follow."""


class Subprocess:
    """A subprocess for each call: for a program that serves one pane."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def run(self, *args: str, stdin: bytes | None = None, deadline: float = DEADLINE) -> str:
        """As in Tmux."""
        command = ["tmux", "-u", "-S", self._socket, *args]
        done = await asyncio.to_thread(execute, command, stdin, deadline)
        if done.returncode < 0:
            raise TmuxSilent("the tmux client was killed")
        if done.returncode:
            raise error(done.stderr.decode("utf-8", "replace").strip())
        return done.stdout.decode("utf-8", "replace")

    async def close(self) -> None:
        """There is nothing to close."""


def execute(
    command: list[str], stdin: bytes | None, deadline: float
) -> subprocess.CompletedProcess[bytes]:
    """Runs a tmux client; on a thread of its own. A loop of uvloop must not start processes: it
    runs Python code in the forked child, beside threads of gRPC that are not there any more, and
    can hang in it.

    After the deadline the client is killed and only its own end is awaited: it has handed its pipes
    to the tmux server, which may hang.
    """
    try:
        return subprocess.run(
            command,
            input=stdin or b"",
            capture_output=True,
            timeout=deadline,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise TmuxSilent(f"tmux did not answer within {deadline:g} s") from exc
    except OSError as exc:
        raise TmuxSilent(f"tmux cannot be run ({exc.strerror})") from exc


def environment() -> dict[str, str]:
    """This process's environment as tmux should see it: UTF-8, and no other tmux in mind."""
    kept = {k: v for k, v in os.environ.items() if k not in ("TMUX", "TMUX_PANE")}
    return {**kept, "LC_ALL": "C.UTF-8"}


async def pane_facts(tmux: Tmux, pane: str) -> PaneFacts:
    """Asks for one pane. Raises PaneGone when it is not there."""
    try:
        out = await tmux.run("display-message", "-p", "-t", pane, _FACTS)
    except TmuxDied as exc:  # a mere question: nothing else was under way
        raise PaneGone(str(exc)) from exc
    fields = out.rstrip("\n").split(" ", 6)
    if len(fields) != 7 or not fields[2]:  # for a missing pane tmux prints empty fields
        raise PaneGone(f"there is no pane {pane}")
    return PaneFacts(
        server_pid=int(fields[0]),
        started=int(fields[1]),
        pane_pid=int(fields[2]),
        dead=fields[3] == "1",
        in_mode=fields[4] not in ("", "0"),
        tty=fields[5],
        command=fields[6],
    )


def error(text: str) -> Exception:
    """The exception for what tmux said."""
    if not text:
        return TmuxSilent("tmux ended without an answer")
    lowered = text.lower()
    if "server exited" in lowered or "lost server" in lowered:
        return TmuxDied(text)
    if "error connecting" in lowered and "no such file" not in lowered:
        return TmuxSilent(text)  # it may well be there, such as when too many wait for it
    missing = ("can't find pane", "no such pane", "no server running", "error connecting")
    if any(mark in lowered for mark in missing):
        return PaneGone(text)
    return TmuxFailed(text)
