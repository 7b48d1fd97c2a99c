"""Notices when the wall clock is set, or the machine has slept, so that sleeping loops look anew.

Linux tells it through a timer that is cancelled by that (timerfd_create(2),
TFD_TIMER_CANCEL_ON_SET). Python has these calls from 3.13 on, so the C library's are used.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
from collections.abc import Callable

from orch_server.loops.pause import until_changed

logger = logging.getLogger(__name__)

_CLOCK_REALTIME = 0
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
_FAR = 2**40  # seconds since 1970; never comes
#: Where the kernel does not tell, the loops are woken so often.
_FALLBACK = 30.0


class _TimerSpec(ctypes.Structure):
    """struct itimerspec: interval and value, each in seconds and nanoseconds."""

    _fields_ = tuple(
        (name, ctypes.c_long) for name in ("every", "every_nanos", "value", "value_nanos")
    )


class ClockTimer:
    """A timer that can be read once the wall clock was set. Raises OSError where there is none."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        create = getattr(self._libc, "timerfd_create", None)
        if create is None:
            raise OSError(errno.ENOSYS, "no timerfd")
        self.fd = create(_CLOCK_REALTIME, _TFD_FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def arm(self) -> None:
        """Watches from now on. That the clock was set before is told once more, and is no fault."""
        spec = _TimerSpec(0, 0, _FAR, 0)
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        failed = self._libc.timerfd_settime(self.fd, flags, ctypes.byref(spec), None) < 0
        if failed and ctypes.get_errno() != errno.ECANCELED:  # then it is armed all the same
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def was_set(self) -> bool:
        """Whether the clock was set since `arm`; asks once."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno == errno.ECANCELED:
                return True
            raise
        return True

    def close(self) -> None:
        """Gives the timer back."""
        os.close(self.fd)


async def watch_clock(on_set: Callable[[], None]) -> None:
    """Calls `on_set` each time that the wall clock was set, for ever."""
    try:
        timer = ClockTimer()
    except OSError as exc:
        logger.warning("the kernel does not tell of clock changes", extra={"error": str(exc)})
        await _now_and_then(on_set)
        return
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(timer.fd, told.set)
    try:
        while True:
            timer.arm()
            on_set()  # whatever was set before the timer was armed is seen too
            while not timer.was_set():
                told.clear()
                await told.wait()
            logger.info("wall clock was set")
    finally:
        loop.remove_reader(timer.fd)
        timer.close()


async def _now_and_then(on_set: Callable[[], None]) -> None:
    while True:
        await until_changed(asyncio.Event(), _FALLBACK)
        on_set()
