"""Finds panes, and sessions, with libtmux. libtmux has no deadline, so each call runs on a daemon
thread of its own and is given up after one; a tmux that hangs then costs a thread, never the event
loop.

Names come last in the format, in an order that none of them can break: tmux allows no ':' in a
session's name, and the role option, the last, is the pane's own affair.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from pathlib import Path

import libtmux
import tenacity
from libtmux.exc import LibTmuxException

from orch_server.core.identity import Incarnation, Pane
from orch_server.core.sync_view import Answer, TmuxServer, TmuxSession
from orch_server.tmux.bounded import Bounded, TmuxUnanswered

logger = logging.getLogger(__name__)

_SEPARATOR = "|~|"
#: tmux prints a user's option as it is: a line break in one would make a row of its own.
_ROLE = "#{s/[^a-zA-Z0-9 _-]/?/:@orch_role}"
_FORMAT = (
    "#{pid} #{start_time} #{pane_id} #{pane_pid} #{pane_dead} #{window_index} #{session_name}:"
    "#{window_name}" + _SEPARATOR + _ROLE
)
#: The option @orch_session of a session that this product has made: "GENERATION:NAME", by the
#: generation of the store and the session's name in it. A line break would make a row of its own.
_MARK = "#{s/[\x01-\x1f\x7f]/?/:@orch_session}"
_SESSION = "#{pid} #{start_time} #{session_id} #{session_created} #{session_name}:" + _MARK
_NOT_RUNNING = ("no server running on ", "error connecting to ")
_REFUSED = ("(No such file or directory)", "(Connection refused)")
_RETRY = tenacity.AsyncRetrying(
    stop=tenacity.stop_after_attempt(2),
    wait=tenacity.wait_random(0, 0.1),
    retry=tenacity.retry_if_exception_type(ValueError),
    reraise=True,
)


class PaneFinder:
    """Lists the panes of the tmux servers on this host. `default_socket` is that of the tmux server
    that `tmux` without options speaks to."""

    def __init__(self, host: str, default_socket: str) -> None:
        self.host = host
        self.calls = Bounded()
        self.default_socket = default_socket

    async def list_panes(self, socket: str) -> list[Pane]:
        """All panes of the tmux server on this socket; none when it does not run.

        Raises TmuxUnanswered when it does not answer in time.
        """
        own = _own_socket(socket)
        if not own:
            return []
        try:
            async for attempt in _RETRY.copy():  # one is not for two callers at once
                with attempt:
                    lines = await self.calls.run(own, lambda: _list_lines(own))
                    return [self._pane(own, line) for line in lines]
        except (LibTmuxException, OSError, ValueError) as exc:
            raise TmuxUnanswered(f"tmux on {socket} gave no usable answer ({exc}).") from exc
        raise AssertionError("unreachable: the last attempt raises")

    async def look(self, socket: str) -> TmuxServer:
        """The tmux server on this socket with its sessions and panes; UNANSWERED when it does not
        answer in time, and when what it says is of no use."""
        own = _own_socket(socket)
        if not own:
            absent = await asyncio.to_thread(is_absent, socket)
            return TmuxServer(socket, Answer.NOT_RUNNING if absent else Answer.UNANSWERED)
        try:
            code, lines, error = await self.calls.run(own, lambda: _list_all(own))
            if code == 0:
                return self._server(socket, own, lines)
        except (TmuxUnanswered, LibTmuxException, OSError, ValueError) as exc:
            logger.info(
                "tmux gave no usable answer", extra={"tmux_socket": socket, "why": str(exc)}
            )
            return TmuxServer(socket, Answer.UNANSWERED)
        return TmuxServer(socket, Answer.NOT_RUNNING if _is_down(error) else Answer.UNANSWERED)

    def _server(self, socket: str, own: str, lines: list[str]) -> TmuxServer:
        rows = [line.partition(" ") for line in lines]
        panes = tuple(self._pane(own, row) for kind, _, row in rows if kind == "P")
        found = [_session(row) for kind, _, row in rows if kind == "S"]
        pid, started = found[0][:2] if found else (0, 0)
        sessions = tuple(session for _, _, session in found)
        return TmuxServer(socket, Answer.ANSWERED, pid, started, sessions, panes)

    def _pane(self, socket: str, line: str) -> Pane:
        fixed, _, names = line.partition(":")
        pid, started, pane, pane_pid, dead, window_index, session = fixed.split(" ", 6)
        window_name, _, role = names.rpartition(_SEPARATOR)
        return Pane(
            incarnation=Incarnation(self.host, socket, int(pid), int(started), pane),
            pid=int(pane_pid),
            session=session,
            window_index=int(window_index),
            window_name=window_name,
            role_option=role,
            dead=dead == "1",
        )


def _list_lines(socket: str) -> list[str]:
    answer = libtmux.Server(socket_path=socket).cmd("list-panes", "-a", "-F", _FORMAT)
    if answer.returncode < 0:
        raise ValueError("the tmux client was killed")
    if answer.returncode:
        return []
    return [line for line in answer.stdout if line]


def _list_all(socket: str) -> tuple[int, list[str], str]:
    """What tmux returned, its lines, and the first line of its error."""
    sessions = ("list-sessions", "-F", f"S {_SESSION}")
    panes = ("list-panes", "-a", "-F", f"P {_FORMAT}")
    answer = libtmux.Server(socket_path=socket).cmd(*sessions, ";", *panes)
    return answer.returncode, [line for line in answer.stdout if line], "".join(answer.stderr[:1])


def _session(row: str) -> tuple[int, int, TmuxSession]:
    """The server's pid and start, and one of its sessions."""
    pid, started, session_id, created, names = row.split(" ", 4)
    name, _, mark = names.partition(":")  # tmux allows no ':' in a session's name
    return int(pid), int(started), TmuxSession(session_id, name, int(created), mark)


def _is_down(error: str) -> bool:
    """Whether this error means for certain that no server runs."""
    return error.startswith(_NOT_RUNNING[0]) or (
        error.startswith(_NOT_RUNNING[1]) and error.endswith(_REFUSED)
    )


def is_absent(path: str) -> bool:
    """Whether it is certain that there is nothing: what may not be looked at may be there."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _own_socket(path: str) -> str:
    """The real path of a socket of this user; "" for anything else, which might answer anything."""
    if not path.startswith("/"):
        return ""
    try:
        real = Path(path).resolve()
        status = real.stat()
    except OSError:
        return ""
    return str(real) if stat.S_ISSOCK(status.st_mode) and status.st_uid == os.getuid() else ""
