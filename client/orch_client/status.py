"""One line of status, while the program has the terminal to itself."""

from __future__ import annotations

import os
import sys
from typing import Protocol


class Status(Protocol):
    """Where a client shows how it is."""

    def show(self, text: str) -> None:
        """Shows the text instead of the one before."""

    def close(self) -> None:
        """Shows no more."""


class Silent:
    """Shows nothing: somebody else has the terminal."""

    def show(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class StatusLine:
    """Rewrites its line when standard error is a terminal and this program is in its foreground."""

    def __init__(self) -> None:
        self._shown = ""

    def show(self, text: str) -> None:
        """Shows the text instead of the one before."""
        if text == self._shown or not _in_foreground():
            return
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        sys.stderr.write(f"\r\x1b[2K{text[: width - 1]}")
        sys.stderr.flush()
        self._shown = text

    def close(self) -> None:
        """Leaves the line as it is and goes to the next."""
        if self._shown:
            sys.stderr.write("\r\n")
            sys.stderr.flush()
            self._shown = ""


def _in_foreground() -> bool:
    try:
        terminal = sys.stderr.fileno()
        return sys.stderr.isatty() and os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
