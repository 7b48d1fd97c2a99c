"""The mailbox: hands what waits for an agent to the one courier that has its pane.

For each agent one offer is out at a time. Whoever may have changed something calls `wake`; a pump
for that agent then looks into the store and does what is to be done now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime

from orch_server.core.agent import Agent, Liveness
from orch_server.core.clock import Clock
from orch_server.core.delivery import (
    OUTSTANDING,
    DeliveryState,
    Offer,
    RefusalReason,
    Reply,
    Report,
)
from orch_server.core.errors import OrchError, StaleEpoch
from orch_server.core.identity import Incarnation
from orch_server.core.text import clean_reply
from orch_server.services.agents import AgentRegistry
from orch_server.services.connection import Connection
from orch_server.services.heartbeat import HeartbeatService
from orch_server.storage import deliveries, sweep
from orch_server.storage.deliveries import Offered
from orch_server.storage.store import Store, Transaction
from orch_server.tmux.local_courier import LocalCourier

logger = logging.getLogger(__name__)

_LOCALLY_SERVED = frozenset({Liveness.UNMANAGED, Liveness.LOST})
_DONE = (DeliveryState.CONFIRMED, DeliveryState.QUEUED_BY_AGENT, DeliveryState.UNCONFIRMED)
_SWEEP = 10.0
_RETRY = 1.0


class Mailbox:
    """Moves deliveries from the store to couriers, and their reports back."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        heartbeat: HeartbeatService,
        courier: LocalCourier,
        resettle: Callable[[Agent], Awaitable[bool]],
        host: str,
        generation: str,
        clock: Clock,
    ) -> None:
        self._store = store
        self._registry = registry
        self._heartbeat = heartbeat
        self._courier = courier
        self._host = host
        self._clock = clock
        self._generation = generation
        self._look_for_pane = resettle
        self.held_until: Callable[[Agent], datetime | None] = lambda agent: None
        self.held_agents: Callable[[], Mapping[str, datetime]] = dict
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._handing: set[asyncio.Task[None]] = set()
        self._again: set[str] = set()
        self._local: set[str] = set()  # agents that the server's own courier works for just now
        self._out: dict[str, tuple[int, int]] = {}  # agent id -> (epoch, sequence) that is out
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def wake(self, agent_id: str) -> None:
        """Something may be deliverable to this agent now."""
        self._queue.put_nowait(agent_id)

    async def run(self) -> None:
        """Serves wake-ups, and looks at everything from time to time for what was left behind."""
        try:
            await self._start()
            while True:
                await self._sweep()
                until = self._clock.monotonic() + _SWEEP
                while (left := until - self._clock.monotonic()) > 0:
                    try:
                        async with asyncio.timeout(left):
                            agent_id = await self._queue.get()
                    except TimeoutError:
                        break
                    self._start_pump(agent_id)
        finally:
            for task in (*self._pumps.values(), *self._handing):
                task.cancel()
            for timer in self._timers.values():
                timer.cancel()

    async def report(self, agent_id: str, report: Report) -> DeliveryState:
        """Writes what a courier reports, and hands it the next text when it is done with this one.
        Raises StaleEpoch when the pane is another's now."""
        agent, connection = self._registry.get(agent_id), self._heartbeat.connection(agent_id)
        pane = agent.incarnation if agent is not None and self._goes_on(agent, report) else None
        state, found = await self._store.write(lambda tx: _record(tx, agent_id, report, pane))
        if state in OUTSTANDING:
            return state
        if self._out.get(agent_id) == (report.grant, report.sequence):
            del self._out[agent_id]
        if found is not None and agent is not None and pane is not None:
            self._out[agent_id] = (report.grant, found.sequence)
            offer = self._offer(agent, report.grant, pane, found)
            handing = asyncio.create_task(self._hand_on(offer, connection))  # after the answer
            self._handing.add(handing)
            handing.add_done_callback(self._handing.discard)
            return state
        if report.reason is RefusalReason.PANE_GONE:
            await self._resettle(agent_id)
        self.wake(agent_id)
        return state

    def _goes_on(self, agent: Agent, report: Report) -> bool:
        """Whether the courier that reports this may have the next text at once."""
        connection = self._heartbeat.connection(agent.id)
        current = connection is not None and connection.epoch == report.grant == agent.epoch
        return current and agent.id not in self._pumps and self.held_until(agent) is None

    async def _hand_on(self, offer: Offer, connection: Connection | None) -> None:
        try:
            await self._hand_over(offer, connection)
        except OrchError as exc:  # it is offered again under the same number
            logger.warning("not offered", extra={"agent": offer.agent_id, "error": exc.message})
            self._wake_later(offer.agent_id, _RETRY)

    async def ready(self, agent_id: str, grant: int) -> None:
        """A courier says that the pane can take text now. Raises StaleEpoch."""
        await self._store.write(lambda tx: deliveries.ready(tx, agent_id, grant))
        self.wake(agent_id)

    async def reply(self, agent_id: str, grant: int, reply: Reply) -> None:
        """Writes what an agent's screen said after a delivery. Raises StaleEpoch."""
        kept = replace(reply, text=clean_reply(reply.text))
        await self._store.write(lambda tx: deliveries.record_reply(tx, agent_id, grant, kept))

    async def idle(self, agent_id: str) -> None:
        """The agent's own hook says that its turn is over: what waits for that is tried again."""
        await self._store.write(lambda tx: deliveries.let_go(tx, agent_id))
        self.wake(agent_id)

    async def _start(self) -> None:
        try:
            await self._store.write(deliveries.forget_watches)
        except OrchError as exc:
            logger.warning("watches not forgotten", extra={"error": exc.message})

    async def _sweep(self) -> None:
        """Only reads, unless there is something to end."""
        now, held = self._clock.now(), self.held_agents()
        try:
            notes = await self._store.read(lambda db: sweep.ending(db, held, now)) if held else []
            if notes:
                await self._store.write(lambda tx: sweep.prolong(tx, notes))
            if await self._store.read(lambda db: sweep.overdue(db, now)):
                await self._store.write(sweep.sweep)
            out = dict(self._out)  # what goes out while the store is read is not in `served`
            served = await self._store.read(lambda db: sweep.agents_being_served(db, now))
            for agent_id in out.keys() - served - self._pumps.keys():
                if self._out.get(agent_id) == out[agent_id]:
                    del self._out[agent_id]  # not heard of for long: the same number once more
            for agent_id in await self._store.read(sweep.agents_with_open):
                self.wake(agent_id)
        except OrchError as exc:
            logger.warning("mailbox not swept", extra={"error": exc.message})

    def _start_pump(self, agent_id: str) -> None:
        """One pump at a time for each agent; a wake-up during one makes it look again."""
        if agent_id in self._pumps:
            self._again.add(agent_id)
            if agent_id in self._local and self._heartbeat.connection(agent_id) is not None:
                self._pumps[agent_id].cancel()  # the pane's own client is back and goes on
            return
        task = asyncio.create_task(self._pump(agent_id), name=f"pump {agent_id}")
        self._pumps[agent_id] = task
        task.add_done_callback(lambda _: self._pump_ended(agent_id, task))

    def _pump_ended(self, agent_id: str, task: asyncio.Task[None]) -> None:
        del self._pumps[agent_id]
        self._local.discard(agent_id)
        if not task.cancelled() and task.exception() is not None:
            logger.error("pump died", extra={"agent": agent_id}, exc_info=task.exception())
            self._wake_later(agent_id, _RETRY)
        if agent_id in self._again:
            self._again.discard(agent_id)
            self.wake(agent_id)

    async def _pump(self, agent_id: str) -> None:
        try:
            await self._serve(agent_id)
        except StaleEpoch:  # whoever took the pane over wakes us; this is for when that failed
            self._wake_later(agent_id, _RETRY)
        except OrchError as exc:
            logger.warning("delivery failed", extra={"agent": agent_id, "error": exc.message})
            self._wake_later(agent_id, _RETRY)

    async def _serve(self, agent_id: str) -> None:
        agent = self._registry.get(agent_id)
        if agent is not None and agent.incarnation is None and agent.epoch:  # its pane was lost
            await self._resettle(agent_id)
            agent = self._registry.get(agent_id)
        if agent is None or agent.incarnation is None:
            return
        connection = self._heartbeat.connection(agent_id)
        if connection is None and not self._is_ours(agent):
            return
        held = self.held_until(agent)
        if held is not None:  # its account is limited: it could do nothing with a text
            self._wake_later(agent_id, (held - self._clock.now()).total_seconds())
            return
        epoch = agent.epoch
        if self._out.get(agent_id, (0, 0))[0] == epoch:
            return
        pane = agent.incarnation
        found = await self._store.write(lambda tx: deliveries.offer_next(tx, agent_id, epoch, pane))
        if isinstance(found, datetime):
            self._wake_later(agent_id, (found - self._clock.now()).total_seconds())
        elif found is not None:
            await self._hand_over(self._offer(agent, epoch, pane, found), connection)

    def _offer(self, agent: Agent, grant: int, pane: Incarnation, found: Offered) -> Offer:
        return Offer(
            delivery_id=found.delivery_id,
            agent_id=agent.id,
            sequence=found.sequence,
            grant=grant,
            generation=self._generation,
            text=found.text,
            kind=agent.kind,
            incarnation=pane,
            tried_before=found.tried_before,
            mode=found.mode,
            reply_patience=found.reply_patience,
        )

    async def _hand_over(self, offer: Offer, connection: Connection | None) -> None:
        self._out[offer.agent_id] = (offer.grant, offer.sequence)
        try:
            if connection is None:
                self._local.add(offer.agent_id)
                await self._courier.deliver(offer, _Ears(self, offer))
            elif connection.epoch == offer.grant:
                await connection.push(offer)
        except OrchError:  # not handed over, or not reported: the same number is offered again
            self._out.pop(offer.agent_id, None)
            raise

    async def _resettle(self, agent_id: str) -> None:
        """The pane of an agent without a client is gone; it may live in another one by now."""
        agent = self._registry.get(agent_id)
        if agent is not None and agent.liveness in _LOCALLY_SERVED:
            try:
                await self._look_for_pane(agent)
            except OrchError as exc:
                logger.info("pane not looked for", extra={"error": exc.message})

    def _is_ours(self, agent: Agent) -> bool:
        """Whether the server's courier has the pane: local, and no client is or may be there."""
        local = agent.incarnation is not None and agent.incarnation.host == self._host
        doubtful = agent.liveness is Liveness.LOST and self._heartbeat.partition_suspected
        return local and agent.liveness in _LOCALLY_SERVED and not doubtful

    def _wake_later(self, agent_id: str, seconds: float) -> None:
        earlier = self._timers.pop(agent_id, None)
        if earlier is not None:
            earlier.cancel()
        loop = asyncio.get_running_loop()
        self._timers[agent_id] = loop.call_later(max(0.01, seconds), self._timer_ended, agent_id)

    def _timer_ended(self, agent_id: str) -> None:
        self._timers.pop(agent_id, None)
        self.wake(agent_id)


