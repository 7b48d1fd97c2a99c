"""`orch-client run`: the agent in the foreground as if nothing were around it, and what is told of
it. The shell in the pane is a real one; the other end of the stream keeps every frame."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orch.v1 import heartbeat_pb2
from orch_client.courier.programs import Sort, foreground
from tests.client.peer import Peer
from tests.client.stage import Agent
from tests.support import BIN, Client, Home, Server, Tmux, agent, hold, liveness, until

#: Answers to a signal with a line, and stays; ends with 3 at the second one.
STUBBORN = """
import signal, sys, time
count = 0
def heard(number, frame):
    global count
    count += 1
    print(f"heard {number}", flush=True)
    if count == 2: sys.exit(3)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, heard)
print("ready", flush=True)
while True: time.sleep(100)
"""
#: Like an agent: takes the keys itself, and stops its whole group at Ctrl-Z.
RAW = """
import os, signal, sys, termios, tty
before = termios.tcgetattr(0)
def go_on(number, frame):
    tty.setraw(0)
    os.write(1, b"on again\\r\\n")
signal.signal(signal.SIGCONT, go_on)
tty.setraw(0)
os.write(1, b"ready\\r\\n")
while True:
    key = os.read(0, 1)
    if key == b"\\x1a":
        termios.tcsetattr(0, termios.TCSANOW, before)
        os.kill(0, signal.SIGTSTP)
    elif key == b"q":
        termios.tcsetattr(0, termios.TCSANOW, before)
        sys.exit(5)
    else:
        os.write(1, b"key %d\\r\\n" % key[0])
"""


class Shell:
    """A pane with a real bash, in which a person types."""

    def __init__(self, home: Home, tmux: Tmux) -> None:
        self.home, self.tmux = home, tmux
        self.pane = tmux.pane("atlas", "tester")
        self.sees("bash-")
        self.type("PS1='$ '")
        self.sees("\n$")

    @property
    def pid(self) -> int:
        return int(self.tmux.run("display-message", "-p", "-t", self.pane, "#{pane_pid}"))

    def type(self, line: str) -> None:
        self.tmux.type(self.pane, line)

    def key(self, *keys: str) -> None:
        """Presses keys, by tmux's names."""
        self.tmux.run("send-keys", "-t", self.pane, *keys)

    def run(self, *command: str, flags: str = "") -> None:
        """Types `orch-client run`, and a line that shows the status when it has ended."""
        self.type(f"orch-client run {flags} -- {shlex.join(command)}; echo status=$?")

    def script(self, text: str, flags: str = "", name: str = "program.py") -> Path:
        """Runs a Python program, and waits for its first word."""
        path = self.home.path / name
        path.write_text(text)
        self.run(sys.executable, str(path), flags=flags)
        self.sees("\nready")
        return path

    def sees(self, text: str, patience: float = 15) -> str:
        return self.tmux.wait_for(self.pane, text, patience)

    @property
    def screen(self) -> str:
        return self.tmux.screen(self.pane)

    def process(self, pattern: str) -> int:
        """The process whose command line matches, once it is there: the oldest, for what it starts
        has the same line for a moment. Other tests run beside this one, so `pattern` names its
        home."""
        command = ["pgrep", "-o", "-f", pattern]
        return int(
            until(
                lambda: subprocess.run(command, capture_output=True, text=True, check=False).stdout,
                pattern,
            )
        )

    def runs(self, name: str) -> int:
        """Waits until this program is in front of the pane's shell; returns its process."""
        shell = self.pid

        def process() -> int:
            found = foreground(shell, "")
            pid = int(found.image.partition(".")[0])
            return pid if found.name == name and pid != shell else 0

        return until(process, f"{name} in the foreground")


@pytest.fixture
def peer(home: Home, tmux: Tmux) -> Iterator[Peer]:
    listening = Peer(home, tmux).start()
    yield listening
    listening.end()


@pytest.fixture
def shell(home: Home, tmux: Tmux) -> Shell:
    return Shell(home, tmux)


