"""What agents do, through the API: observations of clients, reports of hooks, and what is shown."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from orch.v1 import agent_pb2, heartbeat_pb2, session_state_pb2
from tests.transport.harness import (
    PATIENCE,
    START,
    Serving,
    Stream,
    fails,
    hello,
    run,
    settles,
)

Code = grpc.StatusCode
DEV = "atlas:developer"


def _observation(source: str, state: str, rule: str = "r", detail: str = "") -> Any:
    return heartbeat_pb2.Observation(
        source=agent_pb2.EvidenceSource.Value(f"EVIDENCE_SOURCE_{source}"),
        state=agent_pb2.AgentState.Value(f"AGENT_STATE_{state}"),
        rule=rule,
        detail=detail,
    )


def _state(agent: agent_pb2.Agent) -> str:
    return agent_pb2.AgentState.Name(agent.state).removeprefix("AGENT_STATE_")


async def _sees(stream: Stream, source: str, state: str, *more: str) -> None:
    """A beat that tells this of a screen that has just moved."""
    frame = await stream.beat(observation=_observation(source, state, *more), quiet=timedelta())
    assert frame.WhichOneof("frame") == "ack"


async def _shown(at: Serving, state: str) -> agent_pb2.Agent:
    """The developer, once its state is this one: the answer to a beat comes before the write."""
    await settles(lambda: at.core.states.status(_id(at)).state == state)
    return await at.agent(DEV)


def _id(at: Serving) -> str:
    return str(at.core.registry.find(DEV).id)


async def _hook(at: Serving, event: str, **more: Any) -> None:
    request = heartbeat_pb2.ReportHookEventRequest(event=event, **more)
    await at.heartbeat.ReportHookEvent(request, metadata=at.token("atlas", "developer"))


async def _why(at: Serving) -> heartbeat_pb2.Explanation:
    answer = await at.heartbeat.GetAgent(heartbeat_pb2.GetAgentRequest(agent=DEV))
    return answer.explanation


# ---- what is shown ----


def test_what_a_client_sees_is_shown_with_what_told_it(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1", kind="claude", credential="claude@work")
        assert _state(await at.agent(DEV)) == "UNKNOWN"
        at.clock.advance(5)
        await _sees(stream, "SCREEN", "WAITING_PERMISSION", "claude/trust", "Yes, I trust this")
        shown = await _shown(at, "WAITING_PERMISSION")
        assert shown.state_change_time.ToDatetime(START.tzinfo) == START + timedelta(seconds=5)
        assert shown.credential == "claude@work"
        evidence = shown.evidence
        assert (evidence.rule, evidence.detail) == ("claude/trust", "Yes, I trust this")
        assert evidence.source == agent_pb2.EVIDENCE_SOURCE_SCREEN
        at.clock.advance(30)
        await stream.beat(quiet=timedelta(seconds=30))
        await stream.beat()  # the answer to the first one came before what it tells was looked at
        why = await _why(at)
        assert [e.rule for e in why.evidence] == ["claude/trust"]
        seen = why.evidence[0].observe_time.ToDatetime(START.tzinfo)
        assert seen == START + timedelta(seconds=35)
        assert why.state_rule == "No hook has told anything, so its screen counts."
        assert why.would_change == [
            "An answer to its dialog, seen on the screen or by its next hook."
        ]

    run(folder, body)


def test_a_watch_of_agents_hears_of_a_change_of_state(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        watch = at.heartbeat.WatchAgents(heartbeat_pb2.WatchAgentsRequest(session="atlas"))
        first = await asyncio.wait_for(watch.read(), PATIENCE)
        assert _state(first.agent) == "UNKNOWN"
        await _sees(stream, "SCREEN", "WORKING")
        while _state((await asyncio.wait_for(watch.read(), PATIENCE)).agent) != "WORKING":
            pass
        watch.cancel()

    run(folder, body)


def test_hooks_and_screen_together_tell_a_turn(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1", kind="claude")
        await _sees(stream, "SCREEN", "IDLE")
        at.clock.advance(3)
        await _hook(at, "UserPromptSubmit")
        assert _state(await at.agent(DEV)) == "WORKING"
        await _hook(at, "PermissionRequest", detail="Bash")
        assert _state(await at.agent(DEV)) == "WAITING_PERMISSION"
        at.clock.advance(5)
        await _sees(stream, "SCREEN", "WORKING")  # a person has answered
        await _shown(at, "WORKING")
        at.clock.advance(5)
        await _hook(at, "Stop", continues=True)
        assert _state(await at.agent(DEV)) == "WORKING"
        await _hook(at, "Stop")
        assert _state(await at.agent(DEV)) == "IDLE"
        assert {e.source for e in (await _why(at)).evidence} == {
            agent_pb2.EVIDENCE_SOURCE_HOOK,
            agent_pb2.EVIDENCE_SOURCE_SCREEN,
        }

    run(folder, body)


def test_a_limit_is_shown_with_its_end(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1", kind="claude")
        said = "You've hit your session limit · resets 3:05pm (UTC)"
        await _hook(at, "StopFailure", detail="rate_limit", message=said)
        shown = await at.agent(DEV)
        assert _state(shown) == "USAGE_LIMITED"
        end = START.replace(hour=15, minute=5)
        assert shown.evidence.reset_time.ToDatetime(START.tzinfo) == end
        assert shown.hold_end_time.ToDatetime(START.tzinfo) == end

    run(folder, body)


def test_an_exit_and_the_end_of_the_pane_are_told_apart(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await _sees(stream, "SCREEN", "WORKING")
        await stream.send(exit=heartbeat_pb2.AgentExit(signal=9))
        dead = await _shown(at, "DEAD")
        assert (dead.evidence.rule, dead.evidence.detail) == ("exit", "killed by signal 9")
        await stream.goodbye("CLIENT_STOPPED")
        assert _state(await at.agent(DEV)) == "DEAD"
        other = await at.alive("tester", "%2")
        await other.goodbye("PANE_ENDED")
        ended = await at.agent("atlas:tester")
        assert (_state(ended), ended.evidence.rule) == ("DEAD", "pane")

    run(folder, body)


def test_a_client_that_is_lost_leaves_the_state_as_it_was_seen_last(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await _sees(stream, "SCREEN", "WORKING")
        await _shown(at, "WORKING")
        at.clock.advance(60)
        await at.core.heartbeat.expire()
        shown = await at.agent(DEV)
        assert shown.liveness == agent_pb2.LIVENESS_LOST
        assert _state(shown) == "WORKING"
        assert shown.evidence.observe_time.ToDatetime(START.tzinfo) == START

    run(folder, body)


def test_after_a_restart_of_the_server_the_state_is_shown_with_its_age(folder: Path) -> None:
    async def before(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await _sees(stream, "SCREEN", "WAITING_ANSWER", "claude/question", "Which one?")
        await _shown(at, "WAITING_ANSWER")

    async def after(at: Serving) -> None:
        shown = await at.agent(DEV)
        assert _state(shown) == "WAITING_ANSWER"
        assert shown.evidence.detail == "Which one?"
        assert shown.state_change_time.ToDatetime(START.tzinfo) == START

    run(folder, before)
    run(folder, after)


def test_with_its_session_the_state_of_an_agent_is_forgotten(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await _sees(stream, "SCREEN", "WORKING")
        await _shown(at, "WORKING")
        await stream.goodbye("PANE_ENDED")
        await at.state.DeleteSession(session_state_pb2.DeleteSessionRequest(name="atlas"))
        assert at.core.states._known == {}
        await at.alive("developer", "%1")
        assert _state(await at.agent(DEV)) == "UNKNOWN"

    run(folder, body)


def test_a_steady_fleet_costs_no_commit(folder: Path) -> None:
    async def body(at: Serving) -> None:
        streams = [await at.alive(f"r{n}", f"%{n}") for n in range(40)]
        for number, stream in enumerate(streams):
            state = ("IDLE", "WORKING", "WAITING_PERMISSION", "UNKNOWN")[number % 4]
            await _sees(stream, "SCREEN", state)
        await _settled(at, streams)
        commits = at.core.store.commits
        for beat in range(1, 31):
            at.clock.advance(1)
            quiet = [timedelta(), timedelta(seconds=beat)]
            await asyncio.gather(*(s.beat(quiet=quiet[n % 2]) for n, s in enumerate(streams)))
        assert at.core.store.commits == commits

    run(folder, body)


async def _settled(at: Serving, streams: list[Stream]) -> None:
    """All that the streams have told is written: the answer to a beat comes before."""
    await asyncio.gather(*(stream.beat() for stream in streams))
    await at.core.store.write(lambda tx: None)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (heartbeat_pb2.Observation(), "beat.observation.source"),
        (_observation("HOOK", "IDLE"), "beat.observation.source"),
        (_observation("ACTIVITY", "HUNG"), "beat.observation.source"),
        (_observation("SCREEN", "UNSPECIFIED"), "beat.observation.state"),
        (_observation("SCREEN", "DEAD"), "beat.observation.state"),
        (_observation("SCREEN", "SHELL"), "beat.observation.state"),
        (_observation("PROCESS", "IDLE"), "beat.observation.state"),
        (heartbeat_pb2.Observation(source=99), "beat.observation.source"),
        (heartbeat_pb2.Observation(source=2, state=99), "beat.observation.state"),
    ],
    ids=lambda value: str(value).replace("\n", " "),
)
def test_an_observation_that_makes_no_sense_ends_the_stream_with_one_sentence(
    folder: Path, wrong: heartbeat_pb2.Observation, field: str
) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        await stream.send(beat=heartbeat_pb2.Beat(sequence=1, observation=wrong))
        error = await stream.error()
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, (field,))
        assert _state(await at.agent(DEV)) == "UNKNOWN"

    run(folder, body)


def test_what_a_screen_says_is_data_and_is_cut(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        line = "#(touch /tmp/x) %s {0} \x1b]0;title\x07 \n" + "ä" * 100_000
        await _sees(stream, "SCREEN", "WORKING", "r" * 1000, line)
        shown = await _shown(at, "WORKING")
        assert len(shown.evidence.detail) == 200
        assert shown.evidence.detail.startswith("#(touch /tmp/x) %s {0} ?]0;title? ä")
        assert len(shown.evidence.rule) == 60

    run(folder, body)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"event": ""}, "event"),
        ({"event": "Stop it"}, "event"),
        ({"event": "Stop", "detail": "x" * 201}, "detail"),
        ({"event": "Stop", "message": "x" * 1001}, "message"),
        ({"event": "Stop", "agent_session_id": "x" * 201}, "agent_session_id"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_report_of_a_hook_that_makes_no_sense_changes_nothing(
    folder: Path, wrong: dict[str, str], field: str
) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        request = heartbeat_pb2.ReportHookEventRequest(**wrong)
        call = at.heartbeat.ReportHookEvent(request, metadata=at.token("atlas", "developer"))
        error = await fails(call)
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, (field,))
        assert _state(await at.agent(DEV)) == "UNKNOWN"

    run(folder, body)


def test_a_person_may_not_report_a_hook(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        request = heartbeat_pb2.ReportHookEventRequest(event="Stop")
        error = await fails(at.heartbeat.ReportHookEvent(request))
        assert error.code is Code.PERMISSION_DENIED

    run(folder, body)


def test_a_hook_of_a_role_that_moved_to_another_pane_counts_there_only(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await _hook(at, "UserPromptSubmit")
        await at.alive("developer", "%2", take_over=True)
        assert _state(await at.agent(DEV)) == "UNKNOWN"
        await _hook(at, "Stop")  # the token is the role's, wherever it lives
        assert _state(await at.agent(DEV)) == "IDLE"

    run(folder, body)


@pytest.mark.parametrize("wrong", ["a b", "x" * 101, "-x", "é", "a\nb"])
def test_the_name_of_an_account_is_a_name(folder: Path, wrong: str) -> None:
    async def body(at: Serving) -> None:
        stream = at.connect()
        await stream.send(hello=hello("developer", "%1", credential=wrong))
        error = await stream.error()
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("hello.credential",))

    run(folder, body)
