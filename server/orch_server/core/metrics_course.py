"""What agents did and what reached them, followed in the order of the events.

An event belongs to the step that is open when it comes: a clock that is set back counts no time
twice and takes nothing from a step that is over. Pure; nothing here reads anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from orch_server.core.agent import Liveness
from orch_server.core.agent_state import AgentState
from orch_server.core.event import Event
from orch_server.core.metrics_figures import CONFIRMED, DECISION, percentiles
from orch_server.core.metrics_parts import (
    ALIVE,
    ALL,
    DECIDED,
    FALSE_NUDGES,
    IDLE,
    INTERACTIONS,
    NUDGES,
    BySession,
    Part,
    add,
)

STARTED = "server.started"
_STOPPED = "server.stopped"  # no event: what is told of a stop is told at the next start
_NO_PANE = " without a pane"  # before the last word of the detail
_LIVENESS = frozenset(f"agent.{one.lower()}" for one in Liveness)
_REACHED = frozenset({"delivery.confirmed", "delivery.queued_by_agent", "delivery.unconfirmed"})
#: The ends whose time is measured: kind of event -> what is measured.
MEASURED = {
    "delivery.confirmed": CONFIRMED,
    "delivery.queued_by_agent": CONFIRMED,
    "authorization.approved": DECISION,
    "authorization.denied": DECISION,
}
#: All that the course needs to be told.
KINDS = (
    *sorted(_LIVENESS),
    "agent.registered",
    "agent.state",
    "session.deleted",
    *sorted(_REACHED),
    "nudge.sent",
    "nudge.false",
    "authorization.approved",
    "authorization.denied",
    STARTED,
)
#: A client that may come back soon has its agent live on; after a restart nobody knows.
_ALIVE = frozenset({Liveness.ALIVE, Liveness.SUSPECT, Liveness.UNMANAGED})
_OVER = frozenset({AgentState.DEAD, AgentState.SHELL})


@dataclass(frozen=True, slots=True)
class Doing:
    """What is known of an agent: words of Liveness and AgentState, "" when nothing is."""

    session: str
    liveness: str = ""
    state: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether its time counts."""
        return self.liveness in _ALIVE and self.state not in _OVER

    @property
    def is_idle(self) -> bool:
        """Whether its time counts as idle."""
        return self.is_alive and self.state == AgentState.IDLE


@dataclass(frozen=True, slots=True)
class Timed:
    """An event, and the seconds that it ended; None when there are none, or they are not known."""

    event: Event
    took: float | None = None


def started_after(last: datetime) -> str:
    """The detail of STARTED: until when the server is known to have run before."""
    return f"the last event before is of {last.isoformat()}"


def with_stop(timed: Timed) -> Iterator[Timed]:
    """The event; before a start, also that the server had stopped, and when."""
    event = timed.event
    if event.kind == STARTED:
        try:
            stopped = datetime.fromisoformat(event.detail.rpartition(" ")[2])
        except ValueError:
            stopped = event.at
        at = min(stopped, event.at) if stopped.tzinfo else event.at
        yield Timed(replace(event, kind=_STOPPED, at=at))
    yield timed


def measured(found: Iterable[Timed]) -> BySession:
    """The percentiles of the times that were measured, by session."""
    took: dict[str, dict[str, list[float]]] = {}
    for one in found:
        what = MEASURED.get(one.event.kind)
        if what is not None and one.took is not None:
            for session in {one.event.session, ALL}:
                took.setdefault(session, {}).setdefault(what, []).append(one.took)
    parts: BySession = {}
    for session, its in took.items():
        for what, seconds in its.items():
            parts.setdefault(session, {}).update(percentiles(what, seconds))
    return parts


