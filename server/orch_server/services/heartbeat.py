"""Connections of clients: who holds an agent, whether it is heard, who was replaced.

Beats change memory only. What changes an agent (a new connection, a verdict, a goodbye) is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from orch_server.core.agent import HELD, Agent, Liveness
from orch_server.core.clock import Clock
from orch_server.core.delivery import Offer, Report
from orch_server.core.errors import (
    AlreadyExists,
    InvalidInput,
    NotAllowed,
    OrchError,
    Unavailable,
)
from orch_server.core.identity import Caller, Incarnation, InPane, Pane, TokenAgent
from orch_server.core.lease import LeaseTable, Pace, stale_epoch
from orch_server.core.text import check_name, check_role
from orch_server.services.agents import AgentRegistry, pane_role, role_of
from orch_server.services.passphrase import Passphrase
from orch_server.storage import agents as table
from orch_server.storage.store import Store, Transaction
from orch_server.tmux.finder import PaneFinder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a client says of itself; see Hello."""

    incarnation: Incarnation
    pane_pid: int
    session: str
    role: str
    kind: str
    client_version: str
    take_over: bool
    passphrase: str
    courier: bool = False


@dataclass(frozen=True, slots=True)
class Replaced:
    """Told to a client that a newer one replaced."""

    epoch: int
    by: str


@dataclass(frozen=True, slots=True)
class Draining:
    """Told to all clients when the server stops."""

    reconnect_after: timedelta


Push = Offer | Replaced | Draining


@dataclass(slots=True, eq=False)
class Connection:
    """An open stream. `push` writes to it; `close` ends it with an error after what was pushed."""

    agent_id: str
    epoch: int
    push: Callable[[Push], Awaitable[None]]
    close: Callable[[OrchError], None]
    foreground: str = ""
    heard: float = 0.0


