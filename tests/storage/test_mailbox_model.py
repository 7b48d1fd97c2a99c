"""The mailbox under any order of what can happen: nothing twice, nothing lost, nothing overtaken.

A courier that keeps its word is played beside the store: it knows which numbers entered its pane.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orch_server.core.delivery import (
    NOT_NOW,
    OUTSTANDING,
    DeliveryMode,
    DeliveryState,
    Priority,
    RefusalReason,
    Report,
)
from orch_server.core.errors import Conflict
from orch_server.storage import claims, deliveries, history, sweep
from orch_server.storage.deliveries import Offered
from tests.storage.parts import PANE, Opened, add_agent, agent, opened, text

S = DeliveryState
_MODE, _PRIORITY = st.sampled_from(list(DeliveryMode)), st.sampled_from(list(Priority))
_STEP = st.one_of(
    st.tuples(st.just("put"), _MODE, _PRIORITY),
    st.tuples(st.just("offer")),
    st.tuples(st.just("refuse"), st.sampled_from(sorted(RefusalReason))),
    st.tuples(st.just("paste")),
    st.tuples(st.just("end"), st.sampled_from([S.CONFIRMED, S.QUEUED_BY_AGENT, S.UNCONFIRMED])),
    st.tuples(st.just("again")),
    st.tuples(st.just("claim"), st.sampled_from([1, 10, 1000])),
    st.tuples(st.just("acknowledge")),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("ready")),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 5.0, 11.0, 31.0, 3600.0])),
    st.tuples(st.just("sweep")),
)


class _Play:
    """The store, and what its courier and its hook know."""

    def __init__(self, at: Opened) -> None:
        self.at = at
        self.made: list[tuple[str, Priority]] = []
        self.entered: list[str] = []  # ids, in the order in which they entered the pane
        self.printed: list[str] = []
        self.held: Offered | None = None
        self.pasted = False
        self.reports: list[Report] = []
        self.claimed: list[str] = []

    async def put(self, mode: DeliveryMode, priority: Priority) -> None:
        new = text(f"text {len(self.made)}", priority, mode=mode)
        made = await self.at.store.write(lambda tx: deliveries.enqueue(tx, new))
        self.made.append((made, priority))

    async def offer(self) -> None:
        found = await self.at.store.write(lambda tx: deliveries.offer_next(tx, "dev", 1, PANE))
        if not isinstance(found, Offered):
            return
        if self.held is None:
            await self._not_overtaken(found.delivery_id)
            self.held, self.pasted = found, False
        else:  # the same one, under the same number
            assert (found.delivery_id, found.sequence) == (
                self.held.delivery_id,
                self.held.sequence,
            )
            assert found.tried_before

    async def refuse(self, reason: RefusalReason) -> None:
        if self.held is not None and not self.pasted:
            await self._report(S.REFUSED, reason)
            self.held = None

    async def paste(self) -> None:
        if self.held is not None and not self.pasted:
            self._enter(self.held.delivery_id)
            self.pasted = True
            await self._report(S.PASTED)

    async def end(self, state: DeliveryState) -> None:
        if self.held is None:
            return
        if not self.pasted and state is not S.UNCONFIRMED:
            self._enter(self.held.delivery_id)
        await self._report(state)
        self.held = None

    async def again(self) -> None:
        """A report that was said before comes once more, late."""
        for report in self.reports[-3:]:
            try:
                await self.at.store.write(lambda tx, r=report: deliveries.record(tx, "dev", r))
            except Conflict:
                assert report.state is not S.REFUSED or self.pasted

    async def claim(self, most: int) -> None:
        claimed = await self.at.store.write(lambda tx: claims.claim(tx, "dev", most, "Stop"))
        assert not (claimed and self.held), "claimed while a courier had something"
        for delivery_id in claimed:
            self._enter(delivery_id)
        self.claimed = claimed or self.claimed

    async def acknowledge(self) -> None:
        ids = tuple(self.claimed)
        await self.at.store.write(lambda tx: claims.acknowledge(tx, "dev", ids))

    async def cancel(self) -> None:
        for delivery_id, _ in self.made[-1:]:
            try:
                await self.at.store.write(lambda tx, i=delivery_id: deliveries.cancel(tx, i, "me"))
            except Conflict:
                continue
            assert delivery_id not in self.entered

    async def ready(self) -> None:
        await self.at.store.write(lambda tx: deliveries.ready(tx, "dev", 1))

    async def sweep(self) -> None:
        await self.at.store.write(sweep.sweep)

    async def check(self) -> None:
        """At most one thing is out to a courier, and it is what the courier holds."""
        shown = {i: (await self._shown(i)) for i, _ in self.made}
        out = [i for i, d in shown.items() if d.state in OUTSTANDING and i not in self.claimed]
        if self.held is not None and shown[self.held.delivery_id].state not in OUTSTANDING:
            self.held = None  # its time ended
        assert out == ([self.held.delivery_id] if self.held else [])
        for delivery_id in self.entered:
            assert shown[delivery_id].state not in (S.PENDING, S.EXPIRED, S.CANCELLED, S.DEAD)
        for delivery_id, found in shown.items():
            if found.state in (S.CONFIRMED, S.QUEUED_BY_AGENT):
                assert delivery_id in self.entered, "confirmed, but it was never there"

    def _enter(self, delivery_id: str) -> None:
        assert delivery_id not in self.entered, "it entered twice"
        self.entered.append(delivery_id)

    async def _not_overtaken(self, offered: str) -> None:
        """Nothing that came before it, in its priority or a higher one, still waits."""
        ids = [i for i, _ in self.made]
        mine = dict(self.made)[offered]
        for delivery_id, priority in self.made:
            first = priority > mine or (
                priority == mine and ids.index(delivery_id) < ids.index(offered)
            )
            if first:
                found = await self._shown(delivery_id)
                over = found.expires_at <= self.at.clock.now()
                assert found.state is not S.PENDING or over

    async def _report(
        self, state: DeliveryState, reason: RefusalReason = RefusalReason.UNSET
    ) -> None:
        assert self.held is not None
        report = Report(self.held.delivery_id, self.held.sequence, 1, state, "said", reason)
        await self.at.store.write(lambda tx: deliveries.record(tx, "dev", report))
        self.reports.append(report)
        if reason in NOT_NOW:
            assert (await self._shown(report.delivery_id)).state is S.PENDING

    async def _shown(self, delivery_id: str) -> Any:
        return await self.at.store.read(lambda db: history.get(db, delivery_id))


async def _play(folder: Path, steps: list[tuple[Any, ...]]) -> None:
    async with opened(folder) as at:
        await add_agent(at.store, agent())
        play = _Play(at)
        for step, *args in steps:
            if step == "pass":
                at.clock.advance(*args)
            else:
                await getattr(play, step)(*args)
            await play.check()


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(st.lists(_STEP, min_size=5, max_size=40))
def test_nothing_is_doubled_lost_or_overtaken(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory(prefix="orch-s-", dir="/tmp") as folder:
        asyncio.run(_play(Path(folder), steps))
