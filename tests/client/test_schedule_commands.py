"""`schedule` with its forms, `reschedule`, `tasks`, `task`, `occurrences`, `pause`, `resume`,
`run-now`: what the server hears, what people read."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from orch.v1 import delivery_pb2
from orch.v1 import scheduler_pb2 as pb
from orch_client import channel
from orch_client.commands import schedule_form, times
from tests.client.terminal import METHODS, Terminal

_EVERY = pb.Schedule(every=Duration(seconds=1200))
_CRON = pb.Schedule(cron="0 17 * * FRI", time_zone="Europe/Vienna")


def _in(seconds: float) -> Timestamp:
    whole, part = divmod(time.time() + seconds, 1)
    return Timestamp(seconds=int(whole), nanos=int(part * 1e9))


def _task(**more: Any) -> pb.Task:
    known = {"id": "3fa8c01d2233", "session": "atlas", "role": "tester", "state": 1, "note": "x"}
    return pb.Task(**{**known, "due_time": _in(300), **more})


def _occurrence(outcome: str = "FIRED", reason: str = "", **more: Any) -> pb.Occurrence:
    return pb.Occurrence(
        task_id="3fa8c01d2233",
        nominal_time=_in(-60),
        decide_time=_in(-59),
        outcome=pb.OccurrenceOutcome.Value(f"OCCURRENCE_OUTCOME_{outcome}"),
        reason=pb.OccurrenceReason.Value(f"OCCURRENCE_REASON_{reason or 'UNSPECIFIED'}"),
        **more,
    )


_CONFIRMED = {
    "delivery_id": "9c1d2e3f4455",
    "delivery_state": delivery_pb2.DELIVERY_STATE_CONFIRMED,
}


def _scheduled(terminal: Terminal, *argv: str) -> Any:
    return terminal.run("CreateTask", pb.CreateTaskResponse(task=_task()), "schedule", *argv)


def _answered(terminal: Terminal, argv: tuple[str, ...], *answers: tuple[str, Any]) -> list[Any]:
    """Runs a command that makes these calls, in this order; returns the requests."""
    running = terminal.start(*argv)
    requests = []
    for method, answer in answers:
        asked = terminal.asked(method)
        requests.append(asked.request)
        asked.answer(answer)
    assert running.result(10) == 0
    return requests


def _refused(terminal: Terminal, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one sentence of a usage error that calls nobody."""
    assert terminal.start(*argv).result(10) == 2, argv
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    return err


# ---- schedule: the forms ----


