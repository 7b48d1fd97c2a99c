"""The commands as the server hears them, and what people hear back; over grpc_testing's channel."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from orch.v1 import agent_pb2, authorization_pb2, heartbeat_pb2, scheduler_pb2
from tests.client.terminal import HEADER, Asked, Terminal


def _task(**more: Any) -> scheduler_pb2.Task:
    return scheduler_pb2.Task(
        **{"id": "3fa8", "session": "atlas", "role": "tester", "state": 1, "note": "x", **more}
    )


def test_schedule_sends_what_was_typed(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("schedule", "0.5", "look again; $HOME", "--to", "atlas:tester")
    asked = terminal.asked("CreateTask")
    assert asked.request.note == "look again; $HOME"
    assert asked.request.target == "atlas:tester"
    delay = asked.request.schedule.delay
    assert (delay.seconds, delay.nanos) == (30, 0)
    assert len(asked.request.request_id) == 32
    assert HEADER in [tuple(pair) for pair in asked.metadata]
    answer = scheduler_pb2.CreateTaskResponse(task=_task(), removed_characters=2)
    asked.answer(answer)
    assert running.result(10) == 0
    out, err = capsys.readouterr()
    assert out.startswith("3fa8  atlas:tester  due")
    assert "2 control characters were removed" in err


@pytest.mark.parametrize(
    ("minutes", "seconds", "nanos"),
    [
        ("0", 0, 0),
        ("15", 900, 0),
        ("0.02", 1, 200_000_000),
        ("1e-7", 0, 6_000),
        ("527040", 31_622_400, 0),
    ],
)
def test_minutes_become_a_duration(
    terminal: Terminal, minutes: str, seconds: int, nanos: int
) -> None:
    running = terminal.start("schedule", minutes, "x", "--json")
    asked = terminal.asked("CreateTask")
    delay = asked.request.schedule.delay
    assert (delay.seconds, delay.nanos) == (seconds, nanos)
    asked.answer(scheduler_pb2.CreateTaskResponse(task=_task()))
    assert running.result(10) == 0


def test_each_request_has_an_id_of_its_own(terminal: Terminal) -> None:
    ids = set()
    for _ in range(3):
        running = terminal.start("schedule", "1", "x")
        asked = terminal.asked("CreateTask")
        ids.add(asked.request.request_id)
        asked.answer(scheduler_pb2.CreateTaskResponse(task=_task()))
        running.result(10)
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT", 2),
        (grpc.StatusCode.UNAVAILABLE, "DRAINING", 3),
        (grpc.StatusCode.UNAVAILABLE, "", 3),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", 3),
        (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", 4),
        (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED", 5),
        (grpc.StatusCode.UNAUTHENTICATED, "UNIDENTIFIED", 5),
        (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", 6),
        (grpc.StatusCode.ABORTED, "VERSION_MISMATCH", 6),
        (grpc.StatusCode.FAILED_PRECONDITION, "CONFLICT", 6),
        (grpc.StatusCode.INTERNAL, "INTERNAL", 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", 1),
    ],
    ids=str,
)
def test_each_error_has_its_exit_status_and_one_sentence(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    code: grpc.StatusCode,
    reason: str,
    status: int,
) -> None:
    running = terminal.start("task", "3fa8")
    terminal.asked("GetTask").fail(code, "What is wrong; what to do.", reason)
    assert running.result(10) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("orch-client: ")
    assert err.count("\n") == 1
    if reason:
        assert "What is wrong; what to do." in err
    elif status == 3:
        assert "127.0.0.1:50051" in err


def test_a_list_is_fetched_to_its_last_page(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("tasks", "--session", "atlas", "--state", "pending", "--json")
    first = terminal.asked("ListTasks")
    assert (first.request.session, first.request.state) == ("atlas", 1)
    first.answer(scheduler_pb2.ListTasksResponse(tasks=[_task(id="a")], next_page_token="t2"))
    second = terminal.asked("ListTasks")
    assert (second.request.session, second.request.page_token) == ("atlas", "t2")
    second.answer(scheduler_pb2.ListTasksResponse(tasks=[_task(id="b")]))
    assert running.result(10) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [task["id"] for task in shown] == ["a", "b"]
    assert shown[0]["state"] == "TASK_STATE_PENDING"


def test_a_note_cannot_play_with_the_terminal(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("tasks")
    evil = _task(note="\x1b]0;owned\x07\nsecond", creator="operator")
    terminal.asked("ListTasks").answer(scheduler_pb2.ListTasksResponse(tasks=[evil]))
    terminal.asked("GetScheduler").answer(scheduler_pb2.GetSchedulerResponse())
    assert running.result(10) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("\n") == 2


def test_empty_lists_say_so(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    running = terminal.start("agents")
    terminal.asked("ListAgents").answer(heartbeat_pb2.ListAgentsResponse())
    assert running.result(10) == 0
    assert "orch-client heartbeat" in capsys.readouterr().out
    running = terminal.start("agents", "--json")
    terminal.asked("ListAgents").answer(heartbeat_pb2.ListAgentsResponse())
    assert running.result(10) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_agents_are_shown_in_a_table(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("agents", "--session", "atlas")
    asked = terminal.asked("ListAgents")
    assert asked.request.session == "atlas"
    known = agent_pb2.Agent(
        session="atlas",
        role="tester",
        liveness=agent_pb2.LIVENESS_ALIVE,
        pane=agent_pb2.Pane(pane_id="%5"),
    )
    asked.answer(heartbeat_pb2.ListAgentsResponse(agents=[known]))
    assert running.result(10) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["AGENT", "CLIENT"]
    assert row.split()[:2] == ["atlas:tester", "alive"]
    assert "%5" in row


@pytest.mark.parametrize(
    ("argv", "method", "fields"),
    [
        (("approve", "3fa8"), "ApproveAuthorization", {"id": "3fa8", "reason": ""}),
        (("approve", "3f", "--reason", "fine"), "ApproveAuthorization", {"reason": "fine"}),
        (("deny", "3f", "--reason", "no"), "DenyAuthorization", {"id": "3f", "reason": "no"}),
        (("withdraw", "3f"), "CancelAuthorization", {"id": "3f"}),
        (("authorization", "3f"), "GetAuthorization", {"id": "3f"}),
        (
            ("authorize", "--priority", "high", "--to", "project_manager", "Deploy"),
            "RequestAuthorization",
            {"action": "Deploy", "priority": 3, "approver_role": "project_manager"},
        ),
        (("authorize", "Deploy"), "RequestAuthorization", {"priority": 0}),
    ],
)
def test_authorizations_are_asked_and_decided(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    method: str,
    fields: dict[str, Any],
) -> None:
    running = terminal.start(*argv)
    asked = terminal.asked(method)
    for name, value in fields.items():
        assert getattr(asked.request, name) == value
    known = authorization_pb2.Authorization(
        id="3fa8", session="atlas", requester_role="developer", state=1, priority=3
    )
    response = getattr(authorization_pb2, f"{method}Response")(authorization=known)
    asked.answer(response)
    assert running.result(10) == 0
    assert "3fa8" in capsys.readouterr().out


def _wanted(call: Callable[[], Asked]) -> None:
    call().fail(
        grpc.StatusCode.PERMISSION_DENIED, "The passphrase is needed.", "PASSPHRASE_REQUIRED"
    )


def test_without_a_terminal_the_passphrase_is_not_asked_for(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("approve", "3fa8")
    _wanted(lambda: terminal.asked("ApproveAuthorization"))
    assert running.result(10) == 5
    assert "The passphrase is needed." in capsys.readouterr().err


def test_a_wrong_command_line_makes_no_call(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in (
        (),
        ("frobnicate",),
        ("schedule",),
        ("schedule", "x", "y"),
        ("schedule", "1", ""),
        ("tasks", "--state", "odd"),
        ("reschedule", "3f"),
        ("occurrences",),
        ("pause",),
        ("run-now",),
        ("cancel",),
        ("deny", "3f"),
        ("authorize", "--priority", "odd", "x"),
        ("send",),
        (
            "send",
            "--",
        ),
        ("send", "pm", ""),
        ("send", "pm", "x", "--mode", "odd"),
        ("send", "pm", "x", "--ttl", "soon"),
        ("send", "pm", "x", "--wait", "0"),
        ("send", "pm", "x", "-v", "a=b"),
        ("send", "pm", "x", "--template", "t"),
        ("send", "pm", "--template", "t", "-v", "a"),
        ("send", "pm", "--template", "t", "-v", "a=1", "-v", "a=2"),
        ("messages", "--limit", "0"),
        ("messages", "--limit", "many"),
        ("messages", "--state", "odd"),
        ("delivery",),
        ("delivery", "forget", "3f"),
        ("delivery", "cancel", "3f", "4a"),
        ("delivery", "cancel", "3f", "--force"),
        ("dnd",),
        ("dnd", "maybe"),
        ("hooks", "explode"),
    ):
        assert terminal.start(*argv).result(10) == 2, argv
    capsys.readouterr()


def test_a_malformed_address_is_a_usage_error(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCH_ADDRESS", "nonsense")
    assert terminal.start("tasks").result(10) == 2
    assert "unix:/PATH or HOST:PORT" in capsys.readouterr().err