def exits(peer: Peer) -> list[tuple[int, int, float | None, bool]]:
    """What was told of ends: status, signal, seconds until it starts again, whether given up."""
    return [
        (
            told.status,
            told.signal,
            told.restart_after.ToTimedelta().total_seconds()
            if told.HasField("restart_after")
            else None,
            told.gave_up,
        )
        for told in peer.told("exit")
    ]


def until_exits(peer: Peer, *want: tuple[int, int, float | None, bool]) -> None:
    until(lambda: exits(peer) == list(want), f"{want}; told: {exits(peer)}")


def goodbyes(peer: Peer) -> list[str]:
    return [
        heartbeat_pb2.GoodbyeReason.Name(g.reason).removeprefix("GOODBYE_REASON_")
        for g in peer.told("goodbye")
    ]


# ---- how it ends ----


@pytest.mark.parametrize(
    ("code", "shown", "told"),
    [
        ("exit 0", 0, (0, 0, None, False)),
        ("exit 7", 7, (7, 0, None, False)),
        ("kill -9 $$", 137, (0, 9, None, False)),
        ("kill -TERM $$", 143, (0, 15, None, False)),
    ],
)
def test_the_status_is_the_commands_and_is_told_before_the_goodbye(
    shell: Shell, peer: Peer, code: str, shown: int, told: tuple[int, int, float | None, bool]
) -> None:
    shell.run("bash", "-c", f"read; {code}")
    peer.until_beats(1)
    shell.type("")
    shell.sees(f"\nstatus={shown}\n")
    until_exits(peer, told)
    until(lambda: goodbyes(peer) == ["CLIENT_STOPPED"], "the goodbye")
    kinds = [frame.WhichOneof("frame") for _, frame in peer.frames]
    assert [kind for kind in kinds if kind != "beat"] == ["hello", "exit", "goodbye"]


@pytest.mark.parametrize(("mode", "status"), [(None, 127), (0o644, 126)])
def test_what_cannot_be_started_is_said(
    shell: Shell, peer: Peer, home: Home, mode: int | None, status: int
) -> None:
    path = home.path / "agent"
    if mode is not None:
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
    shell.run(str(path), flags="--restart")
    shell.sees("cannot start agent: ")
    shell.sees(f"status={status}")
    until_exits(peer, (status, 0, None, False))
    assert peer.told("exit")[0].wanted, "it never lived"


def test_without_a_command_it_says_how(home: Home) -> None:
    done = home.client("run", "--role", "x")
    assert (done.returncode, "orch-client run -- claude" in done.stderr) == (2, True)


def test_an_end_before_the_welcome_is_told_all_the_same(shell: Shell, peer: Peer) -> None:
    peer.let_in.clear()
    shell.run("bash", "-c", "cat; exit 7")
    ended = os.pidfd_open(_parent(shell.runs("cat")))
    try:
        shell.key("C-d")
        assert select.select([ended], [], [], 10)[0]
    finally:
        os.close(ended)
    assert peer.epoch == 0, "it has a second to be welcomed in"
    peer.let_in.set()
    shell.sees("status=7")
    until_exits(peer, (7, 0, None, False))


def test_a_server_that_is_there_and_silent_does_not_keep_the_user(shell: Shell, peer: Peer) -> None:
    peer.let_in.clear()
    shell.run("bash", "-c", "exit 7")
    shell.sees("status=7")
    assert peer.epoch == 0, "nobody was welcomed meanwhile"
    peer.let_in.set()


def test_a_kind_that_is_none_is_said(home: Home) -> None:
    done = home.client("run", "--kind", "klaude", "--", "true")
    assert (done.returncode, "'klaude' is no kind" in done.stderr) == (2, True)