class Course:
    """Follows the events; `agents` is what they do at the time `at`."""

    def __init__(self, at: datetime, agents: Mapping[str, Doing]) -> None:
        self.agents = dict(agents)
        self._at = at
        self._since = dict.fromkeys(self.agents, at)
        self._down = False
        self._begin()

    def take(self, timed: Timed) -> None:
        """The next event."""
        event = timed.event
        self._at = max(self._at, event.at)
        if event.kind in _LIVENESS:
            self._change(event, liveness=event.kind.removeprefix("agent.").upper())
        elif event.kind in MEASURED or event.kind in _REACHED:
            self._ended(timed)
        elif event.kind in _TAKE:
            _TAKE[event.kind](self, event)

    def close(self, at: datetime) -> BySession:
        """What was measured since the last call, up to this time, and from it on anew."""
        self._at = max(self._at, at)
        self._settle_all()
        parts = self._parts
        for session, agents in self._alive.items():
            parts[session][ALIVE] = Part(parts[session][ALIVE].value, len(agents))
        for session, its in measured(self._measured).items():
            parts.setdefault(session, {}).update(its)
        self._begin()
        return parts

    def _begin(self) -> None:
        self._parts: BySession = {}
        self._alive: dict[str, set[str]] = {}
        self._measured: list[Timed] = []
        self._reached: set[str] = set()

    # ---- what agents do ----

    def _registered(self, event: Event) -> None:
        """A pane was called for, or a client came; or the agent has lost its pane to another."""
        whole, _, liveness = event.detail.rpartition(" ")
        self._change(event, liveness="" if whole.endswith(_NO_PANE) else liveness)

    def _state(self, event: Event) -> None:
        self._change(event, state=event.detail.partition(" ")[0])

    def _change(self, event: Event, **changed: str) -> None:
        self._settle(event.agent)
        known = self.agents.get(event.agent) or Doing(event.session)
        self.agents[event.agent] = replace(known, session=event.session, **changed)
        self._since[event.agent] = self._at

    def _deleted(self, event: Event) -> None:
        for agent_id in [i for i, known in self.agents.items() if known.session == event.session]:
            self._settle(agent_id)
            del self.agents[agent_id], self._since[agent_id]

    def _stopped(self, event: Event) -> None:
        self._settle_all()
        self._down = True

    def _started(self, event: Event) -> None:
        self._settle_all()
        self._down = False

    def _settle_all(self) -> None:
        for agent_id in self.agents:
            self._settle(agent_id)

    def _settle(self, agent_id: str) -> None:
        """Counts the time since the agent's last change."""
        known, since = self.agents.get(agent_id), self._since.get(agent_id)
        if known is None or since is None:
            return
        self._since[agent_id] = self._at
        seconds = (self._at - since).total_seconds()
        if self._down or not known.is_alive or not seconds:
            return
        add(self._parts, known.session, ALIVE, seconds)
        for session in {known.session, ALL}:
            self._alive.setdefault(session, set()).add(agent_id)
        if known.is_idle:
            add(self._parts, known.session, IDLE, seconds)

    # ---- what happened ----

    def _ended(self, timed: Timed) -> None:
        event = timed.event
        if event.kind in _REACHED and event.subject not in self._reached:
            self._reached.add(event.subject)
            add(self._parts, event.session, INTERACTIONS, 1)
        what = MEASURED.get(event.kind)
        if what is None or timed.took is None:
            return
        if what == DECISION:
            add(self._parts, event.session, DECIDED, timed.took)
        self._measured.append(timed)

    def _nudged(self, event: Event) -> None:
        add(self._parts, event.session, NUDGES, 1)

    def _false(self, event: Event) -> None:
        add(self._parts, event.session, FALSE_NUDGES, 1)


_TAKE: dict[str, Callable[[Course, Event], None]] = {
    "agent.registered": Course._registered,
    "agent.state": Course._state,
    "session.deleted": Course._deleted,
    "nudge.sent": Course._nudged,
    "nudge.false": Course._false,
    _STOPPED: Course._stopped,
    STARTED: Course._started,
}