class HeartbeatService:
    """Grants agents to connections and gives verdicts on them."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        finder: PaneFinder,
        passphrase: Passphrase,
        approver_roles: tuple[str, ...],
        pace: Pace,
        clock: Clock,
    ) -> None:
        self._store = store
        self._registry = registry
        self._finder = finder
        self._passphrase = passphrase
        self._approver_roles = approver_roles
        self._clock = clock
        self.pace = pace
        self.leases = LeaseTable(pace)
        self.changed = asyncio.Event()  # a lease may now end earlier than was thought
        self.on_courier: Callable[[str], None] = lambda agent_id: None
        self._connections: dict[str, Connection] = {}
        self._farewells: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """After a start: clients that were there get an amnesty to come back."""
        now = self._clock.monotonic()
        for agent in self._registry.all():
            if agent.liveness in HELD:
                self.leases.await_return(agent.id, agent.epoch, now)
                await self._set_liveness(agent, Liveness.UNKNOWN)

    async def connect(
        self,
        caller: Caller,
        intro: Introduction,
        push: Callable[[Push], Awaitable[None]],
        close: Callable[[OrchError], None],
    ) -> tuple[Agent, Connection]:
        """Accepts a client. Raises AlreadyExists, NotAllowed, InvalidInput or NotFound."""
        panes = await self._local_panes(intro)
        intro = self._checked(caller, _verified(intro, panes))
        self._check_courier(intro)
        session, role = self._place(intro, panes)
        await self._check_binding(session, role, intro)
        agent, evicted = self._bind(session, role, intro)
        connection = Connection(agent.id, agent.epoch, push, close, heard=self._clock.monotonic())
        previous = self._connections.get(agent.id)
        self._connections[agent.id] = connection
        self.leases.grant(agent.id, agent.epoch, connection.heard)
        self.changed.set()
        if previous is not None:
            task = asyncio.create_task(_tell_replaced(previous, agent))
            self._farewells.add(task)
            task.add_done_callback(self._farewells.discard)
        try:
            await self._store.write(lambda tx: _register(tx, agent, evicted))
        except BaseException:  # not welcomed, whatever the reason: only the grace is left
            if self.leases.broke(agent.id, agent.epoch, self._clock.monotonic()):
                self._connections.pop(agent.id, None)
                self.changed.set()
            raise
        return agent, connection

    def beat(self, connection: Connection, foreground: str) -> None:
        """A beat came. Raises StaleEpoch when a newer connection holds the agent."""
        now = self._clock.monotonic()
        self.leases.renew(connection.agent_id, connection.epoch, now)
        connection.heard = now
        connection.foreground = foreground

    def heard(self, connection: Connection, report: Report) -> None:
        """A report came: a sign of life of the epoch that it names. Raises StaleEpoch."""
        if report.grant != connection.epoch:
            raise stale_epoch(report.grant)
        self.beat(connection, connection.foreground)

    async def left(self, connection: Connection, liveness: Liveness) -> None:
        """The client said goodbye; UNKNOWN: it comes back after the server's restart."""
        if self.leases.end(connection.agent_id, connection.epoch):
            await self._gone(connection.agent_id, liveness)

    async def broke(self, connection: Connection) -> None:
        """The stream ended without a goodbye."""
        if self.leases.broke(connection.agent_id, connection.epoch, self._clock.monotonic()):
            self._connections.pop(connection.agent_id, None)
            self.changed.set()
            await self._change(connection.agent_id, Liveness.SUSPECT, connection)

    async def expire(self) -> None:
        """Gives the verdict on every lease that has ended."""
        ended = self.leases.expire(self._clock.monotonic())
        for agent_id, epoch in ended:
            logger.info("client lost", extra={"agent": agent_id, "epoch": epoch})
            connection = self._connections.get(agent_id)
            if connection is not None:
                connection.close(_LeaseEnded())
        await asyncio.gather(*(self._gone(agent_id, Liveness.LOST) for agent_id, _ in ended))

    def connection(self, agent_id: str) -> Connection | None:
        """The open stream of an agent."""
        return self._connections.get(agent_id)

    def last_check_in(self, agent: Agent) -> datetime | None:
        """When the agent's client was last heard."""
        connection = self._connections.get(agent.id)
        if connection is None:
            return agent.last_check_in_at
        silent = self._clock.monotonic() - connection.heard
        return self._clock.now() - timedelta(seconds=silent)

    async def drain(self, reconnect_after: timedelta) -> None:
        """Asks every client to come back later."""
        told = (c.push(Draining(reconnect_after)) for c in self._connections.values())
        await asyncio.gather(*told, return_exceptions=True)

    # ---- the rules of binding ----

    def _checked(self, caller: Caller, intro: Introduction) -> Introduction:
        """An agent beats for its own pane, a token for its own role, the operator for any."""
        if isinstance(caller, InPane) and caller.incarnation != intro.incarnation:
            agent = self._registry.in_pane(caller.incarnation)
            if agent is not None and _has_client(agent):
                raise NotAllowed(
                    f"{agent.address} may not serve pane {intro.incarnation.pane}; run the"
                    " heartbeat in that pane, or from a pane that is no agent's."
                )
        if isinstance(caller, TokenAgent):
            asked = (intro.session or caller.session, intro.role or caller.role)
            if asked != (caller.session, caller.role):
                raise NotAllowed(
                    f"This token is for {caller.session}:{caller.role}, not for {':'.join(asked)}."
                )
            held = self._registry.in_pane(intro.incarnation)
            if held is not None and (held.session, held.role) != asked:
                raise NotAllowed(
                    f"Pane {intro.incarnation.pane} belongs to {held.address}; this token is for"
                    f" {caller.session}:{caller.role}."
                )
            return replace(intro, session=caller.session, role=caller.role)
        return intro

    def _place(self, intro: Introduction, panes: list[Pane]) -> tuple[str, str]:
        """The session and role that the client asks for."""
        known = self._registry.in_pane(intro.incarnation)
        role = check_role("role", intro.role) if intro.role else ""
        if known is not None and role in ("", known.role):
            return known.session, known.role
        role = role or self._told_role(intro, panes)
        if known is not None and known.role != role:
            managed = known.liveness is not Liveness.UNMANAGED and not known.courier
            if managed and not intro.take_over:
                holder = self._registry.at(known.session, role)
                living = holder is not None and holder.liveness in HELD
                also = f" That also takes {role} from its living client." if living else ""
                raise AlreadyExists(
                    f"Pane {intro.incarnation.pane} is registered as {known.address}; leave --role"
                    f" away, or give the pane the new role with --take-over.{also}"
                )
        return check_name("session", intro.session), role

    def _told_role(self, intro: Introduction, panes: list[Pane]) -> str:
        """The role that the pane itself tells. A courier takes what is free: "paneN" at least."""
        pane = next((p for p in panes if p.incarnation == intro.incarnation), None)
        if intro.courier:
            reserved = self._approver_roles if self._passphrase.is_set() else ()
            return (
                self._registry.free_role(pane, panes, reserved)
                if pane is not None
                else pane_role(intro.incarnation)
            )
        if pane is None:
            raise InvalidInput("role", "The role is not known; give it with --role.")
        return role_of(pane, panes)

    def _check_courier(self, intro: Introduction) -> None:
        """A courier yields: to the pane's own client, and to a courier that is there already."""
        holder = self._registry.in_pane(intro.incarnation)
        if not intro.courier or holder is None:
            return
        if holder.courier:
            taken = holder.liveness is Liveness.ALIVE and holder.id in self._connections
        else:
            taken = holder.liveness in HELD
        if taken:
            whose = "another courier" if holder.courier else "a client of its own"
            raise AlreadyExists(
                f"Pane {intro.incarnation.pane} ({holder.address}) is served by {whose}; it needs"
                " no courier."
            )

    async def _check_binding(self, session: str, role: str, intro: Introduction) -> None:
        """A role that may approve is bound to a new pane by the operator only."""
        if role not in self._approver_roles:
            return
        holder = self._registry.at(session, role)
        if holder is not None and holder.incarnation == intro.incarnation:
            return
        what = f"bind the role {role}, which may approve, to a new pane"
        await self._passphrase.demand(intro.passphrase, what)

    def _bind(self, session: str, role: str, intro: Introduction) -> tuple[Agent, Agent | None]:
        """Gives the agent to the pane, in memory; returns it and who had the pane before.

        A pane that had no client of its own yet keeps its agent, under the new role. Raises
        AlreadyExists when a living client in another pane holds the agent.
        """
        holder = self._registry.at(session, role)
        if holder is not None and holder.incarnation != intro.incarnation:
            _check_free(holder, intro)
        other = self._registry.in_pane(intro.incarnation)
        evicted = None
        if other is not None and holder is None and _has_no_own_client(other):
            holder = replace(other, session=session, role=role)
        elif other is not None and (holder is None or other.id != holder.id):
            evicted = self._evict(other)
        base = holder or self._registry.new(session, role)
        now = self._clock.now()
        was_alive = base.liveness is Liveness.ALIVE
        agent = replace(
            base,
            incarnation=intro.incarnation,
            pane_pid=intro.pane_pid,
            kind=intro.kind or (base.kind if intro.courier else ""),
            epoch=base.epoch + 1,
            liveness=Liveness.ALIVE,
            liveness_changed_at=base.liveness_changed_at if was_alive else now,
            last_check_in_at=now,
            client_version=intro.client_version,
            courier=intro.courier,
        )
        self._registry.put(agent)
        return agent, evicted

    def _evict(self, other: Agent) -> Agent | None:
        """The pane gets another role: the agent that had it has none any more."""
        assert other.incarnation is not None
        connection = self._connections.pop(other.id, None)
        if connection is not None:
            self.leases.end(other.id, connection.epoch)
            connection.close(stale_epoch(connection.epoch))
        return self._registry.unbind_pane(other.incarnation)

    async def _local_panes(self, intro: Introduction) -> list[Pane]:
        """What tmux says, when the pane is on this host; on other hosts the client is believed."""
        if intro.incarnation.host != self._finder.host:
            return []
        return await self._finder.list_panes(intro.incarnation.socket)

    # ---- changes ----

    async def _gone(self, agent_id: str, liveness: Liveness) -> None:
        """No stream any more: what it still reports is void, so the epoch grows."""
        connection = self._connections.pop(agent_id, None)
        agent = self._registry.get(agent_id)
        if agent is None:
            return
        revoked = replace(agent, epoch=agent.epoch + 1)
        if liveness is Liveness.UNKNOWN:
            self.leases.await_return(agent_id, revoked.epoch, self._clock.monotonic())
            self.changed.set()
        await self._set_liveness(self._checked_in(revoked, connection), liveness)
        self.on_courier(agent_id)

    async def _change(self, agent_id: str, liveness: Liveness, connection: Connection) -> None:
        agent = self._registry.get(agent_id)
        if agent is not None:
            await self._set_liveness(self._checked_in(agent, connection), liveness)

    def _checked_in(self, agent: Agent, connection: Connection | None) -> Agent:
        if connection is None:
            return agent
        silent = timedelta(seconds=self._clock.monotonic() - connection.heard)
        return replace(agent, last_check_in_at=self._clock.now() - silent)

    async def _set_liveness(self, agent: Agent, liveness: Liveness) -> None:
        changed = replace(agent, liveness=liveness, liveness_changed_at=self._clock.now())
        self._registry.put(changed)
        await self._store.write(lambda tx: table.set_liveness(tx, changed))


