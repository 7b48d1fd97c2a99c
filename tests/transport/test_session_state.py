"""Sessions through the API: what is kept of them, who may change what, and watches that go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import agent_pb2, event_pb2, heartbeat_pb2, scheduler_pb2
from orch.v1 import session_state_pb2 as pb
from orch_server.storage import events, mismatches
from tests.transport.harness import PATIENCE, Serving, fails, run, serving

Code = grpc.StatusCode


async def create(at: Serving, name: str = "atlas", **fields: Any) -> pb.Session:
    """A new session."""
    request = pb.CreateSessionRequest(session=pb.Session(name=name, **fields))
    return (await at.state.CreateSession(request)).session


async def get(at: Serving, name: str = "atlas") -> pb.Session:
    """The session now."""
    return (await at.state.GetSession(pb.GetSessionRequest(name=name))).session


def update(at: Serving, paths: list[str], name: str = "atlas", **fields: Any) -> Any:
    """Changes these fields of a session."""
    session = pb.Session(name=name, **fields)
    return at.state.UpdateSession(
        pb.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=paths))
    )


def update_agent(at: Serving, paths: list[str], address: str = "atlas:tester", **f: Any) -> Any:
    """Changes these fields of an agent."""
    session, _, role = address.partition(":")
    agent = agent_pb2.Agent(session=session, role=role, **f)
    return at.state.UpdateAgentState(
        pb.UpdateAgentStateRequest(agent=agent, update_mask=FieldMask(paths=paths))
    )


def complete(at: Serving, name: str, session: str = "atlas", **more: Any) -> Any:
    """Completes a phase."""
    metadata = more.pop("metadata", None)
    request = pb.CompletePhaseRequest(session=session, name=name, **more)
    return at.state.CompletePhase(request, metadata=metadata)


def report(at: Serving, topic: str, status: str, details: str = "", metadata: Any = None) -> Any:
    """Reports a status."""
    request = pb.ReportStatusRequest(topic=topic, status=status, details=details)
    return at.state.ReportStatus(request, metadata=metadata)


async def kinds(at: Serving, subject: str) -> list[tuple[str, str]]:
    """Kind and detail of all events about a subject."""
    page = await at.events.ListEvents(event_pb2.ListEventsRequest(subject=subject, page_size=1000))
    return [(event.kind, event.detail) for event in page.events]


# ---- updates ----

EVERYTHING: dict[str, Any] = {
    "project_name": "Atlas",
    "project_path": "/srv/atlas",
    "specification_path": "/srv/atlas/spec.md",
    "parent_branch": "main",
    "phase": pb.PHASE_REVIEW,
    "plan": pb.PLAN_MAX20,
    "completion": pb.COMPLETION_FAILED,
    "failure_reason": "no credit",
    "project_size": pb.PROJECT_SIZE_LARGE,
    "original_specification_path": "/srv/atlas/first.md",
    "worktree_base_path": "/srv/worktrees",
    "batch_id": "b-7",
    "orchestrator_window": 3,
    "role_dependencies": [pb.RoleDependency(role="tester", needs=["developer", "designer"])],
}


def test_all_fields_of_a_session_can_be_given_at_once_and_are_kept(folder: Path) -> None:
    async def body(at: Serving) -> None:
        made = await create(at, **EVERYTHING)
        assert made == await get(at)
        await create(at, "borealis")
        answer = (await update(at, list(EVERYTHING), "borealis", **EVERYTHING)).session
        assert answer == await get(at, "borealis")
        for name in EVERYTHING:
            assert getattr(answer, name) == getattr(made, name), name
        assert answer.completion_time == answer.update_time
        assert answer.version == 2

    run(folder, body)


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_field_alone_in_the_mask_changes_alone(folder: Path, path: str) -> None:
    async def body(at: Serving) -> None:
        await create(at)
        # What the mask does not name is not even looked at.
        given = {"parent_branch": "x" * 5000, "plan": 77} | {path: EVERYTHING[path]}
        if path in ("parent_branch", "plan"):
            given = {path: EVERYTHING[path]}
        changed = (await update(at, [path], **given)).session
        expected = pb.Session(name="atlas", version=2, **{path: EVERYTHING[path]})
        if path != "phase":
            expected.phase = pb.PHASE_ACTIVE
        if path != "completion":
            expected.completion = pb.COMPLETION_PENDING
        for time in ("create_time", "update_time", "completion_time"):
            changed.ClearField(time)
        assert changed == expected
        back = (await update(at, [path])).session
        assert getattr(back, path) in (0, "", 1, []), "unset is empty, or the default"

    run(folder, body)


def test_a_refused_update_changes_nothing(folder: Path) -> None:
    async def body(at: Serving) -> None:
        before = await create(at)
        role = pb.RoleDependency
        for paths, fields in (
            (
                ["parent_branch", "failure_reason"],
                {"parent_branch": "x", "failure_reason": "x" * 4097},
            ),
            (["phase"], {"phase": 77}),
            (["role_dependencies"], {"role_dependencies": [role(role="a", needs=["b", "A"])]}),
            (["role_dependencies"], {"role_dependencies": [role(role="a b!", needs=["b"])]}),
            (["role_dependencies"], {"role_dependencies": [role(role="a")]}),
        ):
            error = await fails(update(at, ["batch_id", *paths], batch_id="new", **fields))
            assert error.code is Code.INVALID_ARGUMENT, error
            assert error.fields == (f"session.{paths[-1]}",)
        assert (await fails(update(at, ["phase"], "nobody"))).code is Code.NOT_FOUND
        assert await get(at) == before
        assert [kind for kind, _ in await kinds(at, "atlas")] == ["session.created"]

    run(folder, body)


def test_an_update_to_the_same_grows_the_version(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await create(at, parent_branch="main")
        same = await update(at, ["parent_branch", "parent_branch"], parent_branch="main", version=1)
        assert same.session.version == 2

    run(folder, body)


def test_dependencies_are_replaced_as_a_whole_and_may_be_a_circle(folder: Path) -> None:
    async def body(at: Serving) -> None:
        needs = pb.RoleDependency
        await create(at, **{k: EVERYTHING[k] for k in ("role_dependencies",)})
        circle = [
            needs(role="Developer", needs=["tester"]),
            needs(role="tester", needs=["developer"]),
        ]
        answer = await update(at, ["role_dependencies"], role_dependencies=circle)
        shown = [(one.role, list(one.needs)) for one in (await get(at)).role_dependencies]
        assert shown == [("developer", ["tester"]), ("tester", ["developer"])]
        assert list(answer.session.role_dependencies) == list((await get(at)).role_dependencies)
        await update(at, ["role_dependencies"])
        assert not (await get(at)).role_dependencies

    run(folder, body)


def test_the_end_of_a_session_has_a_time_that_its_continuation_takes_away(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        note = scheduler_pb2.CreateTaskRequest(note="build?", target="atlas:developer")
        note.delay.seconds = 600
        task = (await at.scheduler.CreateTask(note)).task
        done = (await update(at, ["completion"], completion=pb.COMPLETION_COMPLETED)).session
        now = at.clock.now()
        assert done.completion_time.ToDatetime(now.tzinfo) == now
        shown = await at.scheduler.GetTask(scheduler_pb2.GetTaskRequest(id=task.id))
        assert shown.task.state == scheduler_pb2.TASK_STATE_EXPIRED
        at.clock.advance(60)
        why = {"completion": pb.COMPLETION_FAILED, "failure_reason": "out of time"}
        failed = (await update(at, [*why], **why)).session
        assert failed.completion_time == done.completion_time
        assert failed.failure_reason == "out of time"
        again = (await update(at, ["completion"], completion=pb.COMPLETION_PENDING)).session
        assert not again.HasField("completion_time")
        assert not again.failure_reason, "it goes on"

    run(folder, body)


def test_an_update_of_another_version_is_told_the_present_one_also_by_agents(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("tester", "%1")
        assert (await at.agent("atlas:tester")).detail_version == 0
        first = await update_agent(at, ["window_index", "branch"], window_index=0, branch="b")
        assert (first.agent.detail_version, first.agent.window_index) == (1, 0)
        assert first.agent.HasField("window_index")
        error = await fails(update_agent(at, ["branch"], branch="c", detail_version=7))
        assert (error.code, error.reason) == (Code.ABORTED, "VERSION_MISMATCH")
        assert error.metadata == {"current_version": "1"}
        for paths in ([], ["kind"], ["branch", "detail_version"]):
            error = await fails(update_agent(at, paths, branch="c"))
            assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("update_mask",))
        error = await fails(update_agent(at, ["branch"], branch="x" * 4097))
        assert error.fields == ("agent.branch",)
        assert (await fails(update_agent(at, ["branch"], "atlas:nobody"))).code is Code.NOT_FOUND
        assert await kinds(at, first.agent.id) == [
            ("agent.registered", "atlas:tester epoch 1 ALIVE"),
            ("agent.updated", "window_index, branch"),
        ]

    run(folder, body)


def test_what_is_known_of_an_agent_is_shown_wherever_it_is(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await at.alive("tester", "%2")
        known = {
            "window_index": 4,
            "window_name": "tests",
            "last_briefing_time": Timestamp(seconds=1_800_000_000),
            "worktree_path": "/srv/w/tester",
            "branch": "feature",
            "commit_hash": "abc123",
        }
        answer = (await update_agent(at, list(known), detail_version=0, **known)).agent
        sessions = (await at.state.ListSessions(pb.ListSessionsRequest())).sessions
        agents = (await at.heartbeat.ListAgents(heartbeat_pb2.ListAgentsRequest())).agents
        for shown in (
            answer,
            await at.agent("atlas:tester"),
            (await get(at)).agents[1],
            sessions[0].agents[1],
            agents[1],
        ):
            assert {path: getattr(shown, path) for path in known} == known
            assert shown.detail_version == 1
        assert agents[0].detail_version == 0
        cleared = (await update_agent(at, ["window_index", "last_briefing_time"])).agent
        assert not cleared.HasField("window_index")
        assert not cleared.HasField("last_briefing_time")
        assert (cleared.window_name, cleared.detail_version) == ("tests", 2)

    run(folder, body)


# ---- phases and reports ----


def test_a_phase_begins_where_the_one_before_ended(folder: Path) -> None:
    async def body(at: Serving) -> None:
        created = await create(at)
        at.clock.advance(60)
        design = (await complete(at, " design ")).phase
        assert (design.name, design.begin_time) == ("design", created.create_time)
        assert design.length.ToTimedelta() == timedelta(seconds=60)
        at.clock.advance(7200)
        build = (await complete(at, "build")).phase
        assert (build.begin_time, build.length.seconds) == (design.end_time, 7200)
        assert list((await get(at)).completed_phases) == [design, build]
        assert (await get(at)).version == 1
        error = await fails(complete(at, "design"))
        assert error.code is Code.ALREADY_EXISTS
        assert "2026-11-21 12:01:00 UTC" in error.message
        assert (await kinds(at, "atlas"))[1:] == [
            ("session.phase_completed", "design after 0:01:00"),
            ("session.phase_completed", "build after 2:00:00"),
        ]

    run(folder, body)


def test_a_repeated_completion_is_answered_like_the_first(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await create(at)
        await create(at, "borealis")
        first = await complete(at, "design", request_id="7")
        at.clock.advance(60)
        assert await complete(at, "design", request_id="7") == first
        other = await complete(at, "design", "borealis", request_id="7")
        assert other.phase.length.seconds == 60

    run(folder, body)


def test_a_phase_is_of_the_callers_own_session_unless_one_is_named(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await complete(at, "design", "", metadata=at.token("atlas", "developer"))
        assert (await get(at)).completed_phases[0].name == "design"
        error = await fails(complete(at, "build", ""))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("session",))
        assert "--session" in error.message
        assert (await fails(complete(at, "build", "nobody"))).code is Code.NOT_FOUND

    run(folder, body)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101])
def test_a_phase_has_a_name_of_one_line(folder: Path, name: str) -> None:
    async def body(at: Serving) -> None:
        await create(at)
        error = await fails(complete(at, name))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("name",))

    run(folder, body)


def test_a_role_has_one_report_its_last(folder: Path) -> None:
    async def body(at: Serving) -> None:
        developer, tester = at.token("atlas", "developer"), at.token("atlas", "tester")
        await report(at, "deployment", "started", metadata=developer)
        await report(at, "Tests", "green", metadata=tester)
        at.clock.advance(60)
        said = await report(at, " Deployment ", "complete", "on\nstaging", metadata=developer)
        assert (said.report.topic, said.report.status) == ("deployment", "COMPLETE")
        shown = list((await get(at)).status_reports)
        assert [(one.role, one.topic) for one in shown] == [
            ("developer", "deployment"),
            ("tester", "tests"),
        ]
        assert (shown[0], shown[0].details) == (said.report, "on\nstaging")
        assert (await kinds(at, "atlas"))[-1] == (
            "session.reported",
            "developer deployment COMPLETE",
        )

    run(folder, body)


def test_only_an_agent_reports_and_in_one_line(folder: Path) -> None:
    async def body(at: Serving) -> None:
        token = at.token("atlas", "developer")
        assert (await fails(report(at, "tests", "green"))).code is Code.PERMISSION_DENIED
        for topic, status, details, wrong in (
            ("", "x", "", "topic"),
            ("x" * 65, "x", "", "topic"),
            ("x", "a\nb", "", "status"),
            ("x", " ", "", "status"),
            ("x", "x", "x" * 4097, "details"),
        ):
            error = await fails(report(at, topic, status, details, token))
            assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, (wrong,))

    run(folder, body)


# ---- projects and deletion ----


async def projects(at: Serving) -> list[tuple[str, str, list[str]]]:
    """All projects with their sessions."""
    page = await at.state.ListProjects(pb.ListProjectsRequest())
    return [(one.name, one.path, list(one.sessions)) for one in page.projects]


def test_sessions_of_one_directory_share_a_project_that_goes_with_the_last(folder: Path) -> None:
    async def body(at: Serving) -> None:
        for name in ("one", "two"):
            await create(at, name, project_name="Atlas", project_path="/srv/atlas")
        await create(at, "three", project_name="Borealis")
        assert await projects(at) == [
            ("Atlas", "/srv/atlas", ["one", "two"]),
            ("Borealis", "", ["three"]),
        ]
        await update(at, ["project_path"], "three", project_path="/srv/b")
        await update(at, ["project_name", "project_path"], "two")
        assert await projects(at) == [
            ("Atlas", "/srv/atlas", ["one"]),
            ("Borealis", "/srv/b", ["three"]),
        ]
        await at.state.DeleteSession(pb.DeleteSessionRequest(name="one"))
        assert await projects(at) == [("Borealis", "/srv/b", ["three"])]
        first = await at.state.ListProjects(pb.ListProjectsRequest(page_size=1))
        assert not first.next_page_token

    run(folder, body)


def test_nothing_of_a_deleted_session_is_left(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("tester", "%1")
        await update(at, list(EVERYTHING), **EVERYTHING)
        await update_agent(at, ["branch"], branch="b")
        await complete(at, "design")
        await report(at, "tests", "green", metadata=at.token("atlas", "tester"))
        await stream.goodbye("PANE_ENDED")
        await at.state.DeleteSession(pb.DeleteSessionRequest(name="atlas"))
        for table in (
            *("session", "agent", "agent_detail", "session_phase", "status_report"),
            *("role_dependency", "project"),
        ):
            sql = f"select count(*) from {table}"
            rows = await at.core.store.read(lambda db, q=sql: db.execute_sql(q).fetchall())
            assert rows == [(0,)], table

    run(folder, body)


def test_a_page_of_sessions_takes_as_many_queries_as_one(folder: Path) -> None:
    async def body(at: Serving) -> None:
        counted: list[int] = []
        read = at.core.store.read

        async def counting(query: Any) -> Any:
            counted[-1] += 1
            return await read(query)

        async def reads(size: int) -> int:
            counted.append(0)
            await at.core.state.list_page(size, "")
            return counted[-1]

        for n in range(20):
            await create(at, f"s-{n}")
            await at.alive("tester", f"%{n}", session=f"s-{n}")
        at.core.store.read = counting
        try:
            assert await reads(1) == await reads(20)
        finally:
            del at.core.store.read

    run(folder, body)


def test_a_page_ends_before_it_is_too_large_for_a_message(folder: Path) -> None:
    async def body(at: Serving) -> None:
        names = [f"s-{n:03}" for n in range(250)]
        paths = ("specification_path", "failure_reason", "worktree_base_path")
        for name in names:
            await create(at, name, **dict.fromkeys(paths, "x" * 4000))
        found: list[str] = []
        token, pages = "", 0
        while token or not pages:
            request = pb.ListSessionsRequest(page_size=1000, page_token=token)
            page = await at.state.ListSessions(request)
            found += [one.name for one in page.sessions]
            token, pages = page.next_page_token, pages + 1
        assert (found, pages) == (names, 2)

    run(folder, body)


# ---- watches ----


@dataclass
class Watcher:
    """A client that keeps what it was told, and goes on after the last number."""

    shown: dict[str, pb.Session] = field(default_factory=dict)
    after: int = 0
    numbers: list[int] = field(default_factory=list)
    round: set[str] = field(default_factory=set)
    rounds: int = 0

    def take(self, said: pb.WatchSessionsResponse) -> None:
        """What a client does with a message."""
        name = said.session.name
        if name:
            self.round.add(name)
            if said.deleted:
                self.shown.pop(name, None)
            else:
                self.shown[name] = said.session
        if said.ends_round:
            self.shown = {k: v for k, v in self.shown.items() if k in self.round}
            self.rounds += 1
        if said.event_number:
            self.round = set()
        self.after = said.event_number
        self.numbers.append(said.event_number)

    async def follow(self, at: Serving, enough: Callable[[], bool], name: str = "") -> None:
        """Watches until it has seen enough."""
        watch = at.state.WatchSessions(pb.WatchSessionsRequest(name=name, after=self.after))
        self.round = set()
        try:
            async with asyncio.timeout(PATIENCE):
                while not enough():
                    self.take(await watch.read())
        finally:
            watch.cancel()

    async def up_to(self, at: Serving, number: int, name: str = "") -> None:
        """Watches until it has heard of this event."""
        await self.follow(at, lambda: self.after >= number, name)


async def newest(at: Serving) -> int:
    """The number of the newest event."""
    return int(await at.core.store.read(events.newest))


def test_a_watch_that_goes_on_sends_once_what_changed_in_between(folder: Path) -> None:
    async def body(at: Serving) -> None:
        for name in ("one", "two", "three", "four"):
            await create(at, name)
        client = Watcher()
        await client.up_to(at, await newest(at))
        assert client.numbers == [0, 0, 0, client.after]
        assert set(client.shown) == {"one", "two", "three", "four"}
        for branch in ("a", "b", "c"):
            await update(at, ["parent_branch"], "two", parent_branch=branch)
        await at.state.DeleteSession(pb.DeleteSessionRequest(name="three"))
        await update(at, ["parent_branch"], "one", parent_branch="d")
        client.numbers.clear()
        last = await newest(at)
        await client.up_to(at, last)
        assert client.numbers == [last - 2, last - 1, last]
        assert set(client.shown) == {"one", "two", "four"}
        assert client.shown["two"].parent_branch == "c"
        assert client.rounds == 1

    run(folder, body)


def test_a_watch_of_one_session_goes_on_too(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await create(at, "one")
        await create(at, "two")
        client = Watcher()
        await client.up_to(at, await newest(at), "one")
        await update(at, ["parent_branch"], "two", parent_branch="a")
        await at.state.DeleteSession(pb.DeleteSessionRequest(name="one"))
        await client.follow(at, lambda: not client.shown, "one")
        assert client.after == await newest(at)

    run(folder, body)


@pytest.mark.parametrize("gap", ["pruned", "future"])
def test_a_watch_begins_anew_when_the_log_does_not_reach_back(folder: Path, gap: str) -> None:
    async def body(at: Serving) -> None:
        await create(at, "one")
        await create(at, "two")
        client = Watcher()
        await client.up_to(at, await newest(at))
        await update(at, ["parent_branch"], "two", parent_branch="a")
        await at.state.DeleteSession(pb.DeleteSessionRequest(name="one"))
        if gap == "future":
            client.after += 1000
        else:
            sql = "delete from event where number <= ?"
            await at.core.store.write(lambda tx: tx.execute(sql, (client.after + 1,)))
        await client.follow(at, lambda: client.rounds == 2)
        assert set(client.shown) == {"two"}
        assert client.after == await newest(at)

    run(folder, body)


def test_where_nothing_is_a_watch_says_so_and_where_to_go_on(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await create(at, "one")
        client = Watcher()
        await client.up_to(at, 1)
        await at.state.DeleteSession(pb.DeleteSessionRequest(name="one"))
        client.after = 0
        await client.follow(at, lambda: client.rounds == 2)
        assert (client.shown, client.after) == ({}, await newest(at))

    run(folder, body)


def test_a_session_that_got_its_name_is_gone_under_the_old_one(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await create(at, "label")
        sql = "update session set name_missing = 1"
        await at.core.store.write(lambda tx: tx.execute(sql))
        client = Watcher()
        await client.up_to(at, 1)
        await at.core.store.write(lambda tx: mismatches.rename_session(tx, "label", "atlas"))
        await client.up_to(at, await newest(at))
        assert list(client.shown) == ["atlas"]

    run(folder, body)


def test_no_number_before_the_first_is_gone_on_after(folder: Path) -> None:
    async def body(at: Serving) -> None:
        watch = at.state.WatchSessions(pb.WatchSessionsRequest(after=-1))
        error = await fails(_first(watch))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("after",))

    run(folder, body)


async def _first(watch: Any) -> Any:
    async for said in watch:
        return said
    return None


class Changes:
    """Random changes of sessions; what it does is decided by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = [f"s-{n}" for n in range(6)]

    async def make(self, at: Serving) -> None:
        """One change that may also be refused."""
        name = self.random.choice(self.names)
        does: list[Callable[[], Awaitable[Any]]] = [
            lambda: create(at, name),
            lambda: at.state.DeleteSession(pb.DeleteSessionRequest(name=name)),
            lambda: complete(at, f"phase {self.random.randrange(9)}", name),
            lambda: update_agent(at, ["branch"], f"{name}:tester", branch="b"),
            lambda: report(at, "tests", "green", metadata=at.token(name, "tester")),
            *[lambda: update(at, ["batch_id"], name, batch_id=f"{self.random.random()}")] * 4,
        ]
        try:
            await self.random.choice(does)()
        except grpc.aio.AioRpcError as exc:
            if exc.code() not in (Code.NOT_FOUND, Code.ALREADY_EXISTS):
                raise

    async def cut_off(self, at: Serving, client: Watcher) -> None:
        """The client hears some messages at most, then it is gone."""
        left = len(client.numbers) + self.random.randrange(12)
        reading = asyncio.ensure_future(client.follow(at, lambda: len(client.numbers) >= left))
        for _ in range(self.random.randrange(12)):
            await self.make(at)
        reading.cancel()
        await asyncio.wait({reading})


@asynccontextmanager
async def checked(folder: Path, client: Watcher) -> Any:
    """A server after whose end the client's picture is that of a new watch."""
    async with serving(folder) as at:
        yield at
        await create(at, f"end-{client.rounds}-{len(client.numbers)}")
        fresh, last = Watcher(), await newest(at)
        await fresh.up_to(at, last)
        await client.up_to(at, last)
        assert client.shown == fresh.shown


@pytest.mark.parametrize("seed", range(3))
def test_a_client_that_is_cut_off_again_and_again_misses_nothing(folder: Path, seed: int) -> None:
    """Also over restarts of the server; and no number is smaller than one before, but 0."""

    async def story() -> None:
        changes, client = Changes(seed), Watcher()
        for _ in range(3):
            async with asyncio.timeout(20), checked(folder, client) as at:
                for _ in range(12):
                    for _ in range(changes.random.randrange(8)):
                        await changes.make(at)
                    await changes.cut_off(at, client)
        told = [number for number in client.numbers if number]
        assert told == sorted(told)

    asyncio.run(story())
