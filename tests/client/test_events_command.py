"""`events`: what the server hears, what people read, and how it follows over restarts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import event_pb2 as pb
from orch_client import channel
from tests.client.terminal import METHODS, Terminal


def _event(number: int, **more: Any) -> pb.Event:
    at = Timestamp(seconds=1_795_262_400 + number, nanos=250_000_000)
    known = {"kind": "task.fired", "subject": "3fa8c01d2233", "session": "atlas"}
    return pb.Event(number=number, time=at, **{**known, **more})


def _page(*numbers: int, last: int = 0, more: str = "") -> pb.ListEventsResponse:
    events = [_event(number) for number in numbers]
    return pb.ListEventsResponse(events=events, last_number=last, next_page_token=more)


def _numbers(capsys: pytest.CaptureFixture[str]) -> list[int]:
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NUMBER", "TIME", "KIND", "SUBJECT", "WHO", "DETAIL"]
    return [int(line.split()[0]) for line in lines]


# ---- what is stored ----


def test_without_arguments_the_newest_50_are_shown(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("events")
    asked = terminal.asked("ListEvents")
    assert asked.request == pb.ListEventsRequest(page_size=1)
    asked.answer(_page(1, last=1000, more="x"))
    asked = terminal.asked("ListEvents")
    assert asked.request.after == 950
    asked.answer(_page(*range(951, 1002), last=1001))  # one has come meanwhile
    assert running.result(10) == 0
    assert _numbers(capsys) == list(range(952, 1002))


def test_for_what_is_rare_it_looks_further_back(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("events", "--kind", "nudge", "--kind", "alert.raised")
    terminal.asked("ListEvents").answer(_page(last=1000))
    for after, numbers in ((950, [999]), (600, [700, 999]), (0, [3, 700, 999])):
        asked = terminal.asked("ListEvents")
        assert (asked.request.after, asked.request.page_size) == (after, 1000)
        assert list(asked.request.kinds) == ["nudge", "alert.raised"]
        asked.answer(_page(*numbers, last=1000))
    assert running.result(10) == 0
    assert _numbers(capsys) == [3, 700, 999]


def test_after_a_number_all_pages_are_shown(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("events", "--after", "7", "--session", "atlas", "--subject", "3fa8")
    asked = terminal.asked("ListEvents")
    assert asked.request == pb.ListEventsRequest(
        after=7, session="atlas", subject="3fa8", page_size=1000
    )
    asked.answer(_page(8, 9, more="further", last=99))
    asked = terminal.asked("ListEvents")
    assert (asked.request.page_token, asked.request.after) == ("further", 7)
    asked.answer(_page(more="on", last=99))  # a page may be empty
    terminal.asked("ListEvents").answer(_page(98, last=99))
    assert running.result(10) == 0
    assert _numbers(capsys) == [8, 9, 98]


def test_a_line_has_time_session_and_actor_and_no_control_characters(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("events", "--after", "0")
    events = [
        _event(1, actor="atlas:pm", detail="one\n\x1b[31mtwo"),
        _event(2, actor="operator", session="", subject="", kind="scheduler.paused"),
        _event(3, session="a\x1bb", subject="\x9bx", detail="y" * 300),
        _event(4, session="", kind="server.stalled", subject="server"),
    ]
    terminal.asked("ListEvents").answer(pb.ListEventsResponse(events=events, last_number=4))
    assert running.result(10) == 0
    out = capsys.readouterr().out
    assert all(c.isprintable() for c in out.replace("\n", ""))
    first, second, third, fourth = out.splitlines()[1:]
    cells = [cell.strip() for cell in first.split("  ") if cell.strip()]
    assert cells == [
        "1",
        "2026-11-21 13:00:01.250",
        "task.fired",
        "3fa8c01d2233",
        "atlas by atlas:pm",
        "one [31mtwo",
    ]
    assert second.split()[3:] == ["scheduler.paused", "-", "by", "operator"]
    assert third.endswith("a b" + " " * 31 + "y" * 119 + "…")
    assert fourth.split()[4:] == ["server", "-"]


def test_no_events(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    running = terminal.start("events")
    terminal.asked("ListEvents").answer(_page())
    terminal.asked("ListEvents").answer(_page())
    assert running.result(10) == 0
    assert capsys.readouterr().out == "No events.\n"


def test_json_is_an_array(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    running = terminal.start("events", "--after", "0", "--json")
    terminal.asked("ListEvents").answer(_page(1, more="x"))
    terminal.asked("ListEvents").answer(_page(2))
    assert running.result(10) == 0
    found = json.loads(capsys.readouterr().out)
    assert [event["number"] for event in found] == ["1", "2"]
    assert found[0]["kind"] == "task.fired"


@pytest.mark.parametrize("given", ["-1", "x", "", "1.5", "٣", "9223372036854775808", "1" * 5000])
def test_what_is_no_number_makes_no_call(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert terminal.start("events", f"--after={given}").result(10) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "--after" in err


def test_what_the_server_refuses_is_its_own_sentence(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("events", "--after", "0", "--kind", "Task")
    asked = terminal.asked("ListEvents")
    asked.fail(grpc.StatusCode.INVALID_ARGUMENT, "'Task' is no kind.", "INVALID_INPUT")
    assert running.result(10) == 2
    assert capsys.readouterr().err == "orch-client: 'Task' is no kind.\n"


# ---- --follow ----


@contextmanager
def _following(terminal: Terminal, *argv: str) -> Iterator[Callable[..., Any]]:
    """`events --follow`; what is yielded answers its next stream with the events of these numbers,
    then ends it, and returns its request. In the end it is ended by an error that it does not wait
    over."""
    running = terminal.start("events", "--follow", *argv)
    asked = terminal.asked("ListEvents")
    asked.answer(_page(1, last=40, more="x"))

    def streams(*numbers: int, code: grpc.StatusCode = grpc.StatusCode.OK) -> Any:
        _, request, rpc = terminal._channel.take_unary_stream(METHODS["WatchEvents"])
        as_it_was = pb.WatchEventsRequest.FromString(request.SerializeToString())
        rpc.send_initial_metadata(())
        for number in numbers:
            rpc.send_response(pb.WatchEventsResponse(event=_event(number, detail="a\nb")))
        rpc.terminate((), code, "")
        return as_it_was

    try:
        yield streams
    finally:
        streams(code=grpc.StatusCode.PERMISSION_DENIED)
        assert running.result(10) == 5
    assert asked.request == pb.ListEventsRequest(page_size=1)


def test_it_follows_from_the_last_number_seen_over_restarts(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {"session": "atlas", "kinds": ["task"], "subject": "3fa8"}
    argv = ("--session", "atlas", "--kind", "task", "--subject", "3fa8")
    with _following(terminal, *argv) as streams:
        assert streams(code=grpc.StatusCode.UNAVAILABLE) == pb.WatchEventsRequest(
            after=40, **wanted
        )
        assert streams(41, 43) == pb.WatchEventsRequest(after=40, **wanted)
        assert streams(code=grpc.StatusCode.UNAVAILABLE).after == 43
        assert streams(44).after == 43
        assert streams(code=grpc.StatusCode.CANCELLED).after == 44
        assert streams().after == 44
    assert _numbers(capsys) == [41, 43, 44]


def test_it_follows_after_a_number(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    with _following(terminal, "--after", "0", "--json") as streams:
        assert streams(1, 2).after == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["number"], line["detail"]) for line in lines] == [("1", "a\nb"), ("2", "a\nb")]


def test_following_without_a_server_ends(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(target: str) -> channel.Metadata:
        raise channel.unreachable(target)

    monkeypatch.setattr(channel, "credentials", unreachable)
    assert terminal.start("events", "--follow").result(10) == 3
    assert "orch-server run" in capsys.readouterr().err