class _LeaseEnded(Unavailable):
    """The server heard nothing for a whole lease."""

    reason = "LEASE_ENDED"

    def __init__(self) -> None:
        super().__init__("Nothing was heard for a whole lease; connect again.")


async def _tell_replaced(previous: Connection, agent: Agent) -> None:
    """Ends the older stream; a client that reads nothing only delays its own end."""
    where = agent.incarnation.pane if agent.incarnation else "another pane"
    by = f"a newer client of {agent.address} in pane {where}"
    try:
        await previous.push(Replaced(agent.epoch, by))
    except Unavailable:
        logger.info("replaced client was not told", extra={"agent": agent.address})
    previous.close(stale_epoch(previous.epoch))


def _register(tx: Transaction, agent: Agent, evicted: Agent | None) -> None:
    table.register(tx, agent, actor=agent.address)
    if evicted is not None:
        table.register(tx, evicted, actor=agent.address)
        if evicted.liveness is Liveness.UNMANAGED:  # the texts meant the pane, not the role
            table.move_open_work(tx, evicted.id, agent.id)


def _has_no_own_client(agent: Agent) -> bool:
    """Whether the agent is only a name for its pane, so far: no client of its own was there."""
    return agent.liveness is Liveness.UNMANAGED or agent.courier


def _has_client(agent: Agent) -> bool:
    """Whether the agent's pane is an agent's: a client of its own was there, or a courier is."""
    if agent.courier:
        return agent.liveness in HELD
    return agent.liveness is not Liveness.UNMANAGED


def _check_free(holder: Agent, intro: Introduction) -> None:
    """Raises AlreadyExists when the role is held by a client that is, or may be, alive."""
    if holder.liveness in HELD and not intro.take_over:
        where = holder.incarnation.pane if holder.incarnation else "elsewhere"
        raise AlreadyExists(
            f"{holder.address} is held by a client in pane {where}; end that one, or take the role"
            " with --take-over."
        )


def _verified(intro: Introduction, panes: list[Pane]) -> Introduction:
    """The introduction with what tmux itself says of the pane, when it was asked."""
    for pane in panes:
        if pane.incarnation == intro.incarnation:
            return replace(intro, pane_pid=pane.pid, session=intro.session or pane.session)
    if panes:
        raise InvalidInput(
            "pane", f"Pane {intro.incarnation.pane} is not there any more; look with 'tmux lsp -a'."
        )
    return intro
