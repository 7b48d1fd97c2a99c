"""The figures over a real connection: kept by the hour, over restarts, with real repositories."""

from __future__ import annotations

import asyncio
import os
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from orch.v1 import authorization_pb2, messaging_pb2, metrics_pb2_grpc, session_state_pb2
from orch.v1 import metrics_pb2 as pb
from orch_server.core.clock import ManualClock
from orch_server.core.metrics import Period
from orch_server.services import git_log
from orch_server.storage import metrics as table
from orch_server.storage.columns import micros
from orch_server.storage.store import Transaction
from tests.transport.harness import PATIENCE, START, Serving, fails, run
from tests.transport.overseen import Fleet, oversee

Code = grpc.StatusCode
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_NAMES = [
    *("commits_per_hour", "idle_percent", "authorization_seconds", "authorization_seconds_p95"),
    *("phase_hours", "phases_per_day", "interactions_per_hour", "false_nudge_percent"),
    *("delivery_confirm_seconds", "delivery_confirm_seconds_p99"),
]
_ROWS = "select period, begins_at, session, name, value, samples from metric order by number"


async def _get(at: Serving, **asked: Any) -> pb.GetMetricsResponse:
    stub = metrics_pb2_grpc.MetricsServiceStub(at.channel)
    since = asked.pop("since", None)
    request = pb.GetMetricsRequest(**asked)
    if since is not None:
        request.since.FromDatetime(since)
    return await stub.GetMetrics(request, timeout=PATIENCE)


async def _values(at: Serving, **asked: Any) -> dict[str, float | None]:
    found = await _get(at, **asked)
    return {one.name: one.value if one.HasField("value") else None for one in found.metrics}


async def _points(at: Serving, name: str, **asked: Any) -> list[float | None]:
    found = {one.name: one for one in (await _get(at, **asked)).metrics}[name]
    return [point.value if point.HasField("value") else None for point in found.points]


async def _kept(at: Serving) -> list[Any]:
    return await at.core.store.read(lambda db: db.execute_sql(_ROWS).fetchall())


async def _emit(at: Serving, *kinds: str, count: int = 1, detail: str = "") -> None:
    def unit(tx: Transaction) -> None:
        for kind in kinds * count:
            tx.emit(kind, f"{kind}{len(tx.events)}", session="atlas", agent="x", detail=detail)

    await at.core.store.write(unit)


async def _state(at: Serving, agent_id: str, state: str) -> None:
    def unit(tx: Transaction) -> None:
        tx.emit("agent.state", agent_id, session="atlas", agent=agent_id, detail=f"{state} HOOK x")

    await at.core.store.write(unit)


async def _details(at: Serving, kind: str) -> list[str]:
    sql = "select detail from event where kind = ?"
    rows = await at.core.store.read(lambda db: db.execute_sql(sql, (kind,)).fetchall())
    return [row[0] for row in rows]


def test_without_anything_all_figures_are_there_and_unknown(folder: Path) -> None:
    async def body(at: Serving) -> None:
        found = await _get(at)
        assert [one.name for one in found.metrics] == _NAMES
        assert not any(one.HasField("value") or one.HasField("reached") for one in found.metrics)
        assert all(one.unit and one.description for one in found.metrics)
        targets = {one.name: one.target for one in found.metrics if one.HasField("target")}
        assert targets == {
            "commits_per_hour": 4,
            "idle_percent": 10,
            "authorization_seconds": 600,
            "phases_per_day": 1,
            "false_nudge_percent": 10,
            "delivery_confirm_seconds_p99": 1,
        }
        assert found.metrics[0].goal == pb.METRIC_GOAL_AT_LEAST
        assert found.begin_time.ToDatetime() == (START - DAY).replace(tzinfo=None)
        assert found.end_time.ToDatetime() == START.replace(tzinfo=None)

    run(folder, body)


def test_a_time_to_come_too_many_steps_and_an_unknown_session_are_refused(folder: Path) -> None:
    async def body(at: Serving) -> None:
        advised: list[str] = []
        for asked in (
            {"since": START + HOUR},
            {"since": START - 90 * DAY, "period": pb.METRIC_PERIOD_HOUR},
            {"since": START - 9000 * DAY},
        ):
            failure = await fails(_get(at, **asked))
            assert (failure.code, failure.fields) == (Code.INVALID_ARGUMENT, ("since",)), failure
            advised.append(failure.message)
        assert advised == [
            "The time since which is asked for is still to come.",
            "That is more than 2,000 hours ago; ask for a shorter time, or for days.",
            "That is more than 2,000 days ago; ask for a shorter time.",
        ]
        assert (await fails(_get(at, session="nobody"))).code is Code.NOT_FOUND

    run(folder, body)


