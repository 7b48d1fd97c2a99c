"""`status` and `top` beside a real server, in real terminals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import grpc
import pytest

from orch.v1 import session_state_pb2 as pb
from tests.client.terminal import Terminal
from tests.support import BIN, Client, Home, Server, Tmux, hold, liveness, until

_CLIENT = BIN / "orch-client"


@pytest.fixture
def tester(home: Home, tmux: Tmux, heartbeat: Callable[..., Client]) -> str:
    """The pane of atlas:tester, a shell, with a client."""
    pane = tmux.pane("atlas", "tester")
    heartbeat(pane, "--kind", "shell")
    until(lambda: liveness(home, "atlas:tester") == "ALIVE", "the tester")
    return pane


def _now(tmux: Tmux, pane: str, *flags: str) -> str:
    """What the pane shows at this moment."""
    return tmux.run("capture-pane", "-p", *flags, "-t", pane)


def _shows(tmux: Tmux, pane: str, part: str) -> str:
    until(lambda: part in _now(tmux, pane), f"{part!r} on the screen:\n{_now(tmux, pane)}")
    return _now(tmux, pane)


# ---- status ----


def test_status_of_a_real_server_in_a_pipe_and_in_a_terminal(
    home: Home, tmux: Tmux, tester: str
) -> None:
    piped = home.client("status")
    assert piped.returncode == 0, piped.stderr
    assert "OPEN MODE" in piped.stdout
    assert "orch-server passphrase set" in piped.stdout
    assert "\natlas  active\n  tester" in piped.stdout
    assert "\x1b" not in piped.stdout

    person = tmux.pane("person", "shell")
    tmux.type(person, f"{_CLIENT} status --session atlas; echo done $?")
    tmux.wait_for(person, "done 0")
    coloured = _now(tmux, person, "-e")
    assert "tester  \x1b[2munknown" in coloured
    tmux.type(person, f"clear; NO_COLOR=1 {_CLIENT} status; TERM=dumb {_CLIENT} status; echo on $?")
    tmux.wait_for(person, "on 0")
    assert "\x1b[" not in _now(tmux, person, "-e")

    said = home.json("status", "--session", "atlas")
    assert said["open_mode"] is True
    assert said["sessions"][0]["agents"][0]["role"] == "tester"
    gone = home.client("status", "--session", "nowhere")
    assert gone.returncode == 4
    assert gone.stderr.startswith("orch-client: There is no session 'nowhere'")


def test_status_and_agents_load_neither_top_s_library_nor_json(home: Home, server: Server) -> None:
    script = (
        "import sys; from orch_client import cli; status = cli.main(sys.argv[1:]);"
        " print(status, [m for m in ['prompt_toolkit', 'wcwidth',"
        " 'google.protobuf.json_format'] if m in sys.modules])"
    )
    for command in ("status", "agents"):
        done = subprocess.run(
            [sys.executable, "-c", script, command],
            env=home.env(),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("argv", "session", "ended"),
    [((), "", False), (("--session", "atlas"), "atlas", False), (("--all",), "", True)],
)
def test_status_asks_once_for_what_is_wanted(
    terminal: Terminal,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    session: str,
    ended: bool,
) -> None:
    answer = pb.GetStatusResponse(server_version="9.9.9")
    request = terminal.run("GetStatus", answer, "status", *argv)
    assert (request.session, request.include_ended) == (session, ended)
    assert capsys.readouterr().out.startswith("tmux-orchestrator 9.9.9  0 sessions  0 agents\n")


def test_status_as_json_is_the_answer_of_the_api(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.run("GetStatus", pb.GetStatusResponse(mismatches=3), "status", "--json")
    assert json.loads(capsys.readouterr().out)["mismatches"] == 3


def test_status_of_nobody_is_one_sentence(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    running = terminal.start("status", "--session", "x")
    terminal.asked("GetStatus").fail(grpc.StatusCode.NOT_FOUND, "There is no x.", "NOT_FOUND")
    assert running.result(10) == 4
    assert capsys.readouterr().err == "orch-client: There is no x.\n"


# ---- top ----


@pytest.fixture
def person(tmux: Tmux) -> Iterator[str]:
    """The pane of a person who looks."""
    return tmux.pane("person", "shell")


def test_top_follows_what_happens_and_leaves_the_terminal_as_it_was(
    home: Home,
    tmux: Tmux,
    tester: str,
    person: str,
    server: Server,
    heartbeat: Callable[..., Client],
) -> None:
    tmux.type(person, f"echo before; stty -g; {_CLIENT} top; echo left $?; stty -g")
    _shows(tmux, person, "q quits")
    assert "before" not in _now(tmux, person)
    assert "  tester" in _now(tmux, person)

    heartbeat(tmux.pane("atlas", "developer"), "--kind", "shell")
    _shows(tmux, person, "  developer")

    server.kill()
    drawn = _shows(tmux, person, "server unreachable since")
    assert "  developer" in drawn
    hold(1.7)  # longer than a server that is just starting is waited for
    server.start()
    until(lambda: "unreachable" not in _now(tmux, person), "the server's return")

    tmux.run("resize-window", "-t", person, "-x", "40", "-y", "6")
    drawn = _shows(tmux, person, "arrows scroll: 1-5 of 7")
    assert all(len(line) <= 40 for line in drawn.splitlines())
    assert "OPEN MODE: anyone" in drawn
    tmux.run("send-keys", "-t", person, "End")
    until(lambda: "tmux-orchestrator" not in _now(tmux, person), "the end of the list")
    tmux.run("send-keys", "-t", person, "Home")
    _shows(tmux, person, "tmux-orchestrator")

    tmux.run("send-keys", "-t", person, "q")
    _is_as_it_was(tmux, person)


@pytest.mark.parametrize("by", ["C-c", "SIGTERM"])
def test_top_ends_at_ctrl_c_and_at_a_signal_with_the_terminal_as_it_was(
    home: Home, tmux: Tmux, server: Server, person: str, by: str
) -> None:
    pid = home.path / "pid"
    top = f"sh -c 'echo $$ >{pid}; exec {_CLIENT} top'"
    tmux.type(person, f"echo before; stty -g; {top}; echo left $?; stty -g")
    _shows(tmux, person, "q quits")
    if by == "C-c":
        tmux.run("send-keys", "-t", person, "C-c")
    else:
        os.kill(int(pid.read_text()), signal.SIGTERM)
    _is_as_it_was(tmux, person)


def _is_as_it_was(tmux: Tmux, person: str) -> None:
    """The shell is back with the same modes, its own screen and its cursor."""
    shown = tmux.wait_for(person, "left 0\n").rpartition("before\n")[2]
    before = shown.partition("left 0\n")[0]
    until(lambda: ":" in tmux.screen(person).rpartition("left 0\n")[2], "the modes")
    after = tmux.screen(person).rpartition("left 0\n")[2]
    assert before.split()[0] == after.split()[0]
    state = tmux.run("display-message", "-p", "-t", person, "#{alternate_on}#{cursor_flag}")
    assert state == "01"


def test_top_says_what_is_missing_in_one_sentence(home: Home) -> None:
    hidden = home.path / "hidden"
    hidden.mkdir()
    (hidden / "prompt_toolkit.py").write_text("raise ModuleNotFoundError(name='prompt_toolkit')")
    script = (
        "import sys; sys.stdin.isatty = sys.stdout.isatty = lambda: True;"
        " from orch_client import cli; sys.exit(cli.main(['top']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=home.env(PYTHONPATH=str(hidden), TERM="xterm"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "orch-client: top needs a library more; install it: pip install 'tmux-orchestrator[top]'.\n"
    )
    piped = home.client("top")
    assert piped.returncode == 2
    assert piped.stderr == "orch-client: top draws on a terminal, and here is none; use status.\n"
