"""Deliveries: the table of states, what follows from a refusal, and what is shown of one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

from orch_server.core.errors import Conflict, IllegalTransition
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
    CLAIM = "CLAIM"
    PASTE = "PASTE"
    CONFIRM = "CONFIRM"
    QUEUE = "QUEUE"
    DOUBT = "DOUBT"
    REFUSE = "REFUSE"
    BURY = "BURY"
    EXPIRE = "EXPIRE"
    CANCEL = "CANCEL"
    REDRIVE = "REDRIVE"


class RefusalReason(StrEnum):
    """Why a courier did not deliver; see delivery.proto. UNSET: it did not say."""

    UNSET = ""
    AGENT_BUSY = "AGENT_BUSY"
    DIALOG_OPEN = "DIALOG_OPEN"
    DRAFT_IN_COMPOSER = "DRAFT_IN_COMPOSER"
    COPY_MODE = "COPY_MODE"
    NOT_READY = "NOT_READY"
    STOPPED = "STOPPED"
    AGENT_EXITED = "AGENT_EXITED"
    PANE_GONE = "PANE_GONE"
    NOT_REGISTERED = "NOT_REGISTERED"
    NUMBER_USED = "NUMBER_USED"
    TMUX_FAILED = "TMUX_FAILED"
    UNREADABLE = "UNREADABLE"


class DeliveryMode(StrEnum):
    """When a text may enter its pane; see delivery.proto."""

    WAIT_IDLE = "WAIT_IDLE"
    TURN_BOUNDARY = "TURN_BOUNDARY"
    IMMEDIATE = "IMMEDIATE"


class Priority(IntEnum):
    """Higher goes first; within one priority, first come, first served."""

    NORMAL = 10
    HIGH = 20


_S, _E, _R = DeliveryState, DeliveryEvent, RefusalReason

#: A refused delivery goes back to PENDING: nothing entered the pane, so it may be offered again.
#: PASTED cannot be refused any more: it is confirmed, or in doubt for good.
TRANSITIONS: dict[tuple[DeliveryState, DeliveryEvent], DeliveryState] = {
    (_S.PENDING, _E.OFFER): _S.OFFERED,
    (_S.PENDING, _E.CLAIM): _S.OFFERED,
    (_S.PENDING, _E.EXPIRE): _S.EXPIRED,
    (_S.PENDING, _E.CANCEL): _S.CANCELLED,
    (_S.OFFERED, _E.OFFER): _S.OFFERED,
    (_S.OFFERED, _E.PASTE): _S.PASTED,
    (_S.OFFERED, _E.CONFIRM): _S.CONFIRMED,
    (_S.OFFERED, _E.QUEUE): _S.QUEUED_BY_AGENT,
    (_S.OFFERED, _E.DOUBT): _S.UNCONFIRMED,
    (_S.OFFERED, _E.REFUSE): _S.PENDING,
    (_S.OFFERED, _E.BURY): _S.DEAD,
    (_S.PASTED, _E.OFFER): _S.PASTED,
    (_S.PASTED, _E.PASTE): _S.PASTED,
    (_S.PASTED, _E.CONFIRM): _S.CONFIRMED,
    (_S.PASTED, _E.QUEUE): _S.QUEUED_BY_AGENT,
    (_S.PASTED, _E.DOUBT): _S.UNCONFIRMED,
    (_S.UNCONFIRMED, _E.REDRIVE): _S.PENDING,
    (_S.REFUSED, _E.REDRIVE): _S.PENDING,
    (_S.EXPIRED, _E.REDRIVE): _S.PENDING,
    (_S.CANCELLED, _E.REDRIVE): _S.PENDING,
    (_S.DEAD, _E.REDRIVE): _S.PENDING,
}

OUTSTANDING = (DeliveryState.OFFERED, DeliveryState.PASTED)
OPEN = (DeliveryState.PENDING, *OUTSTANDING)

#: What a courier may report, and the event that it is. A refusal may be a burial: see `judge`.
REPORTED: dict[DeliveryState, DeliveryEvent] = {
    _S.PASTED: _E.PASTE,
    _S.CONFIRMED: _E.CONFIRM,
    _S.QUEUED_BY_AGENT: _E.QUEUE,
    _S.UNCONFIRMED: _E.DOUBT,
    _S.REFUSED: _E.REFUSE,
}

#: The pane cannot take text just now; its courier watches and says when it can.
NOT_NOW = frozenset(
    {_R.AGENT_BUSY, _R.DIALOG_OPEN, _R.DRAFT_IN_COMPOSER, _R.COPY_MODE, _R.NOT_READY, _R.STOPPED}
)

TIME_TO_LIVE = timedelta(hours=24)
MAX_TIME_TO_LIVE = timedelta(days=30)
MAX_REPLY_PATIENCE = timedelta(hours=1)
MAX_REFUSALS = 20
#: How long a text waits for an idle agent before a busy one gets it too.
WAIT_IDLE_BOUND = timedelta(seconds=60)
#: How long a hook may take to say that it printed what it claimed.
CLAIM_PATIENCE = timedelta(seconds=10)
#: How long a courier may say nothing of an offer before it is offered again.
COURIER_PATIENCE = timedelta(seconds=30)
#: How much longer than asked for a reply is waited for.
REPLY_SLACK = timedelta(seconds=15)
#: How soon what was refused with a not-now is tried again, when its courier says nothing.
NOT_NOW_PATIENCE = timedelta(seconds=30)
_RETRY_FIRST = 0.5
_RETRY_MOST = 60.0


def after(state: DeliveryState, event: DeliveryEvent) -> DeliveryState:
    """The next state. Raises IllegalTransition when the table has none."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition("delivery", state, event) from None