def test_idle_time_is_measured_from_what_agents_really_do(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        at = fleet.at
        dev = await fleet.agent("dev", "WORKING")
        at.clock.advance(45 * 60)
        await dev.shows("IDLE")
        await fleet.written()
        assert (await _values(at))["idle_percent"] == 0
        at.clock.advance(15 * 60)
        assert (await _values(at))["idle_percent"] == 25
        at.clock.advance(60 * 60)
        assert (await _values(at))["idle_percent"] == 62.5
        shown = {one.name: one for one in (await _get(at, session="atlas")).metrics}
        assert shown["idle_percent"].HasField("reached")
        assert not shown["idle_percent"].reached
        assert await at.core.metrics.run_due() == START + 2 * HOUR + timedelta(seconds=60)
        at.clock.advance(60)
        assert await at.core.metrics.run_due() == START + 3 * HOUR + timedelta(seconds=60)
        assert [round(p or 0, 6) for p in await _points(at, "idle_percent")] == [25, 100, 100]
        await dev.stream.goodbye("PANE_ENDED")  # type: ignore[union-attr]
        at.clock.advance(3 * 60 * 60)
        await at.core.metrics.run_due()
        expected = [25, 100, 100, None, None, None]
        assert await _points(at, "idle_percent") == expected

    oversee(folder, body)


def test_texts_nudges_and_decisions_are_measured(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        at = fleet.at
        await fleet.agent("dev", "IDLE")
        send = messaging_pb2.SendMessageRequest(targets=["atlas:dev"], text="hello")
        await at.messaging.SendMessage(send)
        await fleet.settled()
        await fleet.minutes(9)  # it was nudged once
        asked = authorization_pb2.RequestAuthorizationRequest(action="Deploy")
        answer = await at.authorization.RequestAuthorization(
            asked, metadata=at.token("atlas", "dev")
        )
        at.clock.advance(120)
        await at.authorization.ApproveAuthorization(
            authorization_pb2.ApproveAuthorizationRequest(id=answer.authorization.id),
            metadata=at.token("", ""),
        )
        at.clock.advance(60 * 60 - 11 * 60 + 60)
        for is_kept in (False, True):
            found = await _values(at)
            if is_kept:
                assert await at.core.store.read(table.progress) is not None
            assert found["authorization_seconds"] == found["authorization_seconds_p95"] == 120
            assert found["false_nudge_percent"] == 0
            assert found["delivery_confirm_seconds"] == 0  # the clock stood still meanwhile
            assert 1 < (found["interactions_per_hour"] or 0) < 5
            await at.core.metrics.run_due()

    oversee(folder, body)


def test_hours_are_kept_once_and_a_day_is_what_its_hours_are(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("dev", "%1")
        for _ in range(14):
            await _emit(at, "nudge.sent", "nudge.sent", "nudge.false")
            at.clock.advance(3600)
        assert datetime(2026, 11, 22, 2, tzinfo=START.tzinfo) == START + 14 * HOUR
        at.clock.advance(60)
        await at.core.metrics.run_due()
        kept = await _kept(at)
        await at.core.metrics.run_due()
        assert await _kept(at) == kept
        hours = [row for row in kept if row[0] == "HOUR" and row[2:4] == ("atlas", "nudges")]
        assert [row[4] for row in hours] == [2.0] * 14
        days = [row for row in kept if row[0] == "DAY" and row[2:4] == ("atlas", "nudges")]
        assert [(row[1], row[4]) for row in days] == [(micros(START - 12 * HOUR), 24)]
        asked = {"since": START - 5 * DAY, "period": pb.METRIC_PERIOD_DAY}
        found = await _get(at, **asked)
        shown = {one.name: one for one in found.metrics}["false_nudge_percent"]
        assert (shown.value, shown.samples) == (50, 28)
        assert [point.samples for point in shown.points] == [24, 4]
        assert not [note for note in found.notes if "greatest" in note]  # it is all of 14 hours
        assert await _points(at, "false_nudge_percent") == [50] * 14 + [None]
        at.clock.advance(3 * 86_400)
        await at.core.metrics.run_due()
        assert [note for note in (await _get(at, **asked)).notes if "greatest" in note]

    run(folder, body)


def test_a_clock_that_is_set_back_takes_nothing_from_what_is_kept(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _emit(at, "nudge.sent", count=3)
        at.clock.advance(2 * 3600 + 60)
        await at.core.metrics.run_due()
        kept = await _kept(at)
        at.clock.set(START + timedelta(minutes=30))
        await _emit(at, "nudge.sent")
        await at.core.metrics.run_due()
        assert await _kept(at) == kept
        notes = (await _get(at)).notes
        assert notes == ["The clock was set back: nothing is measured until 2026-11-21 14:00 UTC."]
        at.clock.set(START + timedelta(hours=3, minutes=1))
        await at.core.metrics.run_due()
        assert await _points(at, "false_nudge_percent") == [0, None, 0, None]  # not lost

    run(folder, body)


def test_an_event_from_a_wrong_future_holds_nothing_up(folder: Path) -> None:
    async def body(at: Serving) -> None:
        at.clock.set(START + 40 * DAY)
        await _emit(at, "nudge.sent")
        at.clock.set(START)
        await _emit(at, "nudge.sent", "nudge.false")
        at.clock.advance(3660)
        await at.core.metrics.run_due()
        assert (await _values(at))["false_nudge_percent"] == 50

    run(folder, body)


def test_after_a_restart_the_time_without_a_server_is_nobodys(folder: Path) -> None:
    clock = ManualClock(START)

    async def before(at: Serving) -> None:
        stream = await at.alive("dev", "%1")
        assert stream.welcome is not None
        await _state(at, stream.welcome.agent_id, "IDLE")
        clock.advance(1800)
        await _emit(at, "nudge.sent")  # the last that is known of this server

    async def after(at: Serving) -> None:
        await at.core.metrics.run_due()
        assert await _points(at, "idle_percent") == [100, None, None, None, None, None]
        kept = await at.core.store.read(
            lambda db: table.kept(db, Period.HOUR, START, "atlas")[START]["alive_seconds"]
        )
        assert kept.value == 1800
        await at.alive("dev", "%1")
        clock.advance(600)
        assert await _points(at, "idle_percent", since=clock.now()) == [100]
        said = ["the last event before is of 2026-11-21T12:30:00+00:00"]
        assert await _details(at, "server.started") == said

    run(folder, before, clock=clock)
    clock.advance(5 * 3600)
    run(folder, after, clock=clock)


def test_what_happened_before_a_first_start_of_the_metrics_is_caught_up_with(folder: Path) -> None:
    async def body(at: Serving) -> None:
        for _ in range(3):
            await _emit(at, "nudge.sent", "nudge.false", count=700)  # more than one portion
            at.clock.advance(3600)
        at.clock.advance(100 * 24 * 3600)
        await _emit(at, "nudge.sent")
        at.clock.advance(4 * 3600)
        assert "still being computed" in (await _get(at)).notes[0]
        await at.core.metrics.run_due()
        hours = [row[1] for row in await _kept(at) if row[3] == table.THROUGH and row[0] == "HOUR"]
        assert len(hours) == 90 * 24 - 1  # what is older is not kept
        assert hours == sorted(set(hours))
        days = [row for row in await _kept(at) if row[0] == "DAY" and row[3] == table.THROUGH]
        assert len(days) == 90  # the first of them only from its first hour on that is kept
        assert (await _values(at))["false_nudge_percent"] == 0

    run(folder, body)


def test_an_hour_reads_only_the_events_since_its_beginning(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _emit(at, "thing.made", count=20_000)
        at.clock.advance(3 * 3600 + 60)
        await at.core.metrics.run_due()
        await _emit(at, "delivery.confirmed", "agent.hook", count=5)
        at.clock.advance(60)
        begins = START + 2 * HOUR
        number = await at.core.store.read(lambda db: table.number_before(db, begins))
        assert number >= 20_000
        live = (await at.core.store.read(table.progress)).number
        look = await at.core.store.read(lambda db: table.read(db, live))
        assert (look.newest - number, len(look.found)) == (10, 5)
        assert (await _values(at, since=begins))["interactions_per_hour"] is None  # no session

    run(folder, body)


def test_phases_are_counted_by_their_ends(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("dev", "%1")
        assert (await _values(at))["phases_per_day"] is None  # no time has passed yet

        def unit(tx: Transaction) -> None:
            sql = """insert into session_phase (session, position, name, began_at, ended_at, length)
                values ('atlas', ?, 'x', ?, ?, ?)"""
            for n, hours in enumerate((2, 4)):
                length = 3_600_000_000 * hours
                tx.execute(sql, (n, micros(START) - length, micros(START + n * HOUR), length))

        await at.core.store.write(unit)
        at.clock.advance(2 * 3600 + 60)
        await at.core.metrics.run_due()
        at.clock.advance(10 * 3600)
        await at.core.metrics.run_due()
        at.clock.advance(-60)
        found = await _values(at)
        assert (found["phase_hours"], found["phases_per_day"]) == (3, 4)

    run(folder, body)


def test_what_is_older_than_the_first_event_is_not_measured(folder: Path) -> None:
    made = Repository(folder / "main")
    for minutes in (-600, 25, 35):
        made.commit(START + timedelta(minutes=minutes))
    began = START + timedelta(minutes=30)

    def unit(tx: Transaction) -> None:
        """The session is from the old system, and its first phases are."""
        tx.execute("update session set created_at = ?", (micros(START - 22 * HOUR),))
        ends = [None, began - HOUR, began - timedelta(minutes=5), began + timedelta(minutes=40)]
        for position, at in enumerate(ends):
            sql = (
                "insert into session_phase (session, position, name, ended_at) values (?, ?, ?, ?)"
            )
            tx.execute(sql, ("atlas", position, "x", None if at is None else micros(at)))

    async def body(at: Serving) -> None:
        await at.alive("dev", "%1")
        await _project(at, "atlas", folder / "main")
        await at.core.store.write(unit)
        at.clock.advance(60 * 60)
        for days in (1, 30):  # the second time some of it is kept
            for session in ("", "atlas"):
                found = await _get(at, since=at.clock.now() - days * DAY, session=session)
                assert found.begin_time.ToDatetime() == began.replace(tzinfo=None)
                shown = {one.name: (one.value, one.samples) for one in found.metrics}
                assert shown["commits_per_hour"] == (1, 1)
                assert shown["phases_per_day"] == (24, 1)
                assert list(found.notes) == []
            await at.core.metrics.run_due()
        assert await at.core.store.read(table.progress) is not None

    run(folder, body, clock=ManualClock(began))


# ---- commits ----


class Repository:
    """A real repository, with commits at given times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "--quiet")

    def git(self, *words: str, at: datetime = START) -> str:
        who = {
            f"GIT_{one}_{what}": "x"
            for one in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        env = {"PATH": os.environ["PATH"], "HOME": str(self.path), **who}
        env |= {"GIT_COMMITTER_DATE": at.isoformat(), "GIT_AUTHOR_DATE": at.isoformat()}
        done = subprocess.run(
            ["git", "-C", str(self.path), *words],
            env=env,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        return done.stdout.strip()

    def commit(self, at: datetime) -> str:
        self.git("commit", "--quiet", "--allow-empty", "-m", f"{at}", at=at)
        return self.git("rev-parse", "HEAD")


async def _works_in(at: Serving, agent_id: str, path: Path) -> None:
    sql = "insert into agent_detail (agent_id, updated_at, worktree_path) values (?, 0, ?)"
    await at.core.store.write(lambda tx: tx.execute(sql, (agent_id, str(path))))


async def _project(at: Serving, session: str, path: Path) -> None:
    wanted = session_state_pb2.Session(name=session, project_path=str(path))
    mask = FieldMask(paths=["project_path"])
    request = session_state_pb2.UpdateSessionRequest(session=wanted, update_mask=mask)
    await at.state.UpdateSession(request)


def test_an_older_date_on_a_newer_commit_hides_nothing(folder: Path) -> None:
    tree = Repository(folder / "tree")
    wanted = {tree.commit(START + timedelta(minutes=n)) for n in (1, 2)}
    tree.commit(START - DAY)

    async def body() -> None:
        path = str(tree.path)
        found, faults = await git_log.commits([path], START, START + HOUR, 10)
        assert (set(found[path]), faults) == (wanted, {})

    asyncio.run(body())


def test_commits_of_two_worktrees_count_once_in_the_hour_of_their_commit(folder: Path) -> None:
    main = Repository(folder / "main")
    main.commit(START - HOUR)
    main.commit(START + timedelta(minutes=10))  # both worktrees have it
    main.git("worktree", "add", "--quiet", str(folder / "other"), "-b", "other")
    other = Repository.__new__(Repository)
    other.path = folder / "other"
    other.commit(START + timedelta(minutes=59, seconds=59))
    main.commit(START + HOUR)

    async def body(at: Serving) -> None:
        first, second = await at.alive("dev", "%1"), await at.alive("tester", "%2")
        assert first.welcome is not None
        assert second.welcome is not None
        await _works_in(at, first.welcome.agent_id, folder / "other")
        await _project(at, "atlas", folder / "main")
        at.clock.advance(2 * 3600)
        assert await _points(at, "commits_per_hour") == [2, 1]
        at.clock.advance(60)
        await at.core.metrics.run_due()
        main.commit(START + timedelta(hours=2, minutes=1))
        at.clock.advance(3600 - 60)
        found = await _get(at, session="atlas")
        shown = found.metrics[0]
        assert [point.value for point in shown.points] == [2, 1, 1]
        assert (round(shown.value, 3), shown.samples, shown.reached) == (1.333, 4, False)
        assert list(found.notes) == []

    run(folder, body)


def test_what_cannot_be_read_is_told_and_not_taken_for_zero(folder: Path) -> None:
    (folder / "plain").mkdir()
    Repository(folder / "unborn")

    async def body(at: Serving) -> None:
        for n, session in enumerate(("atlas", "hermes", "iris", "unborn")):
            await at.alive("dev", f"%{n}", session=session)
        await _project(at, "atlas", folder / "plain")
        await _project(at, "hermes", folder / "gone\x1b[31m")
        await _project(at, "unborn", folder / "unborn")
        at.clock.advance(1800)
        found = await _get(at)
        assert found.metrics[0].HasField("value")  # of the one that could be read
        assert found.metrics[0].value == 0
        assert (await _values(at, session="unborn"))["commits_per_hour"] == 0
        for session in ("atlas", "hermes", "iris"):
            assert (await _values(at, session=session))["commits_per_hour"] is None
        notes = "\n".join(found.notes)
        assert "plain are not counted: fatal: not a git repository" in notes
        assert "there is no such directory" in notes
        assert "No worktree and no project is known of: iris." in notes
        assert "\x1b" not in notes

    run(folder, body)


def _trapped(path: Path, trap: str) -> None:
    """A repository whose configuration would run a program for nearly everything, and that lacks a
    commit, which git would fetch by such a program."""
    made = Repository(path)
    missing = made.commit(START)
    made.commit(START + timedelta(minutes=5))
    for key in ("core.fsmonitor", "core.sshCommand", "core.pager", "pager.rev-list", "gpg.program"):
        made.git("config", key, trap)
    made.git("config", "log.showSignature", "true")
    made.git("config", "alias.rev-list", f"!{trap}")
    made.git("config", "protocol.allow", "always")
    hook = path / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\n{trap}\n")
    hook.chmod(0o755)
    (path / ".git" / "objects" / missing[:2] / missing[2:]).unlink()
    made.git("config", "remote.origin.url", str(path))
    made.git("config", "remote.origin.promisor", "true")
    made.git("config", "remote.origin.uploadpack", trap)
    made.git("config", "core.repositoryformatversion", "1")
    made.git("config", "extensions.partialClone", "origin")


def test_a_repository_runs_no_program_of_its_own(folder: Path) -> None:
    sprung = folder / "sprung"
    _trapped(folder / "trap", f"touch {sprung}; false")

    async def commits() -> Any:
        path = str(folder / "trap")
        return await git_log.commits([path], START, START + HOUR, PATIENCE)

    found, faults = asyncio.run(commits())
    assert (found, list(faults)) == ({}, [str(folder / "trap")])
    assert not sprung.exists()
    plain = ["git", "-C", str(folder / "trap"), "rev-list", "HEAD"]
    subprocess.run(plain, capture_output=True, check=False, timeout=20)
    assert sprung.exists()  # the trap is one


def test_a_git_that_does_not_answer_and_a_path_that_is_none_are_given_up(folder: Path) -> None:
    stuck = Repository(folder / "stuck")
    os.mkfifo(folder / "pipe")
    stuck.git("config", "include.path", str(folder / "pipe"))

    async def commits() -> Any:
        paths = [str(stuck.path), "--help", "relative", "/nul\0", str(folder / "later")]
        return await git_log.commits(paths, START, START + HOUR, 0.5)

    found, faults = asyncio.run(commits())
    assert found == {}
    assert faults[str(stuck.path)].startswith("git did not answer within")
    assert faults["--help"] == faults["relative"] == faults["/nul\0"] == "it is no absolute path"


def test_too_many_commits_are_told_and_not_cut(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_log, "MOST", 2)
    made = Repository(folder / "busy")
    for minute in range(3):
        made.commit(START + timedelta(minutes=minute))

    async def commits(until: datetime) -> Any:
        return await git_log.commits([str(made.path)], START, until, PATIENCE)

    found, faults = asyncio.run(commits(START + HOUR))
    assert (found, list(faults.values())) == ({}, ["it has more than 2 commits in this time"])
    found, faults = asyncio.run(commits(START + timedelta(minutes=2)))
    assert (len(found[str(made.path)]), faults) == (2, {})
