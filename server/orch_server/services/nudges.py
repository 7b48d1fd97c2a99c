"""Nudges: wakes agents that are idle for too long, and counts those that were due and not sent.

No model is woken when nothing has changed. The text, its row and its delivery are one transaction;
what was not sent is counted in memory and written at most once a minute. Times are monotonic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from orch_server.core.agent import HELD, Agent, Liveness, WaitingFor
from orch_server.core.agent_state import AgentState, EvidenceSource
from orch_server.core.clock import Clock
from orch_server.core.errors import OrchError
from orch_server.core.session import Completion, Session
from orch_server.core.supervision import (
    ACTIVE_WITHIN,
    HOUR,
    SPACING,
    Circumstances,
    NotSent,
    Nudge,
    NudgeCounts,
    Nudged,
    NudgeReason,
    Policy,
    Present,
    nudge_due,
    nudge_text,
    withheld,
)
from orch_server.core.timeline import Timeline
from orch_server.services.agent_state import AgentStates
from orch_server.services.agents import AgentRegistry
from orch_server.services.credit import CreditService
from orch_server.services.heartbeat import HeartbeatService
from orch_server.services.operations import OperationService
from orch_server.storage import supervision as table
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store

logger = logging.getLogger(__name__)

_ORCHESTRATOR = "orchestrator"
_HELPLESS = frozenset(
    {
        AgentState.DEAD,
        AgentState.SHELL,
        AgentState.HUNG,
        AgentState.USAGE_LIMITED,
        AgentState.AUTH_FAILED,
    }
)
_HERE = HELD | {Liveness.UNMANAGED}
_FLUSH = 60.0


@dataclass(frozen=True, slots=True)
class Room:
    """What an agent's session allows just now. `turned` is when its phase or plan last changed,
    `waiting` what those wait for who wait for somebody, by agent id."""

    session: Session
    policy: Policy
    turned: float
    waiting: Mapping[str, WaitingFor]


class Nudges:
    """Remembers the nudges of every agent. `spoken` says when each one last got a text."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        heartbeat: HeartbeatService,
        states: AgentStates,
        operations: OperationService,
        credit: CreditService,
        wake_agent: Callable[[str], None],
        clock: Clock,
        budget: int,
        spoken: dict[str, float],
        timeline: Timeline,
    ) -> None:
        self._store = store
        self._registry = registry
        self._heartbeat = heartbeat
        self._states = states
        self._operations = operations
        self._credit = credit
        self._wake_agent = wake_agent
        self._clock = clock
        self._budget = budget
        self._spoken = spoken
        self._timeline = timeline
        self._memory: dict[str, Nudged] = {}
        self._last: dict[str, Nudge] = {}
        self._outcomes: dict[str, tuple[str, table.Outcome]] = {}  # of the nudge with this id
        self._counts: dict[tuple[datetime, str, NotSent], int] = {}
        self._flushed = clock.monotonic()
        self._marks: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Reads what was sent before; once, at the start."""
        now = self._clock.monotonic()
        since = self._clock.now() - timedelta(seconds=HOUR)
        for one in await self._store.read(lambda db: table.last_nudges(db, since)):
            at = self._timeline.monotonic(one.created_at, now)
            self._memory[one.agent_id] = self.memory(one.agent_id).after(at, one.reason)
            self._last[one.agent_id] = one

    def memory(self, agent_id: str) -> Nudged:
        """What is remembered of an agent's nudges."""
        return self._memory.get(agent_id) or Nudged()

    def due(self, agent: Agent, policy: Policy) -> float | None:
        """When a nudge is due; None for an agent that is not known to be idle just now."""
        if not self._budget or not self._is_idle(agent):
            return None
        since, moved = self._states.state_since(agent.id), self._states.last_activity(agent.id)
        due = nudge_due(since, moved, self.memory(agent.id), policy)
        spoken, free = self._spoken.get(agent.id), self._credit.free_since(agent)
        if free is not None:  # those of one account are woken one after the other
            due = max(due, free + policy.idle_after)
        return due if spoken is None else max(due, spoken + SPACING)

    async def consider(self, agent: Agent, room: Room) -> None:
        """Sends a nudge that is due, or counts why not."""
        silent = await self._silence_of_orchestrator(agent, room.policy)
        reason = NudgeReason.GO_ON if silent else NudgeReason.IDLE
        around = await self._circumstances(agent, room, reason)
        memory, since = self.memory(agent.id), self._states.state_since(agent.id)
        now = self._clock.monotonic()
        why_not = withheld(since, memory, self._budget, around, now)
        if why_not is None:
            await self._send(agent, reason, nudge_text(reason, now - since, silent, agent.role))
        else:
            self._memory[agent.id] = memory.without(now)
            hour = self._clock.now().replace(minute=0, second=0, microsecond=0)
            key = (hour, agent.id, why_not)
            self._counts[key] = self._counts.get(key, 0) + 1

    async def unmoved(self, agent: Agent, policy: Policy) -> Present | None:
        """That an agent has not moved since a nudge, or was not reached by it, from a cooldown
        after that on."""
        if self._state(agent) is not AgentState.IDLE or self._is_let_be(agent):
            return None
        nudged = self.memory(agent.id).first_since(self._states.state_since(agent.id))
        if nudged is None:
            return None
        began, last = nudged + policy.cooldown, self._last[agent.id]
        if began > self._clock.monotonic():
            return Present(began, "")
        ended, moved = await self._outcome(last), self._states.last_activity(agent.id)
        if ended is not None and ended.reached and moved is not None and moved > nudged:
            return None  # it has answered, in a turn that was over before anybody looked
        said = f"its last nudge came at {last.created_at:%H:%M} UTC"
        if ended is not None and not ended.reached:
            said += f" and did not reach it: {ended.detail}"
        return Present(began, said)

    async def flush(self, at_once: bool = False) -> None:
        """Writes the counts, once a minute at most."""
        now = self._clock.monotonic()
        if not self._counts or (not at_once and now - self._flushed < _FLUSH):
            return
        counts, self._counts, self._flushed = self._counts, {}, now
        try:
            await self._store.write(lambda tx: table.count(tx, counts))
        except OrchError:
            for key, number in self._counts.items():
                counts[key] = counts.get(key, 0) + number
            self._counts = counts
            raise

    async def list_page(
        self, given: str, since: datetime | None, size: int, token: str
    ) -> tuple[list[Nudge], str, NudgeCounts]:
        """One page, the newest first, the token for the next, and the counts."""
        agent_id = self._registry.find(given).id if given else ""
        await self.flush(at_once=True)
        page, after = await self._store.read(
            lambda db: table.list_nudges(db, agent_id, since, size, token)
        )
        counts = await self._store.read(lambda db: table.counts(db, agent_id, since))
        return page, after, counts

    def forget(self, agent_ids: set[str]) -> None:
        """Agents are deleted."""
        for agent_id in agent_ids:
            self._memory.pop(agent_id, None)
            self._last.pop(agent_id, None)
            self._outcomes.pop(agent_id, None)

    # ---- parts ----

    def _is_idle(self, agent: Agent) -> bool:
        """Whether its own hook, or a client that looks at its screen now, says so."""
        status = self._states.status(agent.id)
        if status.state is not AgentState.IDLE or status.evidence is None:
            return False
        if agent.incarnation is None:
            return False
        if status.evidence.source is EvidenceSource.HOOK:
            return agent.liveness in (Liveness.ALIVE, Liveness.UNMANAGED)
        seen = self._states.seen_at(agent.id)
        fresh = seen is not None and self._clock.monotonic() - seen <= self._heartbeat.pace.lease
        return agent.liveness is Liveness.ALIVE and fresh

    def _is_let_be(self, agent: Agent) -> bool:
        """Whether it may well stay idle: it is muted or busy otherwise, or its account is held."""
        busy = self._operations.current(agent.id) is not None
        return agent.do_not_disturb or busy or self._credit.held_until(agent) is not None

    async def _circumstances(self, agent: Agent, room: Room, reason: NudgeReason) -> Circumstances:
        partition = self._heartbeat.partition_suspected
        held = self._credit.held_until(agent) is not None
        busy = self._operations.current(agent.id) is not None
        memory, now = self.memory(agent.id), self._clock.now()
        return Circumstances(
            suspended=partition or room.session.completion is not Completion.PENDING,
            no_credit=held or room.policy.throttled,
            unwanted=agent.do_not_disturb
            or _waits(room.waiting.get(agent.id), reason)
            or busy
            or await self._store.read(lambda db: table.is_expected(db, agent.id, now)),
            news=memory.last is not None
            and (room.turned > memory.last or await self._has_news(agent)),
            reason=reason,
        )

    async def _has_news(self, agent: Agent) -> bool:
        """Whether a text reached the agent since its last nudge, or that one never did."""
        last = self._last[agent.id]
        ended = await self._outcome(last)
        if ended is None:
            return False
        return not ended.reached or await self._store.read(
            lambda db: table.reached_since(db, agent.id, ended.sequence)
        )

    async def _outcome(self, last: Nudge) -> table.Outcome | None:
        """What became of the text of an agent's last nudge; read until it is known."""
        known = self._outcomes.get(last.agent_id)
        if known is not None and known[0] == last.id:
            return known[1]
        found = await self._store.read(lambda db: table.outcome(db, last.delivery_id))
        if found is not None:
            self._outcomes[last.agent_id] = (last.id, found)
        return found

    async def _send(self, agent: Agent, reason: NudgeReason, text: str) -> None:
        at = self._clock.monotonic()
        one = Nudge(new_id(), agent.id, reason, new_id(), self._clock.now(), False)
        await self._store.write(lambda tx: table.nudge(tx, one, agent.session, text))
        self._memory[agent.id] = self.memory(agent.id).after(at, reason)
        self._last[agent.id], self._spoken[agent.id] = one, at
        self._states.activity[agent.id] = lambda moved: self._moved(agent, one, at, moved)
        meanwhile = self._states.last_activity(agent.id)
        if meanwhile is not None:
            self._moved(agent, one, at, meanwhile)
        self._wake_agent(agent.id)

    def _moved(self, agent: Agent, one: Nudge, at: float, moved: float) -> None:
        """A movement of the agent became known after it was nudged: one before shows a mistake."""
        if moved <= at - ACTIVE_WITHIN:
            return
        self._states.activity.pop(agent.id, None)
        if moved < at and self._last.get(agent.id) is one:
            self._last[agent.id] = replace(one, false_alarm=True)
            marking = self._store.write(
                lambda tx: table.mark_false(tx, one.id, agent.session, agent.id)
            )
            task = asyncio.create_task(_marked(marking, agent))
            self._marks.add(task)
            task.add_done_callback(self._marks.discard)

    async def _silence_of_orchestrator(self, agent: Agent, policy: Policy) -> str:
        """Why the agent's orchestrator counts as silent; "" when it does not, or there is none.

        One that never sent this agent a text does not count as silent as long as it is there.
        """
        boss = self._registry.at(agent.session, _ORCHESTRATOR)
        if boss is None or boss.id == agent.id:
            return ""
        if boss.liveness not in _HERE:
            return f"its client is {boss.liveness.lower()}"
        state = self._state(boss)
        if state in _HELPLESS:
            return f"it is {state.lower().replace('_', ' ')}"
        last = await self._store.read(lambda db: table.last_text(db, agent.id, boss.address))
        if last is None:
            return ""
        now = self._clock.monotonic()
        ago = now - self._timeline.monotonic(last, now)
        return f"its last word came {int(ago // 60)} min ago" if ago > 2 * policy.idle_after else ""

    def _state(self, agent: Agent) -> AgentState:
        return self._states.status(agent.id).state


def _waits(wait: WaitingFor | None, reason: NudgeReason) -> bool:
    """Whether an agent may well be idle, since it waits. Work that a silent orchestrator owes it is
    no reason to wait any longer; leave to act that was asked for is, until it is given or ends."""
    if wait is None:
        return False
    silent = reason is NudgeReason.GO_ON and wait.role == _ORCHESTRATOR
    return not (silent and wait.dependency_id)


async def _marked(marking: Awaitable[None], agent: Agent) -> None:
    try:
        await marking
    except OrchError as exc:
        extra = {"agent": agent.address, "error": exc.message}
        logger.warning("false nudge not marked", extra=extra)
