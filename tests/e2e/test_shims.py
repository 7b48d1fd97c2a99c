"""The old scripts: the old names, arguments and exit statuses, and nothing is executed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.record import arrived
from tests.support import BIN, Client, Home, Server, Tmux, liveness, until

SHIMS = Path(__file__).parents[2] / "client" / "shims"
NASTY = """it's "quoted"; touch pwned; $(touch pwned) `touch pwned` #(touch pwned) \\n %s -x;"""


@dataclass
class Caller:
    """An agent's pane from which the old scripts are called."""

    home: Home
    tmux: Tmux
    pane: str
    calls: int = 0

    def run(self, shim: str, *args: str, **env: str) -> tuple[int, str, str]:
        """Exit status, output and complaints of a script that runs in the pane."""
        self.calls += 1
        done, out, err = (self.home.path / f"orch-{n}-{self.calls}" for n in ("done", "out", "err"))
        words = ["env", *(f"{k}={v}" for k, v in env.items()), str(SHIMS / shim), *args]
        script = self.home.path / f"orch-call-{self.calls}.sh"
        script.write_text(
            f"cd {self.home.path}\n{shlex.join(words)} >{out} 2>{err}\n"
            f"echo $? >{done}.new\nmv {done}.new {done}\n"
        )
        self.tmux.type(self.pane, f"bash {script}")
        until(done.exists, f"{shim}; {self.tmux.screen(self.pane)}", 40)
        assert not (self.home.path / "pwned").exists()
        return int(done.read_text()), out.read_text(), err.read_text()


@pytest.fixture
def caller(home: Home, server: Server, tmux: Tmux) -> Caller:
    """The agent atlas:developer in a shell."""
    pane = tmux.pane("atlas", "developer")
    tmux.type(pane, "orch-client heartbeat &")
    until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the developer")
    return Caller(home, tmux, pane)


@pytest.fixture
def typed(home: Home, tmux: Tmux, caller: Caller, heartbeat: Callable[..., Client]) -> Path:
    """What is typed into atlas:orchestrator, window 1."""
    record = home.path / "orch-record"
    heartbeat(tmux.recorder("atlas", "orchestrator", record), "--kind", "generic")
    until(lambda: liveness(home, "atlas:orchestrator") == "ALIVE", "the orchestrator")
    return record


# ---- send-claude-message.sh ----


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("please", "run", "it"), "please run it"),
        (("please run it", "42"), "please run it"),
        (("please", "42"), "please 42"),
        (("please run it", "42", "43"), "please run it 42 43"),
        (("please run it", "4x"), "please run it 4x"),
        (("-n", "--json"), "-n --json"),
        ((NASTY,), NASTY),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else len(value),
)
def test_the_rest_is_the_message_and_a_projects_id_is_not(
    caller: Caller, typed: Path, args: tuple[str, ...], text: str
) -> None:
    status, out, err = caller.run("send-claude-message.sh", "atlas:1", *args)
    assert (status, err) == (0, "")
    assert out == f"Message sent to atlas:1: {text}\n"
    assert arrived(typed, f"{text}\r".encode()) == f"{text}\r".encode()


def test_a_message_to_oneself_is_a_warning(caller: Caller) -> None:
    for target in ("atlas:0", "atlas:developer", caller.pane):
        status, out, err = caller.run("send-claude-message.sh", target, "hello")
        assert (status, out) == (0, "")
        assert "sender itself; nothing was sent" in err
    assert caller.home.json("messages") == []


def test_a_message_that_cannot_be_sent_fails(caller: Caller) -> None:
    status, out, err = caller.run("send-claude-message.sh", "atlas:9", "hello")
    assert (status, out) == (1, "")
    assert "no target 'atlas:9'" in err
    for args in ((), ("atlas:0",)):
        status, out, err = caller.run("send-claude-message.sh", *args)
        assert (status, out) == (1, "")
        assert "Usage:" in err
    assert caller.run("send-claude-message.sh", "atlas:9", "")[0] == 1


# ---- schedule_with_note.sh ----


def test_a_note_is_scheduled_with_the_old_defaults(caller: Caller, typed: Path) -> None:
    where = {"TMO_DEFAULT_SESSION": "atlas", "TMO_DEFAULT_WINDOW": "1"}
    status, _, err = caller.run("schedule_with_note.sh", **where)
    assert (status, err) == (0, "")
    (task,) = caller.home.json("tasks")
    assert (task["note"], task["role"]) == ("Standard check-in", "orchestrator")
    caller.home.client("cancel", task["id"])
    status, _, err = caller.run("schedule_with_note.sh", "0.01", NASTY, "atlas:orchestrator")
    assert (status, err) == (0, "")
    until(lambda: typed.read_bytes() == f"{NASTY}\r".encode(), "the note")


