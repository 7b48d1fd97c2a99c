"""Credit: whose texts are held, until when, and in which order they are let go."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import agent_pb2, delivery_pb2, messaging_pb2, supervision_pb2
from orch_server.core.agent_state import AgentState, EvidenceSource, HookReport, Observation
from orch_server.core.clock import ManualClock
from orch_server.core.credit import CreditHold
from orch_server.core.errors import StoreUnavailable
from orch_server.storage import credit as table
from tests.transport.harness import START, fails, serving
from tests.transport.overseen import SLOW, Actor, Fleet, oversee

LIMIT = "You've hit your limit · resets 2pm (UTC)"
TWO = datetime(2026, 11, 21, 14, tzinfo=START.tzinfo)


async def _send(fleet: Fleet, *targets: str) -> None:
    request = messaging_pb2.SendMessageRequest(targets=targets, text="the build?")
    await fleet.at.messaging.SendMessage(request)
    await fleet.settled()


async def _holds(fleet: Fleet) -> dict[str, supervision_pb2.CreditHold]:
    found = await fleet.stub.ListCreditHolds(supervision_pb2.ListCreditHoldsRequest())
    return {hold.credential: hold for hold in found.holds}


async def _minutes_left(fleet: Fleet, credential: str) -> float:
    end = (await _holds(fleet))[credential].end_time.ToDatetime(START.tzinfo)
    return (end - fleet.at.clock.now()) / timedelta(minutes=1)


async def _limited(fleet: Fleet, actor: Actor, detail: str = "limit reached") -> None:
    await actor.shows("USAGE_LIMITED", detail=detail)
    await fleet.looks()


def _time(at: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(at)
    return found


def test_a_limit_holds_all_texts_for_its_account_and_no_others(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        mate = await fleet.agent("mate", "WORKING", session="other")
        paid = await fleet.agent("paid", "WORKING", credential="team")
        codex = await fleet.agent("codex", "WORKING", kind="codex")
        await _limited(fleet, dev, LIMIT)
        await _send(fleet, "atlas:dev", "other:mate", "atlas:paid", "atlas:codex")
        assert [len(one.got) for one in (dev, mate, paid, codex)] == [0, 0, 1, 1]
        hold = (await _holds(fleet))["claude@elsewhere"]
        assert hold.end_time.ToDatetime(START.tzinfo) == TWO
        assert (hold.reset_known, hold.source, hold.detail) == (True, "atlas:dev", LIMIT)
        assert sorted(agent.role for agent in hold.agents) == ["dev", "mate"]
        shown = await fleet.at.agent("other:mate")
        assert shown.HasField("hold_end_time")
        assert not (await fleet.at.agent("atlas:paid")).HasField("hold_end_time")

    oversee(folder, body)


def test_after_the_reset_they_go_on_one_after_the_other(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        team = [await fleet.agent(f"dev{n}", "WORKING") for n in range(3)]
        team.sort(key=lambda one: one.id)
        await _limited(fleet, team[1], LIMIT)
        await _send(fleet, "@session:atlas")
        await fleet.minutes(119)
        assert [len(one.got) for one in team] == [0, 0, 0]
        await fleet.minutes(1)
        assert [len(one.got) for one in team] == [1, 0, 0]
        assert await _holds(fleet) == {}
        await fleet.passes(4)
        assert [len(one.got) for one in team] == [1, 0, 0]
        await fleet.passes(1)
        assert [len(one.got) for one in team] == [1, 1, 0]
        await fleet.passes(5)
        assert [len(one.got) for one in team] == [1, 1, 1]

    oversee(folder, body)


def test_the_same_limit_said_again_between_two_looks_holds_the_account_again(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING", kind="codex")
        await dev.shows("USAGE_LIMITED", detail="limit reached", context=1)
        await fleet.looks()
        await fleet.minutes(15)
        await dev.shows("USAGE_LIMITED", detail="limit reached", context=1)  # a new stream, perhaps
        await fleet.looks()
        assert await _holds(fleet) == {}
        fleet.at.clock.advance(1)
        await dev.shows("USAGE_LIMITED", detail="limit reached", context=2)
        await fleet.looks()
        assert await _minutes_left(fleet, "codex@elsewhere") == 30

    oversee(folder, body)


def test_a_limit_without_a_time_is_guessed_and_doubled_while_it_comes_back(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        for minutes in (15, 30, 60, 120):
            await _limited(fleet, dev)
            assert await _minutes_left(fleet, "claude@elsewhere") == minutes
            assert not (await _holds(fleet))["claude@elsewhere"].reset_known
            await fleet.minutes(minutes)
            assert await _holds(fleet) == {}
            await dev.shows("WORKING")
            await fleet.minutes(9)
        await fleet.minutes(1)
        await _limited(fleet, dev)
        assert await _minutes_left(fleet, "claude@elsewhere") == 15

    oversee(folder, body)


def test_a_hold_is_one_alert_whatever_becomes_known_of_it(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev, mate = await fleet.agent("dev", "WORKING"), await fleet.agent("mate", "WORKING")
        await _limited(fleet, dev)
        await fleet.minutes(14)
        await _limited(fleet, mate, LIMIT)
        assert (await _holds(fleet))["claude@elsewhere"].reset_known
        await fleet.minutes(20)
        await _limited(fleet, dev, LIMIT.replace("2pm", "3pm"))
        assert await fleet.alerts() == [("usage-limited", "claude@elsewhere")]
        (alert,) = (await fleet.stub.ListAlerts(supervision_pb2.ListAlertsRequest())).alerts
        assert alert.suppressed == 0

    oversee(folder, body)


def test_a_person_holds_and_releases_an_account(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        until = _time(fleet.at.clock.now() + timedelta(hours=3))
        request = supervision_pb2.HoldCreditRequest(credential="atlas:dev", end_time=until)
        hold = (await fleet.stub.HoldCredit(request)).hold
        assert (hold.credential, hold.source) == ("claude@elsewhere", "operator")
        assert [agent.role for agent in hold.agents] == ["dev"]
        await _send(fleet, "atlas:dev")
        await fleet.minutes(5)
        assert dev.got == []
        assert (await fleet.counts()).no_credit == 1
        release = supervision_pb2.ReleaseCreditRequest(credential="claude@elsewhere")
        await fleet.stub.ReleaseCredit(release)
        await fleet.looks()
        assert len(dev.got) == 1
        assert (await fails(fleet.stub.ReleaseCredit(release))).reason == "NOT_FOUND"
        assert await fleet.alerts() == []

    oversee(folder, body)


def test_a_release_by_hand_forgets_what_the_screens_have_said(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        await _limited(fleet, dev, LIMIT)
        assert (await fleet.at.agent("atlas:dev")).state == agent_pb2.AGENT_STATE_USAGE_LIMITED
        release = supervision_pb2.ReleaseCreditRequest(credential="atlas:dev")
        await fleet.stub.ReleaseCredit(release)
        await fleet.minutes(3)
        assert (await fleet.at.agent("atlas:dev")).state == agent_pb2.AGENT_STATE_IDLE
        assert await _holds(fleet) == {}
        await dev.shows("WORKING")
        await _limited(fleet, dev, LIMIT)
        assert "claude@elsewhere" in await _holds(fleet)

    oversee(folder, body)


def test_what_a_person_holds_is_not_changed_by_a_limit(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        until = _time(fleet.at.clock.now() + timedelta(minutes=30))
        request = supervision_pb2.HoldCreditRequest(credential="atlas:dev", end_time=until)
        await fleet.stub.HoldCredit(request)
        await _limited(fleet, dev, LIMIT)
        assert await _minutes_left(fleet, "claude@elsewhere") == 30

    oversee(folder, body)


@pytest.mark.parametrize(
    ("credential", "minutes", "reason", "says"),
    [
        ("", 5, "INVALID_INPUT", "The account is empty"),
        ("nobody@nowhere", 5, "NOT_FOUND", "accounts are: claude@elsewhere"),
        ("atlas:nobody", 5, "NOT_FOUND", "There is no account and no agent"),
        ("atlas:plain", 5, "INVALID_INPUT", "The account of atlas:plain is not known"),
        ("atlas:dev", 0, "INVALID_INPUT", "next 31 days"),
        ("atlas:dev", -5, "INVALID_INPUT", "next 31 days"),
        ("atlas:dev", 31 * 24 * 60 + 1, "INVALID_INPUT", "next 31 days"),
    ],
)
def test_a_hold_that_makes_no_sense_is_refused(
    folder: Path, credential: str, minutes: int, reason: str, says: str
) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.agent("dev", "IDLE")
        await fleet.at.alive("plain", "%9", kind="")
        until = _time(fleet.at.clock.now() + timedelta(minutes=minutes))
        request = supervision_pb2.HoldCreditRequest(credential=credential, end_time=until)
        failed = await fails(fleet.stub.HoldCredit(request))
        assert (failed.reason, says in failed.message) == (reason, True), failed.message
        assert await _holds(fleet) == {}

    oversee(folder, body)


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_guess_is_not_moved_by_a_wall_clock_that_is_set(folder: Path, jump: int) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        await _limited(fleet, dev)
        fleet.at.clock.set(fleet.at.clock.now() + timedelta(seconds=jump))
        await _send(fleet, "atlas:dev")
        await fleet.minutes(14)
        assert dev.got == []
        await fleet.minutes(1)
        assert len(dev.got) == 1

    oversee(folder, body)


async def _stored(fleet: Fleet) -> dict[str, CreditHold]:
    await fleet.written()
    return await fleet.at.core.store.read(table.load_all)


def _tells(fleet: Fleet, role: str, detail: str) -> asyncio.Task[None] | None:
    """A client tells of a limit, at this very moment."""
    core = fleet.at.core
    agent = core.registry.at("atlas", role)
    assert agent is not None
    limit = Observation(EvidenceSource.SCREEN, AgentState.USAGE_LIMITED, "x/limit", detail)
    return core.states.observed(agent.id, agent.epoch, limit, timedelta(0))


def test_a_hold_by_hand_beside_one_that_is_told_outlasts_a_restart(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        core = fleet.at.core
        await fleet.agent("dev", "WORKING")
        by_hand = asyncio.create_task(core.credit.hold("op", "claude@elsewhere", TWO))
        await asyncio.sleep(0)
        _tells(fleet, "dev", "limit reached")
        await by_hand
        assert (await _stored(fleet))["claude@elsewhere"].manual
        assert (await _holds(fleet))["claude@elsewhere"].source == "op"

    oversee(folder, body)


def test_a_limit_that_is_told_while_the_account_is_let_go_holds_it_again(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        core = fleet.at.core
        dev = await fleet.agent("dev", "WORKING")
        await fleet.agent("mate", "WORKING")
        await _limited(fleet, dev)
        letting = asyncio.create_task(core.credit.release("op", "claude@elsewhere"))
        await asyncio.sleep(0)
        fleet.at.clock.advance(0.001)
        _tells(fleet, "mate", LIMIT)
        await letting
        assert (await _stored(fleet))["claude@elsewhere"].ends_at == TWO
        assert list(await _holds(fleet)) == ["claude@elsewhere"]
        assert (await fleet.at.agent("atlas:mate")).state == agent_pb2.AGENT_STATE_USAGE_LIMITED

    oversee(folder, body)


def test_a_hold_that_the_store_did_not_take_is_written_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(unit: object) -> None:
        raise StoreUnavailable("The disk is full.")

    async def body(fleet: Fleet) -> None:
        core = fleet.at.core
        await fleet.agent("dev", "WORKING")
        await fleet.agent("mate", "WORKING", credential="other")
        with monkeypatch.context() as broken:
            broken.setattr(core.store, "write", away)
            await asyncio.gather(_tells(fleet, "dev", LIMIT), return_exceptions=True)
            with pytest.raises(StoreUnavailable):
                await core.credit.hold("op", "other", TWO + timedelta(hours=1))
            with pytest.raises(StoreUnavailable):
                await core.credit.release("op", "claude@elsewhere")
        assert list(await _holds(fleet)) == ["claude@elsewhere"]
        assert await _stored(fleet) == {}
        await fleet.looks()
        assert (await _stored(fleet))["claude@elsewhere"].ends_at == TWO
        assert ("usage-limited", "claude@elsewhere") in await fleet.alerts()

    oversee(folder, body)


def test_a_limit_of_an_unknown_account_ends_with_its_time_too(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        core = fleet.at.core
        dev = await fleet.agent("dev", "", kind="")
        agent = core.registry.at("atlas", "dev")
        assert agent is not None
        await core.states.hook(agent, HookReport("StopFailure", "", "rate_limit", LIMIT))
        await dev.breaks()
        await fleet.minutes(119)
        assert core.states.status(agent.id).state is AgentState.USAGE_LIMITED
        await fleet.minutes(1)
        assert core.states.status(agent.id).state is AgentState.IDLE

    oversee(folder, body)


def test_a_reset_that_was_said_is_a_time_of_the_wall_clock(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        await _limited(fleet, dev, LIMIT)
        await _send(fleet, "atlas:dev")
        fleet.at.clock.set(TWO - timedelta(minutes=2))
        await fleet.minutes(1)
        assert dev.got == []
        await fleet.minutes(1)
        assert len(dev.got) == 1

    oversee(folder, body)


def test_a_hold_outlasts_a_restart_of_the_server(folder: Path) -> None:
    clock = ManualClock(START)

    async def body() -> None:
        async with serving(folder, clock=clock, pace=SLOW) as at:
            fleet = Fleet(at)
            dev = await fleet.agent("dev", "WORKING")
            await _limited(fleet, dev)
            await _send(fleet, "atlas:dev")
            await dev.breaks()
        clock.advance(600)
        async with serving(folder, clock=clock, pace=SLOW) as at:
            fleet = Fleet(at)
            dev = await fleet.agent("dev", "")
            await fleet.minutes(4)
            assert dev.got == []
            assert list(await _holds(fleet)) == ["claude@elsewhere"]
            await fleet.minutes(1)
            assert len(dev.got) == 1

    asyncio.run(body())


def test_the_own_hook_of_an_agent_takes_what_is_held(folder: Path) -> None:
    """It is in a turn, so its account has credit again."""

    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        await _limited(fleet, dev, LIMIT)
        request = messaging_pb2.SendMessageRequest(
            targets=["atlas:dev"],
            text="the build?",
            mode=delivery_pb2.DELIVERY_MODE_TURN_BOUNDARY,
        )
        await fleet.at.messaging.SendMessage(request)
        await fleet.settled()
        assert dev.got == []
        claim = messaging_pb2.ClaimDeliveriesRequest(max_bytes=10_000, hook_event="Stop")
        header = fleet.at.token("atlas", "dev")
        taken = await fleet.at.messaging.ClaimDeliveries(claim, metadata=header)
        assert len(taken.deliveries) == 1

    oversee(folder, body)


def test_a_thousand_agents_of_a_held_account_are_listed_in_no_time(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        registry, credit = fleet.at.core.registry, fleet.at.core.credit
        base = registry.get(dev.id)
        for n in range(1000):
            registry.put(replace(base, id=f"{n:012x}", role=f"r{n}", incarnation=None, kind="x"))
        for n in range(1000):
            registry.put(replace(base, id=f"{n:012x}", role=f"r{n}", credential="team"))
        await _limited(fleet, dev, LIMIT)
        begun = time.thread_time()  # what others of this machine do costs nothing here
        for agent in registry.all():
            credit.held_until(agent)
        assert time.thread_time() - begun < 0.5

    oversee(folder, body, loops=())
