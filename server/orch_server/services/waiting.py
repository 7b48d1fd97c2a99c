"""Who waits for whom: declared dependencies, the graph of all waits, and deadlocks, which are
broken as soon as they are found. Ending a wait, its event, the texts and the alert are one
transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from orch_server.core import deadlock as rules
from orch_server.core.agent import WaitingFor
from orch_server.core.alert import NewAlert, Severity
from orch_server.core.authorization import AuthorizationState
from orch_server.core.clock import Clock
from orch_server.core.deadlock import Deadlock, Wait, WaitKind
from orch_server.core.delivery import NewDelivery, Priority
from orch_server.core.errors import InvalidInput, NotAllowed
from orch_server.core.identity import Caller
from orch_server.core.text import clean_text, one_line
from orch_server.services.agents import AgentRegistry
from orch_server.services.authorization import AuthorizationService
from orch_server.services.targets import Targets
from orch_server.storage import alerts, authorizations, deliveries, waits
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store, Transaction

TIMEOUT = timedelta(hours=1)
MAX_TIMEOUT = timedelta(days=1)
CHECK_EVERY = timedelta(minutes=2)
_MAX_REASON_BYTES = 1024


class WaitingService:
    """Keeps the dependencies and breaks deadlocks."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        targets: Targets,
        authorization: AuthorizationService,
        clock: Clock,
        wake_agent: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._targets = targets
        self._authorization = authorization
        self._clock = clock
        self._wake_agent = wake_agent
        self.changed = asyncio.Event()  # the graph has a new edge, or a deadline may be earlier

    async def waiting(self) -> dict[str, WaitingFor]:
        """What each waiting agent waits for, by agent id: the oldest authorization, or else the
        oldest dependency."""
        found: dict[str, WaitingFor] = {}
        for wait in await self._store.read(waits.dependencies):
            if wait.waiter not in found:
                found[wait.waiter] = WaitingFor(
                    role=self._asked(wait),
                    reason="dependency",
                    authorization_id="",
                    since=wait.created_at,
                    deadline=wait.deadline_at,
                    dependency_id=wait.id,
                )
        return {**found, **await self._authorization.waiting()}

    async def add(
        self, caller: Caller, target: str, reason: str, timeout: timedelta, request_id: str
    ) -> Wait:
        """Writes that the caller's own agent waits for another one; a time-out of 0 is an hour.

        Raises InvalidInput, NotAllowed, NotFound, Ambiguous, and Conflict when it has too many.
        """
        if not target:
            raise InvalidInput("target", "The target is empty; name the agent that is waited for.")
        why = clean_text("reason", reason, _MAX_REASON_BYTES)[0]
        length = _checked(timeout)
        waiter = await self._targets.own(caller, "wait for another agent")
        holder = await self._targets.resolve(caller, target)
        if holder.id == waiter.id:
            raise InvalidInput("target", f"{waiter.address} cannot wait for itself; name another.")
        now = self._clock.now()
        wait = Wait(
            id=new_id(),
            kind=WaitKind.DEPENDENCY,
            waiter=waiter.id,
            holder=holder.id,
            reason=why,
            priority=1,
            created_at=now,
            deadline_at=now + length,
        )
        stored = await self._store.write(
            lambda tx: waits.add(tx, wait, waiter.session, waiter.address, request_id)
        )
        self.changed.set()
        return wait if stored == wait.id else (await self._get(stored))[0]

    async def remove(self, caller: Caller, given_id: str) -> None:
        """Ends a dependency. Raises NotFound, Ambiguous, NotAllowed, and Conflict when it is over.

        Only the agent that waits, or the operator, may.
        """
        decider = self._targets.decider(caller)
        wait, _ = await self._get(given_id)
        if not decider.operator and decider.agent_id != wait.waiter:
            raise NotAllowed(
                f"{decider.name} may not end the wait {wait.id}; only {self.address(wait.waiter)}"
                " or the operator may."
            )
        await self._store.write(lambda tx: waits.end(tx, wait, waits.REMOVED, decider.name))
        self.changed.set()

    async def graph(self, session: str) -> tuple[list[Wait], list[list[str]]]:
        """The waits that concern a session's agents, or all, the oldest first; and the cycles among
        them that are not broken yet, each as the ids of its waits."""
        found = await self._store.read(waits.edges)
        mine = {agent.id for agent in self._registry.all(session)}
        shown = [w for w in found if not session or w.waiter in mine or w.holder in mine]
        ids = {wait.id for wait in shown}
        cycles = [[w.id for w in cycle] for cycle in rules.find_cycles(found)]
        return shown, [cycle for cycle in cycles if not session or ids.intersection(cycle)]

    async def check(self) -> datetime:
        """Ends overdue dependencies and breaks deadlocks; returns when to call it again."""
        now = self._clock.now()
        if await self._store.read(lambda db: waits.overdue(db, now)):
            self._wake(await self._store.write(_expire))
        while found := await self._store.read(lambda db: rules.deadlocks(waits.edges(db))):
            self._wake(await self._store.write(partial(_break, found=found)))
        deadline = await self._store.read(waits.next_deadline)
        latest = now + CHECK_EVERY
        return latest if deadline is None else min(deadline, latest)

    def address(self, agent_id: str) -> str:
        """How an agent is written; its id when it is not known any more."""
        agent = self._registry.get(agent_id)
        return agent_id if agent is None else agent.address

    def _asked(self, wait: Wait) -> str:
        """The holder as the waiter writes it: its role, with the session when that is another."""
        holder, waiter = self._registry.get(wait.holder), self._registry.get(wait.waiter)
        if holder is not None and waiter is not None and holder.session == waiter.session:
            return holder.role
        return self.address(wait.holder)

    async def _get(self, given_id: str) -> tuple[Wait, str]:
        return await self._store.read(lambda db: waits.get(db, given_id))

    def _wake(self, agents: list[str]) -> None:
        for agent_id in agents:
            self._wake_agent(agent_id)


