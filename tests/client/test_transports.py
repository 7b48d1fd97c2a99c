"""The transports to tmux keep one contract: what they return, what they raise, what they leave."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from orch_client.courier.batch import Batch
from orch_client.courier.control import Control
from orch_client.courier.tmux import (
    PaneGone,
    Subprocess,
    Tmux,
    TmuxDied,
    TmuxFailed,
    TmuxSilent,
    pane_facts,
)
from tests.support import Tmux as Server
from tests.support import until

LARGEST = 256 * 1024
NASTY = (
    "plain",
    "a;",
    ";",
    "\\;",
    "a\\",
    "-t x",
    "~root and ~",
    "$HOME ${HOME} $",
    "#(touch /tmp/orch-never) #{pane_id} ##",
    "\"double\" 'single' `back`",
    "{ braces } %if %end %begin 1 2 3",
    "a\n%end 1 2 1\n%error\n\nb\n",
    "tab\tand\ttab",
    "käse ✓ 🧀 e\u0301 \u202eRTL",
    "\\n \\t \\101 \\u0041",
    " leading and trailing ",
    "# comment",
    "FOO=bar",
    "x" * 10_000,
)

Make = Callable[[str], Tmux]
Body = Callable[[Tmux], Awaitable[None]]


@pytest.fixture(
    params=[Subprocess, Batch, partial(Control, oldest=(3, 0))],
    ids=["subprocess", "batch", "control"],
)
def make(request: pytest.FixtureRequest) -> Make:
    """Makes the transport for a socket."""
    kind: Make = request.param
    return kind


@pytest.fixture
def pane(tmux: Server) -> str:
    """A pane that lives as long as its tmux server, once its program runs."""
    made = tmux.pane("atlas", "tester", "cat")
    command = ("display-message", "-p", "-t", made, "#{pane_current_command}")
    until(lambda: tmux.run(*command) == "cat", "cat")
    return made


def use(make: Make, tmux: Server, body: Body) -> None:
    """Runs the body over a transport that is closed in the end."""

    async def run() -> None:
        transport = make(str(tmux.socket))
        try:
            await body(transport)
        finally:
            await transport.close()

    asyncio.run(run())


@contextmanager
def stopped(tmux: Server) -> Iterator[None]:
    """The tmux server does not run meanwhile."""
    pid = int(tmux.run("display-message", "-p", "#{pid}"))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def clients(tmux: Server) -> list[str]:
    return tmux.run("list-clients", "-F", "#{client_pid}").splitlines()


def test_a_call_that_cannot_be_written_spoils_no_other(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        words = ("a", "b", "null \0", "lone \ud800", "c", "d")
        told = await asyncio.gather(
            *(transport.run("display-message", "-p", "-t", pane, word) for word in words),
            return_exceptions=True,
        )
        assert [told[n] for n in (0, 1, 4, 5)] == ["a\n", "b\n", "c\n", "d\n"]
        assert all(isinstance(told[n], ValueError) for n in (2, 3)), told

    use(make, tmux, body)


def test_what_a_command_prints_is_returned(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        out = await transport.run(
            "display-message", "-p", "-t", pane, "one", ";", "display-message", "-p", "two #{pid}"
        )
        assert out == f"one\ntwo {tmux.run('display-message', '-p', '#{pid}')}\n"
        assert await transport.run("set-option", "-p", "-t", pane, "@x", "1") == ""

    use(make, tmux, body)


@pytest.mark.parametrize("text", NASTY)
def test_an_argument_arrives_as_it_was_given(
    make: Make, tmux: Server, pane: str, text: str
) -> None:
    given = text[:-1] + "\\;" if text.endswith(";") else text

    async def body(transport: Tmux) -> None:
        out = await transport.run(
            *("set-option", "-p", "-t", pane, "--", "@orch_text", given, ";"),
            *("display-message", "-p", "-t", pane, "#{@orch_text}|"),
        )
        assert out == f"{text}|\n"

    use(make, tmux, body)


@pytest.mark.parametrize("text", [*NASTY, "y" * LARGEST, "zeile ✓ ;\n" * 20_000])
def test_a_text_is_loaded_byte_for_byte(make: Make, tmux: Server, pane: str, text: str) -> None:
    async def body(transport: Tmux) -> None:
        out = await transport.run(
            *("load-buffer", "-b", "orch-a", "-", ";", "display-message", "-p", "loaded"),
            stdin=text.encode(),
        )
        assert out == "loaded\n"
        saved = tmux.home.path / "orch-saved"
        tmux.run("save-buffer", "-b", "orch-a", str(saved))
        assert saved.read_bytes() == text.encode()

    use(make, tmux, body)


def test_generated_arguments_arrive_as_they_were_given(make: Make, tmux: Server, pane: str) -> None:
    chance = random.Random(20261121)
    alphabet = "ab \t\n\\\"'$~;#{}%()-=`|&<>*?!,:@^é✓🧀"
    texts = ["".join(chance.choices(alphabet, k=chance.randint(1, 40))) for _ in range(300)]

    async def body(transport: Tmux) -> None:
        for text in texts:
            given = text[:-1] + "\\;" if text.endswith(";") else text
            out = await transport.run(
                *("set-option", "-p", "-t", pane, "--", "@orch_text", given, ";"),
                *("display-message", "-p", "-t", pane, "#{@orch_text}|"),
            )
            assert out == f"{text}|\n", repr(text)

    use(make, tmux, body)


def test_nested_commands_with_formats_and_quotes_are_understood(
    make: Make, tmux: Server, pane: str
) -> None:
    inner = (
        f"set-option -p -t {pane} @orch_a 'x \"y\" $HOME'"
        f' ; if-shell -F -t {pane} "#{{==:#{{pane_dead}},0}}" "display-message -p -t {pane} alive"'
    )

    async def body(transport: Tmux) -> None:
        condition = "#{&&:#{e|>|:2,#{@orch_none}},#{==:#{pane_dead}#{pane_in_mode},00}}"
        out = await transport.run("if-shell", "-F", "-t", pane, condition, inner, "kill-server")
        assert out == "alive\n"
        value = await transport.run("display-message", "-p", "-t", pane, "#{@orch_a}")
        assert value == 'x "y" $HOME\n'

    use(make, tmux, body)


def test_a_title_that_looks_like_an_answer_is_only_a_title(
    make: Make, tmux: Server, pane: str
) -> None:
    async def body(transport: Tmux) -> None:
        title = '%end 1 2 1 "✓" $x; #{pane_id}'
        await transport.run("select-pane", "-t", pane, "-T", title.replace("#", "##"))
        mine = await transport.run("display-message", "-p", "-t", pane, "#{pane_title}|")
        assert mine == f"{title}|\n"
        assert await transport.run("display-message", "-p", "next") == "next\n"

    use(make, tmux, body)


def test_a_screen_full_of_answers_is_only_a_screen(make: Make, tmux: Server) -> None:
    lines = ["%begin 1 2 1", "%end 1 2 1", "%error 1 2 1", "%exit", "", "last"]
    shown = "\\n".join(line.replace("%", "%%") for line in lines)
    pane = tmux.pane("atlas", "tester", f"printf '{shown}'; exec cat")
    tmux.wait_for(pane, "last")

    async def body(transport: Tmux) -> None:
        out = await transport.run("capture-pane", "-p", "-t", pane)
        assert out.splitlines()[: len(lines)] == lines
        assert len(out.splitlines()) == 50  # the screen's height
        assert await transport.run("display-message", "-p", "next") == "next\n"

    use(make, tmux, body)


def test_a_missing_pane_is_gone(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        with pytest.raises(PaneGone):
            await transport.run("send-keys", "-t", "%999", "x")
        with pytest.raises(PaneGone):
            await pane_facts(transport, "%999")
        assert (await pane_facts(transport, pane)).command == "cat"

    use(make, tmux, body)


def test_without_a_server_the_pane_is_gone(make: Make, tmux: Server) -> None:
    async def body(transport: Tmux) -> None:
        with pytest.raises(PaneGone):
            await transport.run("display-message", "-p", "x")

    use(make, tmux, body)


def test_other_errors_are_failures_and_end_the_list(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        with pytest.raises(TmuxFailed, match="no-such-command"):
            await transport.run("no-such-command")
        with pytest.raises(TmuxFailed, match="no buffer"):
            await transport.run(
                *("set-option", "-p", "-t", pane, "@orch_a", "1", ";"),
                *("paste-buffer", "-b", "none", "-t", pane, ";"),
                *("set-option", "-p", "-t", pane, "@orch_b", "1"),
            )
        out = await transport.run("display-message", "-p", "-t", pane, "#{@orch_a}.#{@orch_b}")
        assert out == "1.\n"

    use(make, tmux, body)


def test_an_error_in_nested_commands_is_raised(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        with pytest.raises(TmuxFailed, match="no buffer"):
            await transport.run("if-shell", "-F", "-t", pane, "1", f"pasteb -b none -t {pane}")
        assert await transport.run("display-message", "-p", "next") == "next\n"

    use(make, tmux, body)


def test_a_stopped_server_is_silent_and_later_answers_again(
    make: Make, tmux: Server, pane: str
) -> None:
    async def body(transport: Tmux) -> None:
        assert await transport.run("display-message", "-p", "before") == "before\n"
        with stopped(tmux):
            with pytest.raises(TmuxSilent):
                await transport.run("display-message", "-p", "during", deadline=0.2)
            with pytest.raises(TmuxSilent):
                await transport.run("display-message", "-p", "during", deadline=0.2)
        assert await transport.run("display-message", "-p", "after") == "after\n"

    use(make, tmux, body)


def test_a_server_that_ends_itself_meanwhile_has_died(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        assert await transport.run("display-message", "-p", "x") == "x\n"
        pid = tmux.run("display-message", "-p", "#{pid}")
        with pytest.raises(TmuxDied):  # it works on the command until this has ended it
            await transport.run("if-shell", f"kill -9 {pid}", "display-message -p late")
        with pytest.raises(PaneGone):
            await transport.run("display-message", "-p", "x")

    use(make, tmux, body)


def test_a_restarted_server_is_spoken_to_again(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        await transport.run("display-message", "-p", "x")
        tmux.run("kill-server")
        until(lambda: not _is_heard(tmux), "the end of tmux")
        tmux.pane("other", "again", "cat")
        pid = tmux.run("display-message", "-p", "#{pid}")
        assert await _patiently(transport, "display-message", "-p", "#{pid}") == f"{pid}\n"

    use(make, tmux, body)


def _is_heard(tmux: Server) -> bool:
    """Whether anybody listens on the socket: until nobody does, a new session may be made on a
    server that is about to end."""
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(tmux.socket)) == 0


async def _patiently(transport: Tmux, *args: str) -> str:
    """The answer, when the transport has noticed that its old server is gone."""
    try:
        return await transport.run(*args)
    except (TmuxDied, TmuxSilent):
        return await transport.run(*args)


def test_concurrent_calls_get_each_its_own_answer(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        async def one(number: int) -> None:
            if number % 10 == 3:
                with pytest.raises(TmuxFailed):
                    await transport.run("paste-buffer", "-b", f"none-{number}", "-t", pane)
            else:
                out = await transport.run("display-message", "-p", f"{number}\n", stdin=None)
                assert out.strip() == str(number)

        await asyncio.gather(*(one(number) for number in range(200)))

    use(make, tmux, body)


def test_a_cancelled_call_does_not_garble_later_ones(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        for number in range(50):
            given_up = asyncio.create_task(transport.run("display-message", "-p", "given up"))
            kept = asyncio.create_task(transport.run("display-message", "-p", str(number)))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            given_up.cancel()
            assert await kept == f"{number}\n"

    use(make, tmux, body)


def test_closing_leaves_no_tmux_client(make: Make, tmux: Server, pane: str) -> None:
    async def body(transport: Tmux) -> None:
        await transport.run("display-message", "-p", "x")

    use(make, tmux, body)
    assert clients(tmux) == []


def test_a_call_that_is_cancelled_at_once_leaves_no_tmux_client(
    make: Make, tmux: Server, pane: str
) -> None:
    async def body(transport: Tmux) -> None:
        given_up = asyncio.create_task(transport.run("display-message", "-p", "x"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])

    use(make, tmux, body)
    assert clients(tmux) == []