@pytest.mark.parametrize(
    ("argv", "schedule"),
    [
        (("--at", "09:00"), {"at": "09:00", "time_zone": "Europe/Vienna"}),
        (("--at", "09:00", "--tz", "Asia/Tokyo"), {"at": "09:00", "time_zone": "Asia/Tokyo"}),
        (("--every", "20m"), {"every": Duration(seconds=1200)}),
        (("--every", "1.5h"), {"every": Duration(seconds=5400)}),
        (("--every", "20"), {"every": Duration(seconds=1200)}),
        (("--every", "0.5s"), {"every": Duration(nanos=500_000_000)}),
        (("--every", "0"), {"every": Duration()}),
        (("--every", "10000d"), {"every": Duration(seconds=864_000_000)}),
        (
            ("--every", "20m", "--jitter", "2m", "--until", "18:00"),
            {
                "every": Duration(seconds=1200),
                "jitter": Duration(seconds=120),
                "until": "18:00",
                "time_zone": "Europe/Vienna",
            },
        ),
        (
            ("--cron", "*/5 * $(id) * `id`"),
            {"cron": "*/5 * $(id) * `id`", "time_zone": "Europe/Vienna"},
        ),
        (("--cron", ""), {"cron": "", "time_zone": "Europe/Vienna"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_each_form_is_sent_as_it_was_typed(
    terminal: Terminal, argv: tuple[str, ...], schedule: dict[str, Any]
) -> None:
    request = _scheduled(terminal, "still on course?", *argv)
    assert request.schedule == pb.Schedule(**schedule)
    assert request.note == "still on course?"
    assert len(request.request_id) == 32
    assert not request.HasField("catch_up")
    assert (request.missed, request.mode) == (0, 0)


@pytest.mark.parametrize(
    ("minutes", "seconds"), [("15", 900), ("15m", 900), ("90s", 90), ("1.5h", 5400), ("0", 0)]
)
def test_minutes_are_a_number_or_a_duration(terminal: Terminal, minutes: str, seconds: int) -> None:
    request = _scheduled(terminal, minutes, "x")
    assert request.schedule == pb.Schedule(delay=Duration(seconds=seconds))
    assert not request.HasField("delay")


@pytest.mark.parametrize("form", [("15",), ("--every", "20m")])
def test_what_goes_with_every_form_is_sent(terminal: Terminal, form: tuple[str, ...]) -> None:
    flags = ("--catch-up", "2h", "--missed", "all", "--mode", "turn-boundary", "--to", "pm")
    request = _scheduled(terminal, *form, *flags, "--", "-x")
    assert request.catch_up == Duration(seconds=7200)
    assert request.missed == pb.MISSED_POLICY_ALL
    assert request.mode == delivery_pb2.DELIVERY_MODE_TURN_BOUNDARY
    assert (request.target, request.note) == ("pm", "-x")


def test_the_note_may_come_from_standard_input(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("größer".encode())))
    assert _scheduled(terminal, "-", "--every", "20m").note == "größer"


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (None, ""),
        (pb.Schedule(delay=Duration(seconds=300)), ""),
        (pb.Schedule(at="2026-11-22T09:00:00+01:00"), ""),
        (_EVERY, ", then every 20m"),
        (_CRON, ', then by "0 17 * * FRI" (Europe/Vienna)'),
        (
            pb.Schedule(
                every=Duration(seconds=1200),
                jitter=Duration(seconds=120),
                until="2030-01-01T18:00:00+01:00",
                time_zone="Europe/Vienna",
            ),
            ", then every 20m, until 2030-01-01 18:00:00, jitter 2m",
        ),
        (
            pb.Schedule(cron="@daily", until="2030-01-01T18:00:00+09:00", time_zone="Asia/Tokyo"),
            ', then by "@daily" (Asia/Tokyo), until 2030-01-01 10:00:00,'
            " which is 2030-01-01 18:00:00 +0900 (Asia/Tokyo)",
        ),
    ],
)
def test_the_answer_says_when_and_when_again(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], schedule: Any, says: str
) -> None:
    task = _task(schedule=schedule)
    terminal.run("CreateTask", pb.CreateTaskResponse(task=task), "schedule", "5", "x")
    shown = time.strftime("%H:%M:%S", time.localtime(task.due_time.seconds))
    out = capsys.readouterr().out
    assert out.startswith("3fa8c01d2233  atlas:tester  due ")
    assert f"{shown} (in 5m){says}\n" in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "give one NOTE"),
        (("x",), "say when: MINUTES"),
        (("15", "check", "the", "build"), "in quotes"),
        (("15", "x", "--every", "5m"), "MINUTES and --every exclude each other"),
        (("15", "x", "--at", "09:00"), "MINUTES and --at exclude each other"),
        (("x", "--at", "09:00", "--cron", "@daily"), "--at and --cron exclude each other"),
        (("x", "--every", "1ms"), "--every is '1ms'"),
        (("x", "--every", ""), "--every is ''"),
        (("x", "--every", "nan"), "--every is 'nan'"),
        (("x", "--every=-5m"), "--every is '-5m'"),
        (("x", "--every", "1e300d"), "--every is '1e300d'"),
        (("x", "--every", "5m", "--jitter", "soon"), "--jitter is 'soon'"),
        (("x", "--every", "5m", "--until", ""), "--until is empty"),
        (("x", "--every", "5m", "--tz", " "), "--tz is empty"),
        (("15", "x", "--catch-up", "\x1b"), "--catch-up is ''"),
        (("15", "x", "--jitter", "1m"), "--jitter goes with --every or --cron"),
        (("15", "x", "--until", "09:00"), "--until goes with --every or --cron"),
        (("15", "x", "--tz", "UTC"), "--tz goes with --at, --cron or --until."),
        (("x", "--every", "5m", "--tz", "UTC"), "--tz goes with --at, --cron or --until."),
        (("x", "--at", "09:00", "--jitter", "1m"), "--jitter goes with --every or --cron"),
        (("soon", "x", "--dry-run"), "MINUTES is 'soon'"),
        (("367d", "x"), "MINUTES is '367d'"),
        (("", "--every", "5m"), "the note is empty"),
        (("", "--every", "5m", "--dry-run"), "the note is empty"),
        (("5", "x", "--catch-up", "soon", "--dry-run"), "--catch-up is 'soon'"),
    ],
)
def test_a_form_that_is_none_is_one_sentence(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], says: str
) -> None:
    assert says in _refused(terminal, capsys, "schedule", *argv)


