"""Shows a line of text to every person who looks at a tmux server of this host.

The text is data: it is kept in an option of the tmux server and displayed by its name, so that
tmux expands nothing in it. Each call to tmux runs on a thread and has a deadline.
"""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
from collections.abc import Callable

from orch_server.core.text import one_line

logger = logging.getLogger(__name__)

_DEADLINE = 3.0
_SHOWN_MS = "5000"
_MAX_TEXT = 400
_OPTION = "@orch_alert"
# A style would be read out of "#[…]" by tmux versions that draw messages like the status line.
_STYLE = re.compile(r"#(?=\[)")


class TmuxDisplay:
    """Displays on the clients of the tmux servers whose sockets `sockets` returns."""

    def __init__(self, sockets: Callable[[], set[str]]) -> None:
        self._sockets = sockets

    async def show(self, text: str) -> int:
        """Shows the text for some seconds; returns how many clients it was shown to.

        A server that is not there, or does not answer in time, is left out.
        """
        line = _STYLE.sub("", one_line(text, _MAX_TEXT)) + " "  # a last ";" would end the command
        shown = [asyncio.to_thread(_show, socket, line) for socket in sorted(self._sockets())]
        return sum(await asyncio.gather(*shown))


def _show(socket: str, line: str) -> int:
    try:
        clients = _clients(socket)
        if clients:
            _tmux(socket, *_commands(clients, line))
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        logger.info("alert not displayed", extra={"tmux_socket": socket, "error": str(exc)})
        return 0
    return len(clients)


def _clients(socket: str) -> list[str]:
    """The names of the terminals that are attached; programs in control mode are not shown it."""
    found = _tmux(socket, "list-clients", "-F", "#{client_control_mode} #{client_name}")
    lines = (line.split(" ", 1) for line in found.splitlines() if " " in line)
    return [name for control, name in lines if control == "0"]


def _commands(clients: list[str], line: str) -> list[str]:
    commands = ["set-option", "-g", "--", _OPTION, line]
    for client in clients:
        shown = ("-c", client, "-d", _SHOWN_MS, f"#{{{_OPTION}}}")
        commands += [";", "display-message", *shown]
    return commands


def _tmux(socket: str, *args: str) -> str:
    """What tmux prints; nothing when there is no server."""
    done = subprocess.run(
        ["tmux", "-u", "-S", socket, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_DEADLINE,
        check=False,
    )
    return done.stdout
