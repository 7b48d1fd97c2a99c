"""What an agent's own hook takes: in order, and never while a courier has something."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from orch_server.core.delivery import DeliveryMode, DeliveryState, NewDelivery, Priority, Report
from orch_server.core.errors import NotFound
from orch_server.storage import agents, claims, deliveries, history, sweep
from orch_server.storage.deliveries import Offered
from tests.storage.parts import PANE, START, Opened, add_agent, agent, opened, text

S = DeliveryState
TURN = DeliveryMode.TURN_BOUNDARY


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())
            await body(at)

    asyncio.run(with_store())


async def _put(at: Opened, *new: NewDelivery) -> list[str]:
    return [await at.store.write(lambda tx, n=n: deliveries.enqueue(tx, n)) for n in new]


async def _claim(at: Opened, most: int = 10_000) -> list[str]:
    return await at.store.write(lambda tx: claims.claim(tx, "dev", most, "Stop"))


async def _ask(at: Opened) -> Offered | datetime | None:
    return await at.store.write(lambda tx: deliveries.offer_next(tx, "dev", 1, PANE))


async def _acknowledge(at: Opened, *ids: str) -> None:
    await at.store.write(lambda tx: claims.acknowledge(tx, "dev", ids))


async def _shown(at: Opened, delivery_id: str) -> tuple[DeliveryState, str]:
    shown = await at.store.read(lambda db: history.get(db, delivery_id))
    return shown.state, shown.detail


def test_a_claim_takes_the_run_at_the_head_and_its_acknowledgement_confirms(folder: Path) -> None:
    async def body(at: Opened) -> None:
        made = await _put(
            at, text("a", mode=TURN), text("b", mode=TURN), text("c"), text("d", mode=TURN)
        )
        assert await _claim(at) == made[:2]
        assert await _claim(at) == []
        await _acknowledge(at, *made[:2])
        for delivery_id in made[:2]:
            assert await _shown(at, delivery_id) == (
                S.CONFIRMED,
                "Taken by the agent's own hook.",
            )
        assert await _claim(at) == []  # c comes first, and is not for the hook
        steps = (await at.store.read(lambda db: history.get(db, made[0]))).steps
        assert [s.step for s in steps] == ["created", "claimed", "confirmed"]

    _run(folder, body)


def test_a_claim_follows_the_priority(folder: Path) -> None:
    async def body(at: Opened) -> None:
        low, high = await _put(at, text("a", mode=TURN), text("b", Priority.HIGH, mode=TURN))
        assert await _claim(at) == [high, low]

    _run(folder, body)


def test_a_claim_ends_before_it_is_too_large_but_hands_over_the_first(folder: Path) -> None:
    async def body(at: Opened) -> None:
        made = await _put(at, *(text(f"{n}" * 100, mode=TURN) for n in range(3)))
        assert await _claim(at, 250) == made[:2]
        await _acknowledge(at, *made[:2])
        assert await _claim(at, 1) == made[2:]

    _run(folder, body)


def test_a_claim_leaves_what_asks_for_a_reply_to_a_courier(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a", mode=TURN, reply_patience=timedelta(seconds=5)))
        assert await _claim(at) == []

    _run(folder, body)


def test_while_a_courier_has_something_nothing_is_claimed(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a", mode=TURN), text("b", mode=TURN))
        assert isinstance(await _ask(at), Offered)
        assert await _claim(at) == []

    _run(folder, body)


def test_while_a_claim_is_open_nothing_is_offered(folder: Path) -> None:
    async def body(at: Opened) -> None:
        first, _ = await _put(at, text("a", mode=TURN), text("b"))
        await _claim(at)
        assert await _ask(at) == START + timedelta(seconds=10)
        await _acknowledge(at, first)
        offer = await _ask(at)
        assert isinstance(offer, Offered)
        assert offer.text == "b"

    _run(folder, body)


@pytest.mark.parametrize("by", ["the sweep", "the next offer", "the next claim"])
def test_a_claim_that_is_not_acknowledged_in_time_is_in_doubt(folder: Path, by: str) -> None:
    async def body(at: Opened) -> None:
        first, second = await _put(at, text("a", mode=TURN), text("b" * 100, mode=TURN))
        assert await _claim(at, 50) == [first]
        at.clock.advance(9.999)
        assert await _claim(at) == []
        assert not await at.store.read(lambda db: sweep.overdue(db, at.clock.now()))
        at.clock.advance(0.001)
        assert await at.store.read(lambda db: sweep.overdue(db, at.clock.now()))
        if by == "the sweep":
            assert await at.store.write(sweep.sweep) == 1
        elif by == "the next offer":
            assert isinstance(await _ask(at), Offered)
        else:
            assert await _claim(at) == [second]
        said = "Claimed by the agent's hook, which never said that it was printed."
        assert await _shown(at, first) == (S.UNCONFIRMED, said)
        await _acknowledge(at, first)  # too late
        assert await _shown(at, first) == (S.UNCONFIRMED, said)

    _run(folder, body)


def test_a_late_report_on_an_earlier_offer_does_not_touch_a_claim(folder: Path) -> None:
    async def body(at: Opened) -> None:
        (first,) = await _put(at, text("a", mode=TURN))
        offer = await _ask(at)
        assert isinstance(offer, Offered)
        refused = Report(first, offer.sequence, 1, S.REFUSED, "busy")
        await at.store.write(lambda tx: deliveries.record(tx, "dev", refused))
        assert await _claim(at) == [first]
        state = await at.store.write(lambda tx: deliveries.record(tx, "dev", refused))
        assert state is S.OFFERED
        await _acknowledge(at, first)
        assert (await _shown(at, first))[0] is S.CONFIRMED

    _run(folder, body)


def test_what_is_for_later_or_over_or_held_back_is_not_claimed(folder: Path) -> None:
    async def body(at: Opened) -> None:
        later = START + timedelta(hours=1)
        await _put(
            at,
            text("later", mode=TURN, not_before=later),
            text("over", mode=TURN, time_to_live=timedelta(seconds=1)),
        )
        at.clock.advance(1)
        assert await _claim(at) == []
        (now,) = await _put(at, text("now", mode=TURN))
        mute = [agent()]
        await at.store.write(lambda tx: agents.set_do_not_disturb(tx, mute, True, "operator"))
        assert await _claim(at) == []
        await at.store.write(lambda tx: agents.set_do_not_disturb(tx, mute, False, "operator"))
        assert await _claim(at) == [now]

    _run(folder, body)


def test_nobody_acknowledges_for_another_agent(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent("tst"))
        (first,) = await _put(at, text("a", mode=TURN))
        await _claim(at)
        for ids in ((first,), ("nothing",)):
            with pytest.raises(NotFound):
                await at.store.write(lambda tx, i=ids: claims.acknowledge(tx, "tst", i))
        assert (await _shown(at, first))[0] is S.OFFERED

    _run(folder, body)
