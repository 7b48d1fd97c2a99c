"""Nudges: who is woken when, who is let be, and what is counted."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from orch.v1 import (
    authorization_pb2,
    heartbeat_pb2,
    messaging_pb2,
    scheduler_pb2,
    session_state_pb2,
    supervision_pb2,
)
from orch_server.core.clock import ManualClock
from orch_server.storage.sweep import sweep
from tests.transport.harness import START, fails, serving
from tests.transport.overseen import SLOW, Fleet, oversee, span

_IDLE = "[nudge] You have been idle for"


async def _update(fleet: Fleet, path: str, session: str = "atlas", **fields: object) -> None:
    wanted = session_state_pb2.Session(name=session, **fields)  # type: ignore[arg-type]
    request = session_state_pb2.UpdateSessionRequest(
        session=wanted, update_mask=FieldMask(paths=[path])
    )
    await fleet.at.state.UpdateSession(request)


async def _send(fleet: Fleet, sender: str, target: str = "atlas:dev") -> None:
    request = messaging_pb2.SendMessageRequest(targets=[target], text="go on with the build")
    await fleet.at.messaging.SendMessage(request, metadata=fleet.at.token("atlas", sender))
    await fleet.settled()


def test_an_idle_agent_is_nudged_once_and_not_again_when_nothing_changes(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        await fleet.minutes(4)
        assert dev.got == []
        await fleet.minutes(1)
        assert [text.startswith(f"{_IDLE} 5 min. If") for text in dev.got] == [True]
        await dev.shows("WORKING")
        await dev.shows("IDLE")
        await fleet.minutes(60)
        assert len(dev.got) == 1
        counts = await fleet.counts("atlas:dev")
        assert (counts.sent, counts.nothing_changed, counts.false_alarms) == (1, 12, 0), counts
        (listed,) = (
            await fleet.stub.ListNudges(supervision_pb2.ListNudgesRequest(agent="atlas:dev"))
        ).nudges
        assert listed.agent == "atlas:dev"
        assert listed.reason == supervision_pb2.NUDGE_REASON_IDLE
        found = await fleet.at.messaging.GetDelivery(
            messaging_pb2.GetDeliveryRequest(id=listed.delivery_id)
        )
        assert found.delivery.sender == "supervisor"

    oversee(folder, body)


def test_an_agent_that_worked_is_nudged_again(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        await fleet.minutes(5)
        await dev.shows("WORKING")
        await fleet.minutes(3)
        await dev.shows("IDLE")
        await fleet.minutes(4)
        assert len(dev.got) == 1
        await fleet.minutes(1)
        assert len(dev.got) == 2

    oversee(folder, body)


def test_a_text_for_it_is_news_and_a_text_of_the_supervision_is_none(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        await fleet.minutes(30)
        assert len(dev.got) == 1
        await _send(fleet, "project_manager")
        await fleet.minutes(30)
        assert [text[:8] for text in dev.got] == ["[nudge] ", "[message", "[nudge] "]

    oversee(folder, body)


@pytest.mark.parametrize(
    ("path", "fields", "again"),
    [
        ("phase", {"phase": session_state_pb2.PHASE_REVIEW}, True),
        ("plan", {"plan": session_state_pb2.PLAN_PRO}, True),
        ("project_name", {"project_name": "Atlas"}, False),
    ],
)
def test_another_phase_or_plan_is_news(
    folder: Path, path: str, fields: dict[str, object], again: bool
) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        await fleet.minutes(10)
        await _update(fleet, path, **fields)
        await fleet.minutes(30)
        assert len(dev.got) == 1 + again

    oversee(folder, body)


async def _mute(fleet: Fleet) -> None:
    request = messaging_pb2.SetDoNotDisturbRequest(target="atlas:dev", enabled=True)
    await fleet.at.messaging.SetDoNotDisturb(request)


async def _announce(fleet: Fleet) -> None:
    request = heartbeat_pb2.ExtendOperationRequest(duration=span(3600), reason="migrations")
    await fleet.at.heartbeat.ExtendOperation(request, metadata=fleet.at.token("atlas", "dev"))


async def _wait(fleet: Fleet) -> None:
    request = session_state_pb2.AddDependencyRequest(target="atlas:qa", reason="the tests")
    await fleet.at.state.AddDependency(request, metadata=fleet.at.token("atlas", "dev"))


async def _note(fleet: Fleet) -> None:
    request = scheduler_pb2.CreateTaskRequest(note="look", target="atlas:dev", delay=span(3600))
    await fleet.at.scheduler.CreateTask(request)


@pytest.mark.parametrize("leave", [_mute, _announce, _wait, _note])
def test_who_does_not_want_to_be_woken_is_let_be_and_counted(folder: Path, leave: object) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        await fleet.agent("qa", "WORKING")
        await leave(fleet)  # type: ignore[operator]
        await fleet.minutes(30)
        assert dev.got == []
        counts = await fleet.counts("atlas:dev")
        assert (counts.sent, counts.not_wanted) == (0, 6)

    oversee(folder, body)


def test_text_that_is_on_its_way_will_wake_it(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        dev.takes = False
        await _send(fleet, "project_manager")
        await fleet.minutes(30)
        counts = await fleet.counts("atlas:dev")
        assert (counts.sent, counts.not_wanted) == (0, 6)

    oversee(folder, body)


def test_the_budget_of_the_hour_is_kept(folder: Path) -> None:
    """An agent that works for two minutes after each nudge would be nudged each seven minutes."""

    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        sent = []
        for minute in range(120):
            await fleet.minutes(1)
            if len(dev.got) > len(sent):
                sent.append(minute)
                await dev.shows("WORKING")
            elif sent and minute == sent[-1] + 2:
                await dev.shows("IDLE")
        assert all(sum(at - 60 < t <= at for t in sent) <= 6 for at in sent)
        assert len(sent) == 12
        assert (await fleet.counts("atlas:dev")).over_budget >= 3

    oversee(folder, body)


def test_nobody_is_nudged_when_the_session_is_over(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        await _update(fleet, "completion", completion=session_state_pb2.COMPLETION_COMPLETED)
        await fleet.minutes(10)
        counts = await fleet.counts("atlas:dev")
        assert (dev.got, counts.suspended) == ([], 2)

    oversee(folder, body)


def test_nobody_is_nudged_while_half_of_the_clients_are_missing(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        others = [await fleet.agent(f"other{n}", "WORKING") for n in range(3)]
        await fleet.minutes(4)
        for other in others:
            await other.breaks()
        await fleet.minutes(1)
        counts = await fleet.counts("atlas:dev")
        assert (dev.got, counts.suspended) == ([], 1)

    oversee(folder, body)


def test_who_has_no_fresh_evidence_of_idleness_is_not_nudged(folder: Path) -> None:
    """Its client lives, but cannot see the screen any more."""

    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        for _ in range(20):
            fleet.at.clock.advance(60)
            await dev.beats(blind=True)
            await fleet.looks()
        assert dev.got == []
        await fleet.minutes(1)
        assert len(dev.got) == 1

    oversee(folder, body)


def test_a_hook_is_enough_for_an_agent_without_a_client(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        await fleet.at.heartbeat.ReportHookEvent(
            heartbeat_pb2.ReportHookEventRequest(event="Stop"),
            metadata=fleet.at.token("atlas", "remote"),
        )
        await fleet.minutes(30)
        assert dev.got == []
        assert (await fleet.counts("atlas:remote")).sent == 0, "it has no pane to nudge it in"

    oversee(folder, body)


def test_an_agent_whose_orchestrator_is_lost_is_told_to_go_on(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        boss = await fleet.agent("orchestrator", "WORKING")
        dev = await fleet.agent("dev", "IDLE")
        await fleet.minutes(10)
        assert "silent" not in dev.got[0]
        await boss.breaks()
        await fleet.minutes(30)
        assert [("silent (its client is lost)" in text) for text in dev.got] == [False, True]
        shown = (await fleet.stub.ListNudges(supervision_pb2.ListNudgesRequest())).nudges
        assert [n.reason for n in shown] == [
            supervision_pb2.NUDGE_REASON_GO_ON,
            supervision_pb2.NUDGE_REASON_IDLE,
        ]

    oversee(folder, body)


@pytest.mark.parametrize(("target", "goes_on"), [("orchestrator", True), ("qa", False)])
def test_who_waits_for_a_silent_orchestrator_is_told_to_go_on(
    folder: Path, target: str, goes_on: bool
) -> None:
    async def body(fleet: Fleet) -> None:
        boss = await fleet.agent("orchestrator", "WORKING")
        await fleet.agent("qa", "WORKING")
        dev = await fleet.agent("dev", "IDLE")
        request = session_state_pb2.AddDependencyRequest(target=target, reason="its word")
        await fleet.at.state.AddDependency(request, metadata=fleet.at.token("atlas", "dev"))
        await fleet.minutes(20)
        assert dev.got == []
        await boss.breaks()
        await fleet.minutes(20)
        assert ["silent" in text for text in dev.got] == [True] * goes_on

    oversee(folder, body)


def test_leave_that_was_asked_of_a_silent_orchestrator_is_waited_for(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        boss = await fleet.agent("orchestrator", "WORKING")
        dev = await fleet.agent("dev", "IDLE")
        request = authorization_pb2.RequestAuthorizationRequest(
            action="look", priority=authorization_pb2.AUTHORIZATION_PRIORITY_LOW
        )
        await fleet.at.authorization.RequestAuthorization(
            request, metadata=fleet.at.token("atlas", "dev")
        )
        await boss.breaks()
        await fleet.minutes(25)
        assert dev.got == []

    oversee(folder, body)


@pytest.mark.parametrize("state", ["HUNG", "USAGE_LIMITED", "AUTH_FAILED", "SHELL"])
def test_an_orchestrator_that_cannot_act_is_as_good_as_lost(folder: Path, state: str) -> None:
    async def body(fleet: Fleet) -> None:
        boss = await fleet.agent("orchestrator", "WORKING", kind="codex")
        dev = await fleet.agent("dev", "IDLE")
        await fleet.agent("qa", "WORKING")
        source = "PROCESS" if state in ("HUNG", "SHELL") else "SCREEN"
        await boss.shows(state, source=source)
        await fleet.minutes(5)
        assert f"silent (it is {state.lower().replace('_', ' ')})" in dev.got[0]

    oversee(folder, body)


def test_an_orchestrator_that_lives_and_says_nothing_for_long_is_silent(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.agent("orchestrator", "WORKING")
        dev = await fleet.agent("dev", "WORKING")
        await _send(fleet, "orchestrator")
        await fleet.minutes(6)
        await dev.shows("IDLE")
        await fleet.minutes(5)
        assert "its last word came 11 min ago" in dev.got[1]

    oversee(folder, body)


def test_a_nudge_that_comes_just_after_a_movement_is_marked_as_false(folder: Path) -> None:
    """The movement becomes known with the next beat."""

    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        await fleet.minutes(4)
        fleet.at.clock.advance(60)
        await fleet.looks()
        assert len(dev.got) == 1
        fleet.at.clock.advance(2)
        await dev.beats(moved=7)
        assert (await fleet.counts()).false_alarms == 1
        await dev.beats(moved=0)
        assert (await fleet.counts()).false_alarms == 1

    oversee(folder, body)


@pytest.mark.parametrize("ago", [0, 13])
def test_a_movement_after_the_nudge_or_long_before_it_makes_it_no_false_one(
    folder: Path, ago: int
) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        await fleet.minutes(4)
        fleet.at.clock.advance(60)
        await fleet.looks()
        fleet.at.clock.advance(2)
        await dev.beats(moved=ago)
        assert len(dev.got) == 1
        assert (await fleet.counts()).false_alarms == 0

    oversee(folder, body)


def test_evidence_that_grew_old_is_not_fresh_again_when_the_clock_is_set_back(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        fleet.at.clock.set(fleet.at.clock.now() - timedelta(hours=1))
        for _ in range(30):
            fleet.at.clock.advance(60)
            await dev.beats(blind=True)
            await fleet.looks()
        assert dev.got == []

    oversee(folder, body)


def test_those_of_an_account_that_was_limited_are_not_woken_all_at_once(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        team = [await fleet.agent(f"dev{n}", "WORKING") for n in range(4)]
        for one in team:
            await one.shows("USAGE_LIMITED", detail="You've hit your limit · resets 2pm (UTC)")
        await fleet.looks()
        await fleet.minutes(120)
        woken = []
        for _ in range(70):
            await fleet.passes(5)
            woken.append(sum(len(one.got) for one in team))
        assert [woken.count(n) for n in (1, 2, 3)] == [1, 1, 1]
        assert woken[-1] == 4

    oversee(folder, body)


def test_an_agent_that_moved_less_than_ten_seconds_ago_is_not_nudged_yet(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        await fleet.minutes(4)
        fleet.at.clock.advance(55)
        await dev.beats(moved=0)
        await fleet.passes(6)
        assert dev.got == []
        await fleet.passes(4)
        assert len(dev.got) == 1

    oversee(folder, body)


def test_a_nudge_that_never_reached_its_pane_is_repeated_after_the_cooldown(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "IDLE")
        dev.takes = False
        for _ in range(11):
            await fleet.minutes(1)
            await fleet.at.core.store.write(sweep)
            await dev.breaks()
            dev.stream = None
            fleet.actors.remove(dev)
            dev = await fleet.agent("dev", "IDLE", pane="%1")
            dev.takes = False
        counts = await fleet.counts("atlas:dev")
        assert (counts.sent, counts.nothing_changed) == (2, 0)

    oversee(folder, body, loops=())


def test_a_restart_of_the_server_forgets_no_nudge(folder: Path) -> None:
    clock = ManualClock(START)

    async def body() -> None:
        for life in range(3):
            async with serving(folder, clock=clock, pace=SLOW) as at:
                fleet = Fleet(at)
                dev = await fleet.agent("dev", "IDLE")
                await fleet.minutes(20)
                assert len(dev.got) == (1 if life == 0 else 0)
                await at.core.supervisor.close()
                await dev.breaks()
        async with serving(folder, clock=clock, pace=SLOW) as at:
            counts = await Fleet(at).counts()
            assert counts.sent == 1
            assert counts.nothing_changed >= 9

    asyncio.run(body())


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_wall_clock_that_is_set_changes_nothing(folder: Path, jump: int) -> None:
    async def body(fleet: Fleet) -> None:
        clock = fleet.at.clock
        await fleet.agent("orchestrator", "WORKING")
        dev = await fleet.agent("dev", "IDLE")
        await _send(fleet, "orchestrator")
        await fleet.minutes(2)
        clock.set(clock.now() + timedelta(seconds=jump))
        await fleet.minutes(2)
        assert len(dev.got) == 1
        await fleet.minutes(1)
        assert dev.got[1].startswith(f"{_IDLE} 5 min. If")
        clock.set(clock.now() - timedelta(seconds=jump))
        await fleet.minutes(4)
        assert await fleet.escalations() == []
        await fleet.minutes(1)
        assert await fleet.escalations() == [("atlas:dev", "UNRESPONSIVE", 1)]
        clock.set(clock.now() + timedelta(seconds=jump))
        await fleet.minutes(4)
        assert await fleet.escalations() == [("atlas:dev", "UNRESPONSIVE", 1)]
        await fleet.minutes(1)
        assert await fleet.escalations() == [("atlas:dev", "UNRESPONSIVE", 2)]
        assert "its last word came 15 min ago" in dev.got[2]
        assert len(dev.got) == 3

    oversee(folder, body)


def test_a_fleet_that_has_nothing_to_do_costs_one_commit_a_minute(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        for n in range(12):
            await fleet.agent(f"dev{n}", "IDLE")
            await fleet.passes(10)
        await _update(fleet, "completion", completion=session_state_pb2.COMPLETION_COMPLETED)
        before = fleet.at.core.store.commits
        for _ in range(60):
            await fleet.passes(10)
        assert fleet.at.core.store.commits - before <= 10
        assert (await fleet.counts()).suspended >= 12

    oversee(folder, body)


def test_an_escalation_and_a_nudge_for_one_agent_are_a_minute_apart(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        manager = await fleet.agent("project_manager", "IDLE")
        dev = await fleet.agent("dev", "WORKING")
        await fleet.passes(270)
        await dev.shows("HUNG", source="PROCESS")
        await fleet.looks()
        await fleet.passes(59)
        assert len(manager.got) == 1
        assert (await fleet.counts()).not_wanted == 0
        await fleet.passes(1)
        assert [text.startswith("[nudge]") for text in manager.got] == [False, True]

    oversee(folder, body)


@pytest.mark.parametrize("agent", ["nobody:here", "ffff"])
def test_the_nudges_of_nobody_are_an_error(folder: Path, agent: str) -> None:
    async def body(fleet: Fleet) -> None:
        request = supervision_pb2.ListNudgesRequest(agent=agent)
        assert (await fails(fleet.stub.ListNudges(request))).reason == "NOT_FOUND"

    oversee(folder, body)
