"""Seeded interleavings of twins, late packets and resurrected panes, through the real services and
a real store.

The oracle is the log of events alone. Each state and each outcome of a delivery that is written
carries a tag, which names the connection or the pane that said it; it must lie between the
registration of that one and whatever came after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orch_server.core.agent import Liveness
from orch_server.core.agent_state import AgentState, EvidenceSource, Exit, HookReport, Observation
from orch_server.core.clock import ManualClock
from orch_server.core.delivery import (
    DeliveryState,
    NewDelivery,
    Priority,
    RefusalReason,
    Report,
)
from orch_server.core.errors import AlreadyExists, OrchError, StaleEpoch
from orch_server.core.identity import Incarnation, Operator
from orch_server.services.binding import Introduction
from orch_server.services.connection import Connection
from orch_server.storage import deliveries
from orch_server.storage.store import Transaction

T = TypeVar("T")

SESSION = "atlas"
_STATES = (AgentState.WORKING, AgentState.IDLE, AgentState.WAITING_ANSWER)
_REPORTS = (DeliveryState.PASTED, DeliveryState.CONFIRMED, DeliveryState.REFUSED)
_STEPS = 4


@dataclass
class Tally:
    """What was tried: how often a client or a hook said something, how often that was refused, and
    how often what a client said was written."""

    interleavings: int = 0
    said: int = 0
    refused: int = 0
    written: int = 0


@dataclass
class _Role:
    """One role, for which clients in several panes fight. `tags` tells who said what."""

    core: Any
    clock: ManualClock
    name: str
    tags: dict[str, tuple[str, object]]
    tally: Tally
    random: random.Random
    connections: list[tuple[Connection, Incarnation]] = field(default_factory=list)
    offers: list[tuple[Connection, deliveries.Offered]] = field(default_factory=list)
    lives: int = 1

    async def interleave(self) -> None:
        """Some steps, two of them at the same time again and again."""
        for _ in range(_STEPS):
            both = [self._step(), self._step()]
            if self.random.random() < 0.5:
                await asyncio.gather(*both)
            else:
                for one in both:
                    await one
        self.tally.interleavings += 1

    async def _step(self) -> None:
        steps: list[Callable[[], Awaitable[None]]] = [
            self._connect,
            self._says,
            self._says,
            self._is_offered,
            self._reports,
            self._hook,
            self._exits,
            self._breaks,
            self._leaves,
        ]
        await self.random.choice(steps)()

    async def _connect(self) -> None:
        """A client of the one pane or the other, or in a pane whose number came back."""
        if self.random.random() < 0.2:
            self.lives += 1
        number = self.random.randrange(2)
        pane = Incarnation("elsewhere", f"/tmp/{self.name}", self.lives, 1, f"%{number}")
        intro = Introduction(
            pane, 1, SESSION, self.name, "claude", "0", self.random.random() < 0.7, ""
        )

        async def push(given: object) -> None:
            """Takes what the server says."""

        try:
            _, connection = await self.core.heartbeat.connect(
                Operator(), intro, push, lambda error: None
            )
        except AlreadyExists:
            return
        self.connections.append((connection, pane))

    async def _says(self) -> None:
        """A beat of any connection, also of one that is long replaced."""
        if not self.connections:
            return
        connection, _ = self._any(self.connections)
        self.clock.advance(0.05)
        with contextlib.suppress(StaleEpoch):
            self.core.heartbeat.sign_of_life(connection)
        tag = self._tag("epoch", connection.epoch)
        seen = Observation(EvidenceSource.SCREEN, self.random.choice(_STATES), tag, tag)
        await self._try(
            lambda: self.core.states.observed(connection.agent_id, connection.epoch, seen, None)
        )

    async def _is_offered(self) -> None:
        """A text is offered to any connection, as the mailbox does: the same one again to each."""
        if not self.connections:
            return
        connection, pane = self._any(self.connections)
        agent_id, epoch = connection.agent_id, connection.epoch
        new = NewDelivery(
            agent_id, "x", "", self._tag("text", None), Priority.NORMAL, self.clock.now()
        )

        def offer(tx: Transaction) -> object:
            if self.random.random() < 0.5:
                deliveries.enqueue(tx, new)
            return deliveries.offer_next(tx, agent_id, epoch, pane)

        try:
            offered = await self.core.store.write(offer)
        except OrchError:
            return
        if isinstance(offered, deliveries.Offered):
            self.offers.append((connection, offered))

    async def _reports(self) -> None:
        """What became of an offer, perhaps of one that another connection has by now."""
        if not self.offers:
            return
        connection, offer = self._any(self.offers)
        report = Report(
            delivery_id=offer.delivery_id,
            sequence=offer.sequence,
            grant=connection.epoch,
            state=self.random.choice(_REPORTS),
            detail=self._tag("epoch", connection.epoch),
            reason=RefusalReason.TMUX_FAILED,
        )
        await self._try(lambda: self.core.mailbox.report(connection.agent_id, report))

    async def _exits(self) -> None:
        if not self.connections or self.random.random() < 0.7:
            return
        connection, _ = self._any(self.connections)
        ended = Exit(self.random.randrange(2), 0, None, False)
        await self._try(
            lambda: self.core.states.exited(connection.agent_id, connection.epoch, ended)
        )

    async def _hook(self) -> None:
        """A hook of any pane, also of one that another client's pane has replaced."""
        if not self.connections or self.random.random() < 0.6:
            return
        connection, pane = self._any(self.connections)
        known = self.core.registry.get(connection.agent_id)
        at = self.core.registry.in_pane(pane)
        if known is None or at is None:
            return
        tag = self._tag("pane", pane)
        report = HookReport(self.random.choice(("Stop", "UserPromptSubmit")), message=tag)
        await self._try(lambda: self.core.states.hook(at, report))

    async def _breaks(self) -> None:
        if self.connections:
            await self.core.heartbeat.broke(self.random.choice(self.connections[-3:])[0])
            if self.random.random() < 0.3:
                self.clock.advance(1.0)
                await self.core.heartbeat.expire()

    async def _leaves(self) -> None:
        if self.connections and self.random.random() < 0.3:
            connection, _ = self.random.choice(self.connections[-3:])
            await self.core.heartbeat.left(connection, Liveness.UNMANAGED)

    def _any(self, some: list[T]) -> T:
        """The newest, or one of the last few."""
        return some[-1] if self.random.random() < 0.5 else self.random.choice(some[-4:])

    def _tag(self, what: str, who: object) -> str:
        tag = f"{self.name}.{len(self.tags)}"
        self.tags[tag] = (what, who)
        self.tally.said += 1
        return tag

    async def _try(self, act: Callable[[], Awaitable[None] | None]) -> None:
        try:
            written = act()
            if written is not None:
                await written
        except OrchError:
            self.tally.refused += 1


