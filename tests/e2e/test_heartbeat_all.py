"""`heartbeat --all`: one process for every pane of a tmux server, or of one session."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orch_client.fleet import member
from orch_client.fleet.all import Fleet
from tests.support import BIN, Client, Home, Server, Tmux, agent, hold, liveness, until

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def everyone(server: Server, home: Home, tmux: Tmux) -> Iterator[Start]:
    """Starts `heartbeat --all` outside of tmux, and ends it."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [str(BIN / "orch-client"), "heartbeat", "--all", *args],
                env=home.env(TMUX=f"{tmux.socket},0,0"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def living(home: Home) -> set[str]:
    """The agents whose client is heard."""
    return {
        f"{found['session']}:{found['role']}"
        for found in home.json("agents")
        if found["liveness"] == "LIVENESS_ALIVE"
    }


def _all_unmanaged(home: Home) -> bool:
    return {found["liveness"] for found in home.json("agents")} == {"LIVENESS_UNMANAGED"}


def clients(tmux: Tmux) -> list[str]:
    return tmux.run("list-clients", "-F", "#{client_control_mode}", check=False).splitlines()


def test_panes_come_and_go(everyone: Start, home: Home, tmux: Tmux) -> None:
    first = tmux.pane("atlas", "one", "cat")
    tmux.pane("atlas", "two", "cat")
    everyone()
    until(lambda: living(home) == {"atlas:one", "atlas:two"}, "the first panes")
    tmux.pane("beta", "three", "cat")
    until(lambda: "beta:three" in living(home), "the new pane")
    tmux.run("kill-pane", "-t", first)
    until(lambda: liveness(home, "atlas:one") == "ENDED", "the end of the first")
    assert living(home) == {"atlas:two", "beta:three"}


def test_a_pane_whose_program_has_ended_is_ended(everyone: Start, home: Home, tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "one", "cat")
    tmux.pane("atlas", "two", "cat")
    tmux.run("set-option", "-p", "-t", pane, "remain-on-exit", "on")
    everyone()
    until(lambda: "atlas:one" in living(home), "the pane")
    os.kill(int(tmux.run("display-message", "-p", "-t", pane, "#{pane_pid}")), signal.SIGKILL)
    until(lambda: liveness(home, "atlas:one") == "ENDED", "the end of the program")


def test_all_of_it_is_one_process_with_one_tmux_client_at_most(
    everyone: Start, home: Home, tmux: Tmux
) -> None:
    for number in range(12):
        tmux.pane("atlas", f"w{number}", "cat")
    process = everyone()
    until(lambda: len(living(home)) == 12, "all panes")
    assert clients(tmux) in ([], ["1"])  # a tmux before 3.7 gets none
    tasks = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
    assert tasks < 24, "as if there were a thread for each pane"
    process.terminate()
    assert process.wait(10) == 0
    assert clients(tmux) == []
    until(lambda: _all_unmanaged(home), "the goodbyes")


def test_texts_reach_the_panes(everyone: Start, home: Home, tmux: Tmux) -> None:
    panes = {f"w{n}": tmux.pane("atlas", f"w{n}") for n in range(3)}
    for pane in panes.values():
        tmux.wait_for(pane, "bash-")
    everyone()
    until(lambda: len(living(home)) == 3, "all panes")
    for role in panes:
        done = home.client("schedule", "0", f"for {role};", "--to", f"atlas:{role}")
        assert done.returncode == 0, done.stderr
    for role, pane in panes.items():
        tmux.wait_for(pane, f"for {role};")
        assert tmux.screen(pane).count(f"for {role};") == 1


def test_one_session_only(everyone: Start, home: Home, tmux: Tmux) -> None:
    tmux.pane("atlas", "one", "cat")
    tmux.pane("atlas two", "two", "cat")
    everyone("--session", "atlas two")
    until(lambda: living(home) == {"atlas two:two"}, "the pane of the session")
    tmux.pane("atlas two", "three", "cat")
    until(lambda: living(home) == {"atlas two:two", "atlas two:three"}, "the new pane")


def test_a_killed_server_gets_all_panes_back(
    everyone: Start, home: Home, tmux: Tmux, server: Server
) -> None:
    for number in range(8):
        tmux.pane("atlas", f"w{number}", "cat")
    process = everyone()
    until(lambda: len(living(home)) == 8, "all panes")
    for stop in (server.kill, server.stop):
        stop()
        server.start()
        until(lambda: len(living(home)) == 8, "all panes again")
    assert process.poll() is None


def test_a_pane_with_its_own_client_is_left_alone(
    everyone: Start, home: Home, tmux: Tmux, heartbeat: Callable[..., Client]
) -> None:
    pane = tmux.pane("atlas", "one", "cat")
    tmux.pane("atlas", "two", "cat")
    heartbeat(pane, "--role", "mine")
    until(lambda: living(home) == {"atlas:mine"}, "the own client")
    epoch = agent(home, "atlas:mine")["epoch"]
    everyone()
    until(lambda: living(home) == {"atlas:mine", "atlas:two"}, "the other pane")
    hold(2)
    assert agent(home, "atlas:mine")["epoch"] == epoch


def test_an_own_client_takes_its_pane_over(
    everyone: Start, home: Home, tmux: Tmux, heartbeat: Callable[..., Client]
) -> None:
    pane = tmux.pane("atlas", "one", "cat")
    everyone()
    until(lambda: living(home) == {"atlas:one"}, "the pane")
    before = int(agent(home, "atlas:one")["epoch"])
    own = heartbeat(pane)
    until(lambda: int(agent(home, "atlas:one")["epoch"]) > before, "the own client")
    epoch = agent(home, "atlas:one")["epoch"]
    hold(2)
    assert agent(home, "atlas:one")["epoch"] == epoch
    assert own.process.poll() is None


def test_a_pane_whose_own_client_leaves_is_served_again(
    server: Server,
    home: Home,
    tmux: Tmux,
    heartbeat: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(member, "_AWAY", 0.2)
    for key, value in home.env(TMUX=f"{tmux.socket},0,0").items():
        monkeypatch.setenv(key, value)
    pane = tmux.pane("atlas", "one", "cat")
    own = heartbeat(pane)
    until(lambda: living(home) == {"atlas:one"}, "the own client")

    def epoch() -> int:
        return int(agent(home, "atlas:one")["epoch"])

    def drive() -> None:
        before = epoch()
        hold(1)
        assert epoch() == before
        own.signal(signal.SIGTERM)
        own.wait()
        until(lambda: epoch() > before and living(home) == {"atlas:one"}, "the fleet")

    async def body() -> None:
        fleet = asyncio.create_task(Fleet(str(tmux.socket), "").run())
        try:
            await asyncio.to_thread(drive)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            assert await fleet == 0

    asyncio.run(body())


def test_its_own_pane_is_left_out(server: Server, home: Home, tmux: Tmux) -> None:
    shell = tmux.pane("atlas", "here")
    tmux.pane("atlas", "one", "cat")
    tmux.type(shell, "orch-client heartbeat --all")
    tmux.wait_for(shell, "1 pane, 1 alive")
    assert living(home) == {"atlas:one"}
    tmux.run("send-keys", "-t", shell, "C-c")
    until(lambda: liveness(home, "atlas:one") == "UNMANAGED", "the goodbye")
    assert clients(tmux) == []


def test_a_tmux_that_hangs_ends_nothing(everyone: Start, home: Home, tmux: Tmux) -> None:
    tmux.pane("atlas", "one", "cat")
    everyone()
    until(lambda: living(home) == {"atlas:one"}, "the pane")
    pid = int(tmux.run("display-message", "-p", "#{pid}"))
    os.kill(pid, signal.SIGSTOP)
    try:
        hold(7)
        assert living(home) == {"atlas:one"}
    finally:
        os.kill(pid, signal.SIGCONT)
    tmux.pane("atlas", "two", "cat")
    until(lambda: living(home) == {"atlas:one", "atlas:two"}, "the new pane")


def test_the_end_of_tmux_ends_its_panes_and_the_next_tmux_is_served(
    everyone: Start, home: Home, tmux: Tmux
) -> None:
    tmux.pane("atlas", "one", "cat")
    process = everyone()
    until(lambda: living(home) == {"atlas:one"}, "the pane")
    tmux.end()
    until(lambda: liveness(home, "atlas:one") == "ENDED", "the end of the pane")
    tmux.pane("atlas", "two", "cat")
    until(lambda: living(home) == {"atlas:two"}, "the pane of the next tmux")
    assert process.poll() is None


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("--all", "--pane", "%1"), 2, "--pane is for one pane"),
        (("--all", "--role", "x"), 2, "--role is for one pane"),
        (("--all", "--take-over"), 2, "--take-over is for one pane"),
        (("--all", "--once"), 2, "--once is for one pane"),
        (("--session", "x"), 2, "--session goes with --all"),
        (("--all", "--session", "nowhere"), 4, "no session 'nowhere'"),
    ],
)
def test_what_makes_no_sense_is_said(
    server: Server, home: Home, tmux: Tmux, args: tuple[str, ...], status: int, said: str
) -> None:
    tmux.pane("atlas", "one", "cat")
    done = home.client("heartbeat", *args, TMUX=f"{tmux.socket},0,0")
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_without_tmux_it_says_so(server: Server, home: Home, tmux: Tmux) -> None:
    done = home.client("heartbeat", "--all", TMUX=f"{tmux.socket},0,0")
    assert (done.returncode, "no tmux answers at" in done.stderr) == (1, True), done.stderr
