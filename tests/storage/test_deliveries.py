"""The mailbox in the store: one offer at a time, in order, and never twice on its own account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from orch_server.core.delivery import DeliveryState, NewDelivery, Priority, Report
from orch_server.core.errors import Conflict, NotFound, StaleEpoch
from orch_server.core.identity import Incarnation
from orch_server.storage import agents, deliveries
from orch_server.storage.deliveries import Offered
from tests.storage.parts import PANE, START, Opened, add_agent, agent, opened, text

S = DeliveryState
OTHER_LIFE = replace(PANE, server_pid=200)


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())
            await body(at)

    asyncio.run(with_store())


async def _put(at: Opened, *new: NewDelivery) -> list[str]:
    return [await at.store.write(lambda tx, n=n: deliveries.enqueue(tx, n)) for n in new]


async def _ask(
    at: Opened, epoch: int = 1, pane: Incarnation = PANE, agent_id: str = "dev"
) -> Offered | datetime | None:
    return await at.store.write(lambda tx: deliveries.offer_next(tx, agent_id, epoch, pane))


async def _offer(at: Opened, epoch: int = 1, pane: Incarnation = PANE) -> Offered:
    found = await _ask(at, epoch, pane)
    assert isinstance(found, Offered)
    return found


async def _report(
    at: Opened, offer: Offered, state: DeliveryState, epoch: int = 1, detail: str = ""
) -> DeliveryState:
    given = Report(offer.delivery_id, offer.sequence, epoch, state, detail)
    return await at.store.write(lambda tx: deliveries.record(tx, "dev", given))


async def _state(at: Opened, delivery_id: str) -> DeliveryState:
    sql = "select state from delivery where id = ?"
    row = await at.store.read(lambda db: db.execute_sql(sql, (delivery_id,)).fetchone())
    return DeliveryState(row[0])


def test_what_came_first_goes_first_within_a_priority(folder: Path) -> None:
    async def body(at: Opened) -> None:
        high = Priority.HIGH
        await _put(at, text("n1"), text("h1", high), text("n2"), text("h2", high), text("n3"))
        order = []
        for _ in range(5):
            offer = await _offer(at)
            order.append(offer.text)
            await _report(at, offer, S.CONFIRMED)
        assert order == ["h1", "h2", "n1", "n2", "n3"]
        assert await _ask(at) is None

    _run(folder, body)


def test_one_offer_is_out_at_a_time_and_keeps_its_number(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"), text("b"))
        first = await _offer(at)
        await _put(at, text("urgent", Priority.HIGH))
        again = await _offer(at)
        assert (again.delivery_id, again.sequence) == (first.delivery_id, first.sequence)
        await _report(at, first, S.PASTED)
        again = await _offer(at)
        assert (again.delivery_id, again.sequence) == (first.delivery_id, first.sequence)
        assert await _state(at, first.delivery_id) is S.PASTED
        await _report(at, first, S.CONFIRMED)
        assert (await _offer(at)).text == "urgent"

    _run(folder, body)


def test_a_newer_connection_of_the_same_pane_gets_the_same_number(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        first = await _offer(at, epoch=1)
        await add_agent(at.store, agent(epoch=2))
        again = await _offer(at, epoch=2)
        assert (again.delivery_id, again.sequence) == (first.delivery_id, first.sequence)

    _run(folder, body)


@pytest.mark.parametrize("reported", [None, S.PASTED])
def test_what_a_pane_of_another_life_had_is_in_doubt(
    folder: Path, reported: DeliveryState | None
) -> None:
    async def body(at: Opened) -> None:
        first, second = await _put(at, text("a"), text("b"))
        offer = await _offer(at)
        if reported:
            await _report(at, offer, reported)
        await add_agent(at.store, agent(epoch=2, pane=OTHER_LIFE))
        after = await _offer(at, epoch=2, pane=OTHER_LIFE)
        assert await _state(at, first) is S.UNCONFIRMED
        assert after.delivery_id == second
        assert after.sequence > offer.sequence

    _run(folder, body)


def test_numbers_grow_over_all_agents_and_restarts(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent("tst"))
        await _put(at, text("a"), text("b", agent_id="tst"), text("c"))
        numbers = []
        first = await _offer(at)
        numbers.append(first.sequence)
        other = await _ask(at, agent_id="tst")
        assert isinstance(other, Offered)
        numbers.append(other.sequence)
        await _report(at, first, S.CONFIRMED)
        numbers.append((await _offer(at)).sequence)
        assert numbers == sorted(set(numbers))
        last.append(numbers[-1])

    last: list[int] = []
    _run(folder, body)

    async def later() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute("update delivery set state = 'CANCELLED'"))
            await _put(at, text("d"))
            assert (await _offer(at)).sequence > last[0]

    asyncio.run(later())


def test_a_refused_text_goes_back_and_waits_ever_longer(folder: Path) -> None:
    async def body(at: Opened) -> None:
        (first,) = await _put(at, text("a"))
        numbers = []
        for delay in (0.5, 1.0, 2.0, 4.0):
            offer = await _offer(at)
            numbers.append(offer.sequence)
            assert await _report(at, offer, S.REFUSED, detail="in copy mode") is S.PENDING
            assert await _ask(at) == at.clock.now() + timedelta(seconds=delay)
            at.clock.advance(delay)
        assert (await _offer(at)).delivery_id == first
        assert numbers == sorted(set(numbers))

    _run(folder, body)


def test_what_was_refused_is_not_overtaken_by_what_came_later(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"), text("b"))
        await _report(at, await _offer(at), S.REFUSED)
        assert isinstance(await _ask(at), datetime)
        at.clock.advance(0.5)
        assert (await _offer(at)).text == "a"

    _run(folder, body)


def test_an_offer_to_an_older_connection_is_refused(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        await add_agent(at.store, agent(epoch=2))
        with pytest.raises(StaleEpoch):
            await _ask(at, epoch=1)
        with pytest.raises(StaleEpoch):
            await _ask(at, agent_id="nobody")

    _run(folder, body)


@pytest.mark.parametrize("state", [S.PASTED, S.CONFIRMED, S.REFUSED, S.UNCONFIRMED])
def test_a_late_report_of_an_older_connection_is_refused(
    folder: Path, state: DeliveryState
) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        offer = await _offer(at, epoch=1)
        await add_agent(at.store, agent(epoch=2))
        with pytest.raises(StaleEpoch):
            await _report(at, offer, state, epoch=1)
        assert await _state(at, offer.delivery_id) is S.OFFERED

    _run(folder, body)


@pytest.mark.parametrize("state", [S.PASTED, S.CONFIRMED, S.QUEUED_BY_AGENT, S.UNCONFIRMED])
def test_a_report_that_repeats_what_is_written_is_taken(folder: Path, state: DeliveryState) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        offer = await _offer(at)
        assert await _report(at, offer, state) is state
        before = len(at.events)
        assert await _report(at, offer, state) is state
        assert len(at.events) == before

    _run(folder, body)


def test_a_repeated_refusal_is_taken_as_such(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        offer = await _offer(at)
        assert await _report(at, offer, S.REFUSED) is S.PENDING
        assert await _report(at, offer, S.REFUSED) is S.PENDING
        assert await _ask(at) == START + timedelta(seconds=0.5)

    _run(folder, body)


def test_a_report_on_an_earlier_offer_changes_nothing(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        early = await _offer(at)
        await _report(at, early, S.REFUSED)
        at.clock.advance(1)
        now = await _offer(at)
        assert now.sequence > early.sequence
        assert await _report(at, early, S.CONFIRMED) is S.OFFERED
        assert await _state(at, now.delivery_id) is S.OFFERED

    _run(folder, body)


def test_a_text_that_was_pasted_cannot_be_refused_any_more(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        offer = await _offer(at)
        await _report(at, offer, S.PASTED)
        with pytest.raises(Conflict):
            await _report(at, offer, S.REFUSED)
        assert await _state(at, offer.delivery_id) is S.PASTED

    _run(folder, body)


def test_a_report_on_what_is_another_agents_is_refused(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent("tst"))
        await _put(at, text("a", agent_id="tst"))
        offer = await _ask(at, agent_id="tst")
        assert isinstance(offer, Offered)
        with pytest.raises(NotFound):
            await _report(at, offer, S.CONFIRMED)

    _run(folder, body)


def test_what_waits_too_long_expires_and_is_not_offered_in_the_last_moment(folder: Path) -> None:
    async def body(at: Opened) -> None:
        waits, offered = await _put(at, text("waits"), text("offered", Priority.HIGH))
        await _offer(at)
        at.clock.advance(24 * 3600 - 0.001)
        assert await at.store.write(deliveries.expire) == 0
        at.clock.advance(0.001)
        assert await at.store.write(deliveries.expire) == 2
        assert await at.store.write(deliveries.expire) == 0
        assert await _state(at, waits) is S.EXPIRED
        assert await _state(at, offered) is S.UNCONFIRMED
        kinds = {event.kind for event in at.events[-2:]}
        assert kinds == {"delivery.expired", "delivery.unconfirmed"}

    _run(folder, body)


def test_an_expired_text_is_never_offered_even_before_it_is_swept(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        at.clock.advance(24 * 3600)
        assert await _ask(at) is None

    _run(folder, body)


def test_one_cause_makes_one_delivery(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("once"))
        with pytest.raises(Conflict):
            await _put(at, text("once"))
        assert len([e for e in at.events if e.kind == "delivery.created"]) == 1

    _run(folder, body)


def test_agents_with_open_deliveries_are_found(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent("tst"))
        await add_agent(at.store, agent("idle"))
        await _put(at, text("a"), text("b"), text("c", agent_id="tst"))
        assert sorted(await at.store.read(deliveries.agents_with_open)) == ["dev", "tst"]
        for _ in range(2):
            await _report(at, await _offer(at), S.CONFIRMED)
        assert await at.store.read(deliveries.agents_with_open) == ["tst"]

    _run(folder, body)


def test_a_verdict_on_an_older_connection_does_not_touch_a_newer_one(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent(epoch=5))
        late = replace(agent(epoch=4), client_version="late")
        await at.store.write(lambda tx: agents.set_liveness(tx, late))
        (known,) = await at.store.read(agents.load_all)
        assert known.epoch == 5

    _run(folder, body)
