"""What time does to deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from orch_server.core.delivery import DeliveryState, Report
from orch_server.storage import deliveries, history, sweep
from orch_server.storage.deliveries import Offered
from tests.storage.parts import PANE, Opened, add_agent, agent, opened, text

S = DeliveryState


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())
            await body(at)

    asyncio.run(with_store())


async def _offer(at: Opened) -> Offered:
    found = await at.store.write(lambda tx: deliveries.offer_next(tx, "dev", 1, PANE))
    assert isinstance(found, Offered)
    return found


async def _report(at: Opened, offer: Offered, state: DeliveryState) -> None:
    given = Report(offer.delivery_id, offer.sequence, 1, state, "")
    await at.store.write(lambda tx: deliveries.record(tx, "dev", given))


async def _served(at: Opened) -> set[str]:
    return await at.store.read(lambda db: sweep.agents_being_served(db, at.clock.now()))


@pytest.mark.parametrize("reported", [None, S.PASTED])
def test_a_courier_that_says_nothing_for_half_a_minute_is_not_taken_to_serve(
    folder: Path, reported: DeliveryState | None
) -> None:
    async def body(at: Opened) -> None:
        await at.store.write(lambda tx: deliveries.enqueue(tx, text("a")))
        offer = await _offer(at)
        if reported:
            await _report(at, offer, reported)
        at.clock.advance(29.999)
        assert await _served(at) == {"dev"}
        at.clock.advance(0.001)
        assert await _served(at) == set()
        again = await _offer(at)
        assert (again.sequence, again.tried_before) == (offer.sequence, True)
        assert await _served(at) == {"dev"}
        await _report(at, again, S.UNCONFIRMED)
        assert await _served(at) == set()

    _run(folder, body)


@pytest.mark.parametrize("state", [S.CONFIRMED, S.QUEUED_BY_AGENT])
def test_a_reply_that_never_comes_ends_by_itself(folder: Path, state: DeliveryState) -> None:
    async def body(at: Opened) -> None:
        new = text("a", reply_patience=timedelta(seconds=20))
        made = await at.store.write(lambda tx: deliveries.enqueue(tx, new))
        at.clock.advance(3600)
        assert await at.store.write(sweep.sweep) == 0  # not delivered yet, so not waited for
        await _report(at, await _offer(at), state)
        at.clock.advance(34.999)
        assert not await at.store.read(lambda db: sweep.overdue(db, at.clock.now()))
        at.clock.advance(0.001)
        assert await at.store.read(lambda db: sweep.overdue(db, at.clock.now()))
        assert await at.store.write(sweep.sweep) == 1
        shown = await at.store.read(lambda db: history.get(db, made))
        assert (shown.reply, shown.reply_complete, shown.over) == ("", False, True)
        assert shown.steps[-1].step == "replied"
        assert await at.store.write(sweep.sweep) == 0

    _run(folder, body)


def test_a_time_to_live_of_its_own_is_kept(folder: Path) -> None:
    async def body(at: Opened) -> None:
        new = text("a", time_to_live=timedelta(minutes=5))
        made = await at.store.write(lambda tx: deliveries.enqueue(tx, new))
        at.clock.advance(299.999)
        assert not await at.store.read(lambda db: sweep.overdue(db, at.clock.now()))
        at.clock.advance(0.001)
        assert await at.store.read(lambda db: sweep.overdue(db, at.clock.now()))
        await at.store.write(sweep.sweep)
        assert (await at.store.read(lambda db: history.get(db, made))).state is S.EXPIRED

    _run(folder, body)
