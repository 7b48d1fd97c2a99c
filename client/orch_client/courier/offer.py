"""What a courier is given, and what it says of it. An idle client loads nothing but this of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

PASTED, CONFIRMED, UNCONFIRMED, REFUSED = "PASTED", "CONFIRMED", "UNCONFIRMED", "REFUSED"
QUEUED_BY_AGENT = "QUEUED_BY_AGENT"


@dataclass(frozen=True, slots=True)
class PaneAddress:
    """The incarnation of a pane on this host."""

    socket: str
    server_pid: int
    started: int
    pane: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What to deliver. `kind` is the one under which the pane was registered, "" for none; `mode`
    a DeliveryMode without its prefix; `reply_patience` in seconds, 0 when nobody asks.
    `tried_before` says that another attempt with this number may have come before."""

    sequence: int
    generation: str
    text: str
    kind: str
    tried_before: bool = False
    mode: str = "WAIT_IDLE"
    reply_patience: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """PASTED, CONFIRMED, QUEUED_BY_AGENT, UNCONFIRMED or REFUSED, and one sentence on what was
    seen. `reason` is the RefusalReason of a refusal, without its prefix."""

    state: str
    detail: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an agent's screen says below a delivered text. `complete`: it had come to rest."""

    text: str
    complete: bool


class Listener(Protocol):
    """Hears what becomes of an offer."""

    async def report(self, offer: Offer, outcome: Outcome) -> None:
        """PASTED when the text is in the pane, then the final outcome."""

    async def ready(self, at: PaneAddress) -> None:
        """What stood in the way of a refused offer is over."""

    async def reply(self, offer: Offer, said: Reply) -> None:
        """What the screen said after a delivery for which somebody asked."""
