"""The courier in a real tmux: what enters a pane, once, and what never does."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orch_client.courier import deliver
from orch_client.courier import tmux as speech
from orch_client.courier.deliver import Courier, Offer, Outcome
from orch_client.courier.guard import Guard, Status
from orch_client.courier.offer import CONFIRMED, REFUSED, UNCONFIRMED
from tests.client.conftest import Recorded, address, served
from tests.client.conftest import deliver as send
from tests.support import PATIENCE, RECORDER, Home, Tmux, until

GENERATION = "0a1b2c3d"


def _offer(sequence: int, text: str, kind: str = "generic", generation: str = GENERATION) -> Offer:
    return Offer(sequence, generation, text, kind)


def _command(tmux: Tmux, pane: str) -> str:
    """What tmux sees in the foreground of the pane."""
    return tmux.run("display-message", "-p", "-t", pane, "#{pane_current_command}")


def test_a_fresh_number_is_pasted_once_and_entered(recorded: Recorded) -> None:
    assert send(recorded.at, _offer(1, "hello")).state == CONFIRMED
    assert recorded.settled() == b"hello\r"


def test_a_repeated_number_is_not_pasted_again(recorded: Recorded) -> None:
    first = send(recorded.at, _offer(5, "hello"))
    again = [send(recorded.at, _offer(5, "hello")) for _ in range(3)]
    assert [o.state for o in (first, *again)] == [CONFIRMED] * 4
    assert recorded.settled() == b"hello\r"


def test_a_lower_number_is_refused(recorded: Recorded) -> None:
    send(recorded.at, _offer(5, "five"))
    late = send(recorded.at, _offer(4, "four"))
    assert late.state == REFUSED
    assert recorded.settled() == b"five\r"


def test_a_higher_number_is_pasted_after_it(recorded: Recorded) -> None:
    for sequence in (9, 10, 11, 100, 2**40):
        assert send(recorded.at, _offer(sequence, f"{sequence};")).state == CONFIRMED
    assert recorded.settled() == b"9;\r10;\r11;\r100;\r1099511627776;\r"


def test_numbers_of_another_store_are_not_compared(recorded: Recorded) -> None:
    send(recorded.at, _offer(1000, "old store"))
    outcome = send(recorded.at, _offer(1, "new store", generation="ffffffff"))
    assert outcome.state == CONFIRMED
    assert recorded.settled() == b"old store\rnew store\r"


def test_panes_count_for_themselves(recorders: Callable[[str], Recorded]) -> None:
    one, two = recorders("one"), recorders("two")
    send(one.at, _offer(7, "first"))
    send(two.at, _offer(6, "second"))
    assert (one.settled(), two.settled()) == (b"first\r", b"second\r")


@pytest.mark.parametrize(
    "text",
    [
        "a semicolon at the end;",
        ";",
        "\\;",
        "-leading dash",
        "-- -x -t %0",
        "#(touch {home}/orch-touched)",
        "#{{pid}} #S ##",
        "$HOME `id` $(id) ~ * ? !!",
        "'single' \"double\" \\back\\slash",
        "{{braces}} [brackets] %1 %%",
        "line one\nline two\n\nline four",
        "tab\there",
        "äöü ß € 日本語 שלום",
        "👩‍👩‍👧‍👦 🇩🇪 👍🏽 e\u0301",
        "  blanks around  ",
        "OK",
        "x" * 5000,
    ],
)
def test_text_arrives_byte_for_byte(recorded: Recorded, home: Home, text: str) -> None:
    given = text.replace("{home}", str(home.path)).replace("{{", "{").replace("}}", "}")
    assert send(recorded.at, _offer(1, given)).state == CONFIRMED
    assert recorded.settled() == given.encode() + b"\r"
    assert not (home.path / "orch-touched").exists()


def test_200_kib_arrive_byte_for_byte(recorded: Recorded) -> None:
    text = "".join(f"{n:07d}\n" for n in range(200 * 1024 // 8))
    assert len(text) == 200 * 1024
    assert send(recorded.at, _offer(1, text)).state == CONFIRMED
    assert recorded.typed(len(text) + 1) == text.encode() + b"\r"


def test_a_delivery_leaves_no_buffer_behind(recorded: Recorded) -> None:
    recorded.tmux.run("set-buffer", "-b", "mine", "the user's own")
    for sequence in (2, 2, 1, 3):
        send(recorded.at, _offer(sequence, "text"))
    names = recorded.tmux.run("list-buffers", "-F", "#{buffer_name}")
    assert names == "mine"


def test_a_dead_pane_is_refused_and_the_tmux_server_lives_on(home: Home, tmux: Tmux) -> None:
    record = home.path / "orch-record"
    tmux.pane("atlas", "other")
    tmux.run("set-option", "-g", "remain-on-exit", "on")
    pane = tmux.pane("atlas", "dead", f"exec cat >{record}")
    at = address(tmux, pane)
    until(lambda: record.exists() and _command(tmux, pane) == "cat", "cat")
    assert send(at, _offer(1, "before")).state == CONFIRMED
    until(lambda: record.read_bytes() == b"before\n", "the text")
    os.kill(int(tmux.run("display-message", "-p", "-t", pane, "#{pane_pid}")), signal.SIGKILL)
    until(
        lambda: tmux.run("display-message", "-p", "-t", pane, "#{pane_dead}") == "1",
        "the pane to be dead",
    )
    for kind in ("generic", "claude", "", "shell"):
        assert send(at, _offer(2, "after", kind)).state == REFUSED
    assert tmux.run("display-message", "-p", "#{pid}") == str(at.server_pid)
    assert "after" not in tmux.screen(pane)
    assert record.read_bytes() == b"before\n"


def test_a_pane_that_is_gone_is_refused(home: Home, tmux: Tmux) -> None:
    tmux.pane("atlas", "stays")
    pane = tmux.recorder("atlas", "goes", home.path / "orch-record")
    at = address(tmux, pane)
    tmux.run("kill-pane", "-t", pane)
    outcome = send(at, _offer(1, "text"))
    assert outcome.state == REFUSED
    assert tmux.run("list-buffers") == ""


def test_no_tmux_server_is_refused(home: Home, tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "x")
    at = address(tmux, pane)
    tmux.end()
    until(lambda: not Path(f"/proc/{at.server_pid}").exists(), "the end of the tmux server")
    assert send(at, _offer(1, "text")).state == REFUSED


def test_a_pane_in_copy_mode_is_refused_and_the_number_is_burnt(recorded: Recorded) -> None:
    recorded.tmux.run("copy-mode", "-t", recorded.pane)
    outcome = send(recorded.at, _offer(3, "text"))
    assert (outcome.state, "copy mode" in outcome.detail) == (REFUSED, True)
    recorded.tmux.run("send-keys", "-t", recorded.pane, "-X", "cancel")
    assert send(recorded.at, _offer(3, "text")).state == REFUSED
    assert send(recorded.at, _offer(4, "text")).state == CONFIRMED
    assert recorded.settled() == b"text\r"


def test_the_guard_refuses_when_another_command_has_the_pane(recorded: Recorded) -> None:
    """What the courier saw is compared by tmux itself, in the moment of the paste."""
    guard = Guard(
        recorded.at.server_pid, recorded.at.started, recorded.pane, GENERATION, sequence=1
    )

    def may_paste(seen: str) -> str:
        recorded.tmux.run("set-option", "-p", "-t", recorded.pane, "--", guard.expected, seen)
        tests = f"#{{?{guard.may_paste()},yes,no}}"
        return recorded.tmux.run("display-message", "-p", "-t", recorded.pane, tests)

    now = _command(recorded.tmux, recorded.pane)
    assert may_paste(now) == "yes"
    for other in ("bash", "", f"{now}x", "#{pane_current_command}", "#(echo x)"):
        assert may_paste(other) == "no"


def test_another_life_of_the_same_pane_is_refused(recorded: Recorded) -> None:
    for changed in (
        replace(recorded.at, server_pid=recorded.at.server_pid + 1),
        replace(recorded.at, started=recorded.at.started - 1),
    ):
        assert send(changed, _offer(1, "text")).state == REFUSED
    assert recorded.settled() == b""
    assert send(recorded.at, _offer(1, "text")).state == CONFIRMED


def test_an_unknown_program_is_typed_into_only_with_a_kind(recorded: Recorded) -> None:
    outcome = send(recorded.at, _offer(1, "text", kind=""))
    assert outcome.state == REFUSED
    assert "--kind generic" in outcome.detail
    assert send(recorded.at, _offer(1, "text", kind="generic")).state == REFUSED
    assert send(recorded.at, _offer(2, "text", kind="generic")).state == CONFIRMED
    assert recorded.settled() == b"text\r"


def _prompts(tmux: Tmux, pane: str) -> None:
    """Gives the shell a prompt of its own; what is typed before its first one is echoed twice."""
    tmux.wait_for(pane, "bash-")
    tmux.type(pane, "PS1='ready$ '")
    tmux.wait_for(pane, "\nready$")


@pytest.mark.parametrize("kind", ["", "shell"])
def test_over_a_shell_the_text_is_displayed_and_never_run(
    home: Home, tmux: Tmux, kind: str
) -> None:
    pane = tmux.pane("atlas", "shell")
    _prompts(tmux, pane)
    text = f"touch {home.path}/orch-ran; '#(touch {home.path}/orch-ran)'\nsecond line äöü"
    at = address(tmux, pane)
    outcome = send(at, _offer(1, text, kind))
    assert (outcome.state, "isplayed" in outcome.detail) == (CONFIRMED, True)
    assert send(at, _offer(1, text, kind)).state == CONFIRMED
    screen = tmux.wait_for(pane, "second line äöü")
    assert screen.count("second line äöü") == 1
    assert text.splitlines()[0] in screen
    tmux.run("send-keys", "-t", pane, "Enter")
    tmux.type(pane, "echo still-$((40+2))")
    tmux.wait_for(pane, "still-42")
    assert not (home.path / "orch-ran").exists()


def test_a_shell_in_the_place_of_an_agent_gets_nothing(home: Home, tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "agent")
    tmux.wait_for(pane, "bash-")
    outcome = send(address(tmux, pane), _offer(1, "touch orch-ran", kind="claude"))
    assert outcome.state == REFUSED
    assert "The agent has exited" in outcome.detail
    assert "orch-ran" not in tmux.screen(pane)


@pytest.mark.parametrize("kind", ["", "generic", "claude"])
def test_a_shell_gets_no_enter_for_a_text_that_an_agent_had(
    home: Home, tmux: Tmux, kind: str
) -> None:
    """The agent was killed between paste and Enter, and its shell has the pane again."""
    pane = tmux.pane("atlas", "agent")
    _prompts(tmux, pane)
    ran = home.path / "orch-ran"
    tmux.run("send-keys", "-t", pane, "-l", f"touch {ran}")
    tmux.wait_for(pane, f"touch {ran}")
    guard = Guard(1, 1, pane, GENERATION, 5)
    for option, value in ((guard.used, "5"), (guard.pasted, "5"), (guard.owner, "1.1")):
        tmux.run("set-option", "-p", "-t", pane, option, value)
    outcome = send(address(tmux, pane), replace(_offer(5, "text", kind), tried_before=True))
    assert outcome.state == UNCONFIRMED, outcome
    assert not ran.exists()
    assert tmux.screen(pane).count("\nready$") == 1, "no Enter, so no second prompt"


def test_a_strange_command_name_breaks_nothing(home: Home, tmux: Tmux) -> None:
    names = ["a;", "-x", "#(touch orch-touched)", "a b", "';'", "$HOME"]
    for number, name in enumerate(names, 1):
        program = home.path / name
        program.symlink_to(sys.executable)
        record = home.path / f"orch-record-{number}"
        quoted = str(program).replace("'", "'\\''")
        pane = tmux.pane("atlas", f"w{number}", f"exec '{quoted}' {RECORDER} {record}")
        until(record.exists, name)
        outcome = send(address(tmux, pane), _offer(number, f"text {number}"))
        assert outcome.state == CONFIRMED, (name, outcome)
        until(lambda r=record, n=number: r.read_bytes() == f"text {n}\r".encode(), name)
    assert not Path("orch-touched").exists()


def test_a_text_whose_tmux_client_was_killed_after_the_paste_is_in_the_pane_once(
    recorded: Recorded, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal would be wrong: what is refused is offered again, under a new number."""
    _kill_tmux_client_once_after("paste-buffer", home, monkeypatch)
    outcome = send(recorded.at, _offer(1, "text"))
    assert (home.path / "orch-killed").exists()
    assert outcome.state == CONFIRMED, outcome
    assert recorded.settled() == b"text\r"