def test_a_value_that_is_not_among_the_choices_is_a_usage_error(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (("--missed", "two"), ("--mode", "soon")):
        assert terminal.start("schedule", "15", "x", *flags).result(10) == 2
    assert terminal.start("occurrences", "3f", "--outcome", "done").result(10) == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", 6),
        (grpc.StatusCode.ALREADY_EXISTS, "REPEATED_NOTE", 6),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", 1),
    ],
)
def test_a_limit_of_the_server_is_a_conflict_and_that_of_grpc_is_none(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    code: grpc.StatusCode,
    reason: str,
    status: int,
) -> None:
    running = terminal.start("schedule", "15", "x")
    terminal.asked("CreateTask").fail(code, "atlas:tester has 1,000 open tasks.", reason)
    assert running.result(10) == status
    assert capsys.readouterr().err == "orch-client: atlas:tester has 1,000 open tasks.\n"


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("schedule.at", "--at: "),
        ("schedule.every", "--every: "),
        ("schedule.cron", "--cron: "),
        ("schedule.time_zone", "--tz: "),
        ("schedule.jitter", "--jitter: "),
        ("schedule.until", "--until: "),
        ("catch_up", "--catch-up: "),
        ("note", ""),
        ("", ""),
    ],
)
def test_a_field_that_is_refused_is_named_by_its_flag(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], field: str, says: str
) -> None:
    metadata = {"field": field} if field else {}
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="INVALID_INPUT", metadata=metadata))
    status = status_pb2.Status(code=3, message="'foo' is wrong.", details=[packed])
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    running = terminal.start("schedule", "x", "--every", "5m")
    code = grpc.StatusCode.INVALID_ARGUMENT
    terminal.asked("CreateTask").rpc.terminate(None, trailing, code, status.message)
    assert running.result(10) == 2
    assert capsys.readouterr().err == f"orch-client: {says}'foo' is wrong.\n"


@pytest.mark.parametrize(
    ("count", "says"),
    [(0, ""), (1, "1 control character was removed"), (2, "2 control characters were removed")],
)
def test_it_is_said_what_was_removed_from_a_note(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], count: int, says: str
) -> None:
    answer = pb.CreateTaskResponse(task=_task(), removed_characters=count)
    terminal.run("CreateTask", answer, "schedule", "5", "x")
    err = capsys.readouterr().err
    assert err == (f"orch-client: {says} from the note.\n" if says else "")


# ---- the terminal's zone ----


@pytest.mark.parametrize(
    ("given", "link", "zone"),
    [
        ("Europe/Vienna", "", "Europe/Vienna"),
        (":America/Argentina/Buenos_Aires", "", "America/Argentina/Buenos_Aires"),
        ("Etc/GMT+5", "", "Etc/GMT+5"),
        ("UTC", "", "UTC"),
        ("/usr/share/zoneinfo/posix/Asia/Tokyo", "", "Asia/Tokyo"),
        ("", "/usr/share/zoneinfo/Asia/Tokyo", "Asia/Tokyo"),
        (None, "../usr/share/zoneinfo/Etc/UTC", "Etc/UTC"),
        ("CET-1CEST", "/var/db/timezone/zoneinfo/Asia/Tokyo", "Asia/Tokyo"),
        ("../../etc/passwd", "/somewhere/else", ""),
        ("$(id)", None, ""),
    ],
)
def test_the_zone_is_that_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, given: str | None, link: str | None, zone: str
) -> None:
    def readlink(path: str) -> str:
        assert path == "/etc/localtime"
        if link is None:
            raise FileNotFoundError(path)
        return link

    monkeypatch.setattr(os, "readlink", readlink)
    monkeypatch.delenv("TZ", raising=False)
    if given is not None:
        monkeypatch.setenv("TZ", given)
    assert times.terminal_zone() == zone


