"""Finds panes with libtmux. libtmux has no deadline, so each call runs on a daemon thread of its
own and is given up after one; a tmux that hangs then costs a thread, never the event loop.

Names come last in the format, in an order that none of them can break: tmux allows no ':' in a
session's name, and the role option, the last, is the pane's own affair.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import libtmux
import tenacity
from libtmux.exc import LibTmuxException

from orch_server.core.errors import Unavailable
from orch_server.core.identity import Incarnation, Pane

T = TypeVar("T")
_DEADLINE = 3.0
_SEPARATOR = "|~|"
#: tmux prints a user's option as it is: a line break in one would make a row of its own.
_ROLE = "#{s/[^a-zA-Z0-9 _-]/?/:@orch_role}"
_FORMAT = (
    "#{pid} #{start_time} #{pane_id} #{pane_pid} #{pane_dead} #{window_index} #{session_name}:"
    "#{window_name}" + _SEPARATOR + _ROLE
)
_RETRY = tenacity.AsyncRetrying(
    stop=tenacity.stop_after_attempt(2),
    wait=tenacity.wait_random(0, 0.1),
    retry=tenacity.retry_if_exception_type(ValueError),
    reraise=True,
)


class TmuxUnanswered(Unavailable):
    """tmux did not answer; nothing is known of its panes."""

    reason = "TMUX_UNANSWERED"


class PaneFinder:
    """Lists the panes of the tmux servers on this host."""

    def __init__(self, host: str) -> None:
        self.host = host

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
                    lines = await _bounded(lambda: _list_lines(own))
                    return [self._pane(own, line) for line in lines]
        except (LibTmuxException, ValueError) as exc:
            raise TmuxUnanswered(f"tmux on {socket} gave no usable answer ({exc}).") from exc
        raise AssertionError("unreachable: the last attempt raises")

    def default_socket(self) -> str:
        """The socket of the tmux server that `tmux` without options speaks to."""
        return f"/tmp/tmux-{os.getuid()}/default"  # noqa: S108 - where tmux has it

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


async def _bounded(call: Callable[[], T]) -> T:
    """The call's result, from a daemon thread; TmuxUnanswered after the deadline."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as exc:  # top of the thread: it goes to the waiting caller
            error = exc
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="tmux-finder", daemon=True).start()
    try:
        async with asyncio.timeout(_DEADLINE):
            return await future
    except TimeoutError as exc:
        raise TmuxUnanswered(f"tmux did not answer within {_DEADLINE:g} s; try again.") from exc