def test_a_text_whose_tmux_client_was_killed_after_enter_is_entered_once(
    recorded: Recorded, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_tmux_client_once_after("send-keys", home, monkeypatch)
    outcome = send(recorded.at, _offer(1, "text"))
    assert (home.path / "orch-killed").exists()
    assert outcome.state == CONFIRMED, outcome
    assert recorded.settled() == b"text\r"


def test_a_text_whose_tmux_client_was_killed_after_the_display_is_shown_once(
    home: Home, tmux: Tmux, monkeypatch: pytest.MonkeyPatch
) -> None:
    pane = tmux.pane("atlas", "shell")
    tmux.wait_for(pane, "bash-")
    at = address(tmux, pane)
    _kill_tmux_client_once_after("run-shell", home, monkeypatch)
    outcome = send(at, _offer(1, "the text", kind=""))
    assert (home.path / "orch-killed").exists()
    assert outcome.state == CONFIRMED, outcome
    assert tmux.wait_for(pane, "the text").count("the text") == 1


def _kill_tmux_client_once_after(word: str, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a tmux before the real one: it dies, once, after it did a command with this word."""
    wrapper = home.path / "bin" / "tmux"
    wrapper.parent.mkdir()
    killed = home.path / "orch-killed"
    real = shutil.which("tmux")
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in\n*{word}*) [ -e {killed} ] || '
        f'{{ : >{killed}; {real} "$@" >/dev/null; kill -9 $$; }};;\nesac\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setattr(deliver, "_SILENT_PAUSE", 0.01)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:/usr/bin:/bin")


def test_a_stopped_tmux_server_is_silent_after_the_deadline(recorded: Recorded) -> None:
    async def body() -> None:
        os.kill(recorded.at.server_pid, signal.SIGSTOP)
        asking = asyncio.create_task(
            speech.Subprocess(recorded.at.socket).run("display-message", "-p", "x", deadline=0.3)
        )
        in_time, _ = await asyncio.wait({asking}, timeout=PATIENCE)
        os.kill(recorded.at.server_pid, signal.SIGCONT)
        with pytest.raises(speech.TmuxSilent, match=r"within 0\.3 s"):
            await asking
        assert in_time, "the deadline of 0.3 s had no effect while tmux was silent"
        await _reaped()

    asyncio.run(body())


def test_an_offer_stands_while_tmux_is_silent(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(speech.Subprocess.run.__kwdefaults__, "deadline", 0.2)
    monkeypatch.setattr(deliver, "_SILENT_PAUSE", 0.01)

    async def body() -> Outcome:
        os.kill(recorded.at.server_pid, signal.SIGSTOP)
        offer = _offer(1, "text")
        delivering = asyncio.create_task(served(Courier(), offer, recorded.at))
        done, _ = await asyncio.wait({delivering}, timeout=0.7)
        os.kill(recorded.at.server_pid, signal.SIGCONT)
        assert not done
        outcome = await asyncio.wait_for(delivering, PATIENCE)
        await _reaped()
        return outcome

    assert asyncio.run(body()).state == CONFIRMED
    assert recorded.settled() == b"text\r"


async def _reaped() -> None:
    """The tmux clients that were given up have ended, and this loop has heard of it."""
    for thread in threading.enumerate():
        if "waitpid" in thread.name:
            await asyncio.to_thread(thread.join, 10)
    await asyncio.sleep(0)


@pytest.mark.parametrize("generation", ["", "0a1b2c3", "0a1b2c3d4", "0A1B2C3D", "x", "}#(id)"])
def test_a_generation_that_could_change_the_format_is_refused(generation: str) -> None:
    with pytest.raises(ValueError, match="8 hex digits"):
        Guard(1, 1, "%1", generation, 1)


def test_the_status_that_tmux_prints_is_read(recorded: Recorded) -> None:
    guard = Guard(recorded.at.server_pid, recorded.at.started, recorded.pane, GENERATION, 7)

    def status() -> Status:
        line = recorded.tmux.run("display-message", "-p", "-t", recorded.pane, guard.status())
        return Status.parse(line)

    fresh = status()
    assert (fresh.used, fresh.pasted, fresh.entered, fresh.dead, fresh.in_mode) == (
        0,
        0,
        0,
        False,
        False,
    )
    send(recorded.at, _offer(7, "x"))
    after = status()
    assert (after.used, after.pasted, after.entered, after.same_command) == (7, 7, 7, True)
    assert after.incarnation == f"{recorded.at.server_pid}.{recorded.at.started}"


@pytest.mark.parametrize("pane", ["%1", "%0", "%123456789"])
def test_a_pane_id(pane: str) -> None:
    assert speech.is_pane_id(pane)


@pytest.mark.parametrize("pane", ["", "%", "1", "%1;", "%1\n", "%1234567890", "%a", "%1 ", "@1"])
def test_no_pane_id(pane: str) -> None:
    assert not speech.is_pane_id(pane)
