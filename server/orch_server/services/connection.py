"""An open stream of a client, as the services see it, and what they push to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from orch_server.core.delivery import Offer
from orch_server.core.errors import OrchError
from orch_server.core.pace import Pace


@dataclass(frozen=True, slots=True)
class Replaced:
    """Told to a client that a newer one replaced."""

    epoch: int
    by: str


@dataclass(frozen=True, slots=True)
class Draining:
    """Told to all clients when the server stops."""

    reconnect_after: timedelta


Push = Offer | Replaced | Draining


@dataclass(slots=True, eq=False)
class Connection:
    """An open stream. `push` writes to it; `close` ends it with an error after what was pushed.
    `client` names the process that holds it, `told` is the pace that it knows of. `unread`: for
    now nothing is read from it, since the server waits for its own disk."""

    agent_id: str
    epoch: int
    push: Callable[[Push], Awaitable[None]]
    close: Callable[[OrchError], None]
    client: str
    told: Pace
    foreground: str = ""
    heard: float = 0.0
    sequence: int = 0
    unread: bool = False