async def run(
    core: Any, clock: ManualClock, seed: int, interleavings: int, roles: int
) -> tuple[Tally, list[str]]:
    """Runs so many; returns what was tried and each stale write that the log shows."""
    tally, tags = Tally(), {}
    each = -(-interleavings // roles)

    async def fight(number: int) -> None:
        role = _Role(core, clock, f"role{number}", tags, tally, random.Random(f"{seed}.{number}"))
        for _ in range(each):
            await role.interleave()
            del role.connections[:-4]
            del role.offers[:-4]

    await asyncio.gather(*(fight(number) for number in range(roles)))
    return tally, await core.store.read(lambda db: stale_writes(db, tags, tally))


def stale_writes(db: Any, tags: dict[str, tuple[str, object]], tally: Tally) -> list[str]:
    """Reads the log in order: who held each agent, and whose words were written."""
    epochs: dict[str, int] = {}
    found = []
    sql = "select number, kind, agent, detail from event where agent <> '' order by number"
    for number, kind, agent, detail in db.execute_sql(sql):
        if kind == "agent.registered":
            epochs[agent] = int(detail.partition(" epoch ")[2].split()[0])
        elif kind in ("agent.lost", "agent.unmanaged", "agent.ended"):
            epochs[agent] = epochs.get(agent, 0) + 1
        elif detail and kind.startswith(("agent.state", "delivery.")):
            what, who = tags.get(detail.split()[-1], ("", None))
            tally.written += what == "epoch"
            if what == "epoch" and who != epochs.get(agent):
                found.append(
                    f"event {number}: {kind} {detail} of epoch {who} while {epochs.get(agent)}"
                )
    return found
