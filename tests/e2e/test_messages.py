"""Messages from the command line into panes and back: real server, real tmux, real clients."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.record import arrived
from tests.support import BIN, Client, Home, Server, Tmux, liveness, until

ANSWERER = Path(__file__).parents[1] / "answerer.py"


@pytest.fixture
def tester(home: Home, tmux: Tmux, heartbeat: Callable[..., Client]) -> Path:
    """The agent atlas:tester; the file holds what is typed into its pane."""
    record = home.path / "orch-record"
    heartbeat(tmux.recorder("atlas", "tester", record), "--kind", "generic")
    until(lambda: liveness(home, "atlas:tester") == "ALIVE", "the tester")
    return record


def _started(home: Home, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "orch-client"), *args],
        env=home.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_send_waits_until_the_text_is_taken(home: Home, tester: Path) -> None:
    done = home.client("send", "atlas:tester", "run", "the tests;", "--wait", "10s")
    assert done.returncode == 0, done.stderr
    agent, delivery, state = done.stdout.splitlines()[1].split()
    assert (agent, len(delivery), state) == ("atlas:tester", 8, "confirmed")
    text = f"[message {delivery} from operator]\nrun the tests;\r".encode()
    assert arrived(tester, text) == text
    story = home.client("delivery", delivery).stdout
    for step in ("created by operator", "offered", "confirmed"):
        assert step in story


def test_a_wait_that_ends_first_says_what_is_waited_for(home: Home, tester: Path) -> None:
    assert home.client("dnd", "on", "atlas:tester").returncode == 0
    done = home.client("send", "@all", "later", "--plain", "--wait", "0.5s")
    assert done.returncode == 1
    delivery = done.stdout.split()[-2]
    assert done.stderr.startswith(f"orch-client: {delivery} for atlas:tester is still pending")
    assert tester.read_bytes() == b""
    assert ", dnd" in home.client("agents").stdout
    assert home.client("dnd", "off", "atlas:tester").returncode == 0
    until(lambda: tester.read_bytes() == b"later\r", "the text, let go")


def test_what_waits_can_be_cancelled_and_sent_after_all(home: Home, tester: Path) -> None:
    home.client("dnd", "on", "atlas:tester")
    sent = home.json("send", "atlas:tester", "later", "--plain")["results"][0]["delivery"]["id"]
    assert home.json("delivery", "cancel", sent[:8])["state"] == "DELIVERY_STATE_CANCELLED"
    home.client("dnd", "off", "atlas:tester")
    first = home.client("send", "atlas:tester", "first", "--plain", "--wait", "10s")
    assert first.returncode == 0, first.stderr
    assert arrived(tester, b"first\r") == b"first\r"
    assert home.client("delivery", "cancel", sent).returncode == 6
    assert home.client("delivery", "redrive", sent).returncode == 0
    until(lambda: tester.read_bytes() == b"first\rlater\r", "the redriven text")


def test_a_wait_outlives_the_server(home: Home, server: Server, tester: Path) -> None:
    home.client("dnd", "on", "atlas:tester")
    waiting = _started(home, "send", "atlas:tester", "--plain", "--wait", "60s", "over the gap")
    until(lambda: home.json("messages"), "the message")
    server.kill()
    server.start()
    assert home.client("dnd", "off", "atlas:tester").returncode == 0
    out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, err
    assert out.split()[-1] == "confirmed"
    assert arrived(tester, b"over the gap\r") == b"over the gap\r"


def test_wait_reply_prints_what_the_agent_says_next(
    home: Home, tmux: Tmux, heartbeat: Callable[..., Client]
) -> None:
    for window in ("one", "two"):
        heartbeat(
            tmux.pane("atlas", window, f"exec {sys.executable} {ANSWERER}"), "--kind", "generic"
        )
        until(lambda name=window: liveness(home, f"atlas:{name}") == "ALIVE", window)
    done = home.client("send", "atlas:one", "--plain", "--wait-reply", "20s", "how are you?")
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "You said 12 bytes.\nThat is all.\n")
    done = home.client("send", "@all", "--plain", "--wait-reply", "20s", "and you?")
    assert done.returncode == 0, done.stderr
    for window in ("one", "two"):
        assert f"atlas:{window} (" in done.stdout
    assert done.stdout.count("You said 8 bytes.\nThat is all.\n") == 2


def test_a_reply_that_does_not_come_is_an_exit_status(home: Home, tester: Path) -> None:
    done = home.client("send", "atlas:tester", "anyone?", "--wait-reply", "2s")
    assert (done.returncode, done.stdout) == (1, "")
    assert "before atlas:tester had come to rest" in done.stderr


def test_the_history_is_searched_and_the_newest_comes_first(home: Home, tester: Path) -> None:
    for text in ("the red parser", "the blue parser", "a lexer"):
        assert home.client("send", "atlas:tester", text, "--wait", "10s").returncode == 0
    found = [one["text"] for one in home.json("messages", "--search", "parser the")]
    assert found == ["the blue parser", "the red parser"]
    assert len(home.json("messages", "--limit", "2")) == 2
    assert home.json("messages", "--state", "dead") == []
    assert home.json("messages", "--agent", "atlas:tester", "--search", '"red parser"')


def test_many_large_messages_are_listed(home: Home, tester: Path) -> None:
    home.client("dnd", "on", "atlas:tester")
    for _ in range(20):
        assert home.client("send", "atlas:tester", stdin="x" * 262_144).returncode == 0
    assert len(home.json("messages")) == 20


# ---- hooks ----


class Boundary:
    """An agent's pane in copy mode, so that nothing is typed, with a shell that runs hooks."""

    def __init__(self, home: Home, tmux: Tmux) -> None:
        self.home, self.tmux = home, tmux
        self.pane = tmux.pane("atlas", "developer")
        self.orders = home.path / "orch-orders"
        self.shown = home.path / "orch-shown"
        tmux.type(self.pane, "orch-client heartbeat &")
        until(lambda: liveness(home, "atlas:developer") == "ALIVE", "the developer")
        script = home.path / "orch-agent.sh"
        script.write_text(f"""while read -r event json; do
            printf '%s' "$json" | orch-client hook "$event" >{self.shown}.new 2>&1
            echo "exit=$?" >>{self.shown}.new
            mv {self.shown}.new {self.shown}
        done""")
        tmux.run("send-keys", "-t", self.pane, "-l", f"mkfifo {self.orders}")
        tmux.run("send-keys", "-t", self.pane, "Enter")
        until(self.orders.exists, "the pipe")
        tmux.type(self.pane, f"bash {script} <>{self.orders}")
        until(
            lambda: (
                tmux.run("display-message", "-p", "-t", self.pane, "#{pane_current_command}")
                and "orch-agent" in tmux.screen(self.pane)
            ),
            "the agent",
        )
        tmux.run("copy-mode", "-t", self.pane)

    def send(self, text: str, *args: str) -> str:
        mode = ("--mode", "turn-boundary")
        done = self.home.client("send", "atlas:developer", *mode, *args, "--", text)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-2]

    def hook(self, event: str, **facts: object) -> tuple[int, str]:
        """Exit status and output of a hook that runs in the pane."""
        with self.orders.open("w") as orders:
            orders.write(f"{event} {json.dumps(facts)}\n")
        until(self.shown.exists, f"the hook {event}")
        *lines, status = self.shown.read_text().splitlines()
        self.shown.unlink()
        return int(status.removeprefix("exit=")), "\n".join(lines)

    def state(self, delivery: str) -> str:
        return str(self.home.json("delivery", delivery)["state"]).removeprefix("DELIVERY_STATE_")


