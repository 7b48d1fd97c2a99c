"""`why`, `extend`, `waiting`, `alerts`, `nudges`, `escalations`, `credit`, and the states in
`agents`: what the server hears, what people read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import agent_pb2, heartbeat_pb2, session_state_pb2, supervision_pb2
from orch_client.commands import times
from orch_client.errors import ClientError
from tests.client.terminal import Terminal

_SERVICE = supervision_pb2.DESCRIPTOR.services_by_name["SupervisionService"]


def _ago(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(time.time() - seconds))


def _agent(state: str = "IDLE", seen: float = 1, **more: Any) -> agent_pb2.Agent:
    value = agent_pb2.AgentState.Value(f"AGENT_STATE_{state}")
    evidence = agent_pb2.Evidence(
        source=agent_pb2.EVIDENCE_SOURCE_SCREEN,
        state=value,
        rule="claude/spinner",
        detail="Baking\x1b[31m… 3s",
        begin_time=_ago(180),
        observe_time=_ago(seen),
    )
    known = {
        "id": "3fa8c01d2233",
        "session": "atlas",
        "role": "tester",
        "liveness": agent_pb2.LIVENESS_ALIVE,
        "state": value,
        "state_change_time": _ago(180),
        "evidence": evidence,
    }
    return agent_pb2.Agent(**{**known, **more})


def _refused(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], *argv: str, status: int = 2
) -> str:
    """The sentence of a command that calls nobody."""
    assert terminal.start(*argv).result(10) == status
    return capsys.readouterr().err


# ---- agents ----


@pytest.mark.parametrize(
    ("state", "seen", "held", "shown"),
    [
        ("IDLE", 1, False, "idle 3m"),
        ("WORKING", 50, False, "working 3m"),
        ("WORKING", 62, False, "working? 3m"),
        ("WAITING_PERMISSION", 1, False, "waiting-permission 3m"),
        ("USAGE_LIMITED", 1, True, "usage-limited 3m, held"),
        ("DEAD", 90_000, False, "dead 3m"),
        ("UNKNOWN", 1, False, "unknown"),
        ("UNSPECIFIED", 1, False, "unknown"),
    ],
)
def test_agents_shows_each_state_with_its_age_and_doubts_what_is_old(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    state: str,
    seen: float,
    held: bool,
    shown: str,
) -> None:
    agent = _agent(state, seen, hold_end_time=_ago(-60) if held else None)
    terminal.run("ListAgents", heartbeat_pb2.ListAgentsResponse(agents=[agent]), "agents")
    head, row = capsys.readouterr().out.splitlines()
    start, end = head.index("STATE"), head.index("LAST HEARD")
    assert row[start:end].strip() == shown


def test_agents_shows_a_dependency_as_what_is_waited_for(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = agent_pb2.WaitingFor(role="pm", reason="dependency", dependency_id="77aa")
    answer = heartbeat_pb2.ListAgentsResponse(agents=[_agent(waiting_for=waits)])
    terminal.run("ListAgents", answer, "agents")
    assert capsys.readouterr().out.rstrip().endswith("pm: dependency 77aa")


# ---- why ----


def _explained() -> heartbeat_pb2.GetAgentResponse:
    agent = _agent("WORKING", credential="claude@host")
    agent.operation.reason = "running migrations"
    agent.operation.end_time.CopyFrom(_ago(-600))
    evidence = agent.evidence
    limited = agent_pb2.Evidence(
        source=agent_pb2.EVIDENCE_SOURCE_HOOK,
        state=agent_pb2.AGENT_STATE_USAGE_LIMITED,
        rule="StopFailure",
        reset_time=_ago(-3600),
    )
    explanation = heartbeat_pb2.Explanation(
        evidence=[evidence, limited],
        state_rule="The screen is newer than the last hook.",
        liveness_rule="Its client was heard 2 s ago.",
        supervision=["Nudge in 3 min, unless it works."],
        would_change=["A Stop hook would make it idle."],
    )
    return heartbeat_pb2.GetAgentResponse(agent=agent, explanation=explanation)


def test_why_tells_state_evidence_rules_and_what_would_change_it(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    request = terminal.run("GetAgent", _explained(), "why", "atlas:tester")
    assert request.agent == "atlas:tester"
    out = capsys.readouterr().out
    for part in (
        "agent      atlas:tester",
        "state      working 3m",
        "because    The screen is newer than the last hook.",
        "because    Its client was heard 2 s ago.",
        "account    claude@host",
        "busy with  running migrations until",
        "screen    working        claude/spinner",
        "Baking [31m… 3s",
        "The limit is said to end at",
        "  A Stop hook would make it idle.",
        "  Nudge in 3 min, unless it works.",
    ):
        assert part in out
    assert "\x1b" not in out


def test_why_of_an_agent_of_which_nothing_is_known_says_so(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = agent_pb2.Agent(session="atlas", role="tester")
    terminal.run("GetAgent", heartbeat_pb2.GetAgentResponse(agent=agent), "why", "3fa8")
    out = capsys.readouterr().out
    assert "state   unknown" in out
    assert "No evidence: nothing has told its state yet." in out


def test_why_as_json_is_the_answer_of_the_api(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.run("GetAgent", _explained(), "why", "atlas:tester", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["explanation"]["state_rule"] == "The screen is newer than the last hook."
    assert said["agent"]["state"] == "AGENT_STATE_WORKING"


def test_why_of_nobody_is_one_sentence(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("why", "atlas:gone")
    terminal.asked("GetAgent").fail(grpc.StatusCode.NOT_FOUND, "There is no agent.", "NOT_FOUND")
    assert running.result(10) == 4
    assert capsys.readouterr().err == "orch-client: There is no agent.\n"


# ---- extend ----


def test_extend_announces_an_operation_and_says_how_long_it_may_go_on(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = heartbeat_pb2.ExtendOperationResponse()
    answer.operation.reason = "running migrations"
    answer.operation.end_time.CopyFrom(_ago(-1800))
    answer.left.seconds = 5 * 3600
    request = terminal.run("ExtendOperation", answer, "extend", "30m", "running migrations")
    assert (request.duration.seconds, request.reason) == (1800, "running migrations")
    out = capsys.readouterr().out
    assert out.startswith("busy with running migrations until ")
    assert out.endswith("; it can be made 5h longer\n")


def test_extend_0_ends_it(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    answer = heartbeat_pb2.ExtendOperationResponse()
    request = terminal.run("ExtendOperation", answer, "extend", "0")
    assert (request.duration.seconds, request.duration.nanos, request.reason) == (0, 0, "")
    assert capsys.readouterr().out == "no operation is announced any more\n"


@pytest.mark.parametrize("given", ["", "soon", "-5m", "1w", "nan", "inf"])
def test_what_is_no_duration_is_one_sentence(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    said = _refused(terminal, capsys, "extend", "--", given, "x")
    assert said == f"orch-client: '{given}' is no duration; use 90s, 15m, 2h or 1d.\n"


# ---- waiting ----


def _wait(wait_id: str, waiter: str, holder: str) -> session_state_pb2.Wait:
    return session_state_pb2.Wait(
        id=wait_id,
        kind=session_state_pb2.WAIT_KIND_DEPENDENCY,
        waiter=waiter,
        holder=holder,
        reason="the new\nschema",
        create_time=_ago(60),
        deadline=_ago(-3600),
    )


def test_waiting_lists_who_waits_for_whom_and_marks_a_deadlock(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = [_wait("w1", "a:dev", "a:pm"), _wait("w2", "a:pm", "a:dev"), _wait("w3", "b:x", "b:y")]
    cycles = [session_state_pb2.WaitCycle(wait_ids=["w1", "w2"])]
    answer = session_state_pb2.ListWaitingResponse(waits=waits, cycles=cycles)
    request = terminal.run("ListWaiting", answer, "waiting", "--session", "a")
    assert request.session == "a"
    head, first, second, third, deadlock = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["ID", "WHO", "WAITS", "FOR"]
    assert first.startswith("w1")
    assert first.endswith("DEADLOCK the new schema")
    assert second.endswith("DEADLOCK the new schema")
    assert "DEADLOCK" not in third
    assert deadlock == "Deadlock, about to be broken: a:dev -> a:pm -> a:dev"


def test_waiting_of_nobody_says_so(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.run("ListWaiting", session_state_pb2.ListWaitingResponse(), "waiting")
    assert capsys.readouterr().out == "Nobody waits.\n"


def test_waiting_add_declares_a_wait(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = session_state_pb2.AddDependencyResponse(wait=_wait("w1", "a:dev", "a:pm"))
    argv = ("waiting", "add", "--timeout", "30m", "pm", "the schema")
    request = terminal.run("AddDependency", answer, *argv)
    assert (request.target, request.reason) == ("pm", "the schema")
    assert request.timeout.seconds == 1800
    assert len(request.request_id) == 32
    assert capsys.readouterr().out.startswith("w1  a:dev waits for a:pm until ")


def test_without_a_timeout_the_server_chooses(terminal: Terminal) -> None:
    answer = session_state_pb2.AddDependencyResponse(wait=_wait("w1", "a:dev", "a:pm"))
    request = terminal.run("AddDependency", answer, "waiting", "add", "pm", "--", "-v")
    assert not request.HasField("timeout")
    assert request.reason == "-v"


def test_waiting_remove_ends_one(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    answer = session_state_pb2.RemoveDependencyResponse()
    request = terminal.run("RemoveDependency", answer, "waiting", "remove", "3fa8")
    assert request.id == "3fa8"
    assert capsys.readouterr().out == "3fa8: the wait is over\n"


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("add",), "use: waiting, waiting add TARGET REASON or waiting remove ID."),
        (("add", "pm"), "use: waiting"),
        (("add", "pm", "a", "b"), "use: waiting"),
        (("add", "pm", " "), "the reason is empty"),
        (("add", "pm", "x", "--timeout", "soon"), "'soon' is no duration"),
        (("add", "pm", "x", "--session", "a"), "--session goes with the list."),
        (("remove",), "use: waiting"),
        (("remove", "1", "--timeout", "5m"), "--timeout goes with add."),
        (("--timeout", "5m"), "--timeout goes with add."),
        (("drop", "1"), "use: waiting"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_use_of_waiting_is_one_sentence_and_calls_nobody(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], part: str
) -> None:
    said = _refused(terminal, capsys, "waiting", *argv)
    assert part in said
    assert len(said.splitlines()) == 1


# ---- alerts, nudges, escalations ----


def test_alerts_are_listed_with_what_became_of_the_webhook(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    warning = supervision_pb2.ALERT_SEVERITY_WARNING
    common = {"severity": warning, "kind": "escalation", "create_time": _ago(60)}
    alerts = [
        supervision_pb2.Alert(subject="atlas:dev", text="It \x1bhangs.", suppressed=4, **common),
        supervision_pb2.Alert(webhook_error="host answered 500.", **common),
        supervision_pb2.Alert(webhook_time=_ago(1), **common),
    ]
    answer = supervision_pb2.ListAlertsResponse(alerts=alerts)
    request = terminal.run("ListAlerts", answer, "alerts", "--session", "atlas", "--limit", "7")
    assert (request.session, request.page_size) == ("atlas", 7)
    _, first, second, third = capsys.readouterr().out.splitlines()
    assert first.split()[-6:] == ["escalation", "atlas:dev", "4", "-", "It", "hangs."]
    assert "host answered 500." in second
    assert "took it" in third


def test_a_long_list_is_fetched_page_by_page(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("alerts", "--limit", "3", "--json")
    one = supervision_pb2.Alert(kind="k")
    first = terminal.asked("ListAlerts")
    first.answer(supervision_pb2.ListAlertsResponse(alerts=[one, one], next_page_token="on"))
    second = terminal.asked("ListAlerts")
    assert (second.request.page_size, second.request.page_token) == (1, "on")
    second.answer(supervision_pb2.ListAlertsResponse(alerts=[one], next_page_token="more"))
    assert running.result(10) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


def _nudged() -> supervision_pb2.ListNudgesResponse:
    nudge = supervision_pb2.Nudge(
        agent="atlas:dev",
        reason=supervision_pb2.NUDGE_REASON_GO_ON,
        delivery_id="4b00aa110000",
        create_time=_ago(60),
        false_alarm=True,
    )
    counts = supervision_pb2.NudgeCounts(sent=7, false_alarms=1, nothing_changed=12, over_budget=2)
    return supervision_pb2.ListNudgesResponse(nudges=[nudge], counts=counts)


def test_nudges_are_listed_and_what_was_not_sent_is_counted(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("nudges", "--agent", "atlas:dev", "--since", "2h")
    request = terminal.run("ListNudges", _nudged(), *argv)
    assert request.agent == "atlas:dev"
    assert abs(request.since.seconds - (time.time() - 7200)) < 60
    _, row, _, counts = capsys.readouterr().out.splitlines()
    assert row.split()[-5:] == ["atlas:dev", "go-on", "4b00aa11", "false", "alarm"]
    assert counts == (
        "7 sent (1 of them false alarms), 14 not sent: nothing had changed 12, over the budget 2"
    )


def test_nudges_as_json_have_the_counts_too(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    request = terminal.run("ListNudges", _nudged(), "nudges", "--json")
    assert not request.HasField("since")
    said = json.loads(capsys.readouterr().out)
    assert said["counts"]["nothing_changed"] == "12"
    assert said["nudges"][0]["agent"] == "atlas:dev"


@pytest.mark.parametrize("argv", [(), ("--all",)])
def test_escalations_are_the_open_ones_unless_all_are_asked_for(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    common = {"agent": "atlas:dev", "matter": supervision_pb2.MATTER_HUNG, "create_time": _ago(60)}
    found = [
        supervision_pb2.Escalation(level=1, next_time=_ago(-240), **common),
        supervision_pb2.Escalation(level=3, detail="Still.", **common),
        supervision_pb2.Escalation(level=2, end_time=_ago(5), **common),
    ]
    answer = supervision_pb2.ListEscalationsResponse(escalations=found)
    request = terminal.run("ListEscalations", answer, "escalations", *argv)
    assert request.open_only is (not argv)
    _, first, second, third = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["atlas:dev", "hung", "1"]
    assert first.endswith("(in 4m)")
    assert "all were told" in second
    assert "over " in third


# ---- credit ----


def test_credit_lists_the_accounts_that_are_held(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    hold = supervision_pb2.CreditHold(
        credential="claude@host",
        begin_time=_ago(60),
        end_time=_ago(-3600),
        source="atlas:dev",
        agents=[agent_pb2.Agent(), agent_pb2.Agent()],
    )
    answer = supervision_pb2.ListCreditHoldsResponse(holds=[hold])
    terminal.run("ListCreditHolds", answer, "credit")
    row = capsys.readouterr().out.splitlines()[1]
    assert ", a guess" in row
    assert row.split()[-2:] == ["2", "atlas:dev"]


def test_credit_hold_and_release_name_the_account(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    held = supervision_pb2.CreditHold(credential="claude@host", end_time=_ago(-7200))
    answer = supervision_pb2.HoldCreditResponse(hold=held)
    argv = ("credit", "hold", "--for", "2h", "atlas:dev")
    request = terminal.run("HoldCredit", answer, *argv)
    assert request.credential == "atlas:dev"
    assert abs(request.end_time.seconds - (time.time() + 7200)) < 60
    assert capsys.readouterr().out.startswith("claude@host held until ")
    until = ("credit", "hold", "claude@host", "--until", "2031-05-01T19:00:00+02:00")
    request = terminal.run("HoldCredit", answer, *until)
    assert request.end_time.seconds == 1_935_421_200
    capsys.readouterr()
    gone = supervision_pb2.ReleaseCreditResponse()
    request = terminal.run("ReleaseCredit", gone, "credit", "release", "claude@host")
    assert request.credential == "claude@host"
    assert capsys.readouterr().out == "claude@host: nothing is held any more\n"


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("credit", "hold", "x"), "say until when: --until 19:00 or --for 2h."),
        (("credit", "hold"), "use: credit, credit hold NAME or credit release NAME."),
        (("credit", "hold", "x", "y", "--for", "1h"), "use: credit"),
        (("credit", "hold", "x", "--until", "tomorrow"), "'tomorrow' is no time; use 19:00"),
        (("credit", "hold", "x", "--until", "1900-01-01T00:00"), "is no time"),
        (("credit", "hold", "x", "--for", "0"), "'0' is no duration"),
        (("credit", "release", "x", "--for", "1h"), "--until and --for go with hold."),
        (("credit", "--until", "19:00"), "--until and --for go with hold."),
        (("credit", "keep", "x"), "use: credit"),
        (("alerts", "--limit", "0"), "--limit is '0'; use a number from 1 to 1,000,000."),
        (("alerts", "--", "x"), "alerts takes no words but flags."),
        (("nudges", "--since", "yesterday"), "'yesterday' is no duration"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_use_is_one_sentence_and_calls_nobody(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], part: str
) -> None:
    said = _refused(terminal, capsys, *argv)
    assert part in said
    assert len(said.splitlines()) == 1


# ---- times ----


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A terminal in Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("now", "given", "meant"),
    [
        ("2026-11-21T18:59+01:00", "19:00", "2026-11-21T19:00+01:00"),
        ("2026-11-21T19:00+01:00", "19:00", "2026-11-22T19:00+01:00"),
        ("2026-11-21T19:00+01:00", "7:05", "2026-11-22T07:05+01:00"),
        ("2026-03-28T20:00+01:00", "19:00", "2026-03-29T19:00+02:00"),
        ("2026-10-24T20:00+02:00", "19:00", "2026-10-25T19:00+01:00"),
        ("2026-11-21T12:00+01:00", "2027-07-01T19:00", "2027-07-01T19:00+02:00"),
        ("2026-11-21T12:00+01:00", "2027-07-01 19:00:30Z", "2027-07-01T19:00:30+00:00"),
        ("2026-11-21T12:00+01:00", "2027-07-01", "2027-07-01T00:00+02:00"),
    ],
)
def test_a_time_is_read_off_the_clock_on_the_wall(
    in_berlin: None, now: str, given: str, meant: str
) -> None:
    moment = datetime.fromisoformat(now).astimezone()
    assert times.next_time(given, moment) == datetime.fromisoformat(meant)


@pytest.mark.parametrize("given", ["", "25:00", "19h", "now", "1", "9999999999", "2026-13-01"])
def test_what_is_no_time_is_one_sentence(given: str) -> None:
    with pytest.raises(ClientError) as error:
        times.moment_given(given)
    assert error.value.message == f"'{given}' is no time; use 19:00 or 2026-11-22T07:00."
