"""A program in the foreground of this terminal, as if the shell had started it.

It stays in this process's own group, so that Ctrl-C, Ctrl-Z, a new window size and the shell's fg
and bg reach it as they would without us. What is sent to this process alone is passed on, and when
the program stops, this process stops the same way, so that the shell takes the terminal back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from functools import partial

from orch_client.restart import End

_STATUSES = os.WEXITED | os.WSTOPPED | os.WNOHANG
_STOPPED = ("T", "t")
_RECENT = 5.0  # seconds before an end, within which a Ctrl-C may be the cause of it


class Child:
    """Runs one program after another. `stopping` is awaited before this process is stopped."""

    def __init__(self, command: list[str], stopping: Callable[[], Awaitable[None]]) -> None:
        self._command = command
        self._stopping = stopping
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[End] | None = None
        self._interrupted: float | None = None
        self._following: asyncio.Task[None] | None = None
        self.leave = asyncio.Event()  # somebody wants this process to end
        self.was_started = False

    @property
    def was_asked(self) -> bool:
        """Whether somebody wanted the program to end: by a signal to us, or by Ctrl-C just now."""
        now = time.monotonic()
        interrupted = self._interrupted is not None and now - self._interrupted < _RECENT
        return self.leave.is_set() or interrupted

    def watch_signals(self) -> None:
        """From here on. A signal that was ignored when this process began stays so, for nohup."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._look)
        loop.add_signal_handler(signal.SIGCONT, self._continue)
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGINT: self._interrupt,
            signal.SIGQUIT: self._interrupt,
            signal.SIGTSTP: self._suspend,
            signal.SIGTTIN: _nothing,  # the program got it too, and stops
            signal.SIGTTOU: _nothing,
            signal.SIGTERM: partial(self._pass_on, signal.SIGTERM),
            signal.SIGHUP: partial(self._pass_on, signal.SIGHUP),
        }
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, handler)

    def start(self, error: int) -> None:
        """Starts the program; `error` is the descriptor for its standard error. Raises OSError."""
        self._ended = asyncio.get_running_loop().create_future()
        self._interrupted = None
        self.was_started = False
        self._process = subprocess.Popen(self._command, stderr=error, env=first_environment())
        self.was_started = True

    async def ended(self) -> End:
        """Waits for the program's end."""
        assert self._ended is not None
        self._look()
        return await asyncio.shield(self._ended)

    def _look(self) -> None:
        """Takes what the kernel tells of the program: that it has stopped, or ended."""
        process, ended = self._process, self._ended
        if process is None or ended is None:
            return
        while (told := os.waitid(os.P_PID, process.pid, _STATUSES)) is not None:
            if told.si_code in (os.CLD_STOPPED, os.CLD_TRAPPED):
                self._follow(told.si_status)
                continue
            exited = told.si_code == os.CLD_EXITED
            end = End(told.si_status, 0) if exited else End(0, told.si_status)
            process.returncode = end.status or -end.signal
            self._process = None
            ended.set_result(end)
            return

    def _follow(self, number: int) -> None:
        """Stops as the program did, once the last word is said."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._stop_too(number))

    async def _stop_too(self, number: int) -> None:
        await self._stopping()
        if self._is_stopped():
            _stop(number)

    def _continue(self) -> None:
        """The shell lets this process go on; the program too, if the shell did not tell it."""
        if self._process is None or not self._is_stopped():
            return
        pid = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            group = os.getpgid(pid)
            if group == os.getpgrp():
                os.kill(pid, signal.SIGCONT)
            else:  # a shell with groups of its own
                os.killpg(group, signal.SIGCONT)

    def _is_stopped(self) -> bool:
        if self._process is None:
            return False
        try:
            with open(f"/proc/{self._process.pid}/stat", errors="replace") as file:  # noqa: PTH123
                return file.read().rpartition(")")[2].split()[0] in _STOPPED
        except OSError:
            return False

    def _pass_on(self, number: int) -> None:
        """A program that is stopped goes on, or it would never hear it."""
        self.leave.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
            self._continue()

    def _interrupt(self) -> None:
        """The terminal has told the program too."""
        self._interrupted = time.monotonic()
        if self._process is None:
            self.leave.set()

    def _suspend(self) -> None:
        """The terminal has told the program too; we follow when it stops. Without one we stop."""
        if self._process is None:
            _stop(signal.SIGTSTP)


def _nothing() -> None:
    """Not ours to mind."""


def first_environment() -> dict[bytes, bytes]:
    """The environment in which this process began, without what it set for itself."""
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
            pairs = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    return {name: value for name, _, value in (p.partition(b"=") for p in pairs) if name}


def _stop(number: int) -> None:
    """Stops this process by the signal, whatever handler it has; returns when it goes on."""
    try:
        before = signal.signal(number, signal.SIG_DFL)
    except (OSError, ValueError):  # SIGSTOP has no handler
        signal.raise_signal(number)
        return
    try:
        signal.raise_signal(number)
    finally:
        signal.signal(number, before)
        signal.siginterrupt(number, False)
