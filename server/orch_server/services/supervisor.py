"""The supervisor: looks at all agents when something is due, has the idle ones nudged and what does
not go on escalated.

It acts on the states of agents, never on screens. Times are monotonic. Above it is
loops/supervision.py, below it are nudges.py and escalations.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

from orch_server.core.agent import Agent, Liveness, WaitingFor
from orch_server.core.agent_state import AgentState, Status
from orch_server.core.alert import NewAlert, Severity
from orch_server.core.clock import Clock
from orch_server.core.errors import OrchError
from orch_server.core.session import Completion, Phase, Plan, Session
from orch_server.core.supervision import (
    LOST_FOR,
    MINUTE,
    Escalation,
    Matter,
    Nudge,
    NudgeCounts,
    Policy,
    Present,
    policy,
)
from orch_server.core.timeline import Timeline
from orch_server.services.agent_state import AgentStates
from orch_server.services.agents import AgentRegistry
from orch_server.services.credit import CreditService
from orch_server.services.escalations import Escalations, Key
from orch_server.services.heartbeat import HeartbeatService
from orch_server.services.nudges import Nudges, Room
from orch_server.services.operations import OperationService
from orch_server.services.waiting import WaitingService
from orch_server.storage import sessions as session_table
from orch_server.storage import supervision as table
from orch_server.storage.alerts import raise_alert
from orch_server.storage.store import Store

logger = logging.getLogger(__name__)

_ASKS = frozenset({AgentState.WAITING_PERMISSION, AgentState.WAITING_ANSWER})
#: Without a client nobody knows whether these go on.
_SEEN_BY_CLIENT = frozenset({Matter.HUNG, Matter.UNANSWERED, Matter.UNRESPONSIVE})
_MISSED = frozenset({Liveness.SUSPECT, Liveness.LOST})
_FELL = "it left its pane in the middle of a turn"
#: Longer ago than any text of supervision matters.
_LATELY = timedelta(minutes=5)


class Supervisor:
    """Decides about every agent when its time has come."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        heartbeat: HeartbeatService,
        states: AgentStates,
        operations: OperationService,
        credit: CreditService,
        waiting: WaitingService,
        wake_agent: Callable[[str], None],
        clock: Clock,
        nudges_per_hour: int,
    ) -> None:
        self._store = store
        self._registry = registry
        self._heartbeat = heartbeat
        self._states = states
        self._operations = operations
        self._credit = credit
        self._waiting = waiting
        self._wake_agent = wake_agent
        self._clock = clock
        self._fell: set[str] = set()  # agents that left their pane in the middle of a turn
        self._lost: dict[str, float] = {}
        self._known: set[str] = set()
        self._policies: dict[str, Policy] = {}
        self._judged: dict[str, tuple[Phase, Plan]] = {}
        self._turned: dict[str, float] = {}  # when a session's phase or plan last changed
        self._spoken: dict[str, float] = {}
        self._timeline = Timeline()
        self._alerts: set[asyncio.Task[None]] = set()
        self._nudges = Nudges(
            store,
            registry,
            heartbeat,
            states,
            operations,
            credit,
            wake_agent,
            clock,
            nudges_per_hour,
            self._spoken,
            self._timeline,
        )
        self._escalations = Escalations(
            store, registry, states, credit, clock, self._spoken, self._timeline
        )
        self.changed = asyncio.Event()

    async def load(self) -> None:
        """Reads what was done before; once, at the start, after the states."""
        now = self._clock.now()
        self._timeline.note(now, self._clock.monotonic())
        spoken = await self._store.read(lambda db: table.spoken(db, now - _LATELY, now))
        self._spoken.update({agent_id: self._monotonic(at) for agent_id, at in spoken.items()})
        await self._nudges.load()
        await self._escalations.load()
        for agent in self._registry.all():
            self.liveness_changed(agent)
            matters = {row.matter for row in self._escalations.of(agent.id)}
            if Matter.DEAD in matters and self._state(agent) is AgentState.SHELL:
                self._fell.add(agent.id)

    # ---- what happens ----

    def state_changed(self, agent: Agent, old: Status, new: Status) -> None:
        """An agent's state, or what told it, changed."""
        told = new.evidence
        if new.state is not AgentState.SHELL:
            self._fell.discard(agent.id)
        elif old.state is AgentState.WORKING and told is not None and told.rule == "foreground":
            self._fell.add(agent.id)
        if _crashed(new) and told is not None and not _same_exit(old, new):
            self._alert_crash(agent, told.detail)
        self.changed.set()

    def liveness_changed(self, agent: Agent) -> None:
        """An agent's client came, broke off, was lost or left."""
        if agent.liveness is not Liveness.LOST:
            self._lost.pop(agent.id, None)
        elif agent.id not in self._lost:
            self._lost[agent.id] = self._monotonic(agent.liveness_changed_at)
        self.changed.set()

    # ---- what is due ----

    async def run_due(self) -> float | None:
        """Does what is due; returns the monotonic time of what comes next, None for nothing."""
        self._timeline.note(self._clock.now(), self._clock.monotonic())
        self._states.time_passed()
        sessions = {s.name: s for s in await self._store.read(session_table.all_sessions)}
        waiting = await self._waiting.waiting()
        agents = self._registry.all()
        self._forget(agents, sessions)
        self._judge(sessions, agents)
        coming: list[float] = []
        if not self._heartbeat.partition_suspected:
            coming += await self._escalate(sessions, agents)
        coming += await self._nudge(sessions, agents, waiting)
        await self._nudges.flush()
        now = self._clock.monotonic()
        return min((at for at in coming if at > now), default=None)

    async def close(self) -> None:
        """Writes what is only in memory; what the store does not take is lost."""
        try:
            await self._nudges.flush(at_once=True)
        except OrchError as exc:
            logger.warning("counts of nudges not stored", extra={"error": exc.message})

    def _forget(self, agents: list[Agent], sessions: dict[str, Session]) -> None:
        """Drops what was remembered of agents and sessions that were deleted."""
        present = {agent.id for agent in agents}
        gone, self._known = self._known - present, present
        self._nudges.forget(gone)
        self._fell -= gone
        for agent_id in gone:
            self._lost.pop(agent_id, None)
            self._spoken.pop(agent_id, None)
        for name in self._judged.keys() - sessions.keys():
            del self._judged[name], self._turned[name]

    def _judge(self, sessions: dict[str, Session], agents: list[Agent]) -> None:
        """Sets the policy of each session, and notices when its phase or plan changes."""
        members: dict[str, list[bool]] = {name: [] for name in sessions}
        for agent in agents:
            if agent.session in sessions and agent.liveness is not Liveness.ENDED:
                limited = self._state(agent) is AgentState.USAGE_LIMITED
                members[agent.session].append(limited)
        self._policies = {
            name: policy(session.phase, session.plan, sum(members[name]), len(members[name]))
            for name, session in sessions.items()
        }
        for name, session in sessions.items():
            known, now = self._judged.get(name), (session.phase, session.plan)
            if known is None:  # also after a restart: whatever was updated last may be that
                self._turned[name] = self._monotonic(session.updated_at)
            elif known != now:
                self._turned[name] = self._clock.monotonic()
            self._judged[name] = now

    async def _nudge(
        self, sessions: dict[str, Session], agents: list[Agent], waiting: dict[str, WaitingFor]
    ) -> list[float]:
        """Has the agents nudged whose time has come; returns the times of the others."""
        coming = []
        for agent in agents:
            limit = self._policies.get(agent.session)
            due = self._nudges.due(agent, limit) if limit is not None else None
            if due is None or limit is None:
                continue
            if due <= self._clock.monotonic():
                turned = self._turned[agent.session]
                room = Room(sessions[agent.session], limit, turned, waiting)
                await self._nudges.consider(agent, room)
                due = self._nudges.due(agent, limit) or due
            coming.append(due)
        return coming

    # ---- what is the matter ----

    async def _escalate(self, sessions: dict[str, Session], agents: list[Agent]) -> list[float]:
        """Has the matters escalated; returns when there is more to do."""
        now = self._clock.monotonic()
        present: dict[Key, Present] = {}
        coming: list[float] = []
        lost = self._lost_ones(agents)
        for agent in agents:
            session = sessions.get(agent.session)
            if session is not None and session.completion is Completion.PENDING:
                for matter, one in await self._matters(agent, lost):
                    if one.began > now:
                        coming.append(one.began)
                    else:
                        present[agent.id, matter] = one
        times, mail = await self._escalations.run(present, self._policies)
        for agent_id in mail:
            self._wake_agent(agent_id)
        return coming + times

    def _lost_ones(self, agents: list[Agent]) -> dict[str, Present]:
        """The lost clients, by agent. One that served many panes is one matter: that of the first
        of its agents, since each of them may be well."""
        found: dict[str, Present] = {}
        served: dict[tuple[str, str, str], list[Agent]] = {}
        for agent in (a for a in agents if a.id in self._lost):
            at = agent.incarnation
            if agent.courier and at is not None:
                served.setdefault((agent.session, at.host, at.socket), []).append(agent)
            else:
                found[agent.id] = self._lost_client(agent, 0)
        for group in served.values():
            first = min(group, key=lambda a: a.address)
            found[first.id] = self._lost_client(first, len(group) - 1)
        return found

    def _lost_client(self, agent: Agent, others: int) -> Present:
        also = f", nor were {others} other panes that it served" if others else ""
        return Present(self._lost[agent.id] + LOST_FOR, f"it was not heard for 2 min{also}")

    async def _matters(
        self, agent: Agent, lost: dict[str, Present]
    ) -> list[tuple[Matter, Present]]:
        """What is the matter with an agent, or will be at its `began`."""
        if agent.liveness is Liveness.UNKNOWN:  # the server has just started: it may come back
            return self._undecided(agent, frozenset(Matter))
        found = self._told_by_state(agent)
        unmoved = await self._nudges.unmoved(agent, self._policies[agent.session])
        if unmoved is not None:
            found.append((Matter.UNRESPONSIVE, unmoved))
        if agent.liveness in _MISSED:
            found = [one for one in found if one[0] not in _SEEN_BY_CLIENT]
            found += self._undecided(agent, _SEEN_BY_CLIENT)
        if agent.id in lost:
            found.append((Matter.LOST, lost[agent.id]))
        return found

    def _told_by_state(self, agent: Agent) -> list[tuple[Matter, Present]]:
        status = self._states.status(agent.id)
        since, told = self._states.state_since(agent.id), status.evidence
        detail = (told.detail or told.rule) if told is not None else ""
        if status.state is AgentState.DEAD and told is not None and told.rule == "exit":
            return [(Matter.DEAD, Present(since, detail))]
        if agent.id in self._fell:
            return [(Matter.DEAD, Present(since, _FELL))]
        if status.state is AgentState.HUNG and self._operations.current(agent.id) is None:
            return [(Matter.HUNG, Present(since, detail))]
        if status.state in _ASKS:
            idle_after = self._policies[agent.session].idle_after
            return [(Matter.UNANSWERED, Present(since + idle_after, detail))]
        if status.state is AgentState.AUTH_FAILED:
            return [(Matter.AUTH_FAILED, Present(since, detail))]
        return []

    def _undecided(self, agent: Agent, matters: Iterable[Matter]) -> list[tuple[Matter, Present]]:
        """The open ones of these matters, which stay as they are for now."""
        rows = (row for row in self._escalations.of(agent.id) if row.matter in matters)
        return [(row.matter, Present(0.0, row.detail, undecided=True)) for row in rows]

    # ---- what is shown ----

    def explain(self, agent: Agent) -> list[str]:
        """What is done about an agent and when; a sentence each."""
        said = []
        for row in self._escalations.of(agent.id):
            after = f", the next one at {row.next_at:%H:%M} UTC" if row.next_at else ""
            about = row.matter.lower().replace("_", " ")
            said.append(f"Escalated as {about}, level {row.level} of 3 told{after}: {row.detail}.")
        held = self._credit.held_until(agent)
        if held is not None:
            account = self._credit.credential_of(agent)
            until = f"{held:%Y-%m-%d %H:%M:%S} UTC"
            said.append(f"Everything for it is held until {until}, with its account {account}.")
        operation = self._operations.current(agent.id)
        if operation is not None:
            end = f"{operation.ends_at:%H:%M}"
            said.append(f"It has announced an operation until {end} UTC: {operation.reason}")
        if self._heartbeat.partition_suspected:
            said.append("Too many clients were lost at once: nothing is nudged or escalated now.")
        said.append(self._explain_nudge(agent))
        return said

    def _explain_nudge(self, agent: Agent) -> str:
        limit = self._policies.get(agent.session)
        due = self._nudges.due(agent, limit) if limit is not None else None
        if due is None:
            return "No nudge is due: it is not known to be idle, or nudges are switched off."
        now, last = self._clock.monotonic(), self._nudges.memory(agent.id).last
        ago = "never nudged" if last is None else f"last nudged {_span(now - last)} ago"
        return f"A nudge is considered in {_span(due - now)}, if something has changed ({ago})."

    async def list_nudges(
        self, given: str, since: datetime | None, size: int, token: str
    ) -> tuple[list[Nudge], str, NudgeCounts]:
        """One page of nudges, the newest first, the token for the next, and the counts."""
        return await self._nudges.list_page(given, since, size, token)

    async def list_escalations(
        self, session: str, open_only: bool, size: int, token: str
    ) -> tuple[list[Escalation], str]:
        """One page of matters, the newest first, and the token for the next."""
        ids = [a.id for a in self._registry.all(session)] if session else None
        return await self._store.read(
            lambda db: table.list_escalations(db, ids, open_only, size, token)
        )

    # ---- parts ----

    def _state(self, agent: Agent) -> AgentState:
        return self._states.status(agent.id).state

    def _monotonic(self, at: datetime) -> float:
        """When something of the wall clock was, by the monotonic one."""
        return self._timeline.monotonic(at, self._clock.monotonic())

    def _alert_crash(self, agent: Agent, detail: str) -> None:
        text = f"{agent.address} crashed: {detail}."
        alert = NewAlert(Severity.WARNING, "agent-crashed", agent.address, text, agent.session)
        raising = _raised(self._store.write(lambda tx: raise_alert(tx, alert)), text)
        task = asyncio.create_task(raising)
        self._alerts.add(task)
        task.add_done_callback(self._alerts.discard)


async def _raised(raising: Awaitable[None], text: str) -> None:
    try:
        await raising
    except OrchError as exc:
        logger.warning("alert not stored", extra={"alert": text, "error": exc.message})


def _crashed(status: Status) -> bool:
    """Whether `orch-client run` saw it crash, whether it starts it again or not."""
    told = status.evidence
    over = status.state in (AgentState.DEAD, AgentState.STARTING)
    return over and told is not None and told.rule == "exit"


def _same_exit(old: Status, new: Status) -> bool:
    began = new.evidence.began_at if new.evidence is not None else None
    return _crashed(old) and old.evidence is not None and old.evidence.began_at == began


def _span(seconds: float) -> str:
    """A length of time for people."""
    left = max(0, int(seconds))
    return f"{left} s" if left < MINUTE else f"{left // 60} min"