def test_a_note_for_nobody_fails_instead_of_going_to_window_0(caller: Caller) -> None:
    for args in (("3", "x", "atlas:intern"), ("3", "x"), ("soon", "x", "atlas:0"), ("1", "-")):
        status, out, err = caller.run("schedule_with_note.sh", *args)
        assert (status, out, err.count("\n")) == (1, "", 1), err
        again = caller.run("schedule_with_note.sh", *args, ORCH_SHIM_RECURRING="1")
        assert (again[0], again[1], again[2].count("\n")) == (1, "", 1), again[2]
    for minutes in ("soon", "5m", "-5", "1.2.3", ".", NASTY):
        for again in ("", "1"):
            status, out, err = caller.run(
                "schedule_with_note.sh", minutes, "x", "atlas:0", ORCH_SHIM_RECURRING=again
            )
            assert (status, out, err.count("\n")) == (1, "", 1), err
            assert "is no number of minutes; give one such as 15 or 0.5." in err
    assert caller.home.json("tasks") == []


def test_a_note_repeats_when_the_environment_says_so(caller: Caller, typed: Path) -> None:
    once = caller.run("schedule_with_note.sh", "60", "x", "atlas:0", ORCH_SHIM_RECURRING="0")
    assert once[0] == 0
    assert ", then every " not in once[1]
    caller.home.client("cancel", once[1].split()[0])
    again = {"ORCH_SHIM_RECURRING": "yes"}
    args = ("0.05", NASTY, "atlas:orchestrator")
    status, out, err = caller.run("schedule_with_note.sh", *args, **again)
    assert (status, err) == (0, "")
    assert out.rstrip().endswith(", then every 3s")
    until(lambda: typed.read_bytes().startswith(f"{NASTY}\r{NASTY}\r".encode()), "both notes", 40)
    (task,) = caller.home.json("tasks", "--open")
    assert (task["state"], task["schedule"]["every"]) == ("TASK_STATE_PENDING", "3s")


# ---- request-authorization.sh, report-completion.sh ----


def test_an_authorization_is_asked_for_in_ones_own_name(caller: Caller, typed: Path) -> None:
    status, out, err = caller.run("request-authorization.sh", "developer", NASTY, "orchestrator")
    assert (status, err) == (0, "")
    (asked,) = caller.home.json("pending")
    assert out == f"Request ID: {asked['id']}\n"
    assert (asked["action"], asked["requester_role"]) == (NASTY, "developer")
    status, out, err = caller.run("request-authorization.sh", "ceo", "x\nid y", "orchestrator")
    assert status == 0
    assert "asking as atlas:developer, not as 'ceo'" in err
    assert {a["requester_role"] for a in caller.home.json("pending")} == {"developer"}
    for args in (("developer", "x", "intern"), ("developer", "", "orchestrator"), ("developer",)):
        status, out, _ = caller.run("request-authorization.sh", *args)
        assert (status, out) == (1, "")


def test_a_completion_is_reported_to_the_orchestrator(caller: Caller, typed: Path) -> None:
    status, out, err = caller.run("report-completion.sh", "developer", NASTY)
    assert (status, err) == (0, "")
    assert out == f"Completion reported: {NASTY}\n"
    until(lambda: typed.read_bytes() == f"{NASTY}\r".encode(), "the report")


def test_without_an_orchestrator_it_is_reported_to_window_0(caller: Caller) -> None:
    status, _, err = caller.run("report-completion.sh", "tester", "all done")
    assert status == 0
    assert "reporting as atlas:developer, not as 'tester'" in err
    (sent,) = caller.home.json("messages")
    assert (sent["role"], sent["text"]) == ("developer", "all done")


# ---- where they are ----


def test_each_finds_orch_client_beside_itself(home: Home, server: Server) -> None:
    folder = home.path / "orch bin"
    folder.mkdir()
    (folder / "orch-client").symlink_to(BIN / "orch-client")
    for shim in SHIMS.iterdir():
        assert os.access(shim, os.X_OK)
        shutil.copy(shim, folder)
    done = subprocess.run(
        [str(folder / "send-claude-message.sh"), "nobody:1", "x"],
        env=home.env(PATH="/usr/bin:/bin"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "no target 'nobody:1'" in done.stderr
