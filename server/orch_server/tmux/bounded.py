"""Calls that may hang, such as to tmux or to a file system, on daemon threads with a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from orch_server.core.errors import Unavailable

T = TypeVar("T")
_DEADLINE = 3.0


class TmuxUnanswered(Unavailable):
    """tmux did not answer; nothing is known of its panes."""

    reason = "TMUX_UNANSWERED"


class Bounded:
    """Runs calls. While one hangs, no other of its key is begun, so that what hangs for long costs
    the few threads that were begun before that was known."""

    def __init__(self, deadline: float = _DEADLINE) -> None:
        self._deadline = deadline
        self._hanging: set[str] = set()

    async def run(self, key: str, call: Callable[[], T]) -> T:
        """The call's result, or what it raises. Raises TmuxUnanswered after the deadline, and at
        once while an earlier call of this key hangs."""
        if key in self._hanging:
            raise TmuxUnanswered("tmux does not answer; an earlier call to it still waits.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._hanging.discard(key)
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

        try:
            threading.Thread(target=work, name="tmux-finder", daemon=True).start()
        except RuntimeError as exc:
            raise TmuxUnanswered(f"tmux cannot be asked now ({exc}); try again.") from exc
        try:
            async with asyncio.timeout(self._deadline):
                return await future
        except TimeoutError as exc:
            self._hanging.add(key)
            raise TmuxUnanswered(
                f"tmux did not answer within {self._deadline:g} s; try again."
            ) from exc
