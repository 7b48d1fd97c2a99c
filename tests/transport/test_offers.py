"""Offers over a real stream: refused for now, ready, silent couriers, hooks."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from orch.v1 import delivery_pb2 as d
from orch.v1 import heartbeat_pb2 as hb
from orch.v1 import messaging_pb2 as pb
from orch_server.storage import sweep
from tests.transport.harness import PATIENCE, Serving, Stream, fails, run, settles

Code = grpc.StatusCode
DEV = "atlas:developer"


async def _send(at: Serving, **more: Any) -> d.Delivery:
    request = pb.SendMessageRequest(targets=[DEV], **{"text": "hello", "plain": True, **more})
    return (await at.messaging.SendMessage(request, timeout=PATIENCE)).results[0].delivery


async def _get(at: Serving, delivery_id: str) -> d.Delivery:
    return (await at.messaging.GetDelivery(pb.GetDeliveryRequest(id=delivery_id))).delivery


async def _refuse(stream: Stream, reason: int = d.REFUSAL_REASON_AGENT_BUSY) -> d.DeliveryOffer:
    offer = (await stream.read()).offer
    await stream.report(offer, "REFUSED", reason=reason, detail="Not now.")
    assert (await stream.read()).HasField("report_ack")
    return offer


async def _hook(at: Serving, event: str, metadata: Any) -> None:
    request = hb.ReportHookEventRequest(event=event, agent_session_id="s1")
    await at.heartbeat.ReportHookEvent(request, metadata=metadata, timeout=PATIENCE)


def test_what_was_refused_for_now_comes_again_when_the_pane_is_ready(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _send(at)
        first = await _refuse(stream)
        shown = await _get(at, sent.id)
        assert (shown.state, shown.reason) == (
            d.DELIVERY_STATE_PENDING,
            d.REFUSAL_REASON_AGENT_BUSY,
        )
        await stream.send(ready=hb.PaneReady())
        again = (await stream.read()).offer
        assert again.delivery_id == first.delivery_id
        assert again.sequence > first.sequence

    run(folder, body)


def test_what_nobody_says_is_ready_comes_again_by_itself_and_at_last_at_once(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _send(at)
        for _ in range(2):
            await _refuse(stream)
            at.clock.advance(30)
            at.core.mailbox.wake(sent.agent_id)
        offer = (await stream.read()).offer
        assert offer.mode == d.DELIVERY_MODE_IMMEDIATE
        await stream.report(offer, "QUEUED_BY_AGENT")
        await stream.read()
        steps = [s.step for s in (await _get(at, sent.id)).steps]
        assert steps == ["created", "offered", "refused", "queued_by_agent"]

    run(folder, body)


def test_a_reason_of_a_newer_client_counts_as_a_refusal(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _send(at)
        offer = (await stream.read()).offer
        report = d.DeliveryReport(
            delivery_id=offer.delivery_id,
            sequence=offer.sequence,
            grant=offer.grant,
            state=d.DELIVERY_STATE_REFUSED,
        )
        report.reason = 77  # type: ignore[assignment]  # proto3 enums are open
        await stream.send(report=report)
        assert (await stream.read()).HasField("report_ack")
        shown = await _get(at, sent.id)
        assert (shown.state, shown.reason) == (d.DELIVERY_STATE_PENDING, 0)

    run(folder, body)


def test_what_is_refused_too_often_can_be_listed_as_dead(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _send(at)
        for _ in range(20):
            await _refuse(stream, d.REFUSAL_REASON_AGENT_EXITED)
            at.clock.advance(60)
            at.core.mailbox.wake(sent.agent_id)
        listed = await at.messaging.ListDeliveries(
            pb.ListDeliveriesRequest(state=d.DELIVERY_STATE_DEAD)
        )
        (dead,) = listed.deliveries
        assert (dead.id, dead.detail, dead.attempts) == (sent.id, "Not now.", 20)

    run(folder, body)


@pytest.mark.parametrize("reported", [None, "PASTED"])
def test_a_client_that_says_nothing_of_an_offer_gets_it_again(
    folder: Path, reported: str | None
) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await _send(at)
        offer = (await stream.read()).offer
        if reported:
            await stream.report(offer, reported)
            await stream.read()
        await at.core.mailbox._sweep()
        assert (await stream.beat(1)).HasField("ack")
        at.clock.advance(30)
        await at.core.mailbox._sweep()
        again = (await stream.read()).offer
        assert (again.sequence, again.delivery_id) == (offer.sequence, offer.delivery_id)
        assert again.tried_before
        await stream.report(again, "CONFIRMED")
        assert (await stream.read()).HasField("report_ack")

    run(folder, body)


def test_what_is_offered_while_the_sweep_reads_is_not_offered_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sweep has read is older than the offer, and says nothing of it."""
    served, has_read, go_on = sweep.agents_being_served, threading.Event(), threading.Event()

    def slow(*given: Any) -> Any:
        found = served(*given)
        has_read.set()
        assert go_on.wait(PATIENCE)
        return found

    async def body(at: Serving) -> None:
        stream, mailbox = await at.alive("developer", "%1"), at.core.mailbox
        monkeypatch.setattr(sweep, "agents_being_served", slow)
        sweeping = asyncio.create_task(mailbox._sweep())
        assert await asyncio.to_thread(has_read.wait, PATIENCE)
        await _send(at)
        assert (await stream.read()).HasField("offer")
        await settles(lambda: not mailbox._pumps)
        go_on.set()
        await sweeping
        await settles(lambda: mailbox._queue.empty() and not mailbox._pumps)
        assert (await stream.beat()).HasField("ack")

    run(folder, body)


