"""`authorize`, `consume`, `pending`, `authorization`, `approve`, `deny`, `withdraw`, `escalate`:
what the server hears, what people read."""

from __future__ import annotations

import getpass
import io
import itertools
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import authorization_pb2 as pb
from orch_client import channel, cli
from orch_client.commands import authorization_calls
from orch_client.commands import authorization_words as words
from tests.client.terminal import METHODS, Asked, Terminal


def _in(seconds: float) -> Timestamp:
    whole, part = divmod(time.time() + seconds, 1)
    return Timestamp(seconds=int(whole), nanos=int(part * 1e9))


def _asked(state: str = "PENDING", **more: Any) -> pb.Authorization:
    known = {
        "id": "3fa8c01d2233",
        "session": "atlas",
        "requester_role": "developer",
        "approver_role": "orchestrator",
        "action": "Deploy",
        "priority": 3,
        "state": pb.AuthorizationState.Value(f"AUTHORIZATION_STATE_{state}"),
        "create_time": _in(-60),
        "deadline": _in(240),
        "action_class": "routine",
        "bound_action": pb.Action(arguments="Deploy", cwd="/srv"),
    }
    return pb.Authorization(**{**known, **more})


def _approved(holds: float = 900, **more: Any) -> pb.Authorization:
    resolved = _in(-1)
    lapses = Timestamp()
    lapses.FromMicroseconds(resolved.ToMicroseconds() + round(holds * 1e6))
    return _asked("APPROVED", resolve_time=resolved, lapse_time=lapses, **more)


def _refused(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], *argv: str, status: int = 2
) -> str:
    """The one sentence of a command that calls nobody."""
    assert terminal.start(*argv).result(10) == status, argv
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    return err


def _shown(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], found: pb.Authorization
) -> dict[str, str]:
    """The fields that `authorization ID` shows."""
    answer = pb.GetAuthorizationResponse(authorization=found)
    terminal.run("GetAuthorization", answer, "authorization", "3fa8")
    fields: dict[str, str] = {}
    name = ""
    for line in capsys.readouterr().out.splitlines():
        match = re.match(r"(\w+) +(.*)", line)
        if match:
            name = match[1]
        fields[name] = f"{fields[name]}\n{line.strip()}" if not match else match[2]
    return fields


# ---- authorize ----


@pytest.mark.parametrize(
    ("flags", "timeout"),
    [
        ((), None),
        (("--deadline", "1h"), Duration(seconds=3600)),
        (("--deadline", "90s"), Duration(seconds=90)),
        (("--deadline", "1d"), Duration(seconds=86400)),
        (("--deadline", "0.5"), Duration(seconds=30)),
        (("--deadline", "400d"), Duration(seconds=34_560_000)),  # the server judges
    ],
)
def test_a_request_says_how_long_there_is_to_decide_and_where_it_is_for(
    terminal: Terminal, flags: tuple[str, ...], timeout: Duration | None
) -> None:
    answer = pb.RequestAuthorizationResponse(authorization=_asked())
    request = terminal.run("RequestAuthorization", answer, "authorize", *flags, "Deploy")
    assert (request.timeout if request.HasField("timeout") else None) == timeout
    assert request.cwd == str(Path.cwd())
    assert (request.action, len(request.request_id)) == ("Deploy", 32)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("authorize", "--deadline", "soon", "x"), "--deadline is 'soon'; use a duration such as"),
        (("authorize", "--deadline", "", "x"), "--deadline is ''; use a duration"),
        (("authorize", "--deadline=-5m", "x"), "--deadline is '-5m'"),
        (("authorize", "--deadline", "nan", "x"), "--deadline is 'nan'"),
        (("authorize", "--deadline", "0", "x"), "--deadline is '0'; use a duration that is not 0."),
        (("authorize", "--deadline", "1e-9s", "x"), "use a duration that is not 0."),
        (("authorize", "--timeout", "5m", "x"), "--timeout goes with --wait."),
        (("authorize", "--wait", "--timeout", "0", "x"), "'0' is no duration"),
        (("authorize", "  \n"), "the action is empty"),
        (("authorize", "--wait", "--timeout", "", "x"), "'' is no duration"),
        (("consume", "3fa8", "--timeout", "5m"), "--timeout goes with --wait."),
        (("consume", "3fa8", "--wait", "--timeout", "0"), "'0' is no duration"),
        (("authorization", "stats", "--since", "soon"), "--since is 'soon'; use a duration"),
        (("authorization", "stats", "--since", "0"), "--since is '0'; use a duration that is not"),
        (("authorization", "3fa8", "--since", "7d"), "--since and --session go with stats."),
        (("authorization", "3fa8", "--session", "x"), "--since and --session go with stats."),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], says: str
) -> None:
    assert says in _refused(terminal, capsys, *argv)


