"""Deliveries: the table of states, and when a refused one is offered again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

from orch_server.core.errors import IllegalTransition
from orch_server.core.identity import Incarnation


class DeliveryState(StrEnum):
    """See delivery.proto."""

    PENDING = "PENDING"
    OFFERED = "OFFERED"
    PASTED = "PASTED"
    CONFIRMED = "CONFIRMED"
    QUEUED_BY_AGENT = "QUEUED_BY_AGENT"
    UNCONFIRMED = "UNCONFIRMED"
    REFUSED = "REFUSED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    DEAD = "DEAD"


class DeliveryEvent(StrEnum):
    """What can happen to a delivery."""

    OFFER = "OFFER"
    PASTE = "PASTE"
    CONFIRM = "CONFIRM"
    QUEUE = "QUEUE"
    DOUBT = "DOUBT"
    REFUSE = "REFUSE"
    EXPIRE = "EXPIRE"
    CANCEL = "CANCEL"


class Priority(IntEnum):
    """Higher goes first; within one priority, first come, first served."""

    NORMAL = 10
    HIGH = 20


_S, _E = DeliveryState, DeliveryEvent

#: A refused delivery goes back to PENDING: nothing entered the pane, so it may be offered again.
#: PASTED cannot be refused any more: it is confirmed, or in doubt for good.
TRANSITIONS: dict[tuple[DeliveryState, DeliveryEvent], DeliveryState] = {
    (_S.PENDING, _E.OFFER): _S.OFFERED,
    (_S.PENDING, _E.EXPIRE): _S.EXPIRED,
    (_S.PENDING, _E.CANCEL): _S.CANCELLED,
    (_S.OFFERED, _E.OFFER): _S.OFFERED,
    (_S.OFFERED, _E.PASTE): _S.PASTED,
    (_S.OFFERED, _E.CONFIRM): _S.CONFIRMED,
    (_S.OFFERED, _E.QUEUE): _S.QUEUED_BY_AGENT,
    (_S.OFFERED, _E.DOUBT): _S.UNCONFIRMED,
    (_S.OFFERED, _E.REFUSE): _S.PENDING,
    (_S.PASTED, _E.OFFER): _S.PASTED,
    (_S.PASTED, _E.PASTE): _S.PASTED,
    (_S.PASTED, _E.CONFIRM): _S.CONFIRMED,
    (_S.PASTED, _E.QUEUE): _S.QUEUED_BY_AGENT,
    (_S.PASTED, _E.DOUBT): _S.UNCONFIRMED,
}

OUTSTANDING = (DeliveryState.OFFERED, DeliveryState.PASTED)
OPEN = (DeliveryState.PENDING, *OUTSTANDING)

#: What a courier may report, and the event that it is.
REPORTED: dict[DeliveryState, DeliveryEvent] = {
    _S.PASTED: _E.PASTE,
    _S.CONFIRMED: _E.CONFIRM,
    _S.QUEUED_BY_AGENT: _E.QUEUE,
    _S.UNCONFIRMED: _E.DOUBT,
    _S.REFUSED: _E.REFUSE,
}

TIME_TO_LIVE = timedelta(hours=24)
_RETRY_FIRST = 0.5
_RETRY_MOST = 30.0


def after(state: DeliveryState, event: DeliveryEvent) -> DeliveryState:
    """The next state. Raises IllegalTransition when the table has none."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition("delivery", state, event) from None


def retry_delay(refusals: int) -> timedelta:
    """How long to wait after the n-th refusal (from 1): 0.5 s, doubling, at most 30 s."""
    return timedelta(seconds=min(_RETRY_MOST, _RETRY_FIRST * 2 ** min(refusals - 1, 10)))


@dataclass(frozen=True, slots=True)
class Offer:
    """A delivery in the hands of the courier of `incarnation`; see DeliveryOffer."""

    delivery_id: str
    agent_id: str
    sequence: int
    grant: int
    generation: str
    text: str
    kind: str
    incarnation: Incarnation
    tried_before: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What a courier did with an offer; see DeliveryReport."""

    delivery_id: str
    sequence: int
    grant: int
    state: DeliveryState
    detail: str


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A text to be put into the mailbox. `dedupe_key` names its one cause: two never exist."""

    agent_id: str
    text: str
    origin: str
    dedupe_key: str
    priority: Priority
    created_at: datetime