def _record(
    tx: Transaction, agent_id: str, report: Report, pane: Incarnation | None
) -> tuple[DeliveryState, Offered | None]:
    """Writes a report and, when the pane goes on, chooses the next text for it."""
    state = deliveries.record(tx, agent_id, report)
    if pane is None or state not in _DONE:
        return state, None
    found = deliveries.offer_next(tx, agent_id, report.grant, pane)
    return state, found if isinstance(found, Offered) else None


class _Ears:
    """Hears what the server's own courier says of an offer, also after `deliver` has returned.

    Later words may come when the pane has been granted to someone else; they are left out then.
    """

    def __init__(self, mailbox: Mailbox, offer: Offer) -> None:
        self._mailbox = mailbox
        self._offer = offer

    async def report(self, report: Report) -> None:
        """What became of the offer. Raises StaleEpoch and what the store raises."""
        await self._mailbox.report(self._offer.agent_id, report)

    async def ready(self) -> None:
        """The pane can take text."""
        try:
            await self._mailbox.ready(self._offer.agent_id, self._offer.grant)
        except OrchError as exc:
            logger.info("ready not taken", extra={"error": exc.message})

    async def reply(self, text: str, complete: bool) -> None:
        """What the screen said next."""
        offer = self._offer
        reply = Reply(offer.delivery_id, offer.sequence, text, complete)
        try:
            await self._mailbox.reply(offer.agent_id, offer.grant, reply)
        except OrchError as exc:
            logger.info("reply not taken", extra={"error": exc.message})
