"""What each agent does: takes what clients and hooks have seen, and tells who listens of changes.

All of it is in memory; the store gets each change, in the transaction in which the epoch of the
client, or the pane of the hook, is checked. A beat that brings nothing new costs no write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, tzinfo

from orch_server.core import fusion
from orch_server.core.agent import Agent, Liveness
from orch_server.core.agent_state import (
    MAX_DETAIL,
    AgentState,
    Evidence,
    EvidenceSource,
    Exit,
    HookReport,
    Observation,
    Status,
    told_by_exit,
    told_by_hook,
)
from orch_server.core.clock import Clock
from orch_server.core.errors import OrchError, StaleEpoch
from orch_server.core.fusion import STILL, Seen, Sign, Verdict
from orch_server.core.identity import Incarnation
from orch_server.core.lease import stale_epoch
from orch_server.core.reset_time import reset_time
from orch_server.core.text import one_line
from orch_server.services.agents import AgentRegistry
from orch_server.services.movement import Movement
from orch_server.storage import agent_status as table
from orch_server.storage import agents
from orch_server.storage.store import Store, Transaction

logger = logging.getLogger(__name__)

_TURNS = frozenset({"UserPromptSubmit", "PermissionRequest", "Stop", "StopFailure"})

Check = Callable[[Transaction], object]
Listener = Callable[[Agent, Status, Status], None]
Key = tuple[AgentState, EvidenceSource, str, datetime | None, float]


@dataclass(slots=True)
class _Known:
    """What is known of one agent, seen in one pane. Times are monotonic.

    `epoch` is that of the connection that observed last; `looked` and `quiet` are what its later
    beats told, which `seen` takes over when it matters. `unsaved`: the store does not have it.
    """

    pane: Incarnation | None
    since: float
    changed_at: datetime
    seen: Seen = field(default_factory=Seen)
    verdict: Verdict = fusion.NOTHING
    epoch: int = -1
    looked: float | None = None
    quiet: float | None = None
    unsaved: bool = False


class AgentStates:
    """The state of every agent, with the evidence for it."""

    def __init__(self, store: Store, registry: AgentRegistry, clock: Clock, zone: tzinfo) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        self._zone = zone
        self._known: dict[str, _Known] = {}
        self.on_change: list[Listener] = []  # also when only the evidence or a reset time changed
        self._movement = Movement()
        self.activity = self._movement.listeners  # who wants the time of each movement, by agent
        self._writes: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Reads what was last known; once, at the start."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        for agent_id, status in (await self._store.read(table.load_all)).items():
            agent = self._registry.get(agent_id)
            if agent is not None:
                since = monotonic - _age(status.changed_at, now)
                seen = fusion.restored(_sign(status.evidence, now, monotonic), monotonic)
                verdict = fusion.fuse(seen, now)
                self._known[agent_id] = _Known(
                    agent.incarnation, since, status.changed_at, seen, verdict
                )

    # ---- what is known ----

    def status(self, agent_id: str) -> Status:
        """The state as it is shown; UNKNOWN of whom nothing is known."""
        known = self._of(agent_id)
        if known is not None:
            return self._status(known)
        agent = self._registry.get(agent_id)
        return Status(AgentState.UNKNOWN, agent.created_at if agent else self._clock.now())

    def evidence(self, agent_id: str) -> list[Evidence]:
        """All that was seen of it, the newest first."""
        known = self._of(agent_id)
        if known is None:
            return []
        counts = known.verdict.sign
        signs = [s for s in known.seen.all() if counts is None or _name(s) != _name(counts)]
        shown = sorted([*([counts] if counts else []), *signs], key=lambda s: -s.seen)
        return [self._evidence(sign) for sign in shown]

    def state_since(self, agent_id: str) -> float:
        """The monotonic time at which the state began."""
        known = self._of(agent_id)
        return known.since if known is not None else self._clock.monotonic()

    def seen_at(self, agent_id: str) -> float | None:
        """The monotonic time at which what tells the state was last seen; None when nothing is."""
        known = self._of(agent_id)
        sign = known.verdict.sign if known is not None else None
        return sign.seen if sign is not None else None

    def last_activity(self, agent_id: str) -> float | None:
        """The monotonic time at which its screen last moved or a hook of a turn came; None when
        neither is known."""
        return self._movement.last(agent_id)

    def explain(self, agent_id: str) -> tuple[str, list[str]]:
        """By which rule the state was chosen, and what would change it."""
        known = self._of(agent_id)
        verdict = known.verdict if known is not None else fusion.NOTHING
        return verdict.rule, [fusion.WOULD_CHANGE[verdict.state]]

    # ---- what is seen ----

    def observed(
        self,
        agent_id: str,
        epoch: int,
        observation: Observation | None,
        quiet: timedelta | None,
    ) -> asyncio.Task[None] | None:
        """A beat came. Returns the write that goes on when that changed something, else None.

        No observation, with `quiet` for a screen and without for processes: the same as the last
        one of this connection. Raises StaleEpoch, and so does the write.
        """
        known = self._known.get(agent_id)
        unseen = observation is None and quiet is None
        if unseen and (known is None or known.seen.by_process is None):
            return None  # the most frequent beat: nothing was looked at
        agent, now = self._connected(agent_id, epoch), self._clock.monotonic()
        still = None if quiet is None else quiet.total_seconds()
        if still is not None:
            self._movement.stands_since(agent_id, epoch, now - still)
        if observation is not None:
            known = self._record(agent)
            self._take_looks(known)
            known.epoch = epoch
            known.seen = self._after_look(known.seen, observation, still)
        elif known is None or known.epoch != epoch:
            return None
        else:
            if still is not None or known.seen.by_process is not None:
                known.looked, known.quiet = now, still
            if not self._matters(known, still):
                return None
            self._take_looks(known)
        return self._decide(agent, known, lambda tx: agents.check_epoch(tx, agent_id, epoch))

    async def hook(self, agent: Agent, report: HookReport) -> None:
        """The agent's own hook has seen something. Raises StaleEpoch when the pane of the hook is
        the agent's no more."""
        present = self._registry.get(agent.id)
        if present is None or present.incarnation != agent.incarnation:
            raise StaleEpoch(f"This pane is not that of {agent.address} any more.")
        known = self._record(agent)
        told = told_by_hook(report, known.verdict.state)
        if report.event in _TURNS:
            self._movement.moved(agent.id, self._clock.monotonic())
        if told is None:
            return
        limited = told is AgentState.USAGE_LIMITED
        reset_at = reset_time(report.message, self._clock.now(), self._zone) if limited else None
        detail = one_line(report.message or report.detail, MAX_DETAIL)
        sign = self._new_sign(EvidenceSource.HOOK, told, report.event, detail, reset_at)
        known.seen = fusion.after_hook(known.seen, sign)
        written = self._decide(agent, known, lambda tx: agents.check_pane(tx, agent))
        if written is not None:
            await written

    async def exited(self, agent_id: str, epoch: int, ended: Exit) -> None:
        """The agent that `orch-client run` started has ended. Raises StaleEpoch."""
        agent = self._connected(agent_id, epoch)
        known = self._record(agent)
        state, detail = told_by_exit(ended)
        sign = self._new_sign(EvidenceSource.PROCESS, state, "exit", detail)
        known.seen = fusion.after_end(known.seen, sign)
        known.looked = None
        written = self._decide(agent, known, lambda tx: agents.check_epoch(tx, agent_id, epoch))
        if written is not None:
            await written

    def liveness_changed(self, agent: Agent) -> None:
        """The agent's pane may have ended, or it lives in another one: what was seen in the pane
        before does not count there."""
        known = self._known.get(agent.id)
        ended = agent.liveness is Liveness.ENDED and agent.incarnation is not None
        if not ended and (known is None or known.pane == agent.incarnation):
            return
        known = self._record(agent)
        if ended:
            sign = self._new_sign(EvidenceSource.PROCESS, AgentState.DEAD, "pane", "its pane ended")
            known.seen = fusion.after_end(known.seen, sign)
            known.looked = None
        self._decide(agent, known, lambda tx: None)

    def time_passed(self) -> None:
        """Limits whose end was said and has come are over, also for agents without a client."""
        limited = [i for i, k in self._known.items() if k.verdict.state is AgentState.USAGE_LIMITED]
        for agent_id in limited:
            agent, known = self._registry.get(agent_id), self._known[agent_id]
            if agent is not None and known.pane == agent.incarnation:
                self._decide(agent, known, lambda tx: None)

    def forget_limit(self, agent_ids: Iterable[str], until: float) -> list[Awaitable[None]]:
        """What was said of a usage limit up to then does not count any more. Returns the writes,
        which go on also when nobody waits for them."""
        written = []
        for agent_id in agent_ids:
            agent, known = self._registry.get(agent_id), self._of(agent_id)
            if agent is not None and known is not None:
                known.seen = replace(known.seen, forgotten=until)
                written.append(self._decide(agent, known, lambda tx: None))
        return [one for one in written if one is not None]

    def forget(self, agent_ids: Iterable[str]) -> None:
        """Agents are deleted."""
        for agent_id in agent_ids:
            self._known.pop(agent_id, None)
            self._movement.forget(agent_id)
            self.activity.pop(agent_id, None)

    # ---- parts ----

    def _of(self, agent_id: str) -> _Known | None:
        """What is known of the agent in the pane that it has now, with its latest looks."""
        known, agent = self._known.get(agent_id), self._registry.get(agent_id)
        if known is None or agent is None or known.pane != agent.incarnation:
            return None
        if known.looked is not None:
            self._take_looks(known)
            known.verdict = fusion.fuse(known.seen, self._clock.now())
        return known

    def _record(self, agent: Agent) -> _Known:
        """As `_of`; begun anew when nothing is known of the agent in this pane."""
        known = self._known.get(agent.id)
        if known is None or known.pane != agent.incarnation:
            fresh = _Known(agent.incarnation, self._clock.monotonic(), self._clock.now())
            self._known[agent.id] = fresh
            if known is not None and known.verdict.sign is not None:
                self._movement.forget(agent.id)
                fresh.unsaved = True
                self._tell(agent, self._status(known), self._status(fresh))
            return fresh
        return known

    def _connected(self, agent_id: str, epoch: int) -> Agent:
        """The agent. Raises StaleEpoch unless this is its newest connection."""
        agent = self._registry.get(agent_id)
        if agent is None or agent.epoch != epoch:
            raise stale_epoch(epoch)
        return agent

    def _after_look(self, seen: Seen, new: Observation, quiet: float | None) -> Seen:
        new = replace(new, detail=one_line(new.detail, MAX_DETAIL))
        screen = new.source is EvidenceSource.SCREEN
        unread = new.state is AgentState.UNKNOWN and (screen or new.rule == fusion.STARTED)
        old = seen.unread if unread else seen.screen if screen else seen.process
        if old is not None and fusion.same(old, new):
            now = self._clock.monotonic()
            sign = replace(old, rule=new.rule, detail=new.detail, seen=now, context=new.context)
        else:
            limited = new.state is AgentState.USAGE_LIMITED
            reset_at = reset_time(new.detail, self._clock.now(), self._zone) if limited else None
            sign = self._new_sign(new.source, new.state, new.rule, new.detail, reset_at)
            sign = replace(sign, context=new.context)
        return fusion.after_look(seen, sign, quiet)

    def _take_looks(self, known: _Known) -> None:
        """Takes over what beats without an observation have shown."""
        if known.looked is not None:
            known.seen = fusion.looked_again(known.seen, known.looked, known.quiet)
            known.looked = None

    def _matters(self, known: _Known, still: float | None) -> bool:
        """Whether a look that shows the same again can change anything."""
        crosses = still is not None and (still >= STILL) is not (known.seen.quiet >= STILL)
        return crosses or known.verdict.pending or known.unsaved

    def _decide(self, agent: Agent, known: _Known, check: Check) -> asyncio.Task[None] | None:
        """Chooses among the evidence; returns the write when that changed what is stored."""
        before, verdict = known.verdict, fusion.fuse(known.seen, self._clock.now())
        changed = _key(verdict) != _key(before)
        if not changed and not known.unsaved:
            known.verdict = verdict
            return None
        old = self._status(known)
        known.verdict = verdict
        if known.verdict.state is not old.state:
            known.since, known.changed_at = self._clock.monotonic(), self._clock.now()
        new = self._status(known)
        if changed:
            self._tell(agent, old, new)
        return self._write(agent, known, new, check)

    def _tell(self, agent: Agent, old: Status, new: Status) -> None:
        for listener in self.on_change:
            listener(agent, old, new)

    def _write(self, agent: Agent, known: _Known, new: Status, check: Check) -> asyncio.Task[None]:
        """Begins to write, in the order of the changes, whether somebody waits for it or not."""
        known.unsaved = False

        def unit(tx: Transaction) -> None:
            check(tx)
            table.save(tx, agent, new)

        def written(task: asyncio.Task[None]) -> None:
            self._writes.discard(task)
            exc = None if task.cancelled() else task.exception()
            if isinstance(exc, OrchError):
                known.unsaved = not isinstance(exc, StaleEpoch)
                extra = {"agent": agent.address, "error": exc.message}
                logger.info("state not stored", extra=extra)

        task = asyncio.create_task(self._store.write(unit))
        self._writes.add(task)
        task.add_done_callback(written)
        return task

    def _status(self, known: _Known) -> Status:
        sign = known.verdict.sign
        told = self._evidence(sign) if sign is not None else None
        return Status(known.verdict.state, known.changed_at, told)

    def _evidence(self, sign: Sign) -> Evidence:
        """The sign as it is shown: how old it is counts, not what the clock was set to."""
        ago = timedelta(seconds=self._clock.monotonic() - sign.seen)
        seen_at = max(sign.began_at, self._clock.now() - ago)
        return Evidence(
            sign.source, sign.state, sign.rule, sign.detail, sign.began_at, seen_at, sign.reset_at
        )

    def _new_sign(
        self,
        source: EvidenceSource,
        state: AgentState,
        rule: str,
        detail: str,
        reset_at: datetime | None = None,
    ) -> Sign:
        now = self._clock.monotonic()
        return Sign(source, state, rule, detail, now, now, self._clock.now(), reset_at)


def _key(verdict: Verdict) -> Key | None:
    """What must differ for a change to be stored and told. By which rule a screen told the same
    state is none: that may flicker. Each exit is one."""
    sign = verdict.sign
    if sign is None:
        return None
    screen = sign.source in (EvidenceSource.SCREEN, EvidenceSource.ACTIVITY)
    each = sign.began if sign.rule == "exit" else 0.0
    return sign.state, sign.source, "" if screen else sign.rule, sign.reset_at, each


def _name(sign: Sign) -> tuple[EvidenceSource, str, float]:
    return sign.source, sign.rule, sign.began


def _age(at: datetime, now: datetime) -> float:
    """Seconds; none are negative, whatever the clock was set to meanwhile."""
    return max(0.0, (now - at).total_seconds())


def _sign(told: Evidence | None, now: datetime, monotonic: float) -> Sign | None:
    if told is None:
        return None
    began, seen = _age(told.began_at, now), _age(told.observed_at, now)
    return Sign(
        told.source,
        told.state,
        told.rule,
        told.detail,
        monotonic - max(began, seen),
        monotonic - seen,
        told.began_at,
        told.reset_at,
    )
