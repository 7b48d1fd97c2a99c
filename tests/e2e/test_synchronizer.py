"""The synchroniser over real tmux servers: what is gone, what has moved, what nobody stands for;
and that a tmux which does not answer says nothing."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from orch.v1 import messaging_pb2, session_state_pb2
from orch_server.core.agent import Agent, Liveness
from orch_server.core.agent_state import AgentState, HookReport
from orch_server.core.clock import ManualClock, SystemClock
from orch_server.core.session import Completion, Session
from orch_server.core.sync import GRACE, Mismatch, MismatchKind
from orch_server.services.synchronizer import Burst
from orch_server.storage import agent_status, alerts, mismatches, sessions
from orch_server.storage.store import Transaction
from orch_server.tmux.watch import ProcessWatch
from tests.docs.markdown import DOCS
from tests.support import Home, Server, Tmux, agent, until
from tests.transport.harness import Serving, run, settles

ODD = ["$(touch x)", "ünï çödé", "two words", "-dash", "a;b", "end;", "it's", "#{pid}", "%1"]
Body = Callable[["World"], Awaitable[None]]


class World:
    """A server in this process beside a real tmux."""

    def __init__(self, at: Serving, tmux: Tmux) -> None:
        self.at = at
        self.core = at.core
        self.tmux = tmux

    async def team(self, session: str, *roles: str, folder: str = "") -> list[Agent]:
        """A tmux session with a window for each role, and its agents, without clients."""
        for role in roles:
            pane = self.tmux.pane(session, role, f"cd {folder or '/'}; exec sleep 1000")
            program = ("display-message", "-p", "-t", pane, "#{pane_current_command}")
            until(lambda command=program: self.tmux.run(*command) == "sleep", "the folder")
        return [await self.agent(session, role) for role in roles]

    async def agent(self, session: str, role: str) -> Agent:
        panes = await self.core.targets._finder.list_panes(str(self.tmux.socket))
        pane = next(p for p in panes if (p.session, p.window_name) == (session, role))
        return await self.core.registry.register_unmanaged(pane, panes, ())

    async def sync(self, dry_run: bool = False) -> list[Mismatch]:
        found, silent = await self.core.synchronizer.synchronize(dry_run)
        assert str(self.tmux.socket) not in silent
        return found

    async def kinds(self, dry_run: bool = False) -> list[tuple[str, str, bool]]:
        return [(m.kind.value, m.subject, m.repaired) for m in await self.sync(dry_run)]

    def end_tmux(self) -> None:
        """Ends the tmux server, and waits until the kernel says so."""
        pidfd = os.pidfd_open(int(self.tmux.run("display-message", "-p", "#{pid}")))
        try:
            self.tmux.end()
            assert select.select([pidfd], [], [], 10)[0]
        finally:
            os.close(pidfd)

    def now(self, agent: Agent) -> Agent:
        return self.core.registry.get(agent.id)

    async def alerts(self) -> list[tuple[str, str]]:
        found, _ = await self.core.store.read(lambda db: alerts.list_page(db, "", 100, ""))
        return [(alert.kind, alert.subject) for alert in found]

    async def events(self, noun: str) -> list[tuple[str, str]]:
        sql = "select kind, subject from event where kind like ? order by number"
        rows = self.core.store.read(lambda db: db.execute_sql(sql, (f"{noun}.%",)).fetchall())
        return [(kind, subject) for kind, subject in await rows]

    async def values(self, sql: str) -> list[Any]:
        found = await self.core.store.read(lambda db: db.execute_sql(sql).fetchall())
        return [row[0] for row in found]

    async def add(self, session: str, **fields: Any) -> None:
        now = self.at.clock.now()
        made = Session(name=session, created_at=now, updated_at=now, **fields)
        await self.core.store.write(lambda tx: sessions.create(tx, made, ""))

    async def session(self, name: str) -> Session:
        found = await self.core.store.read(lambda db: sessions.find(db, name))
        assert found is not None
        return found

    async def mark(self, tmux_session: str, session: str, generation: str = "") -> None:
        made = await self.core.store.read(
            lambda db: db.execute_sql("select generation from store").fetchone()[0]
        )
        value = f"{generation or made}:{session}"
        listed = self.tmux.run("list-sessions", "-F", "#{session_id} #{session_name}")
        names = dict(reversed(line.split(" ", 1)) for line in listed.splitlines())
        self.tmux.run("set-option", "-t", f"{names[tmux_session]}:", "@orch_session", value)


@pytest.fixture
def world(home: Home, tmux: Tmux, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a test's body in a world whose clock moves only by hand."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    def in_world(body: Body, **how: Any) -> None:
        run(
            home.path,
            lambda at: body(World(at, tmux)),
            clock=ManualClock(SystemClock().now()),
            **how,
        )

    return in_world


def test_a_team_that_is_where_the_store_has_it_is_no_mismatch(
    world: Callable[..., None], tmp_path: Path
) -> None:
    async def body(at: World) -> None:
        (tmp_path / "tree" / ".git").mkdir(parents=True)
        (tmp_path / "tree" / "src").mkdir()
        (agent,) = await at.team("atlas", "dev", folder=str(tmp_path / "tree" / "src"))
        assert await at.sync() == []
        details = (await at.core.store.read(mismatches.load)).details
        assert (details[agent.id].window_index, details[agent.id].window_name) == (0, "dev")
        assert details[agent.id].worktree_path == str(tmp_path / "tree")
        before = _dump(at)
        assert await at.sync() == []
        assert _dump(at) == before, "a look at what is known already writes nothing"
        shutil.rmtree(tmp_path / "tree")
        (tmp_path / ".git").mkdir()  # what is around the one that is gone is not the worktree
        assert await at.kinds() == [("WORKTREE_MISSING", "atlas:dev", False)]

    world(body)


def test_a_worktree_that_is_gone_is_the_one_of_the_pane_when_that_is_in_one(
    world: Callable[..., None], tmp_path: Path
) -> None:
    async def body(at: World) -> None:
        (tmp_path / "tree" / ".git").mkdir(parents=True)
        (agent,) = await at.team("atlas", "dev", folder=str(tmp_path / "tree"))
        old = {"worktree_path": str(tmp_path / "of the old system")}
        await at.core.store.write(lambda tx: mismatches.learn(tx, agent, old))
        moved = ("WORKTREE_MISSING", "atlas:dev")
        assert await at.kinds(dry_run=True) == [(*moved, False)]
        assert await at.kinds() == [(*moved, True)]
        details = (await at.core.store.read(mismatches.load)).details
        assert details[agent.id].worktree_path == str(tmp_path / "tree")
        assert await at.sync() == []

    world(body)


def test_after_a_reboot_a_session_is_told_once_and_its_agents_come_home_when_it_is_back(
    world: Callable[..., None],
) -> None:
    async def body(at: World) -> None:
        team = await at.team("atlas", "dev", "tester")
        await at.sync()
        at.end_tmux()
        gone = [("SESSION_GONE", "atlas", False)]
        assert await at.kinds() == gone
        at.at.clock.advance(3600)
        (told,) = await at.sync()
        assert told.since == at.at.clock.now() - GRACE
        assert await at.alerts() == [("session-gone", "atlas")]
        assert f"-S {at.tmux.socket} new-session -d -s atlas" in told.advice
        assert [at.now(one).incarnation for one in team] == [None, None]
        assert await at.kinds() == gone, "it stays so without its agents' panes"
        for role in ("tester", "dev"):
            at.tmux.pane("atlas", role, "exec sleep 1000")
        await at.sync()
        panes = at.tmux.run("list-panes", "-a", "-F", "#{window_name} #{pane_id}").splitlines()
        assert sorted(f"{a.role} {at.now(a).incarnation.pane}" for a in team) == sorted(panes)
        await at.sync()  # the windows have other numbers now
        assert await at.sync() == []
        assert (await at.events("mismatch"))[:2] == [
            ("mismatch.found", "atlas"),
            ("mismatch.ended", "atlas"),
        ]

    world(body)


def test_many_sessions_that_went_together_are_told_in_one_alert(
    world: Callable[..., None],
) -> None:
    async def body(at: World) -> None:
        for name in ("a", "b", "c", "d"):
            await at.team(name, "dev")
        at.end_tmux()
        await at.sync()
        assert await at.alerts() == [("session-gone", "4 sessions")]
        assert len(await at.events("mismatch")) == 4

    world(body)


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_closed_pane_is_taken_from_its_agent_who_keeps_role_and_mail(
    world: Callable[..., None], by_itself: bool
) -> None:
    async def body(at: World) -> None:
        dev, _ = await at.team("atlas", "dev", "tester")
        await at.sync()
        at.tmux.run("kill-pane", "-t", dev.incarnation.pane)
        assert await at.kinds(dry_run=True) == [("PANE_GONE", "atlas:dev", False)]
        assert at.now(dev) is dev
        assert await at.kinds() == [("PANE_GONE", "atlas:dev", True)]
        assert at.now(dev).incarnation is None
        assert await at.sync() == []
        request = messaging_pb2.SendMessageRequest(targets=["atlas:dev"], text="still yours")
        await at.at.messaging.SendMessage(request, metadata=at.at.token("", ""), timeout=10)
        with at.core.bus.subscribe(lambda event: event.kind == "delivery.offered") as offered:
            at.tmux.pane("atlas", "dev", "exec sleep 1000")
            if by_itself:
                await at.sync()
            else:  # the next text looks for the pane at once
                await at.at.messaging.SendMessage(request, metadata=at.at.token("", ""), timeout=10)
            async with asyncio.timeout(10):
                assert (await anext(aiter(offered))).agent == dev.id
        assert at.now(dev).incarnation is not None
        assert at.now(dev).role == "dev"

    world(body)


@pytest.mark.parametrize("liveness", [Liveness.UNMANAGED, Liveness.LOST, Liveness.ENDED])
def test_an_agent_without_a_client_gets_the_free_pane_of_its_role(
    world: Callable[..., None], liveness: Liveness
) -> None:
    async def body(at: World) -> None:
        dev, _ = await at.team("atlas", "dev", "tester")
        at.core.registry.put(replace(dev, liveness=liveness))
        at.tmux.run("kill-pane", "-t", dev.incarnation.pane)
        pane = at.tmux.pane("atlas", "dev", "exec sleep 1000")
        assert await at.kinds() == [("PANE_GONE", "atlas:dev", True)]
        assert at.now(dev).incarnation.pane == pane

    world(body)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_is_shown_after_a_pane_was_taken_is_what_the_events_say(
    world: Callable[..., None], elsewhere: bool
) -> None:
    async def body(at: World) -> None:
        dev, _ = await at.team("atlas", "dev", "tester")
        await at.core.states.hook(dev, HookReport("SessionEnd"))
        at.tmux.run("kill-pane", "-t", dev.incarnation.pane)
        if elsewhere:
            at.tmux.pane("atlas", "dev", "exec sleep 1000")
        at.at.clock.advance(60)
        assert await at.kinds() == [("PANE_GONE", "atlas:dev", True)]
        shown = at.core.states.status(dev.id)
        assert (shown.state, shown.changed_at) == (AgentState.UNKNOWN, at.at.clock.now())
        said = "select detail from event where kind = 'agent.state' order by number desc"
        assert (await at.values(said))[0].split()[0] == "UNKNOWN"
        stored = (await at.core.store.read(agent_status.load_all))[dev.id]
        assert (stored.state, stored.changed_at) == (shown.state, shown.changed_at)

    world(body)


def test_a_pane_that_is_gone_under_a_living_client_is_only_reported(
    world: Callable[..., None],
) -> None:
    async def body(at: World) -> None:
        dev, _ = await at.team("atlas", "dev", "tester")
        living = replace(dev, liveness=Liveness.UNKNOWN)
        at.core.registry.put(living)
        at.tmux.run("kill-pane", "-t", dev.incarnation.pane)
        for _ in range(2):
            (found,) = await at.sync()
            assert (found.kind, found.safe, found.repaired) == (
                MismatchKind.PANE_GONE,
                False,
                False,
            )
            assert at.now(dev) is living
        at.core.registry.put(replace(living, liveness=Liveness.LOST))
        at.core.heartbeat._losses.suspected = True
        assert await at.kinds() == [("PANE_GONE", "atlas:dev", False)]
        at.core.heartbeat._losses.suspected = False
        assert await at.kinds() == [("PANE_GONE", "atlas:dev", True)]

    world(body)


def test_what_a_person_moved_is_seen_and_the_advice_puts_it_back(
    world: Callable[..., None],
) -> None:
    async def body(at: World) -> None:
        dev, _ = await at.team("atlas", "dev", "tester")
        await at.sync()
        at.tmux.run("rename-session", "-t", "=atlas", "--", "-o $(x);")
        (found,) = await at.sync()
        assert (found.kind, found.subject) == (MismatchKind.SESSION_RENAMED, "atlas")
        _sh(found.advice)
        at.tmux.run("rename-window", "-t", dev.incarnation.pane, "coder")
        at.tmux.run("set-option", "-p", "-t", dev.incarnation.pane, "@orch_role", "Coder")
        window, role = sorted(await at.sync(), key=lambda m: not m.repaired)
        assert (window.kind, window.repaired) == (MismatchKind.WINDOW_CHANGED, True)
        assert (role.kind, role.repaired) == (MismatchKind.ROLE_CHANGED, False)
        _sh(role.advice.removeprefix("Put it back: ").partition("; or ")[0])
        assert await at.sync() == []

    world(body)


def test_only_what_we_made_and_lost_is_an_orphan_and_only_after_its_grace(
    world: Callable[..., None], home: Home
) -> None:
    async def body(at: World) -> None:
        await at.team("keeper", "dev")
        await at.add("ended", completion=Completion.FAILED)
        for number, name in enumerate(ODD):
            at.tmux.pane(f"o{number}", "w", "printf 'last words\\n'; exec sleep 1000")
            at.tmux.run("rename-session", "-t", f"=o{number}", "--", _tmux(name))
        names = at.tmux.run("list-sessions", "-F", "#{session_name}").splitlines()
        ours = sorted(set(names) - {"keeper"})
        assert len(ours) == len(ODD)
        for name in ours:
            await at.mark(name, "ended" if name == "-dash" else "nobody knows it")
        for session, mark in (("stranger", ""), ("copy", "0123abcd"), ("theirs", "own")):
            at.tmux.pane(session, "w", "exec sleep 1000")
            if mark:
                await at.mark(session, "keeper" if mark == "own" else "gone", mark.strip("own"))
        at.at.clock.advance(60)  # past the sessions' creation, by tmux's clock
        assert await at.sync() == []
        at.at.clock.advance(GRACE.total_seconds() - 1)
        assert await at.sync() == []
        at.at.clock.advance(1)
        found = await at.sync()
        assert [m.subject for m in found] == ours
        assert {m.kind for m in found} == {MismatchKind.ORPHAN}
        await at.sync()
        assert await at.alerts() == [("orphan", f"{len(ours)} sessions")]
        await asyncio.to_thread(_sh, found[0].advice.replace(".17", ".16", 1), False)
        assert len(await at.sync()) == len(ours), "a session that is another one is left alone"
        for mismatch in found:
            await asyncio.to_thread(_sh, mismatch.advice)
        left = at.tmux.run("list-sessions", "-F", "#{session_name}").splitlines()
        assert sorted(left) == ["copy", "keeper", "stranger", "theirs"]
        saved = [path.read_text() for path in home.path.glob("backups/orphans/*/%*.txt")]
        assert ["last words" in text for text in saved] == [True] * len(ODD)
        assert not (home.path / "x").exists()
        assert await at.sync() == []

    world(body)


def test_the_mark_can_be_made_from_what_is_shown(world: Callable[..., None]) -> None:
    async def body(at: World) -> None:
        await at.team("keeper", "dev")
        at.tmux.pane("two words.", "w", "exec sleep 1000")
        request = session_state_pb2.SynchronizeSessionsRequest(dry_run=True)
        shown = await at.at.state.SynchronizeSessions(request, timeout=10)
        page = (DOCS / "reference" / "synchroniser.md").read_text()
        (line,) = [one for one in page.splitlines() if one.startswith("tmux set-option")]
        command = line.replace("GENERATION", shown.generation).replace("NAME", "two words_")
        _sh(command.replace("tmux", f"tmux -S {at.tmux.socket}", 1))
        at.at.clock.advance(60)
        await at.sync()
        at.at.clock.advance(GRACE.total_seconds())
        (found,) = await at.sync()
        assert (found.kind, found.subject) == (MismatchKind.ORPHAN, "two words_")

    world(body)


def test_a_tmux_that_does_not_answer_begins_and_ends_no_mismatch(
    world: Callable[..., None],
) -> None:
    async def body(at: World) -> None:
        (dev,) = await at.team("atlas", "dev")
        at.tmux.run("set-option", "-p", "-t", dev.incarnation.pane, "@orch_role", "boss")
        assert await at.kinds() == [("ROLE_CHANGED", "atlas:dev", False)]
        await at.add("nobody-impl", name_missing=True)
        before = _dump(at)
        pid = int(at.tmux.run("display-message", "-p", "#{pid}"))
        os.kill(pid, signal.SIGSTOP)
        try:
            found, silent = await at.core.synchronizer.synchronize(False)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (found, silent) == ([], [str(at.tmux.socket)])
        assert _dump(at) == before

    world(body)


def test_a_tmux_whose_socket_was_deleted_is_not_gone(world: Callable[..., None]) -> None:
    async def body(at: World) -> None:
        await at.team("atlas", "dev")
        pid = int(at.tmux.run("display-message", "-p", "#{pid}"))
        try:
            at.tmux.socket.unlink()
            assert await at.sync() == []
            at.tmux.pane("beta", "dev", "exec sleep 1000")  # another server under the same socket
            assert await at.sync() == []
        finally:
            os.kill(pid, signal.SIGKILL)

    world(body)


def test_a_missing_name_is_taken_from_the_only_session_that_fits(
    world: Callable[..., None],
) -> None:
    async def body(at: World) -> None:
        at.tmux.pane("my-shop-impl-0123abcd", "dev", "exec sleep 1000")
        at.tmux.pane("other-impl-0123abcd", "dev", "exec sleep 1000")
        await at.agent("other-impl-0123abcd", "dev")
        await at.add("label", project_name="My Shop", name_missing=True)
        lost = at.core.registry.new("label", "dev")
        await at.core.registry._registered(lost)
        records = ("session:label", "agent:label:dev", "session:label 2", "agent:label 2:dev")
        await at.core.store.write(lambda tx: _keep(tx, records))
        before = _dump(at)
        (found,) = await at.sync(dry_run=True)
        assert (found.kind, found.safe, _dump(at)) == (MismatchKind.NAME_MISSING, True, before)
        assert await at.kinds() == [("NAME_MISSING", "label", True)]
        named = await at.session("my-shop-impl-0123abcd")
        assert (named.name_missing, named.version) == (False, 2)
        assert at.now(lost).address == "my-shop-impl-0123abcd:dev"
        assert ("session.renamed", named.name) in await at.events("session")
        assert await at.values("select record from legacy_value order by number") == [
            f"session:{named.name}",
            f"agent:{named.name}:dev",
            *records[2:],
        ]
        assert await at.sync() == []

    world(body)


def test_a_name_that_nothing_tells_fails_the_session_with_the_reason(
    world: Callable[..., None],
) -> None:
    async def body(at: World) -> None:
        for n in (1, 2):
            at.tmux.pane(f"shop-impl-{n}", "dev", "exec sleep 1000")
            await at.add(f"twin {n}", project_name="shop", name_missing=True)
        await at.agent("shop-impl-1", "dev")
        await at.core.store.write(
            lambda tx: tx.execute("update agent set session = 'twin 1'") and None
        )
        await at.add("nothing", name_missing=True)
        assert await at.sync() == []
        failed = await at.session("nothing")
        assert failed.completion is Completion.FAILED
        assert failed.failure_reason == "its session name is missing, and nothing known fits"
        assert "several fit: " in (await at.session("twin 2")).failure_reason
        assert ("session-name-missing", "nothing") in await at.alerts()
        found, _ = await at.core.store.read(lambda db: alerts.list_page(db, "", 100, ""))
        (cure,) = [alert.text for alert in found if alert.subject == "nothing"]
        assert "orch-client state --set completion=pending -- nothing && orch-client sync" in cure

        at.tmux.pane("nothing-impl", "dev", "exec sleep 1000")
        again = replace(failed, completion=Completion.PENDING)
        await at.core.store.write(lambda tx: sessions.save(tx, again, "", ("completion",)))
        assert await at.kinds() == [("NAME_MISSING", "nothing", True)]
        assert (await at.session("nothing-impl")).failure_reason == ""

    world(body)


def test_every_table_that_names_a_session_follows_its_new_name(home: Home) -> None:
    async def body(at: Serving) -> None:
        db = apsw.Connection(str(at.settings.database), flags=apsw.SQLITE_OPEN_READONLY)
        tables = [row[0] for row in db.execute("select name from sqlite_master where type='table'")]
        named = {
            table
            for table in tables
            if any(r[1] == "session" for r in db.execute(f"pragma table_info('{table}')"))
        }
        db.close()
        assert named - {"event", "audit"} == set(mismatches.SESSION_COLUMNS)

    run(home.path, body)


def test_the_end_of_a_tmux_server_is_noticed_without_waiting(world: Callable[..., None]) -> None:
    async def body(at: World) -> None:
        await at.team("atlas", "dev")
        await settles(lambda: at.core.synchronizer._processes._fds)
        at.end_tmux()
        with at.core.bus.subscribe(lambda event: event.kind == "mismatch.found") as found:
            async with asyncio.timeout(10):
                async for event in found:
                    assert event.subject == "atlas"
                    return

    world(body, loops=("synchronizer", "tmux"))


def test_a_hundred_panes_that_end_together_are_one_reason_to_look() -> None:
    async def body() -> None:
        fired: list[int] = []
        over = asyncio.Event()

        def fire() -> None:
            fired.append(1)
            over.set()

        burst = Burst(fire)
        children = [await asyncio.create_subprocess_exec("sleep", "1000") for _ in range(100)]
        watch = ProcessWatch(burst.poke)
        watch.follow([child.pid for child in children])
        for child in children:
            child.kill()
            await child.wait()
        async with asyncio.timeout(10):
            await over.wait()
        assert (fired, watch._fds) == ([1], {})

    asyncio.run(body())


def test_the_command_lists_what_was_found_and_what_to_do(
    home: Home, server: Server, tmux: Tmux
) -> None:
    assert "The store and tmux agree." in home.client("sync").stdout
    pane = tmux.pane("a b", "dev")
    tmux.type(pane, "orch-client schedule 60 later")
    until(lambda: agent(home, "a b:dev"), "the agent of the pane")
    tmux.end()
    until(lambda: "session-gone" in home.client("sync", "--dry-run").stdout, "the mismatch")
    done = home.client("sync")
    assert done.stdout.splitlines()[0].split() == ["KIND", "WHAT", "STATE", "SINCE", "DETAIL"]
    assert f"tmux -u -S {tmux.socket} new-session -d -s 'a b'" in done.stdout
    (found,) = home.json("sync")["mismatches"]
    assert (found["kind"], found["subject"]) == ("MISMATCH_KIND_SESSION_GONE", "a b")


def _dump(at: World) -> list[Any]:
    """All rows of the database."""
    db = apsw.Connection(str(at.at.settings.database), flags=apsw.SQLITE_OPEN_READONLY)
    tables = [r[0] for r in db.execute("select name from sqlite_master where type = 'table'")]
    try:
        return [(t, list(db.execute(f'select * from "{t}"'))) for t in tables]
    finally:
        db.close()


def _keep(tx: Transaction, records: tuple[str, ...]) -> None:
    """What an import keeps of records."""
    for record in records:
        sql = "insert into legacy_value (session, record, field, value) values ('', ?, 'x', '1')"
        tx.execute(sql, (record,))


def _sh(command: str, works: bool = True) -> None:
    """Runs what a person pastes."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=10)
    assert (done.returncode == 0) is works, done.stderr


def _tmux(name: str) -> str:
    return f"{name[:-1]}\\;" if name.endswith(";") else name
