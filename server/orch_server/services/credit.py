"""Credit: holds everything for the agents of an account that has met its usage limit, and lets them
go one after the other when it is over.

A reset that was said, and the end that a person set, are times of the wall clock; guesses and the
distance between two agents are measured by the monotonic one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from math import inf

from orch_server.core.agent import Agent
from orch_server.core.agent_state import AgentState, Status
from orch_server.core.clock import Clock
from orch_server.core.credit import MAX_HOLD, STAGGER, TOO_EARLY, CreditHold, limited
from orch_server.core.errors import InvalidInput, NotFound, OrchError
from orch_server.core.text import printable
from orch_server.services.agent_state import AgentStates
from orch_server.services.agents import AgentRegistry
from orch_server.storage import credit as table
from orch_server.storage.store import Store, Transaction

logger = logging.getLogger(__name__)

#: The places of the agents of an account that is held are found out anew after so long.
_PLACES_HOLD = 1.0
#: A hold whose end has come is let go by the loop; until then nobody asks more often than this.
_SOON = 1.0
#: What the store did not take is written again after so long.
_SAVE_AGAIN = 5.0
_NEARLY = timedelta(milliseconds=998)  # a second, but for what two clocks may differ by


@dataclass(frozen=True, slots=True)
class _Places:
    """The places of an account's agents, by id, in the order in which they are let go."""

    of: dict[str, int]
    made: float


@dataclass(frozen=True, slots=True)
class _Told:
    """By whom a hold was told, and whether an alert is due."""

    actor: str
    alert: bool


