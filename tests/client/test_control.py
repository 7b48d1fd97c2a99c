"""The control-mode transport: what only it can get wrong, and what it must leave alone."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from orch_client.courier import control as module
from orch_client.courier.control import Control
from orch_client.courier.quoting import command_line
from orch_client.courier.tmux import TmuxDied, TmuxSilent
from tests.support import PATIENCE, Tmux, until

Body = Callable[[Control], Awaitable[None]]


def use(tmux: Tmux, body: Body) -> None:
    """Runs the body over a connection that is closed in the end."""

    async def run() -> None:
        control = Control(str(tmux.socket), oldest=(3, 0))
        try:
            await body(control)
        finally:
            await control.close()

    asyncio.run(run())


def clients(tmux: Tmux, what: str = "#{client_pid}") -> list[str]:
    """The attached clients."""
    return tmux.run("list-clients", "-F", what).splitlines()


def attached(tmux: Tmux, what: str = "#{client_pid}", count: int = 1) -> list[str]:
    """The attached clients, once there are as many: tmux may answer one before it attaches it."""
    until(lambda: len(clients(tmux)) >= count, f"{count} attached clients")
    return clients(tmux, what)


async def echo(control: Control, word: str) -> bool:
    """Whether a call is answered."""
    return await control.run("display-message", "-p", word) == f"{word}\n"


async def answered(control: Control) -> bool:
    """Whether a call is answered, at the latest by the second try."""
    try:
        return await echo(control, "again")
    except (TmuxSilent, TmuxDied):
        return await echo(control, "again")


@contextmanager
def person(tmux: Tmux, session: str, columns: int, rows: int) -> Iterator[None]:
    """A person's terminal of this size, attached to the session."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        ["tmux", "-u", "-S", str(tmux.socket), "attach-session", "-t", session],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=tmux.home.env(TERM="xterm"),
        start_new_session=True,
    )
    try:
        until(lambda: str(process.pid) in clients(tmux), "the person's client")
        yield
    finally:
        process.kill()
        process.wait(10)
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("a", "b c"), '"a" "b c"'),
        (("a", ";", "b"), '"a" ; "b"'),
        (("a", "b;", "c"), '"a" "b" ; "c"'),
        (("a", "b\\;"), '"a" "b;"'),
        (("a", ";"), '"a"'),
        (("a", ""), '"a" ""'),
        (("a", '"\\$~\n\t#{x}'), '"a" "\\"\\\\\\$\\~\\n\\011#{x}"'),
    ],
)
def test_a_command_line_is_quoted_for_tmux(args: tuple[str, ...], line: str) -> None:
    assert command_line(args) == line


def test_one_connection_serves_all_calls(tmux: Tmux) -> None:
    tmux.pane("atlas", "a", "cat")

    async def body(control: Control) -> None:
        assert all(await asyncio.gather(*(echo(control, f"w{n}") for n in range(20))))
        assert len(attached(tmux)) == 1

    use(tmux, body)


def test_when_its_session_ends_it_attaches_to_another(tmux: Tmux) -> None:
    for name in ("one", "two"):
        tmux.pane(name, "a", "cat")

    async def body(control: Control) -> None:
        assert await echo(control, "before")
        (session,) = attached(tmux, "#{client_session}")
        tmux.run("kill-session", "-t", f"={session}")
        until(lambda: session not in clients(tmux, "#{client_session}"), "the end of the session")
        async with asyncio.timeout(PATIENCE):  # the old client may still answer before it leaves
            while clients(tmux, "#{client_session}") != [*({"one", "two"} - {session})]:
                assert await answered(control)

    use(tmux, body)


@pytest.mark.parametrize("how", ["killed", "detached"])
def test_a_lost_control_client_is_replaced(tmux: Tmux, how: str) -> None:
    tmux.pane("atlas", "a", "cat")

    async def body(control: Control) -> None:
        assert await echo(control, "before")
        (client,) = attached(tmux)
        if how == "killed":
            os.kill(int(client), signal.SIGKILL)
        else:
            tmux.run("detach-client", "-s", "=atlas")
        until(lambda: client not in clients(tmux), "the end of the old client")
        async with asyncio.timeout(PATIENCE):  # the old client may still answer before it leaves
            while not clients(tmux):
                assert await answered(control)
        assert len(clients(tmux)) == 1

    use(tmux, body)


def test_a_persons_windows_keep_their_size(tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "a", "cat")

    def size() -> str:
        return tmux.run("display-message", "-p", "-t", pane, "#{window_width}x#{window_height}")

    async def body(control: Control) -> None:
        assert await echo(control, "attached")
        assert len(attached(tmux, count=2)) == 2
        assert size() == "91x30"

    with person(tmux, "atlas", 91, 31):
        until(lambda: size() == "91x30", "the person's size")
        use(tmux, body)
        assert size() == "91x30"


