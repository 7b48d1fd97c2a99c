"""Escalations: takes a matter to one level after the other until it is over.

Each level is told once, in the transaction in which its row says so. What is due for one receiver
at the same time is one text, and no receiver gets more than one a minute: each costs tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from orch_server.core.agent import Agent, Liveness
from orch_server.core.agent_state import AgentState
from orch_server.core.alert import NewAlert, Severity
from orch_server.core.clock import Clock
from orch_server.core.supervision import (
    ALERTS,
    LADDER,
    SPACING,
    Escalation,
    Matter,
    Policy,
    Present,
    escalation_text,
    matter_text,
    next_level_at,
    summary,
)
from orch_server.core.timeline import Timeline
from orch_server.services.agent_state import AgentStates
from orch_server.services.agents import AgentRegistry
from orch_server.services.credit import CreditService
from orch_server.storage import supervision as table
from orch_server.storage.alerts import raise_alert
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store, Transaction

Key = tuple[str, Matter]
_LAST = len(LADDER)
#: Who is told at the levels 1, 2 and 3; of the first two the first one that there is.
_ROLES = (
    ("project_manager", "orchestrator"),
    ("orchestrator", "project_manager"),
    ("project_manager", "orchestrator"),
)
_DEAF = frozenset({AgentState.SHELL, AgentState.DEAD})


@dataclass(frozen=True, slots=True)
class _Open:
    """A matter that was told. `began` is monotonic."""

    row: Escalation
    began: float


@dataclass(frozen=True, slots=True)
class _Step:
    """One matter that goes to its next level, from `at` on, and who hears of it."""

    agent: Agent
    row: Escalation
    began: float
    at: float
    receivers: tuple[Agent, ...]


class Escalations:
    """The matters that are open. `spoken` says when each agent last got a text of supervision."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        states: AgentStates,
        credit: CreditService,
        clock: Clock,
        spoken: dict[str, float],
        timeline: Timeline,
    ) -> None:
        self._store = store
        self._registry = registry
        self._states = states
        self._credit = credit
        self._clock = clock
        self._spoken = spoken
        self._timeline = timeline
        self._session_spoken: dict[str, float] = {}
        self._open: dict[Key, _Open] = {}

    async def load(self) -> None:
        """Reads what is open; once, at the start."""
        now = self._clock.monotonic()
        for row in await self._store.read(table.open_escalations):
            began = self._timeline.monotonic(row.created_at, now)
            self._open[row.agent_id, row.matter] = _Open(row, began)
        for agent_id, at in self._spoken.items():
            agent = self._registry.get(agent_id)
            if agent is not None:
                earlier = self._session_spoken.get(agent.session, at)
                self._session_spoken[agent.session] = max(at, earlier)

    def of(self, agent_id: str) -> list[Escalation]:
        """The open matters of an agent."""
        found = (self._open.get((agent_id, matter)) for matter in Matter)
        return [one.row for one in found if one is not None]

    async def run(
        self, present: dict[Key, Present], policies: dict[str, Policy]
    ) -> tuple[list[float], list[str]]:
        """Begins, advances and ends; returns when the next levels are due, and who has mail.

        An open matter that is not present is over.
        """
        for key in [key for key in self._open if key not in present]:
            await self._end(key)
        due, coming = self._choose(self._steps(present), policies)
        if not due:
            return coming, []
        await self._store.write(lambda tx: _tell(tx, due))
        return coming + self._told(due), [r.id for step in due for r in step.receivers]

    # ---- what is due ----

    def _steps(self, present: dict[Key, Present]) -> list[_Step]:
        """The next level of each matter, the oldest matter first."""
        steps = []
        for (agent_id, matter), one in present.items():
            agent = self._registry.get(agent_id)
            if agent is not None and not one.undecided:
                step = self._step(agent, matter, one)
                steps += [] if step is None else [step]
        return sorted(steps, key=lambda step: step.began)

    def _step(self, agent: Agent, matter: Matter, one: Present) -> _Step | None:
        """The next level of a matter; None after the last. That an account is not let in is for a
        person at once."""
        found = self._open.get((agent.id, matter)) or self._begin(agent, matter, one)
        row, began = found.row, found.began
        at = next_level_at(began, row.level)
        if at is None:
            return None
        for_person = matter is Matter.AUTH_FAILED
        level = _LAST if for_person else row.level + 1
        later = next_level_at(0.0, level)
        next_at = None if later is None else row.created_at + timedelta(seconds=later)
        told = replace(row, level=level, next_at=next_at, detail=one.detail)
        receivers = [] if for_person else self._receivers(agent, level)
        return _Step(agent, told, began, at, tuple(receivers))

    def _begin(self, agent: Agent, matter: Matter, one: Present) -> _Open:
        ago = timedelta(seconds=self._clock.monotonic() - one.began)
        began_at = self._clock.now() - ago
        row = Escalation(new_id(), agent.id, matter, 0, began_at, began_at, None, one.detail)
        return _Open(row, one.began)

    def _receivers(self, agent: Agent, level: int) -> list[Agent]:
        """Who is told: never the agent itself, nor one that cannot hear."""
        found = [self._registry.at(agent.session, role) for role in _ROLES[level - 1]]
        able = [one for one in found if one and one.id != agent.id and self._hears(one)]
        return able if level == _LAST else able[:1]

    def _hears(self, agent: Agent) -> bool:
        state = self._states.status(agent.id).state
        there = agent.incarnation is not None and agent.liveness is not Liveness.ENDED
        held = agent.do_not_disturb or self._credit.held_until(agent) is not None
        return there and not held and state not in _DEAF

    def _choose(
        self, steps: Iterable[_Step], policies: dict[str, Policy]
    ) -> tuple[list[_Step], list[float]]:
        """The steps that are taken now, and when the others may be. In a throttled session one
        receiver gets one text a cycle."""
        now = self._clock.monotonic()
        due: list[_Step] = []
        coming: list[float] = []
        only: dict[str, str] = {}  # throttled session: its one receiver
        for step in steps:
            session = step.agent.session
            limit = policies.get(session)
            throttled = limit is not None and limit.throttled
            one = replace(step, receivers=step.receivers[:1]) if throttled else step
            at = max(step.at, self._free_at(one, limit if throttled else None))
            if at > now:
                coming.append(at)
            elif throttled and limit is not None and not _alone(one, only):
                coming.append(now + limit.cycle)
            else:
                due.append(one)
        return due, coming

    def _free_at(self, step: _Step, limit: Policy | None) -> float:
        """When all receivers may get a text again; `limit` is that of a throttled session."""
        times = [self._spoken[r.id] + SPACING for r in step.receivers if r.id in self._spoken]
        last = self._session_spoken.get(step.agent.session)
        if limit is not None and step.receivers and last is not None:
            times.append(last + limit.cycle)
        return max(times, default=0.0)

    # ---- what was done ----

    def _told(self, due: list[_Step]) -> list[float]:
        """Remembers what was told; returns when the next levels are due."""
        now, coming = self._clock.monotonic(), []
        for step in due:
            self._open[step.row.agent_id, step.row.matter] = _Open(step.row, step.began)
            at = next_level_at(step.began, step.row.level)
            coming += [] if at is None else [at]
            for receiver in step.receivers:
                self._spoken[receiver.id] = now
                self._session_spoken[step.agent.session] = now
        return coming

    async def _end(self, key: Key) -> None:
        """What is not the matter any more is over. Nobody is told: that would cost a turn."""
        agent = self._registry.get(key[0])
        if agent is not None:
            state = self._states.status(agent.id).state.lower().replace("_", " ")
            over = replace(
                self._open[key].row,
                next_at=None,
                ended_at=self._clock.now(),
                detail=f"It is over: the agent is {state}, its client {agent.liveness.lower()}.",
            )
            await self._store.write(
                lambda tx: table.save_escalation(tx, over, agent.session, "ended")
            )
        del self._open[key]