def retry_delay(refusals: int, part: float) -> timedelta:
    """How long to wait after the n-th refusal (from 1): `part`, which is drawn from 0 to 1, of
    0.5 s, doubling, at most 60 s (exponential back-off with full jitter)."""
    most = min(_RETRY_MOST, _RETRY_FIRST * 2 ** min(refusals - 1, 10))
    return timedelta(seconds=most * part)


@dataclass(frozen=True, slots=True)
class Refused:
    """What a refusal means: `event` is REFUSE or BURY, `refusals` the count that now stands."""

    event: DeliveryEvent
    refusals: int
    retry_at: datetime


@dataclass(frozen=True, slots=True)
class Offering:
    """What a delivery was when it was offered. `since`: its creation, or its not-before."""

    mode: DeliveryMode
    since: datetime
    offered_at: datetime
    refusals: int
    reason: RefusalReason


def judge(offering: Offering, reason: RefusalReason, now: datetime, part: float) -> Refused:
    """What follows from a refusal; `part` is as in `retry_delay`.

    A not-now does not count and is tried again after 30 s, or at the bound of WAIT_IDLE. A number
    that was used is replaced at once, but not twice in a row. What no program will ever read, or
    what was refused too often, is buried.
    """
    counted = offering.refusals + 1
    if reason is RefusalReason.UNREADABLE:
        return Refused(DeliveryEvent.BURY, counted, now)
    if reason in NOT_NOW:
        return Refused(DeliveryEvent.REFUSE, offering.refusals, _not_now(offering, reason, now))
    if reason is RefusalReason.NUMBER_USED is not offering.reason:
        return Refused(DeliveryEvent.REFUSE, offering.refusals, now)
    if counted >= MAX_REFUSALS:
        return Refused(DeliveryEvent.BURY, counted, now)
    return Refused(DeliveryEvent.REFUSE, counted, now + retry_delay(counted, part))


def _not_now(offering: Offering, reason: RefusalReason, now: datetime) -> datetime:
    fallback = now + NOT_NOW_PATIENCE
    bound = offering.since + WAIT_IDLE_BOUND
    idle_only = offering.mode is DeliveryMode.WAIT_IDLE and offering.offered_at < bound
    if reason is RefusalReason.AGENT_BUSY and idle_only:
        return max(now, min(fallback, bound))
    return fallback


