"""Messages over a real connection: sent, offered, answered, withdrawn, claimed, found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import delivery_pb2 as d
from orch.v1 import messaging_pb2 as pb
from orch.v1 import session_state_pb2 as state
from tests.transport.harness import PATIENCE, START, Serving, Stream, fails, run

Code = grpc.StatusCode
DEV = "atlas:developer"


async def _send(
    at: Serving, *targets: str, metadata: Any = None, **more: Any
) -> pb.SendMessageResponse:
    request = pb.SendMessageRequest(targets=targets, **{"text": "hello", **more})
    answer = await at.messaging.SendMessage(request, metadata=metadata, timeout=PATIENCE)
    assert isinstance(answer, pb.SendMessageResponse)
    return answer


async def _one(at: Serving, target: str = DEV, **more: Any) -> d.Delivery:
    (result,) = (await _send(at, target, **more)).results
    assert result.error == ""
    return result.delivery


async def _get(at: Serving, delivery_id: str) -> d.Delivery:
    answer = await at.messaging.GetDelivery(pb.GetDeliveryRequest(id=delivery_id))
    return answer.delivery


async def _list(at: Serving, **wanted: Any) -> list[d.Delivery]:
    answer = await at.messaging.ListDeliveries(pb.ListDeliveriesRequest(**wanted))
    return list(answer.deliveries)


async def _taken(stream: Stream) -> d.DeliveryOffer:
    """The next offer, reported as confirmed."""
    offer = (await stream.read()).offer
    await stream.report(offer, "CONFIRMED")
    assert (await stream.read()).HasField("report_ack")
    return offer


def test_a_message_reaches_its_agent_with_a_header_and_tells_its_story(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _one(at, metadata=at.token("atlas", "pm"))
        assert sent.header == f"[message {sent.id[:8]} from atlas:pm]"
        assert (sent.sender, sent.text, sent.state) == ("atlas:pm", "hello", 1)
        assert sent.origin.startswith("message:")
        offer = (await stream.read()).offer
        assert offer.text == f"{sent.header}\nhello"
        assert (offer.mode, offer.HasField("reply_patience")) == (d.DELIVERY_MODE_WAIT_IDLE, False)
        await stream.report(offer, "PASTED")
        await stream.read()
        await stream.report(offer, "CONFIRMED", detail="Taken.")
        await stream.read()
        shown = await _get(at, sent.id[:6])
        assert [s.step for s in shown.steps] == ["created", "offered", "pasted", "confirmed"]
        assert shown.steps[0].actor == "atlas:pm"
        assert shown.steps[-1].detail == shown.detail == "Taken."
        assert (shown.state, shown.attempts) == (d.DELIVERY_STATE_CONFIRMED, 1)
        assert shown.expire_time.ToDatetime() - shown.create_time.ToDatetime() == timedelta(days=1)

    run(folder, body)


def test_a_plain_message_has_no_header_and_the_operator_is_called_so(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _one(at, plain=True)
        assert (sent.header, sent.sender) == ("", "operator")
        assert (await stream.read()).offer.text == "hello"

    run(folder, body)


def test_each_target_has_a_result_of_its_own(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await at.alive("tester", "%2")
        answer = await _send(
            at, DEV, "atlas:nobody", "@session:atlas", DEV, "@role:x", text="a\x1b"
        )
        good = {r.target: r.delivery.role for r in answer.results if not r.error}
        assert good == {DEV: "developer", "@session:atlas": "tester"}
        bad = {r.target: r.error for r in answer.results if r.error}
        assert list(bad) == ["atlas:nobody", "@role:x"]
        assert all("atlas:developer, atlas:tester" in said for said in bad.values())
        assert not any(r.HasField("delivery") for r in answer.results if r.error)
        assert answer.removed_characters == 1
        assert len(await _list(at)) == 2

    run(folder, body)


def test_a_call_that_reaches_nobody_fails(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        error = await fails(_send(at, "atlas:nobody"))
        assert error.code is Code.NOT_FOUND
        error = await fails(_send(at, "atlas:nobody", "@some", "@role:x"))
        assert error.code is Code.NOT_FOUND
        assert "None of the 3 targets" in error.message
        assert await _list(at) == []

    run(folder, body)


def test_groups_leave_out_the_sender_the_ended_and_those_without_a_pane(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await at.alive("tester", "%2")
        await at.alive("developer", "%3", session="other")
        gone = await at.alive("gone", "%4")
        await gone.goodbye("PANE_ENDED")
        mine = at.token("atlas", "developer")
        await _disturb(at, False, "", at.token("atlas", "paneless"))  # makes it known

        async def meant(target: str) -> list[str]:
            answer = await _send(at, target, metadata=mine)
            return sorted(f"{r.delivery.session}:{r.delivery.role}" for r in answer.results)

        assert await meant("@session") == ["atlas:tester"]
        assert await meant("@session:other") == ["other:developer"]
        assert await meant("@role:developer") == ["other:developer"]
        assert await meant("@all") == ["atlas:tester", "other:developer"]
        for nobody in ("@role:gone", "@session:nowhere"):
            error = await fails(_send(at, nobody))
            assert error.code is Code.NOT_FOUND
            assert "atlas:developer" in error.message
        error = await fails(_send(at, "@session"))
        assert "use @session:NAME" in error.message
        for wrong in ("@", "@al", "@session:", "@role:", "@role", "@all:x"):
            assert (await fails(_send(at, wrong))).fields == ("targets",), wrong

    run(folder, body)


def test_a_repeat_with_the_same_request_id_sends_nothing(folder: Path) -> None:
    async def body(at: Serving) -> None:
        first = await at.alive("developer", "%1")
        await at.alive("tester", "%2")
        both = await asyncio.gather(
            *(_send(at, "@session:atlas", request_id="r1", text="once") for _ in range(4))
        )
        ids = {tuple(r.delivery.id for r in answer.results) for answer in both}
        assert len(ids) == 1
        await _taken(first)
        await first.goodbye("PANE_ENDED")  # it would not be meant any more
        again = await _send(at, "@session:atlas", request_id="r1", text="once")
        assert tuple(r.delivery.id for r in again.results) in ids
        assert len(await _list(at)) == 2

    run(folder, body)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": "\x1b"}, "text"),
        ({"text": "x" * (256 * 1024 + 1)}, "text"),
        ({"template": "standup"}, "text"),
        ({"parameters": {"team": "a"}}, "parameters"),
        ({"template": "standup", "text": ""}, "parameters"),
        ({"time_to_live": Duration(seconds=0)}, "time_to_live"),
        ({"time_to_live": Duration(seconds=30 * 86400 + 1)}, "time_to_live"),
        ({"time_to_live": Duration(seconds=2**62)}, "time_to_live"),
        ({"reply_patience": Duration(seconds=3601)}, "reply_patience"),
        ({"reply_patience": Duration(seconds=-1)}, "reply_patience"),
        ({"not_before": Timestamp(seconds=2**62)}, "not_before"),
        ({"not_before": Timestamp(seconds=int(START.timestamp()) + 367 * 86400)}, "not_before"),
        ({"mode": 77}, "mode"),
        ({"priority": 77}, "priority"),
        ({"request_id": "x" * 201}, "request_id"),
    ],
)
def test_a_wrong_message_names_the_field(folder: Path, wrong: dict[str, Any], field: str) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        error = await fails(_send(at, DEV, **wrong))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, (field,)), error.message

    run(folder, body)


def test_without_a_target_nothing_is_sent(folder: Path) -> None:
    async def body(at: Serving) -> None:
        assert (await fails(_send(at))).fields == ("targets",)
        many = [f"a:{n}" for n in range(1001)]
        assert (await fails(_send(at, *many))).fields == ("targets",)

    run(folder, body)


def test_the_largest_text_fits_and_a_message_to_many_can_be_answered(folder: Path) -> None:
    async def body(at: Serving) -> None:
        for n in range(20):
            await at.alive(f"agent{n}", f"%{n}")
        answer = await _send(at, "@all", text="x" * 256 * 1024)
        assert len(answer.results) == 20
        assert len(answer.results[0].delivery.text) == 256 * 1024
        assert len(await _list(at)) < 20  # the page ended early

    run(folder, body)


def test_a_template_is_filled(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        at.settings.templates.mkdir()
        (at.settings.templates / "hi.txt").write_text("Hello {name}!")
        sent = await _one(at, text="", template="hi", parameters={"name": "{name} \x07"})
        assert sent.text == "Hello {name} !"
        listed = (await at.messaging.ListTemplates(pb.ListTemplatesRequest())).templates
        assert [t.name for t in listed] == [
            "briefing",
            "hi",
            "standup",
            "status-request",
            "wrap-up",
        ]
        assert (listed[1].own, list(listed[1].parameters)) == (True, ["name"])
        error = await fails(_send(at, DEV, text="", template="none"))
        assert error.code is Code.NOT_FOUND

    run(folder, body)


def test_priority_mode_and_time_are_kept(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        later = Timestamp(seconds=int(START.timestamp()) + 60)
        sent = await _one(
            at,
            not_before=later,
            time_to_live=Duration(seconds=90),
            priority=d.DELIVERY_PRIORITY_HIGH,
            mode=d.DELIVERY_MODE_IMMEDIATE,
            reply_patience=Duration(seconds=7),
        )
        assert (sent.priority, sent.mode) == (2, 3)
        assert sent.not_before == later
        assert sent.expire_time.seconds == later.seconds + 90
        assert (await stream.beat()).HasField("ack")  # not offered yet
        at.clock.advance(60)
        at.core.mailbox.wake(sent.agent_id)
        offer = (await stream.read()).offer
        assert (offer.mode, offer.reply_patience.seconds) == (3, 7)

    run(folder, body)


async def _watched(watch: Any) -> AsyncIterator[d.Delivery]:
    async for change in watch:
        yield change.delivery


def test_a_watch_shows_each_change_and_ends_with_the_last_reply(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        asked = await _one(at, reply_patience=Duration(seconds=30))
        other = await _one(at)
        watch = at.messaging.WatchDeliveries(
            pb.WatchDeliveriesRequest(ids=[asked.id, other.id[:8]]), timeout=PATIENCE
        )
        seen = _watched(watch)
        assert {(await anext(seen)).id, (await anext(seen)).id} == {asked.id, other.id}
        offer = await _taken(stream)
        await _taken(stream)
        await stream.send(
            reply=d.DeliveryReply(
                delivery_id=asked.id,
                sequence=offer.sequence,
                grant=99,
                text="I \x1b[31mam\r\nwell",
                complete=True,
            )
        )
        states = [change async for change in seen]
        last = {change.id: change for change in states}
        assert last[other.id].state == last[asked.id].state == d.DELIVERY_STATE_CONFIRMED
        assert (last[asked.id].reply, last[asked.id].reply_complete) == ("I [31mam\nwell", True)
        assert last[asked.id].HasField("reply_time")
        assert await watch.code() is Code.OK

    run(folder, body)


def test_a_watch_ends_when_what_it_watches_is_deleted(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _one(at)
        watch = at.messaging.WatchDeliveries(pb.WatchDeliveriesRequest(ids=[sent.id]))
        await watch.read()
        await stream.read()  # the offer
        await stream.goodbye("PANE_ENDED")
        await at.state.DeleteSession(state.DeleteSessionRequest(name="atlas"))
        error = await Stream(watch).error()
        assert error.code is Code.NOT_FOUND

    run(folder, body)


def test_a_message_that_waits_can_be_withdrawn_and_sent_after_all(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        first, second = await _one(at, text="first"), await _one(at, text="second")
        offer = (await stream.read()).offer
        cancel = at.messaging.CancelDelivery
        error = await fails(cancel(pb.CancelDeliveryRequest(id=first.id)))
        assert error.code is Code.FAILED_PRECONDITION
        done = (await cancel(pb.CancelDeliveryRequest(id=second.id))).delivery
        assert (done.state, done.detail) == (d.DELIVERY_STATE_CANCELLED, "Withdrawn by operator.")
        assert done.steps[-1].actor == "operator"
        await stream.report(offer, "CONFIRMED")
        await stream.read()
        redrive = at.messaging.RedriveDelivery
        error = await fails(redrive(pb.RedriveDeliveryRequest(id=first.id, force=True)))
        assert error.code is Code.FAILED_PRECONDITION
        again = (await redrive(pb.RedriveDeliveryRequest(id=second.id))).delivery
        assert again.steps[-1].step == "redriven"
        assert (await stream.read()).offer.delivery_id == second.id

    run(folder, body)


def test_what_may_have_arrived_is_sent_again_only_with_force(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        sent = await _one(at)
        offer = (await stream.read()).offer
        await stream.report(offer, "UNCONFIRMED")
        await stream.read()
        redrive = at.messaging.RedriveDelivery
        error = await fails(redrive(pb.RedriveDeliveryRequest(id=sent.id)))
        assert (error.code, "--force" in error.message) == (Code.FAILED_PRECONDITION, True)
        await redrive(pb.RedriveDeliveryRequest(id=sent.id, force=True))
        again = (await stream.read()).offer
        assert again.sequence > offer.sequence
        assert not again.tried_before

    run(folder, body)


async def _claim(at: Serving, metadata: Any, hook: str = "Stop", most: int = 10_000) -> Any:
    request = pb.ClaimDeliveriesRequest(max_bytes=most, hook_event=hook)
    return (await at.messaging.ClaimDeliveries(request, metadata=metadata)).deliveries


async def _busy(stream: Stream) -> d.DeliveryOffer:
    """The next offer, refused since the agent works."""
    offer = (await stream.read()).offer
    await stream.report(offer, "REFUSED", reason=d.REFUSAL_REASON_AGENT_BUSY, detail="Busy.")
    assert (await stream.read()).HasField("report_ack")
    return offer


def test_the_agents_own_hook_takes_what_waits_for_the_end_of_its_turn(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        mine = at.token("atlas", "developer")
        turn = {"mode": d.DELIVERY_MODE_TURN_BOUNDARY}
        first = await _one(at, text="first", **turn)
        await _busy(stream)
        second, third = await _one(at, text="second", **turn), await _one(at, text="third")
        claimed = await _claim(at, mine)
        assert [c.text for c in claimed] == ["first", "second"]
        assert {c.state for c in claimed} == {d.DELIVERY_STATE_OFFERED}
        assert claimed[0].header == first.header
        assert len(await _claim(at, mine)) == 0
        await at.messaging.AcknowledgeClaim(
            pb.AcknowledgeClaimRequest(ids=[first.id, second.id]), metadata=mine
        )
        assert (await _get(at, second.id)).detail == "Taken by the agent's own hook."
        assert (await stream.read()).offer.delivery_id == third.id

    run(folder, body)


def test_a_claim_at_the_start_of_a_session_also_wakes_the_agent(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        mine = at.token("atlas", "developer")
        sent = await _one(at, mode=d.DELIVERY_MODE_TURN_BOUNDARY)
        await _busy(stream)
        (claimed,) = await _claim(at, mine, "SessionStart")
        assert claimed.id == sent.id
        await at.messaging.AcknowledgeClaim(
            pb.AcknowledgeClaimRequest(ids=[sent.id]), metadata=mine
        )
        offer = (await stream.read()).offer
        assert offer.text == (
            "Go on with what was handed to you at the start of this session (message"
            f" {sent.id[:8]})."
        )
        woken = await _get(at, offer.delivery_id)
        assert (woken.origin, woken.header) == (f"wake:{sent.id}", "")
        assert len(await _claim(at, mine, "SessionStart")) == 0
        assert len(await _list(at)) == 2

    run(folder, body)


def test_only_an_agent_claims_and_only_sensibly(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        mine = at.token("atlas", "developer")
        assert await _claim(at, at.token("atlas", "new")) == []  # it is known from now on
        for other in (None, at.token("", "")):
            assert (await fails(_claim(at, other))).code is Code.PERMISSION_DENIED
            request = pb.AcknowledgeClaimRequest(ids=["a"])
            acknowledging = at.messaging.AcknowledgeClaim(request, metadata=other)
            assert (await fails(acknowledging)).code is Code.PERMISSION_DENIED
        assert (await fails(_claim(at, mine, most=0))).fields == ("max_bytes",)
        assert (await fails(_claim(at, mine, hook="a b"))).fields == ("hook_event",)
        acknowledging = at.messaging.AcknowledgeClaim(pb.AcknowledgeClaimRequest(), metadata=mine)
        assert (await fails(acknowledging)).fields == ("ids",)

    run(folder, body)


async def _disturb(at: Serving, on: bool, target: str = DEV, metadata: Any = None) -> list[str]:
    request = pb.SetDoNotDisturbRequest(target=target, enabled=on)
    answer = await at.messaging.SetDoNotDisturb(request, metadata=metadata)
    return list(answer.agents)


def test_what_is_held_back_waits_and_comes_in_order(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        mine = at.token("atlas", "developer")
        assert await _disturb(at, True, "", mine) == [DEV]
        assert (await at.agent(DEV)).do_not_disturb
        for n in range(3):
            await _one(at, text=f"{n}", plain=True, mode=d.DELIVERY_MODE_TURN_BOUNDARY)
        assert len(await _claim(at, mine)) == 0
        again = await at.alive("developer", "%1")  # it survives a new connection
        assert (await at.agent(DEV)).do_not_disturb
        assert (await again.beat()).HasField("ack")
        assert await _disturb(at, False) == [DEV]
        assert [(await _taken(again)).text for _ in range(3)] == ["0", "1", "2"]
        assert stream is not again

    run(folder, body)


def test_do_not_disturb_outlives_the_server_and_reaches_groups(folder: Path) -> None:
    async def first(at: Serving) -> None:
        await at.alive("developer", "%1")
        await at.alive("tester", "%2")
        assert await _disturb(at, True, "@session:atlas") == [DEV, "atlas:tester"]
        assert (await fails(_disturb(at, True, ""))).fields == ("target",)

    async def second(at: Serving) -> None:
        assert (await at.agent("atlas:tester")).do_not_disturb

    run(folder, first)
    run(folder, second)


def test_the_history_is_searched(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await at.alive("tester", "%2")
        await _one(at, text="deploy the green build")
        await _one(at, "atlas:tester", text="test the build")
        assert [m.text for m in await _list(at, search="build deploy")] == [
            "deploy the green build"
        ]
        assert len(await _list(at, search='build" OR *')) == 0
        assert [m.role for m in await _list(at, search="operator")] == ["tester", "developer"]
        assert len(await _list(at, agent=DEV)) == 1
        assert len(await _list(at, state=d.DELIVERY_STATE_DEAD)) == 0
        for wanted in ({"agent": "atlas:nobody"}, {"agent": "zz"}):
            request = pb.ListDeliveriesRequest(**wanted)
            error = await fails(at.messaging.ListDeliveries(request))
            assert error.code is Code.NOT_FOUND

    run(folder, body)