def _checked(timeout: timedelta) -> timedelta:
    if timeout == timedelta(0):
        return TIMEOUT
    if not timedelta(0) < timeout <= MAX_TIMEOUT:
        raise InvalidInput(
            "timeout", "The timeout is out of range; use more than 0 s and at most 24 h."
        )
    return timeout


def _expire(tx: Transaction) -> list[str]:
    """Ends what is overdue and tells those who waited; returns their ids."""
    overdue = waits.overdue(tx.db, tx.now)
    names = waits.addresses(tx, overdue)
    for wait in overdue:
        waits.end(tx, wait, waits.EXPIRED, detail="Its time was over.")
        text = (
            f"The wait for {names[wait.holder]} ({one_line(wait.reason, 200)}) is over: its time"
            " came and nobody had ended it. Go on without it, or ask there and wait anew."
        )
        _mail(tx, wait.waiter, text, f"dependency:{wait.id}")
    return [wait.waiter for wait in overdue]


def _break(tx: Transaction, found: list[Deadlock]) -> list[str]:
    """Breaks those deadlocks that are there still; returns the ids of the agents that are told.

    Each of them gets one text, and each session one alert, however many there are.
    """
    still = waits.open_edges(tx)
    broken = [one for one in found if still.issuperset((w.id, w.holder) for w in one.cycle)]
    name = waits.addresses(tx, (wait for one in broken for wait in one.cycle)).__getitem__
    agents: dict[str, list[Deadlock]] = {}
    sessions: dict[str, list[Deadlock]] = {}
    for one in broken:
        session = name(one.ended.waiter).rpartition(":")[0]
        _end(tx, one.ended, session, rules.cycle_text(one, name))
        sessions.setdefault(session, []).append(one)
        for wait in one.cycle:
            agents.setdefault(wait.waiter, []).append(one)
    for agent_id, its in agents.items():
        _mail(tx, agent_id, rules.told(its, agent_id, name), f"deadlock:{its[0].ended.id}")
    for session, its in sessions.items():
        subject, text = name(its[0].ended.waiter), rules.summary(its, name)
        alerts.raise_alert(tx, NewAlert(Severity.WARNING, "deadlock", subject, text, session))
    return list(agents)


def _end(tx: Transaction, wait: Wait, session: str, text: str) -> None:
    """Ends a wait to break a deadlock, and writes so."""
    reason = f"deadlock: {text}"
    if wait.kind is WaitKind.DEPENDENCY:
        waits.end(tx, wait, waits.EXPIRED, detail=reason)
    else:
        asked = authorizations.get(tx.db, wait.id)
        authorizations.resolve(tx, asked, AuthorizationState.EXPIRED, "", reason)
    tx.emit("deadlock.broken", wait.id, session=session, agent=wait.waiter, detail=text)


def _mail(tx: Transaction, agent_id: str, text: str, origin: str) -> None:
    """Puts a text into an agent's mailbox, once for what it is about."""
    deliveries.enqueue(
        tx,
        NewDelivery(
            agent_id=agent_id,
            text=text,
            origin=origin,
            dedupe_key=f"{origin}:{agent_id}",
            priority=Priority.HIGH,
            created_at=tx.now,
            sender="supervisor",
        ),
    )
