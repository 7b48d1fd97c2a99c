"""Connections of clients: who holds an agent, whether it is heard, who was replaced.

Beats change memory only. What changes an agent (a new connection, a verdict, a goodbye) is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from orch_server.core.agent import HELD, Agent, Liveness
from orch_server.core.alert import NewAlert, Severity
from orch_server.core.clock import Clock
from orch_server.core.delivery import Report
from orch_server.core.errors import (
    InvalidInput,
    OrchError,
    StaleEpoch,
    Unavailable,
)
from orch_server.core.identity import Caller
from orch_server.core.lease import LeaseTable, stale_epoch
from orch_server.core.pace import Pace
from orch_server.core.partition import PartitionWatch
from orch_server.core.pulse import STALL, Pulse
from orch_server.services.agents import AgentRegistry
from orch_server.services.binding import Binding, Introduction
from orch_server.services.connection import Connection, Draining, Push, Replaced
from orch_server.services.passphrase import Passphrase
from orch_server.storage import agents as table
from orch_server.storage.alerts import raise_alert
from orch_server.storage.store import Store, Transaction
from orch_server.tmux.finder import PaneFinder

logger = logging.getLogger(__name__)


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
        self._clock = clock
        self._binding = Binding(
            registry, finder, passphrase, approver_roles, clock, lambda i: i in self._connections
        )
        self._configured = pace
        self.leases = LeaseTable(pace)
        self._losses = PartitionWatch()
        self._awaited: dict[str, str] = {}  # agent -> the client that has an amnesty to come back
        self._pulse = Pulse(min(STALL, pace.beat))
        self._stalled = 0.0  # seconds that are not told yet
        self._forgiving_until = 0.0
        self._draining = False
        self.changed = asyncio.Event()  # a lease may now end earlier than was thought
        self.on_courier: Callable[[str], None] = lambda agent_id: None
        self.on_liveness: Callable[[Agent], None] = lambda agent: None
        self._connections: dict[str, Connection] = {}
        self._background: set[asyncio.Task[None]] = set()

    @property
    def pace(self) -> Pace:
        """The pace as it is now."""
        return self.leases.pace

    @property
    def partition_suspected(self) -> bool:
        """Whether so many clients were lost at once that the fault is looked for on our side:
        nothing that cannot be undone may be done about a lost one."""
        return self._losses.suspected

    async def restore(self) -> None:
        """After a start: clients that were there get an amnesty to come back."""
        now = self._clock.monotonic()
        held = [agent for agent in self._registry.all() if agent.liveness in HELD]
        for agent in held:
            self.leases.await_return(agent.id, agent.epoch, now)
            self._awaited[agent.id] = _supposed_client(agent)
        awaited = [self._with_liveness(agent, Liveness.UNKNOWN) for agent in held]
        await self._store.write(lambda tx: _set_liveness(tx, awaited))

    async def connect(
        self,
        caller: Caller,
        intro: Introduction,
        push: Callable[[Push], Awaitable[None]],
        close: Callable[[OrchError], None],
    ) -> tuple[Agent, Connection]:
        """Accepts a client. Raises AlreadyExists, NotAllowed, InvalidInput or NotFound."""
        intro, session, role = await self._binding.claim(caller, intro)
        agent, evicted = self._binding.bind(session, role, intro, self._evict)
        client = intro.client_id or f"{agent.id}.{agent.epoch}"
        heard = self._clock.monotonic()
        connection = Connection(agent.id, agent.epoch, push, close, client, self.pace, heard=heard)
        previous = self._connections.get(agent.id)
        self._connections[agent.id] = connection
        self.leases.grant(agent.id, agent.epoch, connection.heard)
        self.changed.set()
        self._awaited.pop(agent.id, None)
        if previous is not None:
            self._losses.left(previous.client, agent.id)
            self._in_background(_tell_replaced(previous, agent))
        self._losses.joined(client, agent.id)
        try:
            with self.own_wait(connection):
                await self._store.write(lambda tx: _register(tx, agent, evicted))
        except BaseException:  # not welcomed: only the grace is left, unless our disk took long
            now = self._clock.monotonic()
            if self.leases.broke(agent.id, agent.epoch, now, forgiven=now - heard > STALL):
                self._connections.pop(agent.id, None)
                self._losses.left(client, agent.id)
                self.changed.set()
            raise
        self._judge()
        self.on_liveness(agent)
        if evicted is not None:
            self.on_liveness(evicted)
        return agent, connection

    def beat(self, connection: Connection, sequence: int, foreground: str) -> Pace | None:
        """A beat came. Returns the pace to tell with its answer, None when the client knows it.

        Raises StaleEpoch when a newer connection holds the agent, InvalidInput when the beat is
        not the one after the last.
        """
        if sequence != connection.sequence + 1:
            raise InvalidInput(
                "beat.sequence",
                f"Beat {sequence} came after beat {connection.sequence}; count them 1, 2, 3, …",
            )
        told, connection.told = connection.told, self.pace
        self.sign_of_life(connection)
        connection.sequence = sequence
        connection.foreground = foreground
        return None if told is self.pace else self.pace

    def sign_of_life(self, connection: Connection) -> None:
        """Any frame came. Raises StaleEpoch when a newer connection holds the agent."""
        now = self._clock.monotonic()
        self.leases.renew(connection.agent_id, connection.epoch, now, connection.told.lease)
        connection.heard = now

    @contextmanager
    def own_wait(self, connection: Connection) -> Iterator[None]:
        """Within it the server waits for its own disk and does not read the stream, so that silence
        is no fault of the client."""
        connection.unread = True
        try:
            yield
        finally:
            connection.unread = False
            now, agent_id = self._clock.monotonic(), connection.agent_id
            with suppress(StaleEpoch):
                self.leases.renew(agent_id, connection.epoch, now, connection.told.lease)

    def heard(self, connection: Connection, report: Report) -> None:
        """A report came: a sign of life of the epoch that it names. Raises StaleEpoch."""
        if report.grant != connection.epoch:
            raise stale_epoch(report.grant)
        self.sign_of_life(connection)

    async def left(self, connection: Connection, liveness: Liveness) -> None:
        """The client said goodbye; UNKNOWN: it comes back after the server's restart."""
        if self.leases.end(connection.agent_id, connection.epoch):
            self._losses.left(connection.client, connection.agent_id)
            if liveness is Liveness.UNKNOWN:
                self._awaited[connection.agent_id] = connection.client
            await self._gone(connection.agent_id, liveness)

    async def broke(self, connection: Connection) -> None:
        """The stream ended without a goodbye. Soon after a stall of the server that may be the
        server's own fault, so the client has an amnesty to come back, and is no loss before its
        end."""
        now, agent_id = self._clock.monotonic(), connection.agent_id
        self._notice_stall(now)
        forgiven = now < self._forgiving_until
        if not self.leases.broke(agent_id, connection.epoch, now, forgiven):
            return
        self._connections.pop(agent_id, None)
        if forgiven:
            self._losses.left(connection.client, agent_id)
            self._awaited[agent_id] = connection.client
        else:
            self._losses.lost(connection.client, agent_id, now)
            self._judge()
        self.changed.set()
        await self._change(agent_id, Liveness.SUSPECT, connection)

    async def expire(self) -> None:
        """Gives the verdict on every lease that has ended."""
        now = self._clock.monotonic()
        self._notice_stall(now)
        ended = [one for one in self.leases.expire(now) if not self._is_unread(*one, now)]
        for agent_id, epoch in ended:
            logger.info("client lost", extra={"agent": agent_id, "epoch": epoch})
            connection, awaited = self._connections.get(agent_id), self._awaited.pop(agent_id, "")
            if connection is not None:
                connection.close(_LeaseEnded())
                self._losses.lost(connection.client, agent_id, now)
            elif awaited and self._registry.get(agent_id) is not None:
                self._losses.lost(awaited, agent_id, now)
        if ended:
            self._judge()
        await asyncio.gather(*(self._gone(agent_id, Liveness.LOST) for agent_id, _ in ended))

    def _is_unread(self, agent_id: str, epoch: int, now: float) -> bool:
        """Whether the lease ended while the stream was not read; then it begins anew."""
        connection = self._connections.get(agent_id)
        if connection is None or connection.epoch != epoch or not connection.unread:
            return False
        self.leases.grant(agent_id, epoch, now)
        return True

    def pulse(self) -> None:
        """Called each PULSE seconds: notices stalls of this process, judges losses, sets the pace.
        A stall is written while the pulse goes on: a slow disk is none."""
        now = self._clock.monotonic()
        self._notice_stall(now)
        self._judge()
        if self._pulse.beat(now, self._clock.cpu()):
            logger.info("pace changed", extra={"stretch": self._pulse.stretch})
            self.leases.change_pace(self._configured.stretched(self._pulse.stretch))
        if self._stalled:
            detail, self._stalled = f"{self._stalled:.1f} s", 0.0
            self._in_background(
                self._store.write(lambda tx: tx.emit("server.stalled", "server", detail=detail))
            )

    def _notice_stall(self, now: float) -> None:
        """A stall is nobody else's fault: all leases are longer by it."""
        gap = self._pulse.stall(now, self._clock.cpu())
        if gap:
            logger.warning("server stalled", extra={"seconds": round(gap, 3)})
            self.leases.extend_all(gap)
            self._forgiving_until = now + self.pace.lease
            self._stalled += gap

    def _judge(self) -> None:
        """Tells when the suspicion of a partition begins or is over."""
        if self._draining:
            return
        begins = self._losses.judge(self._clock.monotonic(), self.pace.lease)
        if begins is None:
            return
        alive, missing = self._losses.counts
        text = (
            f"{missing} of {alive + missing} clients were lost at once; the server looks for the"
            " fault on its own side first, and takes nothing over until most are back."
            if begins
            else f"{alive} clients are connected, {missing} are missing; lost ones are lost."
        )
        logger.warning("partition judged", extra={"suspected": begins, "text": text})
        self._in_background(self._store.write(lambda tx: _record_partition(tx, begins, text)))
        if not begins:
            for agent in self._registry.all():
                if agent.liveness is Liveness.LOST:
                    self.on_courier(agent.id)

    def explain(self, agent: Agent) -> str:
        """Why the agent's client has the liveness that it has; one sentence."""
        now = self._clock.monotonic()
        connection, left = self._connections.get(agent.id), self.leases.left(agent.id, now)
        if connection is not None and left is not None:
            heard = now - connection.heard
            return (
                f"Its client was heard {heard:.1f} s ago on connection {agent.epoch}; without"
                f" another frame it is lost in {left:.1f} s."
            )
        if left is not None:
            what = (
                "The server has started"
                if agent.liveness is Liveness.UNKNOWN
                else "Its stream broke"
            )
            return f"{what}; its client has {left:.1f} s left to come back."
        return _WHY[agent.liveness]

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.warning("change not stored", extra={"error": str(task.exception())})

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
        """Asks every client to come back later. What breaks off from now on is no loss."""
        self._draining = True
        told = (c.push(Draining(reconnect_after)) for c in self._connections.values())
        await asyncio.gather(*told, return_exceptions=True)

    # ---- changes ----

    def _evict(self, other: Agent) -> Agent | None:
        """The pane gets another role: the agent that had it has none any more."""
        assert other.incarnation is not None
        self.leases.end(other.id, other.epoch)
        self._awaited.pop(other.id, None)
        connection = self._connections.pop(other.id, None)
        if connection is not None:
            self._losses.left(connection.client, other.id)
            connection.close(stale_epoch(connection.epoch))
        return self._registry.unbind_pane(other.incarnation)

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
        changed = self._with_liveness(agent, liveness)
        await self._store.write(lambda tx: table.set_liveness(tx, changed))

    def _with_liveness(self, agent: Agent, liveness: Liveness) -> Agent:
        """The agent with this liveness, known to all but the store."""
        changed = replace(agent, liveness=liveness, liveness_changed_at=self._clock.now())
        self._registry.put(changed)
        self.on_liveness(changed)
        return changed


_WHY = {
    Liveness.UNMANAGED: "No client runs for its pane; the server's own courier serves it.",
    Liveness.ALIVE: "Its client has just come.",
    Liveness.SUSPECT: "Its stream broke.",
    Liveness.LOST: "Its client was not heard for a whole lease, or broke off and did not return.",
    Liveness.ENDED: "Its client said that its pane ended.",
    Liveness.UNKNOWN: "The server has started and has not heard its client yet.",
}


def _supposed_client(agent: Agent) -> str:
    """Who will have been the client of an agent that was held before a restart: all that had a
    courier under one tmux server had the same one."""
    at = agent.incarnation
    return f"{at.host} {at.socket}" if agent.courier and at is not None else agent.id


def _set_liveness(tx: Transaction, agents: list[Agent]) -> None:
    for agent in agents:
        table.set_liveness(tx, agent)


def _record_partition(tx: Transaction, begins: bool, text: str) -> None:
    """Writes that the suspicion begins, with an alert, or is over."""
    tx.emit("server.partitioned" if begins else "server.reunited", "server", detail=text)
    if begins:
        raise_alert(tx, NewAlert(Severity.CRITICAL, "partition", "server", text))


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
