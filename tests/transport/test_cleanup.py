"""Ended sessions are removed after a backup, by the operator alone, and only what nobody needs."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from orch.v1 import authorization_pb2 as auth
from orch.v1 import scheduler_pb2 as sched
from orch.v1 import session_state_pb2 as pb
from tests.support import BIN, Client, Home, Server, Tmux, liveness, until
from tests.transport.harness import Serving, fails, hello, run

Code = grpc.StatusCode
DAY = 86_400.0


async def _end(at: Serving, name: str, completion: Any = pb.COMPLETION_COMPLETED) -> None:
    """Says that the session is over."""
    wanted = pb.Session(name=name, completion=completion)
    mask = FieldMask(paths=["completion"])
    await at.state.UpdateSession(pb.UpdateSessionRequest(session=wanted, update_mask=mask))


async def _ended(at: Serving, name: str, pane: str = "%8") -> None:
    """A session that is over, with an agent who left, a note that expired and its story."""
    stream = at.connect()
    await stream.hello("dev", pane, session=name)
    request = sched.CreateTaskRequest(target=f"{name}:dev", note="later")
    request.delay.FromTimedelta(timedelta(hours=1))
    await at.scheduler.CreateTask(request)
    await stream.goodbye("PANE_ENDED")
    await _end(at, name)


async def _cleanup(at: Serving, execute: bool = False, **more: Any) -> pb.CleanupSessionsResponse:
    return await at.state.CleanupSessions(pb.CleanupSessionsRequest(execute=execute, **more))


async def _names(at: Serving) -> list[str]:
    return [s.name for s in (await at.state.ListSessions(pb.ListSessionsRequest())).sessions]


async def _events(at: Serving, kind: str) -> list[tuple[Any, ...]]:
    sql = "select session, actor, detail from event where kind = ? order by number"
    return await at.core.store.read(lambda db: list(db.execute_sql(sql, (kind,)).fetchall()))


def _notes_in(backup: Path) -> list[str]:
    """The notes in a backup, which is for this user alone."""
    assert backup.stat().st_mode & 0o777 == 0o600
    copy = apsw.Connection(str(backup), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [row[0] for row in copy.execute("select note from task")]
    finally:
        copy.close()


def test_sessions_that_ended_a_month_ago_are_listed_and_then_removed(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _ended(at, "old")
        await at.state.CreateSession(pb.CreateSessionRequest(session=pb.Session(name="at-work")))
        at.clock.advance(29 * DAY)
        await _ended(at, "young", "%9")
        assert not (await _cleanup(at)).sessions
        at.clock.advance(DAY)
        dry = await _cleanup(at)
        (one,) = dry.sessions
        assert (one.name, one.agents, one.tasks, one.kept_because) == ("old", 1, 1, "")
        assert one.completion_time.seconds == at.clock.now().timestamp() - 30 * DAY
        assert (dry.backup_path, await _names(at)) == ("", ["at-work", "old", "young"])

        done = await _cleanup(at, execute=True)
        assert list(done.sessions) == [one]
        assert await _names(at) == ["at-work", "young"]
        assert await _events(at, "session.deleted") == [("old", "operator", "cleanup")]
        assert at.core.registry.at("old", "dev") is None
        assert (await fails(at.agent("old:dev"))).code is Code.NOT_FOUND
        assert await asyncio.to_thread(_notes_in, Path(done.backup_path)) == ["later", "later"]
        assert Path(done.backup_path).parent == folder / "backups"
        again = await _cleanup(at, execute=True)
        assert (len(again.sessions), again.backup_path) == (0, "")

    run(folder, body)


def test_a_session_with_living_agents_or_open_requests_is_kept_and_says_why(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("dev", "%1", session="alive")
        await _end(at, "alive")
        asks = at.token("asks", "dev")
        await at.state.CreateSession(pb.CreateSessionRequest(session=pb.Session(name="asks")))
        request = auth.RequestAuthorizationRequest(action="deploy", timeout=Duration(seconds=86400))
        await at.authorization.RequestAuthorization(request, metadata=asks)
        await _end(at, "asks")
        await _ended(at, "gone")
        done = await _cleanup(at, execute=True, older_than=Duration())
        kept = {one.name: one.kept_because for one in done.sessions}
        assert kept == {
            "alive": "living: alive:dev",
            "asks": "1 pending task or authorization",
            "gone": "",
        }
        assert await _names(at) == ["alive", "asks"]

    run(folder, body)


def test_an_agent_that_comes_back_meanwhile_keeps_its_session(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _ended(at, "atlas")
        cleaning = asyncio.create_task(_cleanup(at, execute=True, older_than=Duration()))
        stream = at.connect()
        await stream.send(hello=hello("dev", "%77", session="atlas"))
        done = await cleaning
        frame = await stream.read()
        names, known = await _names(at), at.core.registry.at("atlas", "dev")
        assert frame.WhichOneof("frame") == "welcome"
        assert names == ["atlas"]
        assert known is not None
        assert (await at.agent("atlas:dev")).epoch == known.epoch
        assert [s.name for s in done.sessions] == ["atlas"]

    run(folder, body)


def test_nothing_is_removed_when_there_can_be_no_backup(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _ended(at, "atlas")
        (folder / "backups").write_text("in the way")
        error = await fails(_cleanup(at, execute=True, older_than=Duration()))
        assert error.code is Code.UNAVAILABLE
        assert "no session was removed" in error.message
        assert await _names(at) == ["atlas"]

    run(folder, body)


def test_only_the_operator_may(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _ended(at, "atlas")
        request = pb.CleanupSessionsRequest(older_than=Duration(), execute=True)
        calls = (at.token("atlas", "dev"), at.token("atlas", "orchestrator"))
        for metadata in calls:
            error = await fails(at.state.CleanupSessions(request, metadata=metadata))
            assert error.code is Code.PERMISSION_DENIED
        assert await _names(at) == ["atlas"]
        await at.state.CleanupSessions(request, metadata=at.token("", ""))
        assert await _names(at) == []

    run(folder, body)


@pytest.mark.parametrize("seconds", [-1, 36_501 * 86_400, 2**62])
def test_an_age_that_makes_no_sense_is_refused(folder: Path, seconds: int) -> None:
    async def body(at: Serving) -> None:
        error = await fails(_cleanup(at, older_than=Duration(seconds=seconds)))
        assert (error.code, error.fields) == (Code.INVALID_ARGUMENT, ("older_than",))

    run(folder, body)


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.remove()


def _command(home: Home, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "orch-server"), "cleanup", *args],
        env=home.env(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_command_shows_what_would_go_and_does_it(home: Home) -> None:
    absent = _command(home)
    assert (absent.returncode, absent.stdout) == (3, "")
    assert absent.stderr.startswith("orch-server: no server answers at ")
    server = Server(home).start()
    try:
        with grpc.insecure_channel(home.address) as channel:
            call = channel.unary_unary
            service = "/orch.v1.SessionStateService"
            made = pb.CreateSessionRequest(session=pb.Session(name="atlas"))
            call(f"{service}/CreateSession")(made.SerializeToString(), timeout=10)
            over = pb.Session(name="atlas", completion=pb.COMPLETION_COMPLETED)
            mask = FieldMask(paths=["completion"])
            update = pb.UpdateSessionRequest(session=over, update_mask=mask)
            call(f"{service}/UpdateSession")(update.SerializeToString(), timeout=10)
        assert _command(home).stdout == "No session ended that long ago.\n"
        dry = _command(home, "--older-than", "0s")
        head, row, last = dry.stdout.splitlines()
        assert head.split() == ["SESSION", "ENDED", "AGENTS", "TASKS", "DELIVERIES", "KEPT"]
        assert row.split()[0] == "atlas"
        assert last == (
            "1 session would be removed; do it: orch-server cleanup --older-than 0s --execute"
        )
        done = _command(home, "--older-than", "0s", "--execute", "--json")
        answer = json.loads(done.stdout)
        assert [one["name"] for one in answer["sessions"]] == ["atlas"]
        assert Path(answer["backup_path"]).parent == home.path / "backups"
        assert Path(answer["backup_path"]).exists()
        wrong = _command(home, "--older-than", "soon")
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert "use an age such as 12h or 30d" in wrong.stderr
        assert _command(home, "--older-than", "999999d").returncode == 2
    finally:
        server.end()


def test_the_command_is_refused_in_the_pane_of_an_agent(home: Home) -> None:
    server, tmux = Server(home), Tmux(home)
    client: Client | None = None
    try:
        server.start()
        pane = tmux.pane("atlas", "developer")
        client = Client(tmux, pane, "--role", "developer")
        until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the agent")
        tmux.type(pane, "orch-server cleanup; echo exit=$?")
        screen = tmux.wait_for(pane, "exit=5")
        assert "Only the operator may clean up sessions" in screen
        assert _command(home).returncode == 0
    finally:
        if client is not None:
            client.end()
        tmux.end()
        server.end()
