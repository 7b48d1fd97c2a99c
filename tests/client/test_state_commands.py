"""`state`, `phase`, `report`, `projects`: what the server hears, what people read."""

from __future__ import annotations

import json
import time

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import agent_pb2
from orch.v1 import session_state_pb2 as pb
from orch_client.commands.state import length
from tests.client.terminal import Terminal


def _ago(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(time.time() - seconds))


def _session() -> pb.Session:
    phase = pb.CompletedPhase(
        name="design", end_time=_ago(600), length=Duration(seconds=2 * 3600 + 5 * 60)
    )
    said = pb.StatusReport(
        role="tester", topic="tests", status="GREEN", details="all\x1b[2J\nof them"
    )
    agent = agent_pb2.Agent(
        session="atlas", role="tester", worktree_path="/srv/w/t", branch="b", commit_hash="0" * 40
    )
    return pb.Session(
        name="atlas",
        project_name="Atlas",
        project_path="/srv/atlas",
        project_size=pb.PROJECT_SIZE_LARGE,
        plan=pb.PLAN_MAX20,
        phase=pb.PHASE_REVIEW,
        completion=pb.COMPLETION_FAILED,
        completion_time=_ago(300),
        failure_reason="no\x1b credit",
        version=7,
        completed_phases=[phase, pb.CompletedPhase(name="old")],
        status_reports=[said],
        role_dependencies=[pb.RoleDependency(role="tester", needs=["developer", "designer"])],
        agents=[agent],
    )


def test_a_session_is_shown_with_all_that_belongs_to_it(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    request = terminal.run(
        "GetSession", pb.GetSessionResponse(session=_session()), "state", "atlas"
    )
    assert request.name == "atlas"
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for expected in (
        "project Atlas",
        "size large",
        "plan max20",
        "phase review",
        "work failed",
        "failure no credit",
        "old ? nobody knows when",
        "tester needs developer, designer",
        f"tester b {'0' * 12} /srv/w/t",
    ):
        assert expected in lines, shown
    assert any(line.startswith("design 2h 5m ") for line in lines)
    assert any(line.startswith("tester tests GREEN") and "of them" in line for line in lines)
    assert "\x1b" not in shown


def test_the_old_systems_last_word_is_shown(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = agent_pb2.Agent(
        role="tester", imported_alive=False, imported_exhausted=True, imported_credit_reset="11pm"
    )
    session = pb.Session(name="atlas", agents=[idle], imported_metrics={"idle_pct": 12.5})
    terminal.run("GetSession", pb.GetSessionResponse(session=session), "state", "atlas")
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "idle_pct 12.5" in shown
    said = "the old system last said: not alive, credit exhausted, reset 11pm"
    assert f"tester {said}" in shown


def test_what_a_session_does_not_have_has_no_heading(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = pb.GetSessionResponse(session=pb.Session(name="atlas", name_missing=True))
    terminal.run("GetSession", answer, "state", "atlas")
    shown = capsys.readouterr().out
    assert "name of its tmux session is not known" in shown
    for heading in ("PHASES", "REPORTS", "DEPENDENCIES", "WORKTREES"):
        assert heading not in shown


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3600, "1h 0m"), (90_000, "1d 1h")],
)
def test_a_length_has_its_two_largest_units(seconds: int, expected: str) -> None:
    assert length(pb.CompletedPhase(length=Duration(seconds=seconds))) == expected


def test_a_phase_is_completed_and_its_length_printed(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    done = pb.CompletedPhase(name="design", length=Duration(seconds=90))
    answer = pb.CompletePhaseResponse(phase=done)
    request = terminal.run("CompletePhase", answer, "phase", "complete", "design", "--session", "s")
    assert (request.session, request.name) == ("s", "design")
    assert request.request_id
    assert capsys.readouterr().out == "design: completed after 1m 30s\n"
    request = terminal.run("CompletePhase", answer, "phase", "complete", "design", "--json")
    assert request.session == ""
    assert json.loads(capsys.readouterr().out) == {"name": "design", "length": "90s"}


def test_a_phase_that_was_completed_before_is_a_conflict(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("phase", "complete", "design")
    said = "The phase 'design' was completed."
    terminal.asked("CompletePhase").fail(grpc.StatusCode.ALREADY_EXISTS, said, "ALREADY_EXISTS")
    assert running.result(10) == 6
    assert said in capsys.readouterr().err


def test_set_changes_the_named_fields_of_a_session(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    done = pb.UpdateSessionResponse(session=pb.Session(name="atlas", version=8))
    flags = ("--set", "completion=failed", "--set", "failure_reason=a=b", "--version", "7")
    request = terminal.run("UpdateSession", done, "state", "atlas", *flags)
    assert (request.session.name, request.session.version) == ("atlas", 7)
    assert request.session.completion == pb.COMPLETION_FAILED
    assert request.session.failure_reason == "a=b"
    assert list(request.update_mask.paths) == ["completion", "failure_reason"]
    assert capsys.readouterr().out == "atlas: changed, now version 8\n"
    terminal.run("UpdateSession", done, "state", "atlas", "--set", "plan=Max5", "--json")
    assert json.loads(capsys.readouterr().out)["name"] == "atlas"


def test_a_report_names_topic_and_status(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    said = pb.StatusReport(role="tester", topic="tests", status="GREEN")
    answer = pb.ReportStatusResponse(report=said)
    request = terminal.run("ReportStatus", answer, "report", "Tests", "green", "all of them")
    assert (request.topic, request.status, request.details) == ("Tests", "green", "all of them")
    assert capsys.readouterr().out == "tester: tests GREEN\n"
    assert terminal.run("ReportStatus", answer, "report", "Tests", "green").details == ""


def test_projects_are_listed_with_their_sessions(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    known = pb.Project(id="1", name="Atlas\x1b", path="/srv/atlas", sessions=["one", "two"])
    terminal.run("ListProjects", pb.ListProjectsResponse(projects=[known]), "projects")
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        ["PROJECT", "PATH", "SESSIONS"],
        ["Atlas", "/srv/atlas", "one,", "two"],
    ]


@pytest.mark.parametrize(
    "argv",
    [
        ("phase",),
        ("phase", "begin", "x"),
        ("phase", "complete", "two", "words"),
        ("report", "topic"),
        ("report", "a", "b", "c", "d"),
        ("projects", "atlas"),
        ("state", "--set", "phase=idle"),
        ("state", "atlas", "--set", "phase"),
        ("state", "atlas", "--set", "phase=asleep"),
        ("state", "atlas", "--set", "version=3"),
        ("state", "atlas", "--version", "3"),
    ],
)
def test_other_words_are_refused_before_anybody_is_asked(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    assert terminal.start(*argv).result(10) == 2
    assert capsys.readouterr().err


def test_the_table_of_all_sessions_is_narrow(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.run("ListSessions", pb.ListSessionsResponse(sessions=[_session()]), "state")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["SESSION", "PHASE", "WORK", "ALIVE", "WAITING", "PROJECT"]
    assert shown[1].split() == ["atlas", "review", "failed", "0/1", "0", "/srv/atlas"]