class CreditService:
    """Knows which accounts are limited. All changes go to the store."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        states: AgentStates,
        wake_agent: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._registry = registry
        self._states = states
        self._wake_agent = wake_agent
        self._clock = clock
        self._holds: dict[str, CreditHold] = {}
        self._guessed: dict[str, float] = {}  # the monotonic ends that are guesses
        self._released: dict[str, float] = {}  # when accounts were let go, monotonic
        self._places: dict[str, _Places] = {}
        self._unsaved: dict[str, _Told] = {}  # accounts whose hold the store does not have yet
        self._writes: set[asyncio.Task[None]] = set()
        self._ran_at = -inf
        self.changed = asyncio.Event()

    async def load(self) -> None:
        """Reads what was held; once, at the start."""
        self._holds = await self._store.read(table.load_all)
        now, monotonic = self._clock.now(), self._clock.monotonic()
        for credential, hold in self._holds.items():
            if hold.released_at is not None:
                ago = max(0.0, (now - hold.released_at).total_seconds())
                self._released[credential] = monotonic - ago
            elif not hold.reset_known:
                self._guessed[credential] = monotonic + (hold.ends_at - now).total_seconds()

    # ---- what is held ----

    def credential_of(self, agent: Agent) -> str:
        """The account of an agent: what its client said, else its kind and host; "" when neither
        is known."""
        if agent.credential:
            return agent.credential
        host = agent.incarnation.host if agent.incarnation else ""
        return f"{agent.kind}@{host}" if agent.kind and host else ""

    def agents_of(self, credential: str) -> list[Agent]:
        """The agents of an account, in the order in which they are let go."""
        if not credential:
            return []
        mine = (a for a in self._registry.all() if self.credential_of(a) == credential)
        return sorted(mine, key=lambda a: a.id)

    def held_until(self, agent: Agent) -> datetime | None:
        """Until when deliveries for the agent are held; None when they are not."""
        hold = self._holds.get(self.credential_of(agent))
        if hold is None:
            return None
        released = hold.released_at is not None
        left = self._left(hold) + self._place(hold, agent.id) * STAGGER.total_seconds()
        if released and left <= 0:
            return None
        return self._clock.now() + timedelta(seconds=left if released else max(left, _SOON))

    def held_agents(self) -> dict[str, datetime]:
        """Until when deliveries are held, for each agent for whom they are; to a whole second, so
        that it is the same each time that one asks."""
        held = {}
        for hold in self._holds.values():
            if hold.released_at is None or self._left(hold) + self._last_place(hold) > 0:
                for agent in self.agents_of(hold.credential):
                    until = self.held_until(agent)
                    if until is not None:
                        held[agent.id] = (until + _NEARLY).replace(microsecond=0)
        return held

    def free_since(self, agent: Agent) -> float | None:
        """The monotonic time at which it was the agent's turn to go on after a hold; None when its
        account was never held, or is."""
        hold = self._holds.get(self.credential_of(agent))
        if hold is None or hold.released_at is None:
            return None
        place = self._place(hold, agent.id)
        return self._released[hold.credential] + place * STAGGER.total_seconds()

    def held(self) -> list[CreditHold]:
        """The accounts that are held, by name."""
        held = (h for h in self._holds.values() if h.released_at is None)
        return sorted(held, key=lambda h: h.credential)

    # ---- what changes ----

    async def hold(self, actor: str, name: str, ends_at: datetime) -> CreditHold:
        """Holds an account, or that of an agent, by hand. Raises InvalidInput for a time that makes
        no sense, and NotFound."""
        now = self._clock.now()
        if not now < ends_at <= now + MAX_HOLD:
            raise InvalidInput(
                "end_time", "The end of the hold is out of range; use a time in the next 31 days."
            )
        known = self._named(name)
        hold = CreditHold(known, now, ends_at, True, 0, actor, "held by hand", manual=True)
        await self._change(hold, actor)
        return hold

    async def release(self, actor: str, name: str) -> None:
        """Lets an account go by hand. Raises NotFound when it is not held."""
        known = self._named(name)
        hold = self._holds.get(known)
        if hold is None or hold.released_at is not None:
            held = ", ".join(h.credential for h in self.held()) or "none"
            raise NotFound(f"The account '{printable(known)}' is not held; held are: {held}.")
        await self._let_go(hold, actor)

    def state_changed(self, agent: Agent, old: Status, new: Status) -> None:
        """An agent's state changed: a limit holds its account."""
        credential, told = self.credential_of(agent), new.evidence
        if not credential or told is None or new.state is not AgentState.USAGE_LIMITED:
            return
        before = self._holds.get(credential)
        since = self._clock.monotonic() - self._released.get(credential, -inf)
        hold = limited(
            credential,
            before,
            told.reset_at,
            agent.address,
            told.detail or told.rule,
            self._clock.now(),
            since < TOO_EARLY.total_seconds(),
        )
        if hold is None:
            return
        self._begin(hold)
        new_one = before is None or before.released_at is not None
        unsaved = self._unsaved.get(credential)
        self._unsaved[credential] = _Told(
            agent.address, alert=new_one or (unsaved is not None and unsaved.alert)
        )
        task = asyncio.create_task(self._save_all())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def run_due(self) -> datetime | None:
        """Lets go what is due, and wakes the agents whose turn has come. Returns when to be called
        again, None when nothing is held."""
        await self._save_all()
        now, since = self._clock.monotonic(), self._ran_at
        coming = [_SAVE_AGAIN] if self._unsaved else []
        for hold in list(self._holds.values()):
            if hold.released_at is None and self._left(hold) <= 0:
                await self._let_go(hold, "")
        for hold in self._holds.values():
            if hold.released_at is None:
                coming.append(self._left(hold))
            else:
                coming += self._wake_those(hold, since, now)
        self._ran_at = now
        return self._clock.now() + timedelta(seconds=min(coming)) if coming else None

    def _wake_those(self, hold: CreditHold, since: float, now: float) -> list[float]:
        """Wakes the agents that were let go since then; returns in how long the others are."""
        released, step = self._released[hold.credential], STAGGER.total_seconds()
        places = self._places.get(hold.credential)
        last = released + len(places.of) * step if places is not None else released
        if last < since:
            return []
        coming = []
        for agent in self.agents_of(hold.credential):
            at = released + self._place(hold, agent.id) * step
            if at > now:
                coming.append(at - now)
            elif at >= since:
                self._wake_agent(agent.id)
        return coming

    async def _let_go(self, hold: CreditHold, actor: str) -> None:
        """The hold is over; its agents go on one after the other. A limit that they tell of later
        is another one."""
        now, agents = self._clock.monotonic(), [a.id for a in self.agents_of(hold.credential)]
        await self._change(replace(hold, released_at=self._clock.now()), actor)
        await asyncio.gather(*self._states.forget_limit(agents, now))

    async def _change(self, hold: CreditHold, actor: str) -> None:
        """Makes this the hold of its account, in memory first, so that the store gets changes in
        their order. What the store does not take is undone, unless it was changed again."""
        credential = hold.credential
        before, released = self._holds.get(credential), self._released.get(credential)
        self._begin(hold)
        try:
            await self._store.write(lambda tx: table.save(tx, hold, actor))
        except OrchError:
            if self._holds[credential] is hold:
                self._undo(credential, before, released)
            raise

    def _undo(self, credential: str, before: CreditHold | None, released: float | None) -> None:
        if before is not None:
            self._begin(before)
        else:
            del self._holds[credential]
        if released is not None:
            self._released[credential] = released

    async def _save_all(self) -> None:
        """Writes what agents have told of limits, now, or again when the store did not take it."""
        while self._unsaved:
            credential, told = self._unsaved.popitem()
            hold = self._holds[credential]
            try:
                await self._store.write(partial(_save, hold=hold, told=told))
            except OrchError as exc:
                logger.warning("hold not stored", extra={"error": exc.message})
                self._unsaved.setdefault(credential, told)
                return

    # ---- parts ----

    def _begin(self, hold: CreditHold) -> None:
        credential, now = hold.credential, self._clock.monotonic()
        self._holds[credential] = hold
        self._guessed.pop(credential, None)
        self._places.pop(credential, None)
        if hold.released_at is not None:
            self._released[credential] = now
            places = {a.id: k for k, a in enumerate(self.agents_of(credential))}
            self._places[credential] = _Places(places, now)
        elif not hold.reset_known:
            left = (hold.ends_at - self._clock.now()).total_seconds()
            self._guessed[credential] = now + left
        self.changed.set()

    def _left(self, hold: CreditHold) -> float:
        """Seconds until the first agent of the account is let go; negative when it was."""
        if hold.released_at is not None:
            return self._released[hold.credential] - self._clock.monotonic()
        guessed = self._guessed.get(hold.credential)
        if guessed is not None:
            return guessed - self._clock.monotonic()
        return (hold.ends_at - self._clock.now()).total_seconds()

    def _place(self, hold: CreditHold, agent_id: str) -> int:
        """The agent's place among those of the account. It stands from the release on; one that
        comes later waits for nobody."""
        known, now = self._places.get(hold.credential), self._clock.monotonic()
        old = known is None or known.made + _PLACES_HOLD < now
        if known is None or (old and hold.released_at is None):
            places = {a.id: k for k, a in enumerate(self.agents_of(hold.credential))}
            known = self._places[hold.credential] = _Places(places, now)
        return known.of.get(agent_id, 0)

    def _last_place(self, hold: CreditHold) -> float:
        """How much later than the first of its agents the last one is let go, in seconds."""
        places = self._places.get(hold.credential)
        return len(places.of) * STAGGER.total_seconds() if places is not None else 0.0

    def _named(self, name: str) -> str:
        """The account with this name, or that of an agent. Raises InvalidInput or NotFound."""
        if not name:
            raise InvalidInput("credential", "The account is empty; name it, or an agent of it.")
        known = {self.credential_of(a) for a in self._registry.all()} | set(self._holds)
        if name in known - {""}:
            return name
        try:
            agent = self._registry.find(name)
        except NotFound as exc:
            names = ", ".join(sorted(known - {""})) or "none"
            raise NotFound(
                f"There is no account and no agent '{printable(name)}'; accounts are: {names}."
            ) from exc
        found = self.credential_of(agent)
        if not found:
            raise InvalidInput(
                "credential", f"The account of {agent.address} is not known; name one."
            )
        return found


def _save(tx: Transaction, hold: CreditHold, told: _Told) -> None:
    table.save(tx, hold, told.actor)
    if told.alert:
        table.tell(tx, hold)