def test_outside_of_tmux_it_says_so_once_and_runs_all_the_same(home: Home) -> None:
    done = home.client("run", "--", "bash", "-c", "cat; exit 4", stdin="what goes in\n")
    assert (done.returncode, done.stdout) == (4, "what goes in\n")
    assert done.stderr.splitlines() == [
        "orch-client: bash is not supervised: This is no tmux pane."
    ]


def test_without_a_server_it_says_so_and_is_supervised_when_there_is_one(
    shell: Shell, home: Home, tmux: Tmux
) -> None:
    shell.run("cat")
    shell.sees("cat is not supervised until there is an orch-server.")
    shell.type("hello")
    shell.sees("hello\nhello")
    peer = Peer(home, tmux).start()
    try:
        peer.until_beats(2)
        shell.key("C-d")
        shell.sees("status=0")
        until_exits(peer, (0, 0, None, False))
        assert shell.screen.count("orch-client") == 2, "the line typed and the one sentence"
    finally:
        peer.end()


def test_a_heartbeat_that_gives_up_is_said_when_the_agent_has_ended(
    shell: Shell, peer: Peer
) -> None:
    shell.run("cat")
    peer.until_beats(2)
    peer.superseded_by = "the client of %9"
    until(lambda: not peer.superseded_by, "the other client")
    shell.type("still here")
    shell.sees("still here\nstill here")
    hold(0.5)
    assert "took over" not in shell.screen
    shell.key("C-d")
    shell.sees("cat was not supervised any more: the client of %9 took over")
    shell.sees("status=0")


# ---- the terminal is the agent's ----


def test_ctrl_c_is_the_agents(shell: Shell, peer: Peer) -> None:
    shell.script(STUBBORN, flags="--restart")
    peer.until_beats(1)
    shell.key("C-c")
    shell.sees("heard 2")
    shell.key("C-c")
    shell.sees("status=3")
    until_exits(peer, (3, 0, None, False))
    assert peer.told("exit")[0].wanted, "a person has ended it"


def test_ctrl_c_ends_what_does_not_mind_it(shell: Shell, peer: Peer) -> None:
    shell.run("sleep", "1000", flags="--restart")
    shell.runs("sleep")
    peer.until_beats(1)
    shell.key("C-c")
    shell.sees("status=130")
    until_exits(peer, (0, 2, None, False))


def test_ctrl_z_and_fg_work_as_without_it(shell: Shell, peer: Peer) -> None:
    shell.run("cat")
    shell.runs("cat")
    for round_ in range(2):
        shell.key("C-z")
        until(lambda n=round_: shell.screen.count("Stopped") == n + 1, "the shell")
        assert foreground(shell.pid, "").sort is Sort.PROMPT
        shell.type("fg")
        shell.runs("cat")
        shell.type(f"round {round_}")
        shell.sees(f"round {round_}\nround {round_}")
    shell.key("C-d")
    shell.sees("fg\n")
    shell.type("echo last=$?")
    shell.sees("last=0")


def test_an_agent_that_stops_its_group_is_told_to_be_stopped_and_comes_back(
    shell: Shell, peer: Peer, home: Home
) -> None:
    program = home.path / "claude"
    shell.script(RAW, name="claude")
    assert program.exists()
    shell.key("a")
    shell.sees("key 97")
    peer.until_beats(1)
    shell.key("C-z")
    shell.sees("Stopped")
    peer.until_told("HUNG process stopped")
    shell.type("echo the shell has the terminal")
    shell.sees("\nthe shell has the terminal")
    shell.type("fg")
    shell.sees("on again")
    shell.key("b")
    shell.sees("key 98")
    shell.key("q")
    shell.sees("$ fg")
    until_exits(peer, (5, 0, None, False))


def test_an_agent_is_told_to_be_stopped_also_while_tmux_is_being_asked(
    shell: Shell, peer: Peer, tmux: Tmux, home: Home
) -> None:
    shell.script(RAW, name="claude")
    program = shell.process(f"^{sys.executable} {home.path}/claude")
    server = int(tmux.run("display-message", "-p", "#{pid}"))
    os.kill(server, signal.SIGSTOP)
    try:
        peer.until_beats(3)  # a look at the screen is under way, and stays so
        os.kill(program, signal.SIGSTOP)
        peer.until_told("HUNG process stopped")
    finally:
        os.kill(server, signal.SIGCONT)


