"""The mailbox: hands what waits for an agent to the one courier that has its pane.

For each agent one offer is out at a time. Whoever may have changed something calls `wake`; a pump
for that agent then looks into the store and does what is to be done now.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from orch_server.core.agent import Agent, Liveness
from orch_server.core.clock import Clock
from orch_server.core.delivery import OUTSTANDING, DeliveryState, Offer, Report
from orch_server.core.errors import OrchError, StaleEpoch
from orch_server.services.agents import AgentRegistry
from orch_server.services.heartbeat import Connection, HeartbeatService
from orch_server.storage import deliveries
from orch_server.storage.store import Store
from orch_server.tmux.local_courier import LocalCourier

logger = logging.getLogger(__name__)

_LOCALLY_SERVED = frozenset({Liveness.UNMANAGED, Liveness.LOST})
_SWEEP = 60.0
_RETRY = 1.0


class Mailbox:
    """Moves deliveries from the store to couriers, and their reports back."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        heartbeat: HeartbeatService,
        courier: LocalCourier,
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
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._pumps: dict[str, asyncio.Task[None]] = {}
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
            for task in self._pumps.values():
                task.cancel()
            for timer in self._timers.values():
                timer.cancel()

    async def report(self, agent_id: str, report: Report) -> DeliveryState:
        """Writes what a courier reports. Raises StaleEpoch when the pane is another's now."""
        state = await self._store.write(lambda tx: deliveries.record(tx, agent_id, report))
        if state not in OUTSTANDING:
            if self._out.get(agent_id) == (report.grant, report.sequence):
                del self._out[agent_id]
            self.wake(agent_id)
        return state

    async def _sweep(self) -> None:
        try:
            await self._store.write(deliveries.expire)
            for agent_id in await self._store.read(deliveries.agents_with_open):
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
        if agent is None or agent.incarnation is None:
            return
        connection = self._heartbeat.connection(agent_id)
        if connection is None and not self._is_ours(agent):
            return
        epoch = agent.epoch
        if self._out.get(agent_id, (0, 0))[0] == epoch:
            return
        pane = agent.incarnation
        found = await self._store.write(lambda tx: deliveries.offer_next(tx, agent_id, epoch, pane))
        if isinstance(found, datetime):
            self._wake_later(agent_id, (found - self._clock.now()).total_seconds())
        elif found is not None:
            offer = Offer(
                delivery_id=found.delivery_id,
                agent_id=agent_id,
                sequence=found.sequence,
                grant=epoch,
                generation=self._generation,
                text=found.text,
                kind=agent.kind,
                incarnation=pane,
                tried_before=found.tried_before,
            )
            await self._hand_over(offer, connection)

    async def _hand_over(self, offer: Offer, connection: Connection | None) -> None:
        self._out[offer.agent_id] = (offer.grant, offer.sequence)
        try:
            if connection is None:
                self._local.add(offer.agent_id)
                await self._courier.deliver(offer, lambda r: self._local_report(offer.agent_id, r))
            elif connection.epoch == offer.grant:
                await connection.push(offer)
        except OrchError:  # not handed over, or not reported: the same number is offered again
            self._out.pop(offer.agent_id, None)
            raise

    async def _local_report(self, agent_id: str, report: Report) -> None:
        await self.report(agent_id, report)

    def _is_ours(self, agent: Agent) -> bool:
        """Whether the server's courier has the pane: local, and no client is or may be there."""
        local = agent.incarnation is not None and agent.incarnation.host == self._host
        return local and agent.liveness in _LOCALLY_SERVED

    def _wake_later(self, agent_id: str, seconds: float) -> None:
        earlier = self._timers.pop(agent_id, None)
        if earlier is not None:
            earlier.cancel()
        loop = asyncio.get_running_loop()
        self._timers[agent_id] = loop.call_later(max(0.01, seconds), self._timer_ended, agent_id)

    def _timer_ended(self, agent_id: str) -> None:
        self._timers.pop(agent_id, None)
        self.wake(agent_id)