@pytest.mark.parametrize(
    "argv",
    [
        ("authorize", "--priority", "odd", "x"),
        ("authorize", "--deadline"),
        ("deny", "3fa8"),
        ("approve",),
        ("consume",),
        ("escalate",),
        ("authorization",),
        ("pending", "--state", "odd"),
    ],
)
def test_what_is_left_out_is_a_usage_error(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    assert terminal.start(*argv).result(10) == 2
    assert "usage: orch-client " in capsys.readouterr().err


def test_an_empty_action_is_not_asked_for_anew_and_a_missing_one_is(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["Deploy", ""]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: typed.pop(0))
    assert "the action is empty" in _refused(terminal, capsys, "authorize", "")
    answer = pb.RequestAuthorizationResponse(authorization=_asked())
    assert terminal.run("RequestAuthorization", answer, "authorize").action == "Deploy"
    capsys.readouterr()
    assert "the action is empty" in _refused(terminal, capsys, "authorize")
    assert typed == []


def test_more_than_is_read_from_a_pipe_is_refused_with_the_limit_of_an_action(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 1_048_577)))
    said = _refused(terminal, capsys, "authorize", "-")
    assert "has more than 1,048,576 bytes, but at most 16,384 are allowed." in said


@pytest.mark.parametrize("command", [("authorize", "x"), ("consume", "3fa8")])
def test_a_working_directory_that_cannot_be_named_is_one_sentence(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff"))
    odd.mkdir()
    monkeypatch.chdir(odd)
    said = _refused(terminal, capsys, *command)
    assert "the working directory's path is not valid UTF-8 at byte offset" in said
    odd.rmdir()
    assert "the working directory is gone" in _refused(terminal, capsys, *command, status=1)


# ---- authorize --wait ----


class Waiter:
    """`authorize --wait` or `consume --wait`, whose stream and whose use of the approval are
    answered here."""

    def __init__(self, terminal: Terminal, *flags: str, command: str = "authorize") -> None:
        self._terminal = terminal
        if command == "consume":
            self.running = terminal.start("consume", "3fa8c01d2233", "--wait", *flags)
            return
        self.running = terminal.start("authorize", "--wait", *flags, "Deploy")
        answer = pb.RequestAuthorizationResponse(authorization=_asked())
        terminal.asked("RequestAuthorization").answer(answer)

    def hears(
        self, *states: pb.Authorization, code: grpc.StatusCode = grpc.StatusCode.OK
    ) -> Waiter:
        """Answers the stream with these, then ends it."""
        _, request, rpc = self._terminal._channel.take_unary_stream(METHODS["WaitAuthorization"])
        assert request.id == "3fa8c01d2233"
        rpc.send_initial_metadata(())
        for found in states:
            rpc.send_response(pb.WaitAuthorizationResponse(authorization=found))
        rpc.terminate((), code, "")
        return self

    def uses(self) -> Asked:
        """The next call that uses the approval."""
        return self._terminal.asked("ConsumeAuthorization")

    def ends(self) -> int:
        return int(self.running.result(10))


_USED = pb.ConsumeAuthorizationResponse(authorization=_asked("CONSUMED"))


def test_a_waiter_that_is_allowed_uses_the_approval_and_only_then_ends_with_0(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    waiter = Waiter(terminal).hears(_asked(), _approved(reason="go ahead"))
    use = waiter.uses()
    said = capsys.readouterr().out
    assert re.search(r"^state +approved$", said, re.M), "the decision is told as it came"
    assert re.search(r"^reason +go ahead$", said, re.M)
    assert (use.request.id, use.request.action) == ("3fa8c01d2233", pb.Action(cwd=str(Path.cwd())))
    assert len(use.request.request_id) == 32
    assert not waiter.running.done()
    use.answer(_USED)
    assert waiter.ends() == 0
    assert capsys.readouterr().out == "3fa8c01d2233 is used by this; it may be done now, once.\n"


def test_the_use_is_repeated_over_restarts_of_the_server_as_one(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    waiter = Waiter(terminal).hears(code=grpc.StatusCode.UNAVAILABLE).hears(_approved())
    first = waiter.uses()
    first.fail(grpc.StatusCode.UNAVAILABLE, "The server stops.", "DRAINING")
    second = waiter.uses()
    second.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "")
    last = waiter.uses()
    assert first.request == second.request == last.request
    last.answer(_USED)
    assert waiter.ends() == 0
    assert capsys.readouterr().err == ""


def test_a_token_that_is_not_known_any_more_ends_the_wait(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    waiter = Waiter(terminal).hears(code=grpc.StatusCode.UNAVAILABLE)
    waiter.hears(_asked(), code=grpc.StatusCode.UNAUTHENTICATED)
    assert waiter.ends() == 5
    assert capsys.readouterr().err.count("\n") == 1
    waiter = Waiter(terminal).hears(_approved())
    waiter.uses().fail(grpc.StatusCode.UNAUTHENTICATED, "The token is unknown.", "UNIDENTIFIED")
    assert waiter.ends() == 5
    assert capsys.readouterr().err == "orch-client: The token is unknown.\n"


def test_over_the_unix_socket_each_attempt_is_made_with_fresh_credentials(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = itertools.count()
    monkeypatch.setenv("ORCH_ADDRESS", "unix:/nowhere/orch.sock")
    monkeypatch.setattr(channel, "credentials", lambda _: channel.bearer(f"{next(tokens)}"))
    waiter = Waiter(terminal).hears(code=grpc.StatusCode.UNAUTHENTICATED).hears(_approved())
    stale = waiter.uses()
    stale.fail(grpc.StatusCode.UNAUTHENTICATED, "The token is unknown.", "UNIDENTIFIED")
    fresh = waiter.uses()
    assert stale.metadata[0] == ("authorization", "Bearer 3")
    assert fresh.metadata[0] == ("authorization", "Bearer 4")
    fresh.answer(_USED)
    assert waiter.ends() == 0


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "CONFLICT", 6),
        (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED", 5),
        (grpc.StatusCode.INTERNAL, "INTERNAL", 1),
    ],
)
def test_an_approval_that_cannot_be_used_is_no_success(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    code: grpc.StatusCode,
    reason: str,
    status: int,
) -> None:
    waiter = Waiter(terminal, "--json").hears(_approved())
    waiter.uses().fail(code, "It covers another action.", reason)
    assert waiter.ends() == status
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == "AUTHORIZATION_STATE_APPROVED"
    assert err == "orch-client: It covers another action.\n"


def test_an_approval_that_no_server_lets_be_used_before_it_ends_is_no_success(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    waiter = Waiter(terminal).hears(_approved(holds=0))
    assert waiter.ends() == 3
    said = "orch-client: 3fa8c01d2233 was approved, but no server answered that could let it be"
    assert capsys.readouterr().err == f"{said} used.\n"


@pytest.mark.parametrize("command", ["authorize", "consume"])
@pytest.mark.parametrize(
    ("state", "status", "says"),
    [
        ("DENIED", 10, ""),
        ("EXPIRED", 11, ""),
        ("CANCELLED", 12, ""),
        ("CONSUMED", 6, "orch-client: 3fa8c01d2233 was used by another command; ask anew.\n"),
        ("LAPSED", 6, "orch-client: 3fa8c01d2233 lapsed before it was used; ask anew.\n"),
    ],
)
def test_whatever_else_becomes_of_it_is_told_and_is_no_success(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    state: str,
    status: int,
    says: str,
    command: str,
) -> None:
    waiter = Waiter(terminal, command=command).hears(_asked(state, resolve_time=_in(-1)))
    assert waiter.ends() == status
    out, err = capsys.readouterr()
    assert re.search(rf"^state +{state.lower()}$", out, re.M)
    assert err == says


_STANDS = (
    "orch-client: 3fa8c01d2233 still stands; wait on: orch-client consume 3fa8c01d2233 --wait;"
    " take it back: orch-client withdraw 3fa8c01d2233\n"
)


@pytest.mark.parametrize("command", ["authorize", "consume"])
def test_one_that_is_still_pending_when_the_time_ends_says_how_to_go_on(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.setattr(authorization_calls, "wait", lambda _, limit: (_asked(), limit > 2))
    assert Waiter(terminal, "--timeout", "2s", command=command).ends() == 13
    out, err = capsys.readouterr()
    assert re.search(r"^state +pending$", out, re.M)
    assert err == _STANDS


@pytest.mark.parametrize("command", ["authorize", "consume"])
def test_control_c_says_how_to_go_on(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(authorization_calls, "wait", interrupt)
    assert Waiter(terminal, command=command).ends() == 130
    assert capsys.readouterr().err == _STANDS


# ---- consume, escalate, withdraw ----


def test_a_decision_is_waited_for_by_consume_and_used(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    waiter = Waiter(terminal, command="consume").hears(_asked(), _approved())
    use = waiter.uses()
    assert (use.request.id, use.request.action) == ("3fa8c01d2233", pb.Action(cwd=str(Path.cwd())))
    assert not waiter.running.done()
    use.answer(_USED)
    assert waiter.ends() == 0
    out = capsys.readouterr().out
    assert out.endswith("3fa8c01d2233 is used by this; it may be done now, once.\n")


@pytest.mark.parametrize(("state", "status"), [("PENDING", 13), ("CONSUMED", 6), ("LAPSED", 6)])
def test_what_cannot_be_used_yet_is_told_apart_from_what_is_over(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], state: str, status: int
) -> None:
    running = terminal.start("consume", "3fa8")
    code = grpc.StatusCode.FAILED_PRECONDITION
    use = terminal.asked("ConsumeAuthorization")
    use.fail(code, "It allows nothing.", "CONFLICT", state=state)
    assert running.result(10) == status
    assert capsys.readouterr().err == "orch-client: It allows nothing.\n"


def test_an_approval_is_used_from_the_folder_where_it_is(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    request = terminal.run("ConsumeAuthorization", _USED, "consume", "3fa8")
    assert (request.id, request.action) == ("3fa8", pb.Action(cwd=str(Path.cwd())))
    assert len(request.request_id) == 32
    assert re.search(r"^state +consumed$", capsys.readouterr().out, re.M)
    other = terminal.run("ConsumeAuthorization", _USED, "consume", "3fa8", "--json")
    assert other.request_id != request.request_id
    assert json.loads(capsys.readouterr().out)["state"] == "AUTHORIZATION_STATE_CONSUMED"


@pytest.mark.parametrize(
    ("argv", "method"),
    [
        (("escalate", "3fa8"), "EscalateAuthorization"),
        (("withdraw", "3fa8"), "CancelAuthorization"),
        (("consume", "3fa8"), "ConsumeAuthorization"),
        (("approve", "3fa8"), "ApproveAuthorization"),
        (("deny", "3fa8", "--reason", "no"), "DenyAuthorization"),
        (("authorization", "3fa8"), "GetAuthorization"),
    ],
)
def test_what_the_server_refuses_is_its_own_sentence(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], method: str
) -> None:
    running = terminal.start(*argv)
    asked = terminal.asked(method)
    assert asked.request.id == "3fa8"
    asked.fail(grpc.StatusCode.FAILED_PRECONDITION, "It is over.", "CONFLICT")
    assert running.result(10) == 6
    assert capsys.readouterr().err == "orch-client: It is over.\n"


def test_each_help_says_what_its_exit_statuses_mean(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*argv: str) -> str:
        assert cli.main([*argv, "--help"]) == 0
        return " ".join(capsys.readouterr().out.split())

    for argv in ((), ("authorize",), ("consume",)):
        assert "12 withdrawn" in shown(*argv)
    assert "2 the class needs a reason, and none was given" in shown("approve")
    assert "13 it is still pending" in shown("consume")
    assert "Only where hook_event_name is PreToolUse" in shown("gate")


# ---- the passphrase ----


def _at_a_terminal(monkeypatch: pytest.MonkeyPatch, *typed: str) -> list[str]:
    """Lets these passphrases be typed, one at each prompt; returns what remains."""
    left = list(typed)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: left.pop(0))
    return left


def _wants_passphrase(asked: Asked) -> None:
    code = grpc.StatusCode.PERMISSION_DENIED
    asked.fail(code, "The operator's passphrase is needed to approve it.", "PASSPHRASE_REQUIRED")


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_the_passphrase_is_asked_for_when_the_server_wants_it(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    left = _at_a_terminal(monkeypatch, "correct horse")
    method = f"{verb.title()}Authorization"
    running = terminal.start(verb, "3fa8", "--reason", "because")
    first = terminal.asked(method)
    assert first.request.passphrase == ""
    assert left == ["correct horse"]
    _wants_passphrase(first)
    second = terminal.asked(method)
    assert (second.request.passphrase, second.request.reason) == ("correct horse", "because")
    second.answer(getattr(pb, f"{method}Response")(authorization=_asked("APPROVED")))
    assert running.result(10) == 0


def test_a_wrong_passphrase_is_asked_for_once(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _at_a_terminal(monkeypatch, "wrong")
    running = terminal.start("approve", "3fa8")
    _wants_passphrase(terminal.asked("ApproveAuthorization"))
    refusal = "The passphrase is wrong; it is needed to approve it."
    second = terminal.asked("ApproveAuthorization")
    second.fail(grpc.StatusCode.PERMISSION_DENIED, refusal, "NOT_ALLOWED")
    assert running.result(10) == 5
    assert capsys.readouterr().err == f"orch-client: {refusal}\n"


def test_without_a_terminal_it_is_said_where_the_passphrase_is_asked_for(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"correct horse\n")))
    running = terminal.start("approve", "3fa8")
    _wants_passphrase(terminal.asked("ApproveAuthorization"))
    assert running.result(10) == 5
    assert capsys.readouterr().err == (
        "orch-client: The operator's passphrase is needed to approve it. Run this on a terminal,"
        " where it is asked for.\n"
    )


# ---- pending ----


def test_what_waits_is_shown_in_the_servers_order_with_what_it_takes(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        _asked(
            id="b", action="Deploy\nit\x1b[31m now", action_class="critical", human_required=True
        ),
        _asked(id="c", action_class="sensitive", priority=2, priority_derived=True),
        _asked(id="a"),
        _asked(id="d", action_class="release", human_required=True, reason_required=True),
        _asked(id="e", reason_required=True, action="long " * 100),
    ]
    answer = pb.ListAuthorizationsResponse(authorizations=found)
    request = terminal.run("ListAuthorizations", answer, "pending", "--session", "atlas")
    assert (request.session, request.state) == ("atlas", pb.AUTHORIZATION_STATE_PENDING)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "FROM", "PRIORITY", "TO", "EXPIRES", "CLASS", "ACTION"]
    assert [row.split()[0] for row in rows] == ["b", "c", "a", "d", "e"]
    assert rows[0].endswith("  critical (human)         Deploy it [31m now")
    assert "  medium (derived)  " in rows[1]
    assert "  sensitive  " in rows[1]
    assert re.search(r"\)  -  +Deploy$", rows[2])
    assert "  release (human, reason)  " in rows[3]
    assert "  routine (reason)  " in rows[4]
    assert len(rows[4].partition("routine (reason)")[2].strip()) == 60


@pytest.mark.parametrize("state", ["approved", "denied", "consumed", "lapsed", "all"])
def test_those_in_another_state_are_listed_with_it(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    found = [
        _asked("APPROVED", id="a", create_time=_in(-900), resolve_time=_in(-130)),
        _asked(id="p", create_time=_in(-310)),
        _asked("LAPSED", id="l", resolve_time=_in(-900), close_time=_in(-190)),
    ]
    answer = pb.ListAuthorizationsResponse(authorizations=found)
    request = terminal.run("ListAuthorizations", answer, "pending", "--state", state)
    wanted = "UNSPECIFIED" if state == "all" else state.upper()
    assert request.state == pb.AuthorizationState.Value(f"AUTHORIZATION_STATE_{wanted}")
    head, *rows = capsys.readouterr().out.splitlines()
    named = ["ID", "STATE", "FROM", "PRIORITY", "TO", "SINCE", "CLASS", "ACTION"]
    assert head.split() == named
    assert [row.split()[:2] for row in rows] == [
        ["a", "approved"],
        ["p", "pending"],
        ["l", "lapsed"],
    ]
    times = [row.partition(" ago)")[0].rpartition("(")[2] for row in rows]
    assert times == ["2m", "5m", "3m"]
    terminal.run("ListAuthorizations", pb.ListAuthorizationsResponse(), "pending", "--state", state)
    assert capsys.readouterr().out == "There is no such request.\n"


def test_nothing_that_waits_is_said(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.run("ListAuthorizations", pb.ListAuthorizationsResponse(), "pending")
    assert capsys.readouterr().out == "Nothing waits for a decision.\n"
    terminal.run("ListAuthorizations", pb.ListAuthorizationsResponse(), "pending", "--json")
    assert json.loads(capsys.readouterr().out) == []


def test_large_actions_are_fetched_a_few_at_a_time_over_all_pages(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("pending", "--json")
    first = terminal.asked("ListAuthorizations")
    assert first.request.page_size == 1000
    first.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")
    second = terminal.asked("ListAuthorizations")
    assert (second.request.page_size, second.request.page_token) == (12, "")
    second.answer(pb.ListAuthorizationsResponse(authorizations=[_asked()], next_page_token="t"))
    third = terminal.asked("ListAuthorizations")
    assert (third.request.page_size, third.request.page_token) == (12, "t")
    third.answer(pb.ListAuthorizationsResponse(authorizations=[_asked(id="4b")]))
    assert running.result(10) == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == ["3fa8c01d2233", "4b"]


# ---- authorization ID ----


def test_one_that_waits_is_shown_with_its_class_its_approvers_and_its_levels(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = [
        pb.AuthorizationLevel(receiver="pm", due_time=_in(-30), tell_time=_in(-30)),
        pb.AuthorizationLevel(
            receiver="lead", due_time=_in(-30), tell_time=_in(-30), passed_over=True
        ),
        pb.AuthorizationLevel(receiver="human", due_time=_in(200)),
    ]
    shown = _shown(
        terminal,
        capsys,
        _asked(
            action_class="critical",
            human_required=True,
            reason_required=True,
            approvers=["orchestrator", "pm"],
            levels=levels,
            digest="ab12",
        ),
    )
    assert shown["class"] == "critical"
    assert shown["needs"] == (
        "a human who approves it, with the passphrase if there is one, and a reason"
    )
    assert shown["approvers"] == "orchestrator, pm"
    first, second, third = shown["levels"].splitlines()
    assert re.fullmatch(r"pm     reached .* ago\)", first)
    assert re.fullmatch(r"lead   passed over, no such agent .* ago\)", second)
    assert re.fullmatch(r"human  due .*\(in 3m\)", third)
    assert re.fullmatch(r".*\(in 4m\)", shown["expires"])
    assert (shown["folder"], shown["digest"]) == ("/srv", "ab12")
    assert not {"arguments", "tool", "lapses", "resolved", "by", "proof"} & set(shown)


@pytest.mark.parametrize(
    ("proof", "says"),
    [
        ("ROLE", "by its role"),
        ("PASSPHRASE", "by the passphrase"),
        ("OPEN_MODE", "none: the server has no passphrase (open mode)"),
    ],
)
def test_one_that_is_approved_is_shown_with_its_end_and_its_proof(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], proof: str, says: str
) -> None:
    level = pb.AuthorizationLevel(receiver="human", due_time=_in(120))
    value = pb.DecisionProof.Value(f"DECISION_PROOF_{proof}")
    found = _approved(resolver="atlas:pm", reason="fine", proof=value, levels=[level])
    shown = _shown(terminal, capsys, found)
    assert (shown["by"], shown["reason"], shown["proof"]) == ("atlas:pm", "fine", says)
    assert re.fullmatch(r".*\(in 15m\)", shown["lapses"])
    assert shown["levels"] == "human  not reached"
    assert "expires" not in shown


@pytest.mark.parametrize("state", ["CONSUMED", "LAPSED"])
def test_one_that_is_over_is_shown_with_when(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    lapses = {"resolve_time": _in(-90), "lapse_time": _in(-5), "close_time": _in(-5)}
    shown = _shown(terminal, capsys, _asked(state, **lapses))
    assert re.fullmatch(r".* ago\)", shown[state.lower()])
    assert "lapses" not in shown


_NASTY = "\x1b]0;x\x07\x1b[2J\r\u202egnp\u200b\x9b1m\t"
_NASTY_SHOWN = r"\x1b]0;x\x07\x1b[2J\r\u202egnp\u200b\x9b1m\t"


def test_what_a_tool_is_given_is_shown_in_full_and_nothing_of_it_acts(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    script = f'{{"command":"{"x" * 5000}","{_NASTY}\n%s {{}} $(id)":1}}'
    bound = pb.Action(tool=f"Bash{_NASTY}\n", arguments=script, cwd=f"/srv\nid  {_NASTY}")
    shown = _shown(terminal, capsys, _asked(action="Bash: x… (in /srv)", bound_action=bound))
    assert shown["arguments"] == (
        f'{{"command":"{"x" * 5000}","{_NASTY_SHOWN}\\n%s {{}} $(id)":1}}'
    )
    assert shown["tool"] == f"Bash{_NASTY_SHOWN}\\n"
    assert shown["folder"] == f"/srv\\nid  {_NASTY_SHOWN}"
    assert shown["id"] == "3fa8c01d2233"


def test_no_line_of_an_action_or_a_reason_passes_for_a_field(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    action = f"Deploy\nstate  approved{_NASTY}"
    answer = pb.GetAuthorizationResponse(
        authorization=_asked(
            "DENIED",
            action=action,
            bound_action=pb.Action(arguments=action),
            reason=f"no\nid  4b\n{_NASTY}",
        )
    )
    terminal.run("GetAuthorization", answer, "authorization", "3fa8")
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert re.findall(r"^(?:id|state) .*$", out, re.M) == [
        "id        3fa8c01d2233",
        "state     denied",
    ]
    assert f"\n          state  approved{_NASTY_SHOWN}\n" in out
    assert f"\n          id  4b\n          {_NASTY_SHOWN}\n" in out
    assert "arguments" not in out


# ---- authorization stats ----


def _stats(name: str, requests: int, mean: float | None = None, **more: Any) -> Any:
    took = Duration()
    if mean is not None:
        took.FromMicroseconds(round(mean * 1e6))
        more = {"mean": took, "median": Duration(seconds=42), "p95": Duration(seconds=7505), **more}
    return pb.AuthorizationStats(name=name, requests=requests, **more)


def test_figures_are_shown_for_all_by_priority_and_by_who_decided(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {
        "approved": 5,
        "denied": 2,
        "expired": 1,
        "cancelled": 3,
        "pending": 4,
        "escalated": 6,
    }
    answer = pb.GetAuthorizationStatsResponse(
        all=_stats("all", 15, 250.2, **counts),
        by_priority=[_stats("high", 10, 3.04), _stats("low", 5)],
        by_resolver=[_stats("atlas:pm", 7, 599.9), _stats("operator", 2, 61)],
        start_time=Timestamp(seconds=1_800_000_000),
    )
    argv = ("authorization", "stats", "--session", "atlas")
    request = terminal.run("GetAuthorizationStats", answer, *argv)
    assert (request.session, request.window) == ("atlas", Duration(seconds=7 * 86400))
    since, head, every, high, low, pm, operator, target = capsys.readouterr().out.splitlines()
    assert since.startswith("Since 2027-01-15 09:00:00 (")
    named = "REQUESTS APPROVED DENIED EXPIRED WITHDRAWN PENDING ESCALATED MEAN MEDIAN P95"
    assert " ".join(head.split()) == named
    assert re.split(r" {2,}", every) == (
        ["all", "15", "5", "2", "1", "3", "4", "6", "4m 10s", "42s", "2h 05m"]
    )
    assert re.split(r" {2,}", high)[::8] == ["priority high", "3.0s"]
    assert re.split(r" {2,}", low)[-3:] == ["-", "-", "-"]
    assert re.split(r" {2,}", pm)[::8] == ["by atlas:pm", "10m 00s"]
    assert re.split(r" {2,}", operator)[::8] == ["by operator", "1m 01s"]
    assert target == "A decision took 4m 10s on the average; the target of 10m is met."


@pytest.mark.parametrize(
    ("mean", "says"),
    [
        (None, "Nothing was decided that could be held against the target of 10m."),
        (0.0, "A decision took 0.0s on the average; the target of 10m is met."),
        (600.0, "A decision took 10m 00s on the average; the target of 10m is met."),
        (600.01, "A decision took 10m 00s on the average; the target of 10m is not met."),
        (7505.0, "A decision took 2h 05m on the average; the target of 10m is not met."),
    ],
)
def test_the_mean_is_held_against_the_target(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], mean: float | None, says: str
) -> None:
    answer = pb.GetAuthorizationStatsResponse(all=_stats("all", 1, mean), start_time=_in(-60))
    terminal.run("GetAuthorizationStats", answer, "authorization", "stats")
    assert capsys.readouterr().out.splitlines()[-1] == says


@pytest.mark.parametrize(
    ("given", "seconds"), [("24h", 86400), ("1d", 86400), ("90", 5400), ("401d", 34_646_400)]
)
def test_the_window_is_what_was_typed(terminal: Terminal, given: str, seconds: int) -> None:
    answer = pb.GetAuthorizationStatsResponse(start_time=_in(-60))
    argv = ("authorization", "stats", "--since", given, "--json")
    request = terminal.run("GetAuthorizationStats", answer, *argv)
    assert request.window == Duration(seconds=seconds)


def test_figures_as_json_are_the_answer(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = pb.GetAuthorizationStatsResponse(
        all=_stats("all", 2, 60), start_time=Timestamp(seconds=60)
    )
    terminal.run("GetAuthorizationStats", answer, "authorization", "stats", "--json")
    assert json.loads(capsys.readouterr().out) == {
        "all": {"name": "all", "requests": 2, "mean": "60s", "median": "42s", "p95": "7505s"},
        "start_time": "1970-01-01T00:01:00Z",
    }


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (9.95, "10s"), (59.4, "59s"), (59.6, "1m 00s")],
)
def test_short_times_are_shown_as_they_are_rounded(seconds: float, says: str) -> None:
    took = Duration()
    took.FromMicroseconds(round(seconds * 1e6))
    assert words._in_words(took) == says
