"""The mailbox in the store: one offer at a time, in order, and never twice on its own account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orch_server.core.delivery import (
    MAX_REFUSALS,
    NOT_NOW,
    Delivery,
    DeliveryMode,
    DeliveryState,
    NewDelivery,
    Priority,
    RefusalReason,
    Reply,
    Report,
)
from orch_server.core.errors import Conflict, NotFound, StaleEpoch
from orch_server.core.identity import Incarnation
from orch_server.storage import agents, alerts, claims, deliveries, history, sweep
from orch_server.storage.deliveries import Offered
from orch_server.storage.store import Transaction
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
        for most in (0.5, 1.0, 2.0, 4.0):
            offer = await _offer(at)
            numbers.append(offer.sequence)
            assert await _report(at, offer, S.REFUSED, detail="in copy mode") is S.PENDING
            assert await _backs_off(at, most)
            at.clock.advance(most)
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
        assert await _backs_off(at, 0.5)

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
        assert await at.store.write(sweep.sweep) == 0
        at.clock.advance(0.001)
        assert await at.store.write(sweep.sweep) == 2
        assert await at.store.write(sweep.sweep) == 0
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
        assert sorted(await at.store.read(sweep.agents_with_open)) == ["dev", "tst"]
        for _ in range(2):
            await _report(at, await _offer(at), S.CONFIRMED)
        assert await at.store.read(sweep.agents_with_open) == ["tst"]

    _run(folder, body)


def test_a_verdict_on_an_older_connection_does_not_touch_a_newer_one(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent(epoch=5))
        late = replace(agent(epoch=4), client_version="late")
        await at.store.write(lambda tx: agents.set_liveness(tx, late))
        (known,) = await at.store.read(agents.load_all)
        assert known.epoch == 5

    _run(folder, body)


BUSY = RefusalReason.AGENT_BUSY


async def _backs_off(at: Opened, most: float) -> bool:
    """Whether the next offer is to be made after a part of so many seconds."""
    again = await _ask(at)
    assert isinstance(again, datetime)
    return at.clock.now() <= again <= at.clock.now() + timedelta(seconds=most)


async def _refuse(at: Opened, offer: Offered, reason: RefusalReason) -> DeliveryState:
    given = Report(offer.delivery_id, offer.sequence, 1, S.REFUSED, f"It is {reason}.", reason)
    return await at.store.write(lambda tx: deliveries.record(tx, "dev", given))


async def _shown(at: Opened, delivery_id: str) -> Delivery:
    return await at.store.read(lambda db: history.get(db, delivery_id))


def _kinds(at: Opened, delivery_id: str) -> list[str]:
    return [e.kind.removeprefix("delivery.") for e in at.events if e.subject == delivery_id]


@pytest.mark.parametrize("reason", sorted(NOT_NOW))
def test_a_not_now_is_tried_again_later_and_never_counts(
    folder: Path, reason: RefusalReason
) -> None:
    async def body(at: Opened) -> None:
        (first,) = await _put(at, text("a", mode=DeliveryMode.TURN_BOUNDARY))
        for _ in range(MAX_REFUSALS + 5):
            assert await _refuse(at, await _offer(at), reason) is S.PENDING
            assert await _ask(at) == at.clock.now() + timedelta(seconds=30)
            at.clock.advance(30)
        shown = await _shown(at, first)
        assert (shown.reason, shown.detail) == (reason, f"It is {reason}.")
        assert shown.attempts == MAX_REFUSALS + 5

    _run(folder, body)


def test_the_same_wait_is_one_step_and_another_reason_is_a_new_one(folder: Path) -> None:
    async def body(at: Opened) -> None:
        (first,) = await _put(at, text("a", mode=DeliveryMode.TURN_BOUNDARY))
        for reason in (BUSY, BUSY, BUSY, RefusalReason.DIALOG_OPEN, RefusalReason.DIALOG_OPEN):
            await _refuse(at, await _offer(at), reason)
            at.clock.advance(30)
        assert _kinds(at, first) == ["created", "offered", "refused", "refused"]
        await at.store.write(lambda tx: deliveries.let_go(tx, "dev"))

    _run(folder, body)


def test_an_offer_that_ends_a_wait_is_a_step_again(folder: Path) -> None:
    async def body(at: Opened) -> None:
        (first,) = await _put(at, text("a"))
        await _refuse(at, await _offer(at), BUSY)
        await at.store.write(lambda tx: deliveries.ready(tx, "dev", 1))
        await _report(at, await _offer(at), S.CONFIRMED)
        assert _kinds(at, first) == ["created", "offered", "refused", "offered", "confirmed"]

    _run(folder, body)


def test_each_event_names_session_and_agent(folder: Path) -> None:
    async def body(at: Opened) -> None:
        gone, first = await _put(at, text("gone"), text("a", sender="atlas:pm"))
        await at.store.write(lambda tx: deliveries.cancel(tx, gone, "operator"))
        await at.store.write(lambda tx: deliveries.redrive(tx, gone, False, "operator"))
        await at.store.write(lambda tx: deliveries.cancel(tx, gone, "operator"))
        await _refuse(at, await _offer(at), BUSY)
        await at.store.write(lambda tx: deliveries.ready(tx, "dev", 1))
        await _report(at, await _offer(at), S.PASTED)
        at.clock.advance(25 * 3600)
        await at.store.write(sweep.sweep)
        told = [e for e in at.events if e.kind.startswith("delivery.")]
        assert {(e.session, e.agent) for e in told} == {("atlas", "dev")}
        actors = {e.kind: e.actor for e in told if e.subject == gone}
        assert actors["delivery.cancelled"] == actors["delivery.redriven"] == "operator"
        created = next(e for e in told if e.subject == first)
        assert (created.kind, created.actor) == ("delivery.created", "atlas:pm")

    _run(folder, body)


def test_a_busy_agent_gets_what_waits_for_idle_at_the_bound(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        offer = await _offer(at)
        assert offer.mode is DeliveryMode.WAIT_IDLE
        at.clock.advance(45)
        await _refuse(at, offer, BUSY)
        assert await _ask(at) == START + timedelta(seconds=60)
        at.clock.advance(14.999)
        assert isinstance(await _ask(at), datetime)
        at.clock.advance(0.001)
        assert (await _offer(at)).mode is DeliveryMode.IMMEDIATE

    _run(folder, body)


def test_what_is_refused_as_busy_after_the_bound_waits_like_any_other(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        at.clock.advance(60)
        await _refuse(at, await _offer(at), BUSY)
        assert await _ask(at) == at.clock.now() + timedelta(seconds=30)

    _run(folder, body)


@pytest.mark.parametrize("mode", [DeliveryMode.TURN_BOUNDARY, DeliveryMode.IMMEDIATE])
def test_the_other_modes_have_no_bound(folder: Path, mode: DeliveryMode) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a", mode=mode))
        at.clock.advance(3600)
        assert (await _offer(at)).mode is mode

    _run(folder, body)


def test_the_bound_counts_from_not_before(folder: Path) -> None:
    async def body(at: Opened) -> None:
        later = START + timedelta(hours=1)
        await _put(at, text("a", not_before=later))
        assert await _ask(at) == later
        at.clock.advance(3600 + 59)
        offer = await _offer(at)
        assert offer.mode is DeliveryMode.WAIT_IDLE

    _run(folder, body)


def test_a_pane_that_is_ready_gets_what_waits_for_it_at_once(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        await _refuse(at, await _offer(at), RefusalReason.DIALOG_OPEN)
        assert isinstance(await _ask(at), datetime)
        await at.store.write(lambda tx: deliveries.ready(tx, "dev", 1))
        assert (await _offer(at)).text == "a"
        with pytest.raises(StaleEpoch):
            await at.store.write(lambda tx: deliveries.ready(tx, "dev", 2))

    _run(folder, body)


def test_ready_does_not_shorten_the_back_off_of_a_real_refusal(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        await _refuse(at, await _offer(at), RefusalReason.TMUX_FAILED)
        await at.store.write(lambda tx: deliveries.ready(tx, "dev", 1))
        assert await _backs_off(at, 0.5)

    _run(folder, body)


def test_what_was_overtaken_while_it_waited_is_tried_after_that(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        await _refuse(at, await _offer(at), BUSY)
        await _put(at, text("urgent", Priority.HIGH))
        urgent = await _offer(at)
        assert urgent.text == "urgent"
        await _report(at, urgent, S.CONFIRMED)
        assert (await _offer(at)).text == "a"

    _run(folder, body)


def test_a_used_number_is_replaced_at_once_but_not_for_ever(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"))
        await _refuse(at, await _offer(at), RefusalReason.NUMBER_USED)
        await _refuse(at, await _offer(at), RefusalReason.NUMBER_USED)
        assert await _backs_off(at, 0.5)

    _run(folder, body)


@pytest.mark.parametrize("reason", [RefusalReason.PANE_GONE, RefusalReason.UNSET])
def test_what_is_refused_too_often_is_dead(folder: Path, reason: RefusalReason) -> None:
    async def body(at: Opened) -> None:
        first, second = await _put(at, text("a"), text("b"))
        for n in range(MAX_REFUSALS):
            at.clock.advance(60)
            state = await _refuse(at, await _offer(at), reason)
            assert state is (S.DEAD if n == MAX_REFUSALS - 1 else S.PENDING)
        assert _kinds(at, first)[-1] == "dead"
        assert (await _offer(at)).delivery_id == second

    _run(folder, body)


def test_what_no_program_can_read_is_dead_at_once(folder: Path) -> None:
    async def body(at: Opened) -> None:
        (only,) = await _put(at, text("a"))
        assert await _refuse(at, await _offer(at), RefusalReason.UNREADABLE) is S.DEAD
        raised, _ = await at.store.read(lambda db: alerts.list_page(db, "", 10, ""))
        assert [(a.kind, a.subject) for a in raised] == [("dead-letter", "atlas:dev")]
        assert f"redrive {only}" in raised[0].text

    _run(folder, body)


def test_what_is_for_later_lets_others_pass_and_a_priority_wakes_in_time(folder: Path) -> None:
    async def body(at: Opened) -> None:
        soon = START + timedelta(seconds=5)
        await _put(at, text("later", Priority.HIGH, not_before=soon), text("now"))
        offer = await _offer(at)
        assert offer.text == "now"
        await _refuse(at, offer, RefusalReason.COPY_MODE)
        assert await _ask(at) == soon
        at.clock.advance(5)
        assert (await _offer(at)).text == "later"

    _run(folder, body)


def test_a_message_has_its_header_above_the_text(folder: Path) -> None:
    async def body(at: Opened) -> None:
        patience = timedelta(seconds=30)
        await _put(at, text("hello", header="[message]", reply_patience=patience))
        offer = await _offer(at)
        assert (offer.text, offer.reply_patience) == ("[message]\nhello", patience)

    _run(folder, body)


async def _mute(at: Opened, on: bool) -> None:
    await at.store.write(lambda tx: agents.set_do_not_disturb(tx, [agent()], on, "operator"))


def test_while_an_agent_is_not_to_be_disturbed_nothing_new_is_offered(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a"), text("b"))
        out = await _offer(at)
        await _mute(at, True)
        again = await _offer(at)  # it is out already: its courier must tell what became of it
        assert again.sequence == out.sequence
        await _report(at, out, S.CONFIRMED)
        assert await _ask(at) is None
        await _mute(at, False)
        assert (await _offer(at)).text == "b"

    _run(folder, body)


def test_only_what_waits_can_be_withdrawn(folder: Path) -> None:
    async def body(at: Opened) -> None:
        first, second = await _put(at, text("a"), text("b"))
        await _offer(at)
        with pytest.raises(Conflict, match="courier's hands"):
            await at.store.write(lambda tx: deliveries.cancel(tx, first, "operator"))
        await at.store.write(lambda tx: deliveries.cancel(tx, second, "operator"))
        assert await _state(at, second) is S.CANCELLED
        with pytest.raises(Conflict, match="already cancelled"):
            await at.store.write(lambda tx: deliveries.cancel(tx, second, "operator"))

    _run(folder, body)


async def _ended(at: Opened, state: DeliveryState) -> str:
    (made,) = await _put(at, text("a", time_to_live=timedelta(hours=2)))
    offer = await _offer(at)
    sql = "update delivery set state = ?, refusals = 7 where id = ?"
    await at.store.write(lambda tx: tx.execute(sql, (state, made)))
    at.clock.advance(3 * 3600)
    last.append(offer)
    return made


last: list[Offered] = []


@pytest.mark.parametrize("state", [S.DEAD, S.EXPIRED, S.CANCELLED, S.UNCONFIRMED])
def test_what_ended_without_effect_is_redriven_with_all_its_time(
    folder: Path, state: DeliveryState
) -> None:
    async def body(at: Opened) -> None:
        made = await _ended(at, state)
        if state is S.UNCONFIRMED:
            with pytest.raises(Conflict, match="--force"):
                await at.store.write(lambda tx: deliveries.redrive(tx, made, False, "operator"))
        await at.store.write(lambda tx: deliveries.redrive(tx, made, True, "operator"))
        assert await _report(at, last[-1], S.CONFIRMED) is S.PENDING  # late: it counts no more
        offer = await _offer(at)
        assert offer.sequence > last[-1].sequence
        assert (offer.tried_before, offer.mode) == (False, DeliveryMode.WAIT_IDLE)
        shown = await _shown(at, made)
        assert shown.expires_at == at.clock.now() + timedelta(hours=2)
        assert await _refuse(at, offer, RefusalReason.PANE_GONE) is S.PENDING
        assert await _backs_off(at, 0.5)

    _run(folder, body)


@pytest.mark.parametrize("state", [S.PENDING, S.OFFERED, S.PASTED, S.CONFIRMED, S.QUEUED_BY_AGENT])
def test_what_is_on_its_way_or_has_arrived_is_not_redriven(
    folder: Path, state: DeliveryState
) -> None:
    async def body(at: Opened) -> None:
        made = await _ended(at, state)
        with pytest.raises(Conflict):
            await at.store.write(lambda tx: deliveries.redrive(tx, made, True, "operator"))
        assert await _state(at, made) is state

    _run(folder, body)


def test_a_reply_is_kept_once_and_only_when_it_was_asked_for(folder: Path) -> None:
    async def body(at: Opened) -> None:
        asked, unasked = await _put(at, text("a", reply_patience=timedelta(seconds=9)), text("b"))
        first = await _offer(at)
        await _report(at, first, S.CONFIRMED)
        assert not (await _shown(at, asked)).over
        for reply in (
            Reply(asked, first.sequence + 1, "of another offer", True),
            Reply(asked, first.sequence, "well\ndone", True),
            Reply(asked, first.sequence, "twice", True),
        ):
            await at.store.write(lambda tx, r=reply: deliveries.record_reply(tx, "dev", 1, r))
        shown = await _shown(at, asked)
        assert (shown.reply, shown.reply_complete, shown.over) == ("well\ndone", True, True)
        assert [s.step for s in shown.steps][-1] == "replied"
        second = await _offer(at)
        await _report(at, second, S.CONFIRMED)
        late = Reply(unasked, second.sequence, "nobody asked", True)
        await at.store.write(lambda tx: deliveries.record_reply(tx, "dev", 1, late))
        assert (await _shown(at, unasked)).reply == ""
        with pytest.raises(StaleEpoch):
            await at.store.write(lambda tx: deliveries.record_reply(tx, "dev", 7, late))

    _run(folder, body)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (deliveries._OUT, "delivery_out"),
        (deliveries._HEAD, "delivery_waiting"),
        (deliveries._NEXT, "delivery_waiting"),
        (deliveries._READY, "delivery_refused"),
        (claims._OUT, "delivery_out"),
        (claims._RUN, "delivery_waiting"),
        (sweep._AGENTS, "delivery_waiting"),
        (sweep._LATELY, "delivery_out"),
        (sweep._CLAIMED, "delivery_out"),
        (sweep._SILENT, "delivery_replying"),
        (history._STEPS, "event_delivery"),
        (f"{history._SELECT} where d.state = 'DEAD' order by d.number desc", "delivery_dead"),
        (
            f"{history._SELECT} where d.agent_id = ? order by d.number desc limit ?",
            "delivery_history",
        ),
    ],
)
def test_what_is_asked_often_reads_no_history(folder: Path, query: str, index: str) -> None:
    async def body(at: Opened) -> None:
        rows = await at.store.write(lambda tx: _plan(tx, query))
        plan = [row[3] for row in rows]
        assert any(index in line for line in plan), plan
        assert not any(line in ("SCAN delivery", "SCAN d", "SCAN event") for line in plan), plan

    _run(folder, body)


def _plan(tx: Transaction, query: str) -> list[tuple[Any, ...]]:
    """The plan; what is not given is NULL."""
    numbered = query.count("?") if "?1" not in query else 2
    return tx.execute(f"explain query plan {query}", (None,) * numbered)