def _alone(step: _Step, only: dict[str, str]) -> bool:
    """Whether the step's receiver, if there is one, is the only one of its session so far."""
    if not step.receivers:
        return True
    receiver = step.receivers[0].id
    return only.setdefault(step.agent.session, receiver) == receiver


def _tell(tx: Transaction, due: list[_Step]) -> None:
    for step in due:
        table.save_escalation(tx, step.row, step.agent.session, "raised")
    last = [step for step in due if step.row.level == _LAST]
    for session in {step.agent.session: None for step in last}:
        _alert(tx, session, [step for step in last if step.agent.session == session])
    for receiver_id in {r.id: None for step in due for r in step.receivers}:
        mine = [step for step in due if any(r.id == receiver_id for r in step.receivers)]
        level = max(step.row.level for step in mine)
        text = escalation_text([_sentence(step) for step in mine], level)
        table.send(tx, receiver_id, mine[0].row.id, mine[0].row.level, text)


def _sentence(step: _Step) -> str:
    return matter_text(step.agent.address, step.row.matter, step.row.detail)


def _alert(tx: Transaction, session: str, steps: list[_Step]) -> None:
    """A person is needed: accounts are not let in, or all levels were told in vain."""
    for kind in ("auth-failed", "escalation"):
        mine = [step for step in steps if _kind(step) == kind]
        if len(mine) > ALERTS:
            text = summary(session, [_sentence(step) for step in mine])
            raise_alert(tx, NewAlert(Severity.CRITICAL, kind, session, text, session))
            continue
        for step in mine:
            address, text = step.agent.address, _sentence(step)
            raise_alert(tx, NewAlert(Severity.CRITICAL, kind, address, text, session))


def _kind(step: _Step) -> str:
    return "auth-failed" if step.row.matter is Matter.AUTH_FAILED else "escalation"