def test_a_session_that_ends_with_its_last_client_is_not_attached_to(
    tmux: Tmux, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmux.pane("atlas", "a", "cat")

    async def body(control: Control) -> None:
        assert await echo(control, "by-subprocess")
        assert len(clients(tmux)) == 1
        tmux.pane("beta", "b", "cat")
        monkeypatch.setattr(module, "_AGAIN", 0.0)
        assert await echo(control, "by-connection")
        assert sorted(attached(tmux, "#{client_session}", count=2)) == ["atlas", "beta"]

    with person(tmux, "atlas", 91, 31):
        tmux.run("set-option", "-t", "atlas", "destroy-unattached", "on")
        use(tmux, body)


def test_the_sessions_environment_stays(tmux: Tmux, monkeypatch: pytest.MonkeyPatch) -> None:
    tmux.pane("atlas", "a", "cat")
    before = tmux.run("show-environment", "-t", "atlas")
    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")

    async def body(control: Control) -> None:
        assert await echo(control, "x")

    use(tmux, body)
    assert tmux.run("show-environment", "-t", "atlas") == before


def test_a_shell_command_that_hangs_holds_up_no_other_call(tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "a", "cat")
    fifo = tmux.home.path / "fifo"
    os.mkfifo(fifo)

    async def body(control: Control) -> None:
        hangs = ("run-shell", "-t", pane, f"cat {fifo} >/dev/null")
        slow = asyncio.create_task(control.run(*hangs, deadline=60.0))
        await asyncio.sleep(0)
        assert await echo(control, "meanwhile")
        assert not slow.done()
        await asyncio.to_thread(fifo.write_text, "at last")
        await slow

    use(tmux, body)


def test_a_shell_command_that_hangs_is_given_up_after_its_deadline(tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "a", "cat")

    async def body(control: Control) -> None:
        with pytest.raises(TmuxSilent, match=r"within 0\.3 s"):
            await control.run("run-shell", "-t", pane, "exec sleep 20", deadline=0.3)

    use(tmux, body)


def test_closing_under_a_stopped_server_ends_the_client_all_the_same(tmux: Tmux) -> None:
    tmux.pane("atlas", "a", "cat")
    server = int(tmux.run("display-message", "-p", "#{pid}"))
    found: list[int] = []

    async def body(control: Control) -> None:
        assert await echo(control, "x")
        found.extend(map(int, attached(tmux)))
        os.kill(server, signal.SIGSTOP)

    try:
        use(tmux, body)
        with pytest.raises(ProcessLookupError):
            os.kill(found[0], 0)
    finally:
        os.kill(server, signal.SIGCONT)


def test_a_connection_that_is_not_needed_is_left(
    tmux: Tmux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.1)
    tmux.pane("atlas", "a", "cat")

    async def body(control: Control) -> None:
        for word in ("one", "two"):
            assert await echo(control, word)
            await asyncio.to_thread(until, lambda: not clients(tmux), "the end of the client")

    use(tmux, body)


def test_the_tmux_client_goes_with_a_process_that_is_killed(tmux: Tmux) -> None:
    """Also with answers on their way."""
    tmux.pane("atlas", "a", "cat")
    program = f"""
import asyncio, os, signal
from orch_client.courier.control import Control

async def main():
    control = Control({str(tmux.socket)!r}, oldest=(3, 0))
    await control.run("display-message", "-p", "x")
    asking = [asyncio.create_task(control.run("list-keys")) for _ in range(10)]
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", program], check=False, timeout=20)
        assert done.returncode == -signal.SIGKILL
        until(lambda: not clients(tmux), "the end of the client")


def test_a_tmux_that_is_too_old_is_spoken_to_by_subprocesses(tmux: Tmux) -> None:
    tmux.pane("atlas", "a", "cat")

    async def body() -> None:
        control = Control(str(tmux.socket), oldest=(99, 0))
        assert await echo(control, "x")
        assert await echo(control, "y")
        assert clients(tmux) == []
        await control.close()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("text", "version"),
    [("3.3a", (3, 3)), ("3.7", (3, 7)), ("3.10b", (3, 10)), ("next-3.8", (0, 0)), ("", (0, 0))],
)
def test_versions_of_tmux(text: str, version: tuple[int, int]) -> None:
    assert module._version(text) == version


def test_after_closing_calls_are_refused(tmux: Tmux) -> None:
    tmux.pane("atlas", "a", "cat")

    async def body(control: Control) -> None:
        assert await echo(control, "x")
        await control.close()
        with pytest.raises(TmuxSilent):
            await echo(control, "y")

    use(tmux, body)
    assert clients(tmux) == []
