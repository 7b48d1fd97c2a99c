"""The terminal that a program and this one share, and the standard error that they do not."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from collections.abc import Iterator
from typing import Any

_LARGEST_LOG = 1024 * 1024
#: Leaves the other screen, shows the cursor, and ends what a program asked of the mouse and pastes.
_PLAIN = (
    b"\x1b[?1047l\x1b[?25h\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[0m\r\x1b[K"
)


class Terminal:
    """The terminal on standard input, if there is one, as it is now."""

    def __init__(self) -> None:
        self._modes: list[Any] | None = None
        self._ours = False
        with contextlib.suppress(OSError, termios.error):
            self._modes = termios.tcgetattr(0)
            self._ours = os.tcgetpgrp(0) == os.getpgrp()

    def take_back(self) -> None:
        """After a program that was killed: the terminal is in our hands again, and plain."""
        if self._modes is None or not self._ours:
            return
        with _unstopped(), contextlib.suppress(OSError, termios.error):
            os.tcsetpgrp(0, os.getpgrp())
            os.write(0, _PLAIN)
            termios.tcsetattr(0, termios.TCSANOW, self._modes)


def say(descriptor: int, text: str) -> None:
    """One line for the user, while nothing else has the terminal."""
    with _unstopped(), contextlib.suppress(OSError):  # it may be gone
        os.write(descriptor, f"orch-client: {text}\r\n".encode())


@contextlib.contextmanager
def _unstopped() -> Iterator[None]:
    """Within it, who writes to the terminal from the background is not stopped."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def own_error(log: str) -> Iterator[int]:
    """From here on what this process writes to standard error goes to the file `log`, or nowhere
    when it cannot be opened. Yields a descriptor of the standard error that was."""
    shared = os.dup(2)
    try:
        sink = _open(log)
        os.dup2(sink, 2)
        os.close(sink)
        yield shared
    finally:
        os.dup2(shared, 2)
        os.close(shared)


def _open(log: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with contextlib.suppress(OSError):  # the server's home is not ours to make
        os.mkdir(os.path.dirname(log), mode=0o700)  # noqa: PTH102, PTH120
    try:
        sink = os.open(log, flags, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
    if os.fstat(sink).st_size > _LARGEST_LOG:
        os.ftruncate(sink, 0)
    return sink
