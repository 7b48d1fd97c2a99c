"""The locks of a home: one server, or one import, at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator

from orch_server.config import Settings
from orch_server.core.errors import OrchError


@contextlib.contextmanager
def held(settings: Settings, taken: OrchError) -> Iterator[None]:
    """Holds a lock on the database and on each socket. Raises `taken` when another holds one."""
    with contextlib.ExitStack() as stack:
        for path in (settings.database, *settings.sockets):
            lock = stack.enter_context(path.with_name(f"{path.name}.lock").open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise taken from exc
        yield
