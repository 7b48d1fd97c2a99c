"""GetStatus: what one screen shows, in one call."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc

from orch.v1 import agent_pb2, authorization_pb2, event_pb2, heartbeat_pb2
from orch.v1 import session_state_pb2 as pb
from orch_server.core.agent import Agent, AgentView, Liveness, WaitingFor
from orch_server.core.alert import NewAlert, Severity
from orch_server.core.session import CompletedPhase, Session, StatusReport
from orch_server.services.session_state import SessionView
from orch_server.services.status import StatusView
from orch_server.storage import session_parts as parts
from orch_server.storage.alerts import raise_alert
from orch_server.storage.status import Counts
from orch_server.storage.store import Transaction
from orch_server.transport import convert_status
from tests.transport.harness import PATIENCE, START, Serving, fails, run

_USUAL_LIMIT = 4 * 1024 * 1024  # of gRPC, for a message


async def _status(at: Serving, **request: object) -> pb.GetStatusResponse:
    return await at.state.GetStatus(pb.GetStatusRequest(**request), timeout=PATIENCE)


def _names(answer: pb.GetStatusResponse) -> list[str]:
    return [session.name for session in answer.sessions]


def test_the_status_has_each_session_with_its_agents_as_they_are_now(tmp_path: Path) -> None:
    async def body(at: Serving) -> None:
        for session, role, pane in (("borea", "pm", "%1"), ("atlas", "pm", "%2")):
            await at.alive(role, pane, session=session)
        tester = await at.alive("tester", "%3")
        await tester.beat(
            observation=heartbeat_pb2.Observation(
                source=agent_pb2.EVIDENCE_SOURCE_SCREEN,
                state=agent_pb2.AGENT_STATE_WORKING,
                rule="generic/spinner",
            )
        )
        await tester.beat()  # the answer to the first one came before what it tells was looked at
        answer = await _status(at)
        assert _names(answer) == ["atlas", "borea"]
        pm, seen = answer.sessions[0].agents
        assert (pm.role, pm.liveness) == ("pm", agent_pb2.LIVENESS_ALIVE)
        assert (seen.role, seen.state) == ("tester", agent_pb2.AGENT_STATE_WORKING)
        assert seen.evidence.observe_time.seconds
        assert (seen.session, seen.evidence.rule) == ("", "")
        assert not seen.HasField("pane")
        assert answer.time.ToDatetime() == START.replace(tzinfo=None)
        assert answer.open_mode
        assert answer.server_version
        only = await _status(at, session="borea")
        assert _names(only) == ["borea"]
        assert [agent.role for agent in only.sessions[0].agents] == ["pm"]
        missing = await fails(_status(at, session="nowhere"))
        assert missing.code is grpc.StatusCode.NOT_FOUND

    run(tmp_path, body)


def test_ended_sessions_are_counted_unless_they_are_asked_for(tmp_path: Path) -> None:
    async def body(at: Serving) -> None:
        for name in ("atlas", "borea"):
            await at.state.CreateSession(pb.CreateSessionRequest(session=pb.Session(name=name)))
        over = pb.UpdateSessionRequest(
            session=pb.Session(name="atlas", completion=pb.COMPLETION_COMPLETED)
        )
        over.update_mask.paths.append("completion")
        await at.state.UpdateSession(over)
        answer = await _status(at)
        assert (_names(answer), answer.ended_sessions) == (["borea"], 1)
        log = await at.events.ListEvents(event_pb2.ListEventsRequest(page_size=1))
        assert 0 < answer.event_number == log.last_number
        answer = await _status(at, include_ended=True)
        assert (_names(answer), answer.ended_sessions) == (["atlas", "borea"], 0)
        assert answer.sessions[0].completion == pb.COMPLETION_COMPLETED
        assert _names(await _status(at, session="atlas")) == ["atlas"]

    run(tmp_path, body)


def test_the_counts_are_of_what_is_so_now(tmp_path: Path) -> None:
    async def body(at: Serving) -> None:
        quiet = await _status(at)
        assert (quiet.pending_authorizations, quiet.recent_alerts, quiet.mismatches) == (0, 0, 0)
        assert not quiet.scheduler_paused
        await at.alive("developer", "%1")
        header = at.token("atlas", "developer")
        for action in ("read the docs", "deploy to production"):
            await at.authorization.RequestAuthorization(
                authorization_pb2.RequestAuthorizationRequest(action=action), metadata=header
            )

        def happened(tx: Transaction) -> None:
            raise_alert(tx, NewAlert(Severity.WARNING, "host", "disk", "It is full."))
            tx.execute("update scheduler set paused_at = 1")
            tx.execute(
                "insert into mismatch (kind, subject, session, detail, first_seen_at, last_seen_at,"
                " told_at, tmux_socket) values ('ORPHAN', 'x', '', '', 1, 1, 1, ''),"
                " ('ORPHAN', 'in grace', '', '', 1, 1, null, '')"
            )

        before = (await _status(at)).recent_alerts  # requests may have raised some
        await at.core.store.write(happened)
        at.core.passphrase.set("long enough, is it not")
        answer = await _status(at)
        assert (answer.pending_authorizations, answer.pending_for_human) == (2, 1)
        assert (answer.recent_alerts, answer.mismatches) == (before + 1, 1)
        assert answer.scheduler_paused
        assert not answer.open_mode
        at.clock.advance(3601)
        assert (await _status(at)).recent_alerts == 0

    run(tmp_path, body)


def test_the_last_phase_and_the_reports_are_shown(tmp_path: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("pm", "%1")

        def unit(tx: Transaction) -> None:
            for name in ("design", "build"):
                parts.add_phase(tx, "atlas", CompletedPhase(name, None, START, None), "operator")
            said = StatusReport("pm", "deployment", "COMPLETE", "long", START)
            parts.put_report(tx, "atlas", said, "atlas:pm")

        await at.core.store.write(unit)
        answer = await _status(at)
        (session,) = answer.sessions
        (phase,) = session.completed_phases
        assert (phase.name, phase.end_time) == ("build", answer.time)
        (report,) = session.status_reports
        assert (report.role, report.topic, report.status) == ("pm", "deployment", "COMPLETE")
        assert (report.details, report.report_time) == ("", answer.time)

    run(tmp_path, body)


def test_a_thousand_sessions_of_five_agents_fit_into_a_message_whatever_their_names() -> None:
    waits = WaitingFor("r" * 64, "authorization", "3fa8c1d2e0b7", START, START)
    agent = Agent(
        id="3fa8c1d2e0b7",
        session="本" * 200,
        role="r" * 64,
        kind="k" * 32,
        incarnation=None,
        pane_pid=1,
        epoch=1,
        liveness=Liveness.ALIVE,
        liveness_changed_at=START,
        last_check_in_at=START,
        client_version="1",
        created_at=START,
    )
    session = Session(
        "本" * 200, START, START, project_name="本" * 1000, failure_reason="本" * 1000
    )
    report = StatusReport("r" * 64, "t" * 64, "S" * 64, "", START)
    team = tuple(AgentView(replace(agent, role=f"{n}" + "r" * 63), "", waits) for n in range(5))
    phase = CompletedPhase("p" * 100, START, START, timedelta(hours=1))
    one = SessionView(session.name, session, team, phases=(phase,), reports=(report,) * 5)
    view = StatusView((one,) * 1000, START, True, Counts(1, 1, 1, 1, True), 1, 1)
    assert convert_status.status(view).ByteSize() < _USUAL_LIMIT