def test_a_stopped_agent_alone_stops_us_and_a_continue_for_us_continues_it(
    shell: Shell, peer: Peer
) -> None:
    shell.script(STUBBORN)
    program = shell.process(f"^{sys.executable} {shell.home.path}/program.py")
    peer.until_beats(1)
    os.kill(program, signal.SIGSTOP)
    shell.sees("Stopped")
    client = shell.process(f"orch-client run .*{shell.home.path}/program.py")
    assert client != program
    shell.type("fg")
    until(lambda: _state(program) == "S", "the agent at work")
    shell.key("C-c")
    shell.sees("heard 2")


def test_in_the_background_it_stops_when_it_reads(shell: Shell, peer: Peer) -> None:
    shell.type("orch-client run -- cat &")
    shell.sees("[1]")
    until(lambda: shell.key("Enter") or "Stopped" in shell.screen, "the shell's word of it")
    shell.type("fg")
    shell.runs("cat")
    shell.type("to the front")
    shell.sees("to the front\nto the front")


def test_the_window_size_reaches_the_agent(shell: Shell, peer: Peer) -> None:
    shell.script(
        "import os, signal, time\n"
        "signal.signal(signal.SIGWINCH, lambda *_: print('size', *os.get_terminal_size()))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.05); print(end='', flush=True)\n"
    )
    shell.tmux.run("resize-window", "-t", shell.pane, "-x", "90", "-y", "30")
    shell.sees("size 90 30")


def test_a_term_for_us_goes_to_the_agent_which_may_take_its_time(shell: Shell, peer: Peer) -> None:
    shell.script(STUBBORN, flags="--restart")
    client = shell.process(f"orch-client run .*{shell.home.path}/program.py")
    os.kill(client, signal.SIGTERM)
    shell.sees("heard 15")
    peer.until_beats(2)
    os.kill(client, signal.SIGHUP)
    shell.sees("heard 1\n")
    shell.sees("status=3")
    until_exits(peer, (3, 0, None, False))


