"""`schedule` with its forms, `reschedule`, `tasks`, `task`, `occurrences`, `pause`, `resume`,
`run-now`: what the server hears, what people read."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import delivery_pb2
from orch.v1 import scheduler_pb2 as pb
from orch_client import channel
from orch_client.commands import schedule_form, times
from tests.client.terminal import METHODS, Terminal, opened

_EVERY = pb.Schedule(every=Duration(seconds=1200))
_CRON = pb.Schedule(cron="0 17 * * FRI", time_zone="Europe/Vienna")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A user in Vienna whose server is elsewhere, with a token."""
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    with opened(monkeypatch) as ready:
        yield ready
    monkeypatch.undo()
    time.tzset()


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


def _run(terminal: Terminal, method: str, answer: Any, *argv: str) -> Any:
    """Runs a command that makes one call; returns the request."""
    running = terminal.start(*argv)
    asked = terminal.asked(method)
    asked.answer(answer)
    assert running.result(10) == 0
    return asked.request


def _scheduled(terminal: Terminal, *argv: str) -> Any:
    return _run(terminal, "CreateTask", pb.CreateTaskResponse(task=_task()), "schedule", *argv)


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
    assert not request.HasField("delay")
    assert request.note == "still on course?"
    assert len(request.request_id) == 32
    assert not request.HasField("catch_up")
    assert (request.missed, request.mode) == (0, 0)


def test_minutes_are_sent_as_a_delay_alone(terminal: Terminal) -> None:
    request = _scheduled(terminal, "15", "x")
    assert request.delay == Duration(seconds=900)
    assert not request.HasField("schedule")


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
    ],
)
def test_the_answer_says_when_and_when_again(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], schedule: Any, says: str
) -> None:
    task = _task(schedule=schedule)
    _run(terminal, "CreateTask", pb.CreateTaskResponse(task=task), "schedule", "5", "x")
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
        (("15", "x", "--tz", "UTC"), "--tz goes with --at"),
        (("x", "--at", "09:00", "--jitter", "1m"), "--jitter goes with --every or --cron"),
        (("soon", "x", "--dry-run"), "MINUTES is 'soon'"),
        (("", "--every", "5m"), "the note is empty"),
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
    argv = ("-", "--cron", "@hourly", "--tz", "Asia/Kolkata", "--jitter", "2m", "--dry-run")
    request = _run(terminal, "PreviewSchedule", answer, "schedule", *argv)
    assert (request.count, request.schedule.cron) == (5, "@hourly")
    head, first, second, jitter = capsys.readouterr().out.splitlines()
    assert head.split() == ["FIRES", "IN", "Asia/Kolkata"]
    assert first.startswith("2030-03-17 18:46:40 (in ")
    assert first.endswith("2030-03-17 23:16:40 +0530")
    assert second.endswith("2030-03-18 00:16:40 +0530")
    assert jitter == "Each is later by up to 2m, at random."


@pytest.mark.parametrize("form", [("0.5", "x"), ("x", "--every", "30s")])
def test_a_dry_run_of_what_goes_by_no_wall_clock_names_no_zone(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], form: tuple[str, ...]
) -> None:
    answer = pb.PreviewScheduleResponse(nominal_times=[_in(30)], time_zone="Asia/Kolkata")
    request = _run(terminal, "PreviewSchedule", answer, "schedule", *form, "--dry-run")
    assert request.schedule.WhichOneof("form") == ("every" if "--every" in form else "delay")
    head, row = capsys.readouterr().out.splitlines()
    assert head == "FIRES"
    assert row.endswith("(in 30s)")