def offered_mode(mode: DeliveryMode, since: datetime, now: datetime) -> DeliveryMode:
    """The mode to offer with: what waited for an idle agent for too long does not wait any more."""
    if mode is DeliveryMode.WAIT_IDLE and now >= since + WAIT_IDLE_BOUND:
        return DeliveryMode.IMMEDIATE
    return mode


def check_cancel(delivery_id: str, state: DeliveryState) -> None:
    """Raises Conflict unless the delivery waits."""
    if state in OUTSTANDING:
        raise Conflict(
            f"Delivery {delivery_id} is in a courier's hands just now and may be in the pane;"
            f" 'orch-client delivery {delivery_id}' tells what becomes of it."
        )
    if state is not DeliveryState.PENDING:
        raise Conflict(f"Delivery {delivery_id} is already {_said(state)}; nothing is withdrawn.")


def check_redrive(delivery_id: str, state: DeliveryState, force: bool) -> DeliveryState:
    """The state after a redrive. Raises Conflict when it waits, has arrived, or may have."""
    if state is DeliveryState.UNCONFIRMED and not force:
        raise Conflict(
            f"Delivery {delivery_id} may have arrived, so it could arrive twice; look at the pane,"
            " then redrive it with --force."
        )
    if state in OPEN:
        raise Conflict(f"Delivery {delivery_id} is on its way already.")
    if (state, DeliveryEvent.REDRIVE) not in TRANSITIONS:
        raise Conflict(f"Delivery {delivery_id} is {_said(state)}; send a new one instead.")
    return after(state, DeliveryEvent.REDRIVE)


def _said(state: DeliveryState) -> str:
    return state.lower().replace("_", " ")


def short_id(delivery_id: str) -> str:
    """How a delivery is named in its header."""
    return delivery_id[:8]


def header(delivery_id: str, sender: str) -> str:
    """The line above a message."""
    return f"[message {short_id(delivery_id)} from {sender}]"


def whole_text(header: str, text: str) -> str:
    """What enters the pane: the header line, if there is one, and the text."""
    return f"{header}\n{text}" if header else text


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
    mode: DeliveryMode = DeliveryMode.WAIT_IDLE
    reply_patience: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Report:
    """What a courier did with an offer; see DeliveryReport."""

    delivery_id: str
    sequence: int
    grant: int
    state: DeliveryState
    detail: str
    reason: RefusalReason = RefusalReason.UNSET


@dataclass(frozen=True, slots=True)
class Reply:
    """What the agent's screen said after a delivery; see DeliveryReply."""

    delivery_id: str
    sequence: int
    text: str
    complete: bool


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A text to be put into the mailbox. `dedupe_key` names its one cause: two never exist.

    `id` "" gets a new one. `message_key` is shared by what one call sent. `time_to_live` counts
    from `not_before`, which None means at once.
    """

    agent_id: str
    text: str
    origin: str
    dedupe_key: str
    priority: Priority
    created_at: datetime
    id: str = ""
    sender: str = ""
    header: str = ""
    mode: DeliveryMode = DeliveryMode.WAIT_IDLE
    message_key: str = ""
    not_before: datetime | None = None
    time_to_live: timedelta = TIME_TO_LIVE
    reply_patience: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Step:
    """One step in the story of a delivery."""

    at: datetime
    step: str
    detail: str
    actor: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery as it is shown; see delivery.proto. `steps` only when it is asked for."""

    id: str
    agent_id: str
    session: str
    role: str
    origin: str
    sender: str
    header: str
    text: str
    mode: DeliveryMode
    priority: Priority
    state: DeliveryState
    detail: str
    reason: RefusalReason
    attempts: int
    created_at: datetime
    updated_at: datetime
    not_before: datetime
    expires_at: datetime
    reply_patience: timedelta
    reply: str
    reply_at: datetime | None
    reply_complete: bool
    steps: tuple[Step, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it by itself, the reply included."""
        replying = self.state in (DeliveryState.CONFIRMED, DeliveryState.QUEUED_BY_AGENT)
        awaited = replying and self.reply_patience > timedelta(0) and self.reply_at is None
        return self.state not in OPEN and not awaited