def test_a_sweep_that_finds_nothing_writes_nothing(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        before = at.core.store.commits
        await at.core.mailbox._sweep()
        assert at.core.store.commits == before

    run(folder, body, loops=())


def test_the_sweep_ends_a_reply_that_never_comes(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _send(at, reply_patience=Duration(seconds=5))
        await stream.report((await stream.read()).offer, "CONFIRMED")
        await stream.read()
        assert not (await _get(at, sent.id)).HasField("reply_time")
        at.clock.advance(20)
        await at.core.mailbox._sweep()
        assert (await _get(at, sent.id)).HasField("reply_time")

    run(folder, body)


def test_a_reply_after_a_new_connection_is_still_taken(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _send(at, reply_patience=Duration(seconds=60))
        offer = (await stream.read()).offer
        await stream.report(offer, "CONFIRMED")
        await stream.read()
        again = await at.alive("developer", "%1")
        reply = d.DeliveryReply(
            delivery_id=sent.id, sequence=offer.sequence, grant=offer.grant, text="x" * 70_000
        )
        await again.send(reply=reply)
        assert (await again.beat()).HasField("ack")
        shown = await _get(at, sent.id)
        assert (len(shown.reply), shown.reply_complete) == (64 * 1024, False)

    run(folder, body)


@pytest.mark.parametrize("event", ["Stop", "SessionStart"])
def test_the_end_of_a_turn_lets_go_what_waits_for_it(folder: Path, event: str) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        mine = at.token("atlas", "developer")
        await _send(at)
        await _refuse(stream)
        await _hook(at, "PostToolUse", mine)
        await _hook(at, "UserPromptSubmit", mine)
        assert (await stream.beat()).HasField("ack")
        await _hook(at, event, mine)
        assert (await stream.read()).offer.text == "hello"
        told = await at.core.store.read(
            lambda db: db.execute_sql(
                "select session, actor, detail from event where kind = 'agent.hook' order by number"
            ).fetchall()
        )
        events = ("PostToolUse", "UserPromptSubmit", event)
        assert told == [("atlas", DEV, said) for said in events]

    run(folder, body)


def test_only_an_agents_own_hook_reports_and_only_words(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        mine = at.token("atlas", "developer")
        for other in (None, at.token("", "")):
            assert (await fails(_hook(at, "Stop", other))).code is Code.PERMISSION_DENIED
        for wrong in ("", "a b", "x" * 41, "\x1b", "Stop\n", "ümläut"):
            assert (await fails(_hook(at, wrong, mine))).fields == ("event",), wrong
        request = hb.ReportHookEventRequest(event="Stop", agent_session_id="x" * 201)
        error = await fails(at.heartbeat.ReportHookEvent(request, metadata=mine))
        assert error.fields == ("agent_session_id",)

    run(folder, body)


def test_a_hooks_report_that_tells_no_state_is_no_change_of_the_agent(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        watch = at.heartbeat.WatchAgents(hb.WatchAgentsRequest())
        await watch.read()
        await _hook(at, "PreCompact", at.token("atlas", "developer"))
        request = pb.SetDoNotDisturbRequest(target=DEV, enabled=True)
        await at.messaging.SetDoNotDisturb(request)
        change = await watch.read()
        assert change.agent.do_not_disturb
        watch.cancel()

    run(folder, body)


def test_ready_of_an_older_connection_is_refused(folder: Path) -> None:
    async def body(at: Serving) -> None:
        first = await at.alive("developer", "%1")
        connection = at.core.heartbeat.connection(first.welcome.agent_id)
        await at.alive("developer", "%1")
        with pytest.raises(Exception, match="replaced by a newer one"):
            await at.core.mailbox.ready(connection.agent_id, connection.epoch)

    run(folder, body)


def test_an_offer_that_ran_out_of_time_unheard_of_does_not_block_the_next(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        first = await _send(at, text="first", time_to_live=Duration(seconds=5))
        await _send(at, text="second")
        assert (await stream.read()).offer.text == "first"
        at.clock.advance(5)
        await at.core.mailbox._sweep()
        assert (await _get(at, first.id)).state == d.DELIVERY_STATE_UNCONFIRMED
        assert (await stream.read()).offer.text == "second"

    run(folder, body)


def test_what_waits_behind_a_withdrawn_text_does_not_wait_for_it(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        first = await _send(at, text="first")
        await _send(at, text="second")
        await _refuse(stream, d.REFUSAL_REASON_DIALOG_OPEN)
        await at.messaging.CancelDelivery(pb.CancelDeliveryRequest(id=first.id))
        assert (await stream.read()).offer.text == "second"

    run(folder, body)
