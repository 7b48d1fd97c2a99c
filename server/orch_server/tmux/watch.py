"""Watches processes of this host for their end, by the kernel's pidfds: nothing polls, and tmux is
not asked. Where the kernel gives none, or no more, nothing is watched.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection

_MOST = 512


class ProcessWatch:
    """Calls `ended` on the event loop when one of the processes ends. Close it."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._fds: dict[int, int] = {}
        self._gone: set[int] = set()

    def follow(self, pids: Collection[int]) -> None:
        """Watches these, the first first, and no others any more. One that is gone already has
        ended now, once."""
        self._gone &= set(pids)
        for pid in self._fds.keys() - set(pids):
            self._forget(pid)
        for pid in pids:
            if pid not in self._fds and pid > 1 and len(self._fds) < _MOST:
                self._open(pid)

    def close(self) -> None:
        """Watches nothing any more."""
        self.follow(())

    def _open(self, pid: int) -> None:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            if pid not in self._gone:
                self._gone.add(pid)
                self._ended()
            return
        except OSError:  # no pidfds here, or no more files: others see it in time
            return
        self._fds[pid] = fd
        asyncio.get_running_loop().add_reader(fd, self._has_ended, pid)

    def _has_ended(self, pid: int) -> None:
        self._forget(pid)
        self._ended()

    def _forget(self, pid: int) -> None:
        fd = self._fds.pop(pid)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