def test_a_dry_run_as_json_is_the_answer(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = pb.PreviewScheduleResponse(nominal_times=[Timestamp(seconds=60)], time_zone="UTC")
    argv = ("schedule", "x", "--at", "09:00", "--dry-run", "--json")
    _run(terminal, "PreviewSchedule", answer, *argv)
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
    request = _run(terminal, "UpdateTask", answer, "reschedule", "3fa8", *argv)
    assert (request.id, request.expected_version) == ("3fa8", 0)
    assert request.schedule == pb.Schedule(**schedule)
    assert capsys.readouterr().out.endswith("(in 5m), then every 20m, but paused\n")


def test_reschedule_needs_one_task_and_one_time(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, says in (
        ((), "give one ID"),
        (("3fa8",), "say when"),
        (("3fa8", "5", "--every", "5m"), "give ID alone"),
        (("3fa8", "5", "6"), "give one ID"),
        (("3fa8", "soon"), "MINUTES is 'soon'"),
    ):
        assert says in _refused(terminal, capsys, "reschedule", *argv)


# ---- tasks ----


def _listed(
    terminal: Terminal, tasks: list[pb.Task], scheduler: pb.GetSchedulerResponse, *argv: str
) -> Any:
    running = terminal.start("tasks", *argv)
    asked = terminal.asked("ListTasks")
    asked.answer(pb.ListTasksResponse(tasks=tasks))
    terminal.asked("GetScheduler").answer(scheduler)
    assert running.result(10) == 0
    return asked.request


def test_tasks_are_shown_with_their_schedule_and_what_became_of_them(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [
        _task(id="a", schedule=_EVERY, last_occurrence=_occurrence(**_CONFIRMED)),
        _task(id="b", schedule=_CRON, state=4, last_occurrence=_occurrence("SKIPPED", "MISSED")),
        _task(id="c", schedule=pb.Schedule(at="2026-11-22T09:00:00Z"), state=6),
        _task(id="d", deferred_until=_in(10_800), due_time=_in(-60)),
        _task(id="e", last_occurrence=_occurrence("COALESCED", "STILL_WAITING", **_CONFIRMED)),
    ]
    request = _listed(terminal, tasks, pb.GetSchedulerResponse(), "--state", "expired")
    assert request.state == pb.TASK_STATE_EXPIRED
    head, a, b, c, d, e = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "FOR", "STATE", "NEXT", "SCHEDULE", "LAST", "BY", "NOTE"]
    assert "every 20m  " in a
    assert "fired confirmed" in a
    assert "paused " in b
    assert 'cron "0 17 * * FRI" Europe/Vienna' in b
    assert "skipped missed" in b
    assert "expired" in c
    assert " once " in c
    assert "(in 3h)" in d
    assert "coalesced still-waiting" in e


def test_a_pause_of_all_stands_above_the_tasks(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    paused = pb.GetSchedulerResponse(
        paused=True, paused_by="atlas:pm", pause_time=_in(-300), pause_note="a\x1b[31m release"
    )
    _listed(terminal, [], paused)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("All firing is paused, by atlas:pm at ")
    assert first.endswith("(5m ago): a [31m release")
    assert second == "No tasks."


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

    def streams(self, tasks: list[pb.Task], code: grpc.StatusCode = grpc.StatusCode.OK) -> Any:
        """Answers the next stream with these tasks, then ends it; returns its request."""
        _, request, rpc = self._terminal._channel.take_unary_stream(METHODS["WatchTasks"])
        rpc.send_initial_metadata(())
        for task in tasks:
            rpc.send_response(pb.WatchTasksResponse(task=task))
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
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split()[1:5] == ["3fa8c01d2233", "atlas:tester", "pending", "next"]
    assert first.endswith("(in 5m)  last -")
    assert second.split()[1:4] == ["4b", "atlas:pm", "paused"]
    assert "  fired  was due " in third
    assert third.endswith("last fired confirmed")


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


def test_a_task_is_shown_with_its_newest_occurrences(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    task = _task(
        schedule=pb.Schedule(
            every=Duration(seconds=90),
            jitter=Duration(seconds=1, nanos=500_000_000),
            until="2027-01-01T00:00:00+01:00",
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
    running = terminal.start("task", "3fa8")
    terminal.asked("GetTask").answer(pb.GetTaskResponse(task=task))
    asked = terminal.asked("ListOccurrences")
    assert (asked.request.task_id, asked.request.page_size) == ("3fa8c01d2233", 10)
    found = [_occurrence(**_CONFIRMED), _occurrence("SKIPPED", "MISSED")]
    asked.answer(pb.ListOccurrencesResponse(occurrences=found, next_page_token="more"))
    assert running.result(10) == 0
    out = capsys.readouterr().out
    fields, table = out.split("\n\n")
    shown = dict(line.split("  ", 1) for line in fields.splitlines() if "  " in line)
    shown = {name: value.strip() for name, value in shown.items()}
    assert shown["schedule"] == (
        "every 90s, each later by up to 1.5s, until 2027-01-01T00:00:00+01:00"
    )
    assert shown["next"].endswith("(in 5m)")
    assert "nominal" in shown
    assert shown["deferred until"].endswith("(in 3h): the agent's account has met its usage limit")
    assert shown["paused"].endswith("by operator: until the release")
    assert (shown["catch-up"], shown["missed"], shown["mode"]) == ("1h", "one", "wait-idle")
    assert shown["version"] == "7"
    assert "\x1b" not in out
    head, first, second = table.splitlines()
    assert head.split() == ["NOMINAL", "OUTCOME", "REASON", "DECIDED", "DELIVERY", "STATE"]
    assert "9c1d2e3f  confirmed" in first
    assert second.split()[-1] == "-"
    assert " skipped  missed " in second


def test_a_task_as_json_is_the_task_alone(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(terminal, "GetTask", pb.GetTaskResponse(task=_task()), "task", "3fa8", "--json")
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
    _run(terminal, "ListOccurrences", pb.ListOccurrencesResponse(), "occurrences", "3fa8")
    assert capsys.readouterr().out == "No occurrences.\n"


# ---- pause, resume, run-now, cancel ----


@pytest.mark.parametrize(
    ("argv", "method", "fields", "says"),
    [
        (("pause", "3f"), "PauseTask", {"id": "3f", "all": False}, "3fa8c01d2233 paused"),
        (("pause", "3f", "--note", "$x"), "PauseTask", {"note": "$x"}, "3fa8c01d2233 paused"),
        (("pause", "--all"), "PauseTask", {"id": "", "all": True}, "all firing is paused"),
        (("resume", "3f"), "ResumeTask", {"id": "3f", "all": False}, "resumed, due "),
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
    request = _run(terminal, method, answer, *argv)
    assert {name: getattr(request, name) for name in fields} == fields
    out = capsys.readouterr().out
    assert says in out
    assert out.count("\n") == 1
    _run(terminal, method, answer, *argv, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown.get("id", "all") == ("all" if "--all" in argv else "3fa8c01d2233")


def test_one_or_all_is_paused_and_resumed(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pause", "resume"):
        for argv in ((), ("3f", "--all"), ("", "--all")):
            said = _refused(terminal, capsys, name, *argv)
            assert f"use: {name} ID or {name} --all." in said


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
    first = _run(terminal, "RunTask", answer, "run-now", "3f")
    assert capsys.readouterr().out == f"3fa8c01d2233 {says}\n"
    second = _run(terminal, "RunTask", answer, "run-now", "3f", "--json")
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
