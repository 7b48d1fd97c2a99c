"""`send`, `messages`, `delivery`, `dnd`, `templates`: what the server hears, what people read."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import delivery_pb2, messaging_pb2
from tests.client.terminal import Terminal

PENDING, CONFIRMED, DEAD = (
    delivery_pb2.DELIVERY_STATE_PENDING,
    delivery_pb2.DELIVERY_STATE_CONFIRMED,
    delivery_pb2.DELIVERY_STATE_DEAD,
)


def _delivery(**more: Any) -> delivery_pb2.Delivery:
    known = {"id": "3fa8c01d2233", "session": "atlas", "role": "tester", "state": PENDING}
    return delivery_pb2.Delivery(**{**known, **more})


def _sent(*deliveries: delivery_pb2.Delivery, **more: Any) -> messaging_pb2.SendMessageResponse:
    results = [messaging_pb2.SendResult(target="@atlas", delivery=one) for one in deliveries]
    return messaging_pb2.SendMessageResponse(results=results, **more)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("please", "run", "the tests"), "please run the tests"),
        (("--plain", "a", "--priority", "high", "b"), "a b"),
        (("--", "-rf", "/", "--json"), "-rf / --json"),
        (("a", "--", "--", "b"), "a -- b"),
        (("--", "--"), "--"),
        (("#(touch x)", "$HOME", "`id`;"), "#(touch x) $HOME `id`;"),
        (("-",), "-"),
        (("a\x1b[201~b\r\n",), "a\x1b[201~b\r\n"),
    ],
)
def test_the_words_are_the_text_wherever_they_stand(
    terminal: Terminal, argv: tuple[str, ...], text: str
) -> None:
    running = terminal.start("send", "atlas:tester", *argv)
    asked = terminal.asked("SendMessage")
    assert list(asked.request.targets) == ["atlas:tester"]
    assert asked.request.text == text
    assert len(asked.request.request_id) == 32
    asked.answer(_sent(_delivery()))
    assert running.result(10) == 0


def test_send_passes_on_what_was_asked(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start(
        *("send", "@atlas", "--template", "briefing", "-v", "project=at=las", "-v", "task="),
        *("--plain", "--mode", "turn-boundary", "--priority", "high", "--ttl", "90s"),
    )
    asked = terminal.asked("SendMessage")
    request = asked.request
    assert (request.text, request.template) == ("", "briefing")
    assert dict(request.parameters) == {"project": "at=las", "task": ""}
    assert request.plain
    assert request.mode == delivery_pb2.DELIVERY_MODE_TURN_BOUNDARY
    assert request.priority == delivery_pb2.DELIVERY_PRIORITY_HIGH
    assert request.time_to_live.seconds == 90
    assert not request.HasField("reply_patience")
    asked.answer(_sent(_delivery()))
    assert running.result(10) == 0
    assert "3fa8c01d" in capsys.readouterr().out


def test_each_target_has_its_row_and_a_failed_one_its_sentence(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("send", "@atlas", "x")
    answer = _sent(_delivery(), _delivery(id="4b00aa110000", role="pm"), removed_characters=3)
    answer.results.add(target="atlas:\x1bgone", error="Its pane is gone.")
    terminal.asked("SendMessage").answer(answer)
    assert running.result(10) == 1
    out, err = capsys.readouterr()
    head, first, second = out.splitlines()
    assert head.split() == ["AGENT", "DELIVERY", "STATE"]
    assert first.split() == ["atlas:tester", "3fa8c01d", "pending"]
    assert second.split() == ["atlas:pm", "4b00aa11", "pending"]
    assert err.splitlines() == [
        "orch-client: 3 control characters were removed from the text.",
        "orch-client: atlas: gone: Its pane is gone.",
    ]


def _pipe(data: bytes) -> io.TextIOWrapper:
    """Standard input as a pipe in the locale C."""
    return io.TextIOWrapper(io.BytesIO(data), encoding="ascii")


def test_without_words_the_text_comes_from_the_pipe(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", _pipe("größer 🚀\n".encode()))
    running = terminal.start("send", "pm")
    asked = terminal.asked("SendMessage")
    assert asked.request.text == "größer 🚀\n"
    asked.answer(_sent(_delivery()))
    assert running.result(10) == 0


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"abc\xff", "the text from standard input is not valid UTF-8 at byte offset 3."),
        (b"\xed\xa0\x80", "not valid UTF-8 at byte offset 0."),
        (b"ab\xe2\x82", "not valid UTF-8 at byte offset 2."),
        (b"", "the text is empty"),
        (b" \n\t\r\n", "the text is empty"),
        (b"x" * 1_048_577, "more than 1,048,576 bytes"),
    ],
)
def test_what_is_no_text_in_the_pipe_makes_no_call(
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    says: str,
) -> None:
    monkeypatch.setattr("sys.stdin", _pipe(data))
    assert terminal.start("send", "pm").result(10) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err


def test_an_argument_that_is_no_utf8_is_named(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert terminal.start("send", "pm", os.fsdecode(b"ab\xff")).result(10) == 2
    said = "orch-client: argument 3 is not valid UTF-8 at byte offset 2.\n"
    assert capsys.readouterr().err == said


def test_messages_are_fetched_page_by_page_up_to_the_limit(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start(
        *("messages", "--agent", "atlas:tester", "--session", "atlas", "--state", "dead"),
        *("--search", '"release notes" draft', "--limit", "14"),
    )
    first = terminal.asked("ListDeliveries")
    assert (first.request.agent, first.request.session) == ("atlas:tester", "atlas")
    assert (first.request.state, first.request.search) == (DEAD, '"release notes" draft')
    assert (first.request.page_size, first.request.page_token) == (12, "")
    evil = _delivery(text="\x1b]0;owned\x07two\nlines", sender="atlas:pm", state=DEAD)
    page = messaging_pb2.ListDeliveriesResponse(deliveries=[evil] * 12, next_page_token="t2")
    first.answer(page)
    second = terminal.asked("ListDeliveries")
    assert (second.request.page_size, second.request.page_token) == (2, "t2")
    second.answer(messaging_pb2.ListDeliveriesResponse(deliveries=[evil] * 2, next_page_token="t3"))
    assert running.result(10) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 15
    assert "]0;owned two lines" in out


def test_a_delivery_tells_its_story_with_times(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("delivery", "3fa8")
    steps = [
        delivery_pb2.DeliveryStep(
            time=Timestamp(seconds=1_800_000_000, nanos=250_000_000), step="created", actor="pm"
        ),
        delivery_pb2.DeliveryStep(
            time=Timestamp(seconds=1_800_000_001, nanos=0), step="refused", detail="A dialog."
        ),
    ]
    told = _delivery(steps=steps, header="[message 3fa8c01d from pm]", text="x\x1b[2Jy", attempts=1)
    asked = terminal.asked("GetDelivery")
    assert asked.request.id == "3fa8"
    asked.answer(messaging_pb2.GetDeliveryResponse(delivery=told))
    assert running.result(10) == 0
    out = capsys.readouterr().out
    fields, _, story = out.partition("\n\n")
    assert "\x1b" not in out
    assert "text      x [2Jy" in fields
    first, second = story.splitlines()
    assert first.endswith(".250  +0.000 s  created by pm")
    assert second.endswith(".000  +0.750 s  refused: A dialog.")


@pytest.mark.parametrize(
    ("argv", "method", "fields", "says"),
    [
        (("cancel", "3f"), "CancelDelivery", {"id": "3f"}, "cancelled"),
        (("redrive", "3f"), "RedriveDelivery", {"id": "3f", "force": False}, "waits again"),
        (("redrive", "3f", "--force"), "RedriveDelivery", {"force": True}, "waits again"),
    ],
)
def test_a_delivery_is_cancelled_and_redriven(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    method: str,
    fields: dict[str, Any],
    says: str,
) -> None:
    running = terminal.start("delivery", *argv)
    asked = terminal.asked(method)
    assert {name: getattr(asked.request, name) for name in fields} == fields
    asked.answer(getattr(messaging_pb2, f"{method}Response")(delivery=_delivery()))
    assert running.result(10) == 0
    assert says in capsys.readouterr().out


def test_a_redrive_that_needs_force_is_a_conflict(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("delivery", "redrive", "3f")
    asked = terminal.asked("RedriveDelivery")
    asked.fail(grpc.StatusCode.FAILED_PRECONDITION, "It may have arrived; --force.", "CONFLICT")
    assert running.result(10) == 6
    assert "It may have arrived" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "target", "enabled"),
    [(("on",), "", True), (("off", "@atlas"), "@atlas", False)],
)
def test_do_not_disturb_names_whom_it_concerns(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    target: str,
    enabled: bool,
) -> None:
    running = terminal.start("dnd", *argv)
    asked = terminal.asked("SetDoNotDisturb")
    assert (asked.request.target, asked.request.enabled) == (target, enabled)
    asked.answer(messaging_pb2.SetDoNotDisturbResponse(agents=["atlas:tester"]))
    assert running.result(10) == 0
    assert capsys.readouterr().out.startswith("atlas:tester: ")


def test_templates_show_their_parameters(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("templates", "--json")
    known = messaging_pb2.Template(name="standup", text="Of {team}.", parameters=["team"])
    answer = messaging_pb2.ListTemplatesResponse(templates=[known])
    terminal.asked("ListTemplates").answer(answer)
    assert running.result(10) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == [{"name": "standup", "text": "Of {team}.", "parameters": ["team"]}]
