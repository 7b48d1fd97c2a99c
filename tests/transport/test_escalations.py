"""Escalations: who hears of what is the matter, when, how often, and when it is over."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from orch.v1 import heartbeat_pb2, messaging_pb2, session_state_pb2, supervision_pb2
from orch_server.core.clock import ManualClock
from tests.transport.harness import START, serving
from tests.transport.overseen import SLOW, Actor, Fleet, oversee, span


def _heads(actor: Actor) -> list[str]:
    """The first words of each text that it got."""
    return [text.partition(" Please")[0] for text in actor.got]


async def _managed(fleet: Fleet) -> tuple[Actor, Actor, Actor]:
    """An orchestrator and a project manager that work, and an agent."""
    boss = await fleet.agent("orchestrator", "WORKING")
    manager = await fleet.agent("project_manager", "WORKING")
    return boss, manager, await fleet.agent("dev", "WORKING")


async def _exit(actor: Actor, **how: object) -> None:
    """The agent ends under `orch-client run`; the beat after it says that it was taken."""
    assert actor.stream is not None
    await actor.stream.send(exit=heartbeat_pb2.AgentExit(**how))  # type: ignore[arg-type]
    await actor.beats(blind=True)


def test_a_matter_is_told_at_0_5_and_15_minutes_and_then_to_a_person(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        boss, manager, dev = await _managed(fleet)
        dev.hangs = True
        await fleet.minutes(2)
        assert (_heads(manager), _heads(boss)) == (["[escalation]"], [])
        assert "atlas:dev hangs: it claims to work" in manager.got[0]
        await fleet.minutes(4)
        assert _heads(boss) == []
        await fleet.minutes(1)
        assert (len(manager.got), _heads(boss)) == (1, ["[escalation, level 2]"])
        await fleet.minutes(9)
        assert await fleet.alerts() == []
        await fleet.minutes(1)
        assert _heads(manager)[1:] == _heads(boss)[1:] == ["[escalation, level 3]"]
        assert await fleet.alerts() == [("escalation", "atlas:dev")]
        await fleet.minutes(60)
        assert (len(manager.got), len(boss.got), dev.got) == (2, 2, [])
        assert await fleet.escalations() == [("atlas:dev", "HUNG", 3)]

    oversee(folder, body)


def test_what_is_over_is_ended_and_nothing_more_is_sent_for_it(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        dev.hangs = True
        await fleet.minutes(2)
        dev.hangs = False
        await fleet.minutes(60)
        assert len(manager.got) == 1
        assert await fleet.escalations() == []
        request = supervision_pb2.ListEscalationsRequest(session="atlas")
        (row,) = (await fleet.stub.ListEscalations(request)).escalations
        assert row.detail == "It is over: the agent is working, its client alive."
        assert row.HasField("end_time")
        assert not row.HasField("next_time")

    oversee(folder, body)


def test_what_is_due_for_one_receiver_at_once_is_one_text(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        qa = await fleet.agent("qa", "WORKING")
        dev.hangs = qa.hangs = True
        await fleet.minutes(2)
        (text,) = manager.got
        assert "atlas:dev hangs" in text
        assert "atlas:qa hangs" in text
        assert len(await fleet.escalations()) == 2

    oversee(folder, body)


def test_nobody_gets_more_than_one_text_of_supervision_a_minute(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        qa = await fleet.agent("qa", "WORKING")
        await dev.shows("HUNG", source="PROCESS")
        await fleet.looks()
        await fleet.passes(10)
        await qa.shows("HUNG", source="PROCESS")
        await fleet.passes(20)
        assert len(manager.got) == 1
        await fleet.passes(29)
        assert len(manager.got) == 1
        await fleet.passes(1)
        assert len(manager.got) == 2

    oversee(folder, body)


def test_an_agent_hears_nothing_of_its_own_matter(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        boss, manager, _ = await _managed(fleet)
        await manager.shows("WAITING_PERMISSION", detail="Do you want to proceed?")
        await fleet.minutes(5)
        assert manager.got == []
        assert "project_manager waits in a dialog that nobody answers: Do you want" in boss.got[0]
        await fleet.minutes(20)
        assert (manager.got, len(boss.got)) == ([], 3)

    oversee(folder, body)


def test_a_dialog_is_a_matter_when_nobody_answers_it_for_the_idle_time(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        await dev.shows("WAITING_ANSWER")
        await fleet.minutes(4)
        await dev.shows("WORKING")
        await fleet.minutes(20)
        assert manager.got == []
        assert await fleet.escalations(open_only=False) == []

    oversee(folder, body)


def test_a_session_with_nobody_to_tell_has_a_person_alerted(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        await dev.shows("HUNG", source="PROCESS")
        await fleet.minutes(14)
        assert await fleet.alerts() == []
        await fleet.minutes(1)
        assert await fleet.alerts() == [("escalation", "atlas:dev")]

    oversee(folder, body)


def test_that_an_account_is_not_let_in_is_for_a_person_at_once(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        boss, manager, dev = await _managed(fleet)
        await dev.shows("AUTH_FAILED", detail="Please run /login")
        await fleet.looks()
        assert await fleet.alerts() == [("auth-failed", "atlas:dev")]
        await fleet.minutes(30)
        assert (boss.got, manager.got) == ([], [])
        assert await fleet.alerts() == [("auth-failed", "atlas:dev")]

    oversee(folder, body)


def test_each_crash_counts_also_when_nothing_is_seen_between_them(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        for n in range(5):
            fleet.at.clock.advance(1)
            await _exit(dev, status=3 + n, restart_after=span(2))
        await fleet.written()
        (alert,) = (await fleet.stub.ListAlerts(supervision_pb2.ListAlertsRequest())).alerts
        assert alert.suppressed == 4
        assert (await fleet.at.agent("atlas:dev")).evidence.detail.startswith(
            "exited with status 7"
        )

    oversee(folder, body)


def test_a_crash_is_a_matter_and_an_alert(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        await _exit(dev, status=3)
        await fleet.looks()
        assert await fleet.alerts() == [("agent-crashed", "atlas:dev")]
        assert "atlas:dev has died: exited with status 3." in manager.got[0]

    oversee(folder, body)


@pytest.mark.parametrize(
    ("how", "alerts"),
    [
        ({"signal": 11, "restart_after": span(2)}, [("agent-crashed", "atlas:dev")]),
        ({"status": 0}, []),
        ({"signal": 15}, []),
        ({"status": 130}, []),
    ],
)
def test_who_is_started_again_or_was_ended_by_a_person_is_no_matter(
    folder: Path, how: dict[str, object], alerts: list[tuple[str, str]]
) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        await _exit(dev, **how)
        await fleet.looks()
        assert await fleet.alerts() == alerts
        assert await fleet.escalations() == []
        assert manager.got == []

    oversee(folder, body)


def test_an_agent_that_leaves_its_pane_in_a_turn_is_a_matter_and_an_idle_one_is_none(
    folder: Path,
) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        qa = await fleet.agent("qa", "IDLE")
        fleet.at.clock.advance(2)
        for one in (dev, qa):
            await one.shows("SHELL", source="PROCESS")
        await fleet.looks()
        assert await fleet.escalations() == [("atlas:dev", "DEAD", 1)]
        assert "atlas:dev has died: it left its pane in the middle of a turn." in manager.got[0]
        await dev.shows("WORKING")
        await fleet.looks()
        assert await fleet.escalations() == []

    oversee(folder, body)


def test_a_client_that_stays_lost_is_a_matter_after_two_minutes(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        await dev.breaks()
        await fleet.passes(1)
        await fleet.passes(118)
        assert manager.got == []
        await fleet.passes(2)
        assert "atlas:dev has lost its client: it was not heard for 2 min." in manager.got[0]
        await dev.at.alive("dev", "%3", kind="claude")
        await fleet.looks()
        assert await fleet.escalations() == []

    oversee(folder, body)


def test_a_client_that_is_lost_tells_nothing_new_of_what_was_the_matter(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        await dev.shows("HUNG", source="PROCESS")
        await fleet.looks()
        await dev.breaks()
        await fleet.minutes(30)
        levels = {matter: level for _, matter, level in await fleet.escalations()}
        assert levels == {"HUNG": 1, "LOST": 3}
        assert [("hangs" in text, "lost" in text) for text in manager.got] == [
            (True, False),
            *[(False, True)] * 2,
        ]

    oversee(folder, body)


def test_nothing_is_escalated_while_half_of_the_clients_are_missing(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        others = [await fleet.agent(f"other{n}", "WORKING") for n in range(4)]
        dev.hangs = True
        await fleet.minutes(1)
        for other in others:
            await other.breaks()
        await fleet.minutes(1)
        assert fleet.at.core.heartbeat.partition_suspected
        assert manager.got == []
        assert await fleet.escalations() == []
        assert await fleet.alerts() == [("partition", "server")]

    oversee(folder, body)


def test_a_nudge_without_effect_is_a_matter_after_a_cooldown(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        await dev.shows("IDLE")
        await fleet.minutes(9)
        assert (len(dev.got), manager.got) == (1, [])
        await fleet.minutes(1)
        assert (
            "atlas:dev was nudged and does not move: its last nudge came at 12:05"
            in (manager.got[0])
        )
        await dev.shows("WORKING")
        await fleet.looks()
        assert await fleet.escalations() == []

    oversee(folder, body)


def test_who_answers_its_nudge_is_no_matter(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        await dev.shows("IDLE")
        await fleet.minutes(5)
        fleet.at.clock.advance(3)
        await dev.shows("WORKING")
        fleet.at.clock.advance(3)
        await dev.shows("IDLE")
        await fleet.minutes(30)
        assert (len(dev.got), manager.got) == (1, [])

    oversee(folder, body)


def test_who_answers_its_nudge_before_anybody_looks_is_no_matter(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        await dev.shows("IDLE")
        await fleet.minutes(5)
        fleet.at.clock.advance(10)
        await dev.beats(moved=3)
        await fleet.minutes(30)
        assert (len(dev.got), manager.got) == (1, [])

    oversee(folder, body)


def test_a_client_that_served_many_panes_is_one_matter(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, _ = await _managed(fleet)
        for n in range(4):
            await fleet.agent(f"own{n}", "WORKING")
        many = [
            await fleet.agent(f"pane{n}", "WORKING", client_id="all", courier=True)
            for n in range(20)
        ]
        for one in many:
            await one.breaks()
        await fleet.minutes(20)
        assert await fleet.escalations() == [("atlas:pane0", "LOST", 3)]
        assert "not heard for 2 min, nor were 19 other panes that it served" in manager.got[0]
        assert await fleet.alerts() == [("escalation", "atlas:pane0")]

    oversee(folder, body)


def test_of_very_many_matters_the_first_are_named_and_one_alert_is_raised(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, _ = await _managed(fleet)
        for n in range(12):
            await (await fleet.agent(f"other{n}", "WORKING")).shows("WAITING_PERMISSION")
        await fleet.minutes(21)
        text = manager.got[0]
        assert (text.count("atlas:other"), text.splitlines()[-1]) == (
            10,
            "And 2 more: orch-client escalations.",
        )
        assert await fleet.alerts() == [("escalation", "atlas")]

    oversee(folder, body)


@pytest.mark.parametrize("deaf", ["limited", "muted"])
def test_a_manager_that_cannot_hear_now_is_passed_over(folder: Path, deaf: str) -> None:
    async def body(fleet: Fleet) -> None:
        boss = await fleet.agent("orchestrator", "WORKING", credential="first")
        manager = await fleet.agent("project_manager", "IDLE", credential="second")
        if deaf == "limited":
            await manager.shows("USAGE_LIMITED", detail="limit reached")
        else:
            request = messaging_pb2.SetDoNotDisturbRequest(
                target="atlas:project_manager", enabled=True
            )
            await fleet.at.messaging.SetDoNotDisturb(request)
        await fleet.looks()
        await fleet.agent("dev", "WAITING_PERMISSION", credential="third")
        await fleet.minutes(6)
        assert (len(boss.got), manager.got) == (1, [])

    oversee(folder, body)


async def _mute(fleet: Fleet) -> None:
    request = messaging_pb2.SetDoNotDisturbRequest(target="atlas:dev", enabled=True)
    await fleet.at.messaging.SetDoNotDisturb(request)


async def _announce(fleet: Fleet) -> None:
    request = heartbeat_pb2.ExtendOperationRequest(duration=span(3600), reason="migrations")
    await fleet.at.heartbeat.ExtendOperation(request, metadata=fleet.at.token("atlas", "dev"))


async def _complete(fleet: Fleet) -> None:
    wanted = session_state_pb2.Session(
        name="atlas", completion=session_state_pb2.COMPLETION_COMPLETED
    )
    mask = FieldMask(paths=["completion"])
    await fleet.at.state.UpdateSession(
        session_state_pb2.UpdateSessionRequest(session=wanted, update_mask=mask)
    )


@pytest.mark.parametrize("leave", [_mute, _announce, _complete])
def test_who_may_stay_idle_after_a_nudge_is_no_matter(folder: Path, leave: object) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        await dev.shows("IDLE")
        await fleet.minutes(6)
        await leave(fleet)  # type: ignore[operator]
        await fleet.minutes(20)
        assert (len(dev.got), manager.got) == (1, [])

    oversee(folder, body)


@pytest.mark.parametrize("leave", [_announce, _complete])
def test_an_announced_operation_or_the_end_of_the_session_ends_a_hang(
    folder: Path, leave: object
) -> None:
    async def body(fleet: Fleet) -> None:
        _, manager, dev = await _managed(fleet)
        dev.hangs = True
        await fleet.minutes(3)
        assert len(manager.got) == 1
        await leave(fleet)  # type: ignore[operator]
        await fleet.minutes(20)
        assert len(manager.got) == 1
        assert await fleet.escalations() == []

    oversee(folder, body)


def test_a_throttled_session_gets_one_text_a_cycle(folder: Path) -> None:
    """Two of three agents are limited, so a cycle is three minutes."""

    async def body(fleet: Fleet) -> None:
        boss = await fleet.agent("orchestrator", "WORKING", credential="other")
        manager = await fleet.agent("project_manager", "WORKING", credential="other")
        limited = [await fleet.agent(f"limited{n}", "WORKING") for n in range(4)]
        dev = await fleet.agent("dev", "WORKING", credential="other")
        for one in limited:
            await one.shows("USAGE_LIMITED", detail="limit reached")
        await dev.shows("HUNG", source="PROCESS")
        await fleet.looks()
        texts = []
        for minute in range(1, 20):
            await fleet.minutes(1)
            if minute == 1:
                await boss.shows("WAITING_PERMISSION")
            texts.append(len(manager.got) + len(boss.got))
        steps = [minute for minute, (a, b) in enumerate(pairwise(texts)) if a < b]
        assert all(later - earlier >= 3 for earlier, later in pairwise(steps))
        assert len(steps) >= 4
        counts = await fleet.counts()
        assert counts.sent == 0

    oversee(folder, body)


def test_a_restart_of_the_server_goes_on_where_it_was(folder: Path) -> None:
    """The amnesty: until its client is back, nobody knows whether it goes on."""
    clock = ManualClock(START)

    async def body() -> None:
        async with serving(folder, clock=clock, pace=SLOW) as at:
            fleet = Fleet(at)
            _, manager, dev = await _managed(fleet)
            qa = await fleet.agent("qa", "WORKING")
            fleet.at.clock.advance(2)
            await qa.shows("SHELL", source="PROCESS")
            dev.hangs = True
            await fleet.minutes(3)
            assert len(manager.got) == 2
            for actor in fleet.actors:
                await actor.breaks()
        clock.advance(300)
        async with serving(folder, clock=clock, pace=SLOW) as at:
            fleet = Fleet(at)
            await fleet.looks()
            known = [("atlas:dev", "HUNG", 1), ("atlas:qa", "DEAD", 1)]
            assert sorted(await fleet.escalations()) == known
            _, manager, dev = await _managed(fleet)
            qa = await fleet.agent("qa", "")
            await qa.tells("SHELL", source="PROCESS")
            await fleet.looks()
            assert manager.got == []
            assert await fleet.escalations() == [("atlas:qa", "DEAD", 2)]

    asyncio.run(body())


def test_an_agent_that_is_deleted_with_its_session_is_forgotten(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        dev = await fleet.agent("dev", "WORKING")
        await dev.shows("HUNG", source="PROCESS")
        await fleet.looks()
        assert dev.stream is not None
        dev._reader.cancel()
        await dev.breaks()
        await fleet.passes(2)
        await fleet.at.state.DeleteSession(session_state_pb2.DeleteSessionRequest(name="atlas"))
        await fleet.minutes(20)
        assert await fleet.escalations(open_only=False) == []
        assert await fleet.alerts() == []

    oversee(folder, body)