def test_a_pane_that_is_killed_takes_the_agent_along(
    shell: Shell, peer: Peer, tmux: Tmux, home: Home
) -> None:
    tmux.pane("atlas", "other", "cat")
    mark = home.path / "heard"
    shell.script(
        "import pathlib, signal, sys, time\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "signal.signal(signal.SIGHUP, lambda *_: (mark.touch(), sys.exit(0)))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(100)\n"
    )
    peer.until_beats(1)
    tmux.run("kill-pane", "-t", shell.pane)
    until(mark.exists, "the hangup")
    until(lambda: goodbyes(peer) == ["PANE_ENDED"], f"the goodbye; {goodbyes(peer)}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_agent_is_not_left_behind(shell: Shell, peer: Peer, number: int) -> None:
    """As when its window is closed: to a stopped program alone the signal would mean nothing."""
    shell.run("cat")
    agent = shell.runs("cat")
    client = _parent(agent)
    peer.until_beats(1)
    shell.key("C-z")
    shell.sees("Stopped")
    os.kill(client, number)
    os.kill(client, signal.SIGCONT)
    until(lambda: not Path(f"/proc/{agent}").exists(), "the end of the agent")
    until(lambda: not Path(f"/proc/{client}").exists(), "our own end")


def test_pipes_go_through(home: Home) -> None:
    done = subprocess.run(
        ["bash", "-c", "echo hello | orch-client run -- cat 2>/dev/null | tr a-z A-Z"],
        env=home.env(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "HELLO\n"


def test_the_agent_gets_the_environment_that_was_there(home: Home) -> None:
    env = home.env(ORCH_TEST="a\nb", LC_ALL="C")
    plain, run = (
        subprocess.run(
            [*command, "env", "-0"], env=env, capture_output=True, timeout=30, check=True
        ).stdout.split(b"\0")
        for command in ([], [str(BIN / "orch-client"), "run", "--"])
    )
    assert sorted(plain) == sorted(run)


def test_a_real_bash_under_it_has_its_job_control(shell: Shell, peer: Peer) -> None:
    shell.run("bash", "--norc", "--noprofile", "-i", flags="--kind claude")
    until(lambda: len(_shells(shell.pid)) == 2, "the inner shell")
    peer.until_told("SHELL process foreground")
    shell.type("PS1='inner> '; sleep 1000")
    until(lambda: foreground(shell.pid, "").name == "sleep", "a command of the inner shell")
    shell.key("C-z")
    shell.sees("Stopped")
    shell.type("jobs; echo job-list")
    shell.sees("\njob-list")
    shell.type("kill %1; suspend")
    until(lambda: foreground(shell.pid, "").name == "bash" and _front(shell) == shell.pid, "out")
    shell.type("fg")
    until(lambda: _front(shell) != shell.pid, "in again")
    shell.type("exit 6")
    shell.sees("$ fg")
    until_exits(peer, (6, 0, None, False))


# ---- who is seen behind it ----


def test_the_agent_behind_it_is_seen_and_told(shell: Shell, peer: Peer, home: Home) -> None:
    staged = Agent(home)
    shell.run(*staged.command.split(), flags="--role tester --credential team")
    staged.show("start")
    peer.until_told("IDLE screen claude/composer")
    hello = peer.hellos[0]
    assert (hello.kind, hello.role, hello.credential) == ("claude", "tester", "team")
    assert len(peer.hellos) == 1
    staged.show("busy")
    peer.until_told("WORKING screen claude/spinner")
    assert foreground(shell.pid, "").agent == "claude"
    staged.exit(0)
    shell.sees("status=0")


def test_a_script_that_starts_the_agent_hides_nothing(shell: Shell, peer: Peer, home: Home) -> None:
    staged = Agent(home)
    script = home.path / "start.sh"
    script.write_text(f"{staged.command}\nexit 2\n")
    shell.run("bash", str(script))
    staged.show("busy")
    peer.until_told("WORKING screen claude/spinner")
    until(lambda: peer.hellos[-1].kind == "claude", "the kind")
    staged.exit(0)
    shell.sees("status=2")


# ---- again ----


def test_after_a_crash_it_starts_again_and_after_a_clean_end_not(
    shell: Shell, peer: Peer, home: Home
) -> None:
    staged = Agent(home)
    shell.run(*staged.command.split(), flags="--restart")
    staged.show("busy")
    peer.until_told("WORKING")
    staged.exit(9)
    shell.sees("ended with 9; it starts again in 1 s")
    staged.show("done")
    until_exits(peer, (9, 0, 1.0, False))
    peer.until_told("IDLE")
    os.kill(shell.process(f"^{staged.command}"), signal.SIGKILL)
    shell.sees("was killed by signal 9; it starts again in 2 s")
    staged.show("done")
    staged.exit(0)
    shell.sees("status=0")
    until_exits(peer, (9, 0, 1.0, False), (0, 9, 2.0, False), (0, 0, None, False))
    assert len(peer.hellos) == 1, "its heartbeat went on"


def test_without_restart_a_crash_is_the_end(shell: Shell, peer: Peer) -> None:
    shell.run("bash", "-c", "exit 9")
    shell.sees("status=9")


def test_ctrl_c_while_it_waits_is_the_end(shell: Shell, peer: Peer) -> None:
    shell.run("bash", "-c", "exit 9", flags="--restart")
    shell.sees("it starts again in 2 s", 20)
    assert foreground(shell.pid, "").sort is Sort.CLIENT
    shell.key("C-c")
    shell.sees("status=9")
    until_exits(peer, (9, 0, 1.0, False), (9, 0, 2.0, False), (9, 0, None, False))
    assert [told.wanted for told in peer.told("exit")] == [False, False, True]


def test_five_crashes_and_it_gives_up(shell: Shell, peer: Peer, home: Home) -> None:
    quick = home.path / "quick.py"
    quick.write_text(
        "import sys\nfrom orch_client import restart\nrestart.FIRST = 0.01\n"
        "from orch_client.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    shell.type(f"{sys.executable} {quick} run --restart -- bash -c 'exit 9'; echo status=$?")
    shell.sees("bash ended with 9, 5 times in short order; it is given up.")
    shell.sees("status=9")
    assert [told[3] for told in exits(peer)] == [False] * 4 + [True]


def test_an_agent_killed_in_raw_mode_leaves_the_next_one_a_plain_terminal(
    shell: Shell, peer: Peer, home: Home
) -> None:
    modes = home.path / "modes.py"
    modes.write_text(
        "import os, pathlib, signal, sys, termios, tty\n"
        f"first = pathlib.Path({str(home.path / 'first')!r})\n"
        "flags = termios.tcgetattr(0)[3]\n"
        "print('echo', bool(flags & termios.ECHO), flush=True)\n"
        "if first.exists(): sys.exit(print('got', sys.stdin.readline()))\n"
        "first.touch()\n"
        "tty.setraw(0)\n"
        "os.setpgid(0, 0)\n"
        "signal.signal(signal.SIGTTOU, signal.SIG_IGN)\n"
        "os.tcsetpgrp(0, os.getpid())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    shell.run(sys.executable, str(modes), flags="--restart")
    until(lambda: shell.screen.count("\necho True") == 2, "the next one")
    shell.type("what is typed")
    shell.sees("got what is typed")
    shell.sees("status=0")
    assert shell.screen.count("\necho True") == 2


def test_nothing_is_written_to_the_terminal_while_the_agent_has_it(
    shell: Shell, peer: Peer, home: Home
) -> None:
    """Whatever becomes of the server, and whatever libraries want to say."""
    shell.type("export GRPC_VERBOSITY=DEBUG GRPC_TRACE=http PYTHONASYNCIODEBUG=1; clear")
    shell.run("cat")
    peer.until_beats(2)
    shell.type("hello")
    shell.sees("hello\nhello")
    before = shell.screen
    peer.end()
    log = home.path / "logs" / "run.log"
    until(lambda: log.stat().st_size > 1000, "what gRPC has to say")
    hold(0.5)
    assert shell.screen == before


# ---- as the real server shows it ----


def shown(home: Home, address: str = "atlas:tester") -> str:
    """The agent's state; "" when there is none."""
    return str(agent(home, address).get("state", "")).removeprefix("AGENT_STATE_")


def until_shown(home: Home, state: str) -> None:
    until(lambda: shown(home) == state, f"{state}; it is {shown(home)}")


def came(home: Home, state: str, after: int = 0) -> int:
    """Waits until this was a state, which may have passed by now, after so many others; returns how
    many there were up to it."""
    return until(
        lambda: (state in history(home)[after:]) and history(home).index(state, after) + 1,
        f"{state}; there were {history(home)}",
    )


def history(home: Home) -> list[str]:
    """The states of the only agent, one after the other."""
    sql = "select detail from event where kind = 'agent.state' order by number"
    with contextlib.closing(sqlite3.connect(home.path / "orch.db")) as db:
        return [row[0].split()[0] for row in db.execute(sql)]


def test_the_server_shows_what_the_agent_does_and_how_it_ended(
    shell: Shell, server: Server, home: Home
) -> None:
    staged = Agent(home)
    for order, state in (("exit", "SHELL"), ("crash", "DEAD")):
        shell.run(*staged.command.split())
        for name, seen in (("start", "IDLE"), ("busy", "WORKING"), ("question", "WAITING_ANSWER")):
            staged.show(name)
            until_shown(home, seen)
        assert liveness(home, "atlas:tester") == "ALIVE"
        assert agent(home, "atlas:tester")["kind"] == "claude"
        staged.exit(0 if order == "exit" else 9)
        until_shown(home, state)
        until(lambda: liveness(home, "atlas:tester") == "UNMANAGED", "the goodbye")


@pytest.mark.parametrize(("name", "seen"), [("done", "IDLE"), ("busy", "WORKING")])
def test_the_server_shows_an_agent_that_is_started_again(
    shell: Shell, server: Server, home: Home, name: str, seen: str
) -> None:
    staged = Agent(home)
    shell.run(*staged.command.split(), flags="--restart")
    staged.show("busy")
    until_shown(home, "WORKING")
    before = len(history(home))
    staged.exit(9)
    came(home, "STARTING", before)
    staged.show(name)
    until_shown(home, seen)
    assert liveness(home, "atlas:tester") == "ALIVE"


@pytest.mark.parametrize("restart", [True, False])
def test_a_program_whose_screen_nobody_reads_is_seen_to_live_again(
    shell: Shell, server: Server, home: Home, restart: bool
) -> None:
    program = home.path / "program"
    program.write_text(
        f"#!/bin/sh\n[ -e {home.path}/crashed ] && read line\ntouch {home.path}/crashed\nexit 9\n"
    )
    program.chmod(0o700)
    shell.run(str(program), flags="--restart" if restart else "")
    ended = "STARTING" if restart else "DEAD"
    count = came(home, ended)
    if not restart:
        shell.sees("status=9")
        shell.run(str(program))
    until_shown(home, "UNKNOWN")
    found = home.json("why", "atlas:tester")["explanation"]["evidence"]
    assert [(one["rule"], one["detail"]) for one in found] == [("started", "program")]
    shell.type("")
    came(home, ended, count)


def test_a_killed_server_is_found_again_and_knows_the_agent(
    shell: Shell, server: Server, home: Home
) -> None:
    staged = Agent(home)
    shell.run(*staged.command.split())
    staged.show("busy")
    until_shown(home, "WORKING")
    server.kill()
    staged.show("done")
    server.start()
    until(lambda: liveness(home, "atlas:tester") == "ALIVE", "the client")
    until_shown(home, "IDLE")


def test_texts_reach_the_agent_under_it(shell: Shell, server: Server, home: Home) -> None:
    shell.script(RAW, flags="--kind generic")
    until(lambda: liveness(home, "atlas:tester") == "ALIVE", "the client")
    done = home.client("send", "atlas:tester", "--plain", "--wait", "10s", "hi")
    assert done.returncode == 0, done.stderr + done.stdout
    shell.sees("key 104\nkey 105\nkey 13")


def test_a_held_role_is_said_and_the_agent_runs_all_the_same(
    shell: Shell, server: Server, home: Home, tmux: Tmux, heartbeat: Callable[..., Client]
) -> None:
    heartbeat(tmux.pane("atlas", "other", "cat"), "--role", "pm")
    until(lambda: liveness(home, "atlas:pm") == "ALIVE", "the other client")
    shell.run("bash", "-c", "echo at work; exit 4", flags="--role pm")
    screen = shell.sees("status=4")
    assert "bash is not supervised: " in screen
    assert screen.index("not supervised") < screen.index("\nat work")


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _front(shell: Shell) -> int:
    """The group in the foreground of the pane's terminal."""
    return int(Path(f"/proc/{shell.pid}/stat").read_text().rpartition(")")[2].split()[5])


def _shells(pid: int) -> list[int]:
    """The shells among a process and its descendants."""
    children: Callable[[int], list[int]] = lambda p: [  # noqa: E731
        int(c) for f in Path(f"/proc/{p}/task").glob("*/children") for c in f.read_text().split()
    ]
    found, seen = [pid], []
    for process in found:
        with contextlib.suppress(OSError):  # it has ended
            found += children(process)
            if Path(f"/proc/{process}/comm").read_text() == "bash\n":
                seen.append(process)
    return seen