@pytest.fixture
def boundary(home: Home, server: Server, tmux: Tmux) -> Boundary:
    return Boundary(home, tmux)


def test_a_hook_prints_what_waits_in_order_and_once(boundary: Boundary) -> None:
    first, second = boundary.send("one\ntwo"), boundary.send("three", "--plain")
    status, out = boundary.hook("UserPromptSubmit", session_id="abc")
    assert status == 0, out
    assert out == f"[message {first} from operator]\none\ntwo\n\nthree"
    assert [boundary.state(one) for one in (first, second)] == ["CONFIRMED", "CONFIRMED"]
    assert boundary.hook("UserPromptSubmit") == (0, "")
    assert boundary.hook("SessionStart") == (0, "")


def test_at_stop_it_gives_a_reason_to_go_on_but_only_once_in_a_row(boundary: Boundary) -> None:
    sent = boundary.send("go on", "--plain")
    assert boundary.hook("Stop", stop_hook_active=True) == (0, "")
    assert boundary.state(sent) in ("PENDING", "OFFERED")
    status, out = boundary.hook("Stop", stop_hook_active=False)
    assert status == 0, out
    assert json.loads(out) == {"decision": "block", "reason": "go on"}
    assert boundary.state(sent) == "CONFIRMED"


def test_no_more_is_taken_than_the_agent_cli_shows(boundary: Boundary) -> None:
    sent = [boundary.send("x" * 4_000, "--plain") for _ in range(4)]
    sizes = [len(boundary.hook("UserPromptSubmit")[1]) for _ in range(3)]
    assert sizes == [8_002, 8_002, 0]
    assert {boundary.state(one) for one in sent} == {"CONFIRMED"}


def test_other_events_are_told_and_take_nothing(boundary: Boundary) -> None:
    sent = boundary.send("wait", "--plain")
    assert boundary.hook("Notification") == (0, "")
    assert boundary.state(sent) in ("PENDING", "OFFERED")