@pytest.mark.parametrize(
    ("tz", "argv", "says"),
    [
        ("CET-1CEST", ("--at", "09:00"), "TZ is 'CET-1CEST', which is no zone's name; Asia/Tokyo"),
        ("CET-1CEST", ("--at", "09:00", "--tz", "UTC"), ""),
        ("CET-1CEST", ("--every", "5m"), ""),
        ("Europe/Vienna", ("--cron", "@daily"), ""),
        ("", ("--cron", "@daily"), ""),
    ],
)
def test_a_tz_that_names_no_zone_is_told_when_a_zone_counts(
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tz: str,
    argv: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.setattr(os, "readlink", lambda _path: "/usr/share/zoneinfo/Asia/Tokyo")
    monkeypatch.setenv("TZ", tz)
    request = _scheduled(terminal, "x", *argv)
    err = capsys.readouterr().err
    assert err.count("\n") == (1 if says else 0)
    assert says in err
    assert not says or request.schedule.time_zone == "Asia/Tokyo"


@pytest.mark.parametrize("zone", ["", "Nowhere/City", "../../../etc/passwd", "Europe/Vienna"])
def test_clocks_elsewhere_are_shown_only_when_they_are_known_and_differ(
    terminal: Terminal, zone: str
) -> None:
    assert times.elsewhere([Timestamp(seconds=1_800_000_000)], zone) == []
    assert os.environ["TZ"] == "Europe/Vienna"


def test_clocks_elsewhere_show_their_own_time(terminal: Terminal) -> None:
    summer, winter = Timestamp(seconds=1_782_900_000), Timestamp(seconds=1_800_000_000)
    assert times.elsewhere([summer, winter], "Asia/Kolkata") == [
        "2026-07-01 15:30:00 +0530",
        "2027-01-15 13:30:00 +0530",
    ]
    assert time.localtime(winter.seconds).tm_gmtoff == 3600


# ---- schedule --dry-run ----


def test_a_dry_run_shows_the_next_firings_and_schedules_nothing(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    noon = 1_900_000_000
    answer = pb.PreviewScheduleResponse(
        nominal_times=[Timestamp(seconds=noon), Timestamp(seconds=noon + 3600)],
        time_zone="Asia/Kolkata",
    )
    argv = ("x", "--cron", "@hourly", "--tz", "Asia/Kolkata", "--jitter", "2m", "--dry-run")
    request = terminal.run("PreviewSchedule", answer, "schedule", *argv)
    assert (request.count, request.schedule.cron) == (5, "@hourly")
    head, first, second, jitter = capsys.readouterr().out.splitlines()
    assert head.split() == ["FIRES", "IN", "Asia/Kolkata"]
    assert first.startswith("2030-03-17 18:46:40 (in ")
    assert first.endswith("2030-03-17 23:16:40 +0530")
    assert second.endswith("2030-03-18 00:16:40 +0530")
    assert jitter == "Each is later by up to 2m, at random."


@pytest.mark.parametrize(
    "form",
    [("0.5", "x"), ("x", "--every", "30s"), ("x", "--every", "30s", "--jitter", "0")],
)
def test_a_dry_run_of_what_goes_by_no_wall_clock_names_no_zone(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], form: tuple[str, ...]
) -> None:
    answer = pb.PreviewScheduleResponse(nominal_times=[_in(10_800)], time_zone="Asia/Kolkata")
    request = terminal.run("PreviewSchedule", answer, "schedule", *form, "--dry-run")
    assert request.schedule.WhichOneof("form") == ("every" if "--every" in form else "delay")
    head, row = capsys.readouterr().out.splitlines()
    assert head == "FIRES"
    assert row.endswith("(in 3h)")


def test_a_dry_run_as_json_is_the_answer(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = pb.PreviewScheduleResponse(nominal_times=[Timestamp(seconds=60)], time_zone="UTC")
    argv = ("schedule", "x", "--at", "09:00", "--dry-run", "--json")
    terminal.run("PreviewSchedule", answer, *argv)
    assert json.loads(capsys.readouterr().out) == {
        "nominal_times": ["1970-01-01T00:01:00Z"],
        "time_zone": "UTC",
    }


# ---- reschedule ----


@pytest.mark.parametrize(
    ("argv", "schedule"),
    [
        (("30",), {"delay": Duration(seconds=1800)}),
        (("--every", "1h"), {"every": Duration(seconds=3600)}),
        (("--at", "09:00"), {"at": "09:00", "time_zone": "Europe/Vienna"}),
        (
            ("--cron", "@daily", "--tz", "UTC", "--jitter", "1m", "--until", "2027-01-01T00:00"),
            {
                "cron": "@daily",
                "time_zone": "UTC",
                "jitter": Duration(seconds=60),
                "until": "2027-01-01T00:00",
            },
        ),
    ],
)
def test_a_task_gets_another_schedule(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    schedule: dict[str, Any],
) -> None:
    answer = pb.UpdateTaskResponse(task=_task(schedule=_EVERY, paused_by="operator"))
    request = terminal.run("UpdateTask", answer, "reschedule", "3fa8", *argv, "--json")
    assert (request.id, request.expected_version) == ("3fa8", 0)
    assert request.schedule == pb.Schedule(**schedule)
    assert json.loads(capsys.readouterr().out)["id"] == "3fa8c01d2233"


_ENDING = pb.Schedule(every=Duration(seconds=60), until="2030-01-01T18:00:00+01:00")
_JITTERED = pb.Schedule(every=Duration(seconds=60), jitter=Duration(seconds=9))
_BOTH = pb.Schedule(every=Duration(seconds=60), jitter=Duration(seconds=9), until=_ENDING.until)


@pytest.mark.parametrize(
    ("before", "after", "paused_by", "all_paused", "says"),
    [
        (_CRON, _EVERY, "", False, ", then every 20m"),
        (_CRON, _EVERY, "operator", False, ", then every 20m, but paused"),
        (_ENDING, _EVERY, "", False, ", then every 20m, without the end it had"),
        (_JITTERED, None, "", False, ", without the jitter it had"),
        (_BOTH, None, "", False, ", without the end and the jitter it had"),
        (_BOTH, _BOTH, "", False, ", then every 1m, until 2030-01-01 18:00:00, jitter 9s"),
        (
            _ENDING,
            None,
            "",
            True,
            ", without the end it had, but all firing is paused (orch-client resume --all)",
        ),
        (
            None,
            None,
            "operator",
            True,
            ", but paused, and all firing is paused (orch-client resume --all)",
        ),
    ],
)
def test_reschedule_says_what_is_gone_and_what_holds_it_back(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    before: pb.Schedule | None,
    after: pb.Schedule | None,
    paused_by: str,
    all_paused: bool,
    says: str,
) -> None:
    _answered(
        terminal,
        ("reschedule", "3fa8", "5"),
        ("GetTask", pb.GetTaskResponse(task=_task(schedule=before))),
        ("GetScheduler", pb.GetSchedulerResponse(paused=all_paused)),
        ("UpdateTask", pb.UpdateTaskResponse(task=_task(schedule=after, paused_by=paused_by))),
    )
    assert capsys.readouterr().out.endswith(f"(in 5m){says}\n")


def test_reschedule_needs_one_task_and_one_time(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, says in (
        ((), "give one ID"),
        (("3fa8",), "say when"),
        (("3fa8", "5", "--every", "5m"), "give ID alone"),
        (("3fa8", "5", "6"), "give one ID"),
        (("3fa8", "soon"), "MINUTES is 'soon'"),
        (("", "5"), "no task is named; give the id of one (orch-client tasks lists them)."),
    ):
        assert says in _refused(terminal, capsys, "reschedule", *argv)


# ---- tasks ----


def _listed(
    terminal: Terminal, tasks: list[pb.Task], scheduler: pb.GetSchedulerResponse, *argv: str
) -> Any:
    """Lists tasks of one state, or of all; returns the request."""
    listed = ("ListTasks", pb.ListTasksResponse(tasks=tasks))
    request, _ = _answered(terminal, ("tasks", *argv), listed, ("GetScheduler", scheduler))
    return request


def test_tasks_are_shown_with_their_schedule_and_what_became_of_them(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [
        _task(id="d", deferred_until=_in(10_800), due_time=_in(-60)),
        _task(id="a", schedule=_EVERY, last_occurrence=_occurrence(**_CONFIRMED)),
        _task(
            id="b",
            schedule=_CRON,
            state=4,
            due_time=_in(301),
            last_occurrence=_occurrence("SKIPPED", "MISSED"),
        ),
        _task(id="c", schedule=pb.Schedule(at="2026-11-22T09:00:00Z"), state=6, due_time=_in(302)),
        _task(
            id="e",
            due_time=_in(303),
            last_occurrence=_occurrence("COALESCED", "STILL_WAITING", **_CONFIRMED),
        ),
    ]
    request = _listed(terminal, tasks, pb.GetSchedulerResponse())
    assert request.state == pb.TASK_STATE_UNSPECIFIED
    head, d, a, b, c, e = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "FOR", "STATE", "NOTE", "NEXT", "SCHEDULE", "LAST", "BY"]
    assert "(in 3h), limited  " in d
    assert re.search(r" \(in 5m\) +every 20m +fired confirmed", a)
    assert "  paused   x     paused " in b
    assert 'cron "0 17 * * FRI" Europe/Vienna' in b
    assert "skipped missed" in b
    assert "  expired  x     - " in c
    assert " once " in c
    assert "coalesced still-waiting" in e
    listed = _listed(terminal, tasks[:1], pb.GetSchedulerResponse(), "--state", "expired")
    assert listed.state == pb.TASK_STATE_EXPIRED


def test_open_tasks_of_both_states_are_listed_by_due_time(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = _task(id="a"), _task(id="b", due_time=_in(400), state=4), _task(id="c")
    third.due_time.CopyFrom(_in(500))
    answers = (
        ("ListTasks", pb.ListTasksResponse(tasks=[first, third])),
        ("ListTasks", pb.ListTasksResponse(tasks=[second])),
    )
    pending, paused = _answered(
        terminal, ("tasks", "--json", "--open", "--session", "atlas"), *answers
    )
    assert [task["id"] for task in json.loads(capsys.readouterr().out)] == ["a", "b", "c"]
    states = (pb.TASK_STATE_PENDING, pb.TASK_STATE_PAUSED)
    assert (pending.state, paused.state) == states
    assert {pending.session, paused.session} == {"atlas"}
    none = ("ListTasks", pb.ListTasksResponse())
    _answered(terminal, ("tasks",), none, ("GetScheduler", pb.GetSchedulerResponse()))
    assert capsys.readouterr().out == "No tasks.\n"
    assert terminal.start("tasks", "--open", "--state", "fired").result(10) == 2
    capsys.readouterr()


def test_a_pause_of_all_stands_above_the_tasks(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    paused = pb.GetSchedulerResponse(
        paused=True, paused_by="atlas:pm", pause_time=_in(-300), pause_note="a\x1b[31m release"
    )
    _listed(terminal, [_task(), _task(id="4b", state=2)], paused)
    first, _, pending, fired = capsys.readouterr().out.splitlines()
    assert first.startswith("All firing is paused, by atlas:pm at ")
    assert first.endswith("(5m ago): a [31m release")
    assert pending.split()[2:5] == ["pending", "x", "paused"]
    assert fired.split()[2:5] == ["fired", "x", "-"]


def test_large_notes_are_fetched_a_few_at_a_time(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("tasks", "--json")
    asked = terminal.asked("ListTasks")
    assert asked.request.page_size == 1000
    asked.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")
    again = terminal.asked("ListTasks")
    assert again.request.page_size == 12
    again.answer(pb.ListTasksResponse(tasks=[_task()]))
    assert running.result(10) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


# ---- tasks --watch ----


class Watch:
    """Streams that `tasks --watch` opens one after the other, and how it is ended."""

    def __init__(self, terminal: Terminal, *argv: str) -> None:
        self._terminal = terminal
        self._running = terminal.start("tasks", "--watch", *argv)
        terminal.asked("GetScheduler").answer(pb.GetSchedulerResponse())

    def streams(
        self,
        tasks: list[pb.Task],
        code: grpc.StatusCode = grpc.StatusCode.OK,
        changed: tuple[pb.Task, ...] = (),
    ) -> Any:
        """Answers the next stream with these tasks and those that changed, then ends it; returns
        its request."""
        _, request, rpc = self._terminal._channel.take_unary_stream(METHODS["WatchTasks"])
        rpc.send_initial_metadata(())
        for task in tasks:
            rpc.send_response(pb.WatchTasksResponse(task=task))
        for task in changed:
            rpc.send_response(pb.WatchTasksResponse(task=task, event_number=7))
        rpc.terminate((), code, "")
        return request

    def end(self) -> None:
        """Ends it with an error that it does not wait over."""
        self.streams([], grpc.StatusCode.PERMISSION_DENIED)
        assert self._running.result(10) == 5


def test_a_watch_prints_each_change_once_over_a_restart_of_the_server(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    pending = _task(schedule=_EVERY)
    fired = _task(state=2, last_occurrence=_occurrence(**_CONFIRMED))
    other = _task(id="4b", role="pm", state=4)
    watch = Watch(terminal, "--session", "atlas")
    assert watch.streams([pending, other]).session == "atlas"
    watch.streams([pending, other, fired])
    watch.streams([], grpc.StatusCode.UNAVAILABLE)
    watch.streams([other, fired])
    watch.end()
    out, err = capsys.readouterr()
    first, second, third = out.splitlines()
    assert first.split()[1:5] == ["3fa8c01d2233", "atlas:tester", "pending", "next"]
    assert first.endswith("  last -  x")
    assert second.split()[1:6] == ["4b", "atlas:pm", "paused", "next", "paused"]
    assert third.endswith("  fired  next -  last fired confirmed  x")
    assert err.count("orch-client: the server is away; waiting.\n") == 3, "once for each outage"


def test_a_watch_begins_with_what_is_open_and_goes_on_with_all_that_changes(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    over, later = _task(id="over", state=3), _task(id="later", state=2)
    other_bytes = _task(version=2, due_time=(again := _task()).due_time)
    watch = Watch(terminal)
    watch.streams([over, again], changed=(other_bytes, later))
    watch.streams([over, again, later])
    watch.end()
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["3fa8c01d2233", "later"]


def test_a_watch_of_a_state_tells_what_leaves_it(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    paused, pending, fired = _task(state=4), _task(), _task(state=2)
    watch = Watch(terminal, "--state", "paused")
    watch.streams([paused, _task(id="other")], changed=(pending, fired, paused))
    watch.end()
    shown = [line.split()[1:4:2] for line in capsys.readouterr().out.splitlines()]
    assert shown == [["3fa8c01d2233", state] for state in ("paused", "pending", "paused")]


def test_a_watch_as_json_is_one_task_a_line(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch(terminal, "--json", "--state", "fired")
    watch.streams([_task(), _task(state=2, note="two\nlines")])
    watch.end()
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["note"] == "two\nlines"
    assert json.loads(line)["state"] == "TASK_STATE_FIRED"


def test_a_watch_without_a_server_ends(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(target: str) -> channel.Metadata:
        raise channel.unreachable(target)

    monkeypatch.setattr(channel, "credentials", unreachable)
    assert terminal.start("tasks", "--watch").result(10) == 3
    assert "orch-server run" in capsys.readouterr().err


# ---- task, occurrences ----


def _fields(text: str) -> dict[str, str]:
    """Name and value of each line."""
    pairs = [line.split("  ", 1) for line in text.splitlines() if "  " in line]
    return {name: value.strip() for name, value in pairs}


def _shown(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], task: pb.Task, *more: tuple[str, Any]
) -> dict[str, str]:
    """What `task` shows of one without occurrences."""
    known = (
        ("GetTask", pb.GetTaskResponse(task=task)),
        ("ListOccurrences", pb.ListOccurrencesResponse()),
    )
    _answered(terminal, ("task", "3fa8"), *known, *more)
    return _fields(capsys.readouterr().out)


def _is_clock(shown: str, at: Timestamp) -> bool:
    """Whether the clock is shown, alone or after its date, which need not be today's."""
    day, clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at.seconds)).split()
    return shown in (clock, f"{day} {clock}")


def test_a_task_that_is_over_has_no_next_time(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    task = _task(state=3)
    shown = _shown(terminal, capsys, task)
    assert "next" not in shown
    assert _is_clock(shown["due"], task.due_time)


def test_a_task_is_shown_with_the_time_that_was_asked_for_and_the_pause_of_all(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    paused = ("GetScheduler", pb.GetSchedulerResponse(paused=True))
    at = pb.Schedule(at="2030-01-01T09:00:00+09:00", time_zone="Asia/Tokyo")
    shown = _shown(terminal, capsys, _task(schedule=at), paused)
    assert shown["schedule"] == "once, at 2030-01-01 09:00:00 +0900 (Asia/Tokyo)"
    assert shown["next"].endswith("(in 5m), but all firing is paused (orch-client resume --all)")
    odd = pb.Schedule(every=Duration(seconds=60), until="so\x1bon", time_zone="Asia/Tokyo")
    assert _shown(terminal, capsys, _task(schedule=odd), paused)["schedule"].endswith("until so on")


def test_a_task_is_shown_with_its_newest_occurrences(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    task = _task(
        schedule=pb.Schedule(
            every=Duration(seconds=90),
            jitter=Duration(seconds=1, nanos=500_000_000),
            until="2030-01-01T00:00:00+01:00",
        ),
        next_nominal_time=_in(240),
        deferred_until=_in(10_800),
        pause_time=_in(-60),
        paused_by="operator",
        pause_note="until the release",
        catch_up=Duration(seconds=3600),
        missed=pb.MISSED_POLICY_ONE,
        mode=delivery_pb2.DELIVERY_MODE_WAIT_IDLE,
        version=7,
        note="one\n\x1b[31mtwo",
    )
    found = [_occurrence(**_CONFIRMED), _occurrence("SKIPPED", "MISSED")]
    _, listed, _ = _answered(
        terminal,
        ("task", "3fa8"),
        ("GetTask", pb.GetTaskResponse(task=task)),
        ("ListOccurrences", pb.ListOccurrencesResponse(occurrences=found, next_page_token="more")),
        ("GetScheduler", pb.GetSchedulerResponse()),
    )
    assert (listed.task_id, listed.page_size) == ("3fa8c01d2233", 10)
    out = capsys.readouterr().out
    fields, table = out.split("\n\n")
    shown = _fields(fields)
    assert shown["schedule"].startswith(
        "every 90s, each later by up to 1.5s, until 2030-01-01 00:00:00 (in "
    )
    assert shown["next"].endswith("(in 3h), limited, but paused")
    assert _is_clock(shown["due"], task.due_time)
    assert "nominal" in shown
    assert shown["deferred until"].endswith("(in 3h): the agent's account has met its usage limit")
    assert shown["paused"].endswith("by operator: until the release")
    assert (shown["catch-up"], shown["missed"], shown["mode"]) == ("1h", "one", "wait-idle")
    assert shown["version"] == "7"
    assert "\x1b" not in out
    head, first, second = table.splitlines()
    assert head.split("  ")[-1] == "DELIVERY STATE"
    assert "9c1d2e3f  confirmed" in first
    assert second.split()[-1] == "-"
    assert " skipped  missed " in second


def test_a_task_as_json_is_the_task_alone(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.run("GetTask", pb.GetTaskResponse(task=_task()), "task", "3fa8", "--json")
    assert json.loads(capsys.readouterr().out)["id"] == "3fa8c01d2233"


def test_occurrences_are_listed_to_the_last_page(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("occurrences", "3fa8", "--outcome", "skipped", "--json")
    first = terminal.asked("ListOccurrences")
    assert (first.request.task_id, first.request.page_size) == ("3fa8", 1000)
    assert first.request.outcome == pb.OCCURRENCE_OUTCOME_SKIPPED
    page = pb.ListOccurrencesResponse(occurrences=[_occurrence()], next_page_token="t2")
    first.answer(page)
    second = terminal.asked("ListOccurrences")
    assert second.request.page_token == "t2"
    second.answer(pb.ListOccurrencesResponse(occurrences=[_occurrence()]))
    assert running.result(10) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    terminal.run("ListOccurrences", pb.ListOccurrencesResponse(), "occurrences", "3fa8")
    assert capsys.readouterr().out == "No occurrences.\n"


# ---- pause, resume, run-now, cancel ----


@pytest.mark.parametrize(
    ("argv", "method", "fields", "says"),
    [
        (("pause", "3f"), "PauseTask", {"id": "3f", "all": False}, "3fa8c01d2233 paused"),
        (("pause", "3f", "--note", "$x"), "PauseTask", {"note": "$x"}, "3fa8c01d2233 paused"),
        (("pause", "--all"), "PauseTask", {"id": "", "all": True}, "all firing is paused"),
        (("resume", "--all"), "ResumeTask", {"id": "", "all": True}, "all firing goes on"),
        (("cancel", "3f"), "CancelTask", {"id": "3f"}, "3fa8c01d2233 cancelled"),
    ],
)
def test_what_is_done_to_a_task_is_one_line(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    method: str,
    fields: dict[str, Any],
    says: str,
) -> None:
    answer = getattr(pb, f"{method}Response")()
    if "--all" not in argv:
        answer.task.CopyFrom(_task())
    request = terminal.run(method, answer, *argv)
    assert {name: getattr(request, name) for name in fields} == fields
    out = capsys.readouterr().out
    assert says in out
    assert out.count("\n") == 1
    terminal.run(method, answer, *argv, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown.get("id", "all") == ("all" if "--all" in argv else "3fa8c01d2233")


def test_one_or_all_is_paused_and_resumed(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pause", "resume"):
        for argv in ((), ("3f", "--all"), ("", "--all")):
            said = _refused(terminal, capsys, name, *argv)
            assert f"use: {name} ID or {name} --all." in said


def test_an_empty_id_names_no_task(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("task", "occurrences", "pause", "resume", "run-now", "cancel"):
        said = _refused(terminal, capsys, name, " ")
        assert said == (
            "orch-client: no task is named; give the id of one (orch-client tasks lists them).\n"
        )


_LATE = {"due_time": _in(-14), "catch_up": Duration(seconds=10)}


@pytest.mark.parametrize(
    ("task", "all_paused", "says"),
    [
        (_task(due_time=_in(12_000)), False, r"due (\S+ )?\d\d:\d\d:\d\d \(in 3h\)"),
        (_task(), True, r"due .*, but all firing is paused \(orch-client resume --all\)"),
        (
            _task(**_LATE),
            False,
            r"but it is \d+[sm] late, more than its catch-up of 10s, so it is skipped;"
            r" schedule it anew",
        ),
        (
            _task(**_LATE),
            True,
            r"but it is \d+[sm] late, .* so it is skipped when firing goes on; use reschedule or"
            r" run-now before; all firing is paused \(orch-client resume --all\)",
        ),
        (_task(**{**_LATE, "catch_up": Duration(seconds=86400)}), False, r"due .* ago\)"),
        (_task(**_LATE, schedule=_EVERY), False, r"due .* ago\)"),
        (_task(**_LATE, deferred_until=_in(3600)), False, r"due .*\(in .*\), limited"),
    ],
)
def test_resume_says_what_becomes_of_the_task(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    task: pb.Task,
    all_paused: bool,
    says: str,
) -> None:
    _, request = _answered(
        terminal,
        ("resume", "3f"),
        ("GetScheduler", pb.GetSchedulerResponse(paused=all_paused)),
        ("ResumeTask", pb.ResumeTaskResponse(task=task)),
    )
    assert (request.id, request.all) == ("3f", False)
    assert re.fullmatch(f"3fa8c01d2233 resumed, {says}\n", capsys.readouterr().out)
    terminal.run("ResumeTask", pb.ResumeTaskResponse(task=task), "resume", "3f", "--json")
    assert json.loads(capsys.readouterr().out)["id"] == "3fa8c01d2233"


@pytest.mark.parametrize(
    ("name", "others"),
    [("tasks", "pause"), ("pause", "cancel"), ("reschedule", "make report"), ("schedule", "3fa8")],
)
def test_the_help_has_the_examples_of_that_command_alone(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], name: str, others: str
) -> None:
    assert terminal.start(name, "--help").result(10) == 0
    examples = capsys.readouterr().out.split("examples:\n")[1]
    assert f"orch-client {name} " in examples
    assert others not in examples.split("exit status")[0]


@pytest.mark.parametrize(
    ("occurrence", "says"),
    [
        (_occurrence("FIRED", "RUN_NOW", **_CONFIRMED), "fired now; delivery 9c1d2e3f confirmed"),
        (_occurrence("COALESCED", "STILL_WAITING"), "coalesced now"),
    ],
)
def test_a_task_is_run_now(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], occurrence: pb.Occurrence, says: str
) -> None:
    answer = pb.RunTaskResponse(task=_task(), occurrence=occurrence)
    first = terminal.run("RunTask", answer, "run-now", "3f")
    assert capsys.readouterr().out == f"3fa8c01d2233 {says}\n"
    second = terminal.run("RunTask", answer, "run-now", "3f", "--json")
    assert {"task", "occurrence"} == set(json.loads(capsys.readouterr().out))
    assert len({first.request_id, second.request_id, ""}) == 3
    assert len(first.request_id) == 32


# ---- words ----


@pytest.mark.parametrize(
    ("seconds", "nanos", "text"),
    [
        (0, 0, "0s"),
        (90, 0, "90s"),
        (1200, 0, "20m"),
        (5400, 0, "90m"),
        (86400, 0, "1d"),
        (1, 250_000_000, "1.25s"),
        (1_234_567, 0, "1234567s"),
        (100, 0, "100s"),
    ],
)
def test_a_duration_is_shown_as_it_would_be_typed(seconds: int, nanos: int, text: str) -> None:
    assert schedule_form.length(Duration(seconds=seconds, nanos=nanos)) == text
