"""What a heartbeat client tells over its stream: itself, the pace it keeps, what it sees."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from orch.v1 import heartbeat_pb2
from tests.client.peer import Peer
from tests.client.stage import Agent
from tests.support import BIN, Client, Home, Tmux, until


@pytest.fixture
def peer(home: Home, tmux: Tmux) -> Iterator[Peer]:
    listening = Peer(home, tmux).start()
    yield listening
    listening.end()


@pytest.fixture
def client(peer: Peer, tmux: Tmux) -> Iterator[Callable[..., Client]]:
    started: list[Client] = []

    def start(pane: str, *args: str) -> Client:
        started.append(Client(tmux, pane, *args))
        until(lambda: peer.told("beat"), "the first beat")
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def fleet(peer: Peer, tmux: Tmux) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [str(BIN / "orch-client"), "heartbeat", "--all"],
                env=tmux.home.env(TMUX=f"{tmux.socket},0,0"),
                stdin=subprocess.DEVNULL,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(10)


Start = Callable[..., Client]


def test_the_hello_names_process_and_account(client: Start, peer: Peer, tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "one", "cat")
    client(pane, "--credential", "claude-team")
    hello = peer.hellos[0]
    assert hello.credential == "claude-team"
    assert len(hello.client_id) == 16


def test_streams_of_one_process_share_its_name_and_others_have_their_own(
    fleet: Callable[[], object], client: Start, peer: Peer, tmux: Tmux
) -> None:
    one, _ = tmux.pane("atlas", "one", "cat"), tmux.pane("atlas", "two", "cat")
    fleet()
    until(lambda: len(peer.hellos) == 2, "both panes")
    assert len({hello.client_id for hello in peer.hellos}) == 1
    assert peer.hellos[0].client_id
    client(one)
    until(lambda: len(peer.hellos) == 3, "the other client")
    assert len({hello.client_id for hello in peer.hellos}) == 2


def test_beats_are_numbered_without_a_gap(client: Start, peer: Peer, tmux: Tmux) -> None:
    client(tmux.pane("atlas", "one", "cat"))
    peer.until_beats(10)
    numbers = [beat.sequence for beat in peer.told("beat")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_an_idle_pane_tells_its_program_and_no_more(client: Start, peer: Peer, tmux: Tmux) -> None:
    client(tmux.pane("atlas", "one", "cat"))
    peer.until_beats(5)
    last = peer.told("beat")[-1]
    assert last == heartbeat_pb2.Beat(sequence=last.sequence, foreground_program="cat")


def test_the_server_sets_the_pace_and_a_present_sleep_is_shortened(
    client: Start, peer: Peer, tmux: Tmux
) -> None:
    client(tmux.pane("atlas", "one", "cat"))
    peer.pace = (60.0, 180.0)
    until(lambda: time.monotonic() > peer.frames[-1][0] + 1.5, "a pause: a beat comes each minute")


def test_a_shorter_pace_counts_at_once(client: Start, peer: Peer, tmux: Tmux) -> None:
    """The ack of the first beat comes when the client has lain down for a minute."""
    peer.beat, peer.lease, peer.pace = 60.0, 180.0, (0.1, 180.0)
    client(tmux.pane("atlas", "one", "cat"))
    peer.until_beats(5)


def test_a_new_lease_is_what_the_client_gives_up_by(client: Start, peer: Peer, tmux: Tmux) -> None:
    """It beats on, hears nothing, and after the lease that the ack gave it connects anew; that of
    its welcome would last for a minute."""
    client(tmux.pane("atlas", "one", "cat"))
    peer.pace = (0.1, 0.4)
    until(lambda: peer.pace is None, "the new pace")
    peer.deaf = True
    until(lambda: len(peer.hellos) == 2, "a new stream")


def test_what_the_screen_shows_is_told_once_and_how_long_it_was_quiet_each_time(
    client: Start, peer: Peer, home: Home, tmux: Tmux
) -> None:
    agent = Agent(home)
    client(tmux.pane("atlas", "one", agent.command), "--credential", "x")
    agent.show("start")
    peer.until_told("IDLE screen claude/composer")
    agent.show("busy")
    peer.until_told("WORKING screen claude/spinner")
    agent.show("permission")
    peer.until_told("WAITING_PERMISSION screen claude/permission")
    count = len(peer.observations)
    began = len(peer.quiets)
    until(lambda: peer.quiets and peer.quiets[-1] >= 600, "the screen to keep still")
    assert len(peer.observations) == count
    quiet = peer.quiets[began:]
    assert quiet == sorted(quiet)
    assert "proceed" in peer.observations[-1].detail


def test_a_new_stream_is_told_again(client: Start, peer: Peer, home: Home, tmux: Tmux) -> None:
    agent = Agent(home)
    pane = tmux.pane("atlas", "one", agent.command)
    agent.show("done")
    client(pane)
    peer.until_told("IDLE screen claude/composer")
    told, quiet = len(peer.observations), peer.quiets[-1]
    peer.pace = (0.2, 2.0)
    until(lambda: peer.pace is None, "a lease of 2 s")
    peer.deaf = True
    until(lambda: len(peer.hellos) == 2, "a new stream")
    peer.deaf = False
    until(lambda: len(peer.observations) > told, "the same once more")
    assert peer.states[told - 1] == peer.states[told]
    until(lambda: peer.quiets[-1] >= quiet + 1000, "a screen that kept still over both streams")


def test_a_client_that_is_stopped_before_its_welcome_says_goodbye(
    peer: Peer, home: Home, tmux: Tmux
) -> None:
    peer.let_in.clear()
    client = Client(tmux, tmux.pane("atlas", "one", "cat"))
    try:
        until(lambda: peer.hellos, "the hello")
        client.signal(signal.SIGTERM)
        peer.let_in.set()
        assert client.wait()[0] == 0
        assert [told.reason for told in peer.told("goodbye")] == [
            heartbeat_pb2.GOODBYE_REASON_CLIENT_STOPPED
        ]
    finally:
        client.end()


def test_an_agent_that_comes_later_makes_the_client_introduce_itself_with_its_kind(
    client: Start, peer: Peer, home: Home, tmux: Tmux
) -> None:
    agent = Agent(home)
    pane = tmux.pane("atlas", "one")
    client(pane)
    assert peer.hellos[0].kind == ""
    tmux.type(pane, agent.command)
    agent.show("start")
    until(lambda: len(peer.hellos) == 2, "the second hello")
    assert peer.hellos[1].kind == "claude"
    until(lambda: peer.told("goodbye"), "the end of the first stream")
    assert peer.told("goodbye")[0].reason == heartbeat_pb2.GOODBYE_REASON_DRAINED
    peer.until_told("IDLE screen claude/composer")
    agent.exit(0)
    peer.until_told("SHELL process foreground")
    assert len(peer.hellos) == 2


def test_a_kind_that_was_given_by_hand_stays(
    client: Start, peer: Peer, home: Home, tmux: Tmux
) -> None:
    agent = Agent(home)
    client(tmux.pane("atlas", "one", agent.command), "--kind", "codex")
    agent.show("busy")
    peer.until_told("WORKING screen claude/spinner")
    assert [hello.kind for hello in peer.hellos] == ["codex"]


def test_a_stopped_agent_is_told_within_a_beat(
    client: Start, peer: Peer, home: Home, tmux: Tmux
) -> None:
    agent = Agent(home)
    pane = tmux.pane("atlas", "one", f"bash -c '{agent.command}; true'")
    client(pane)
    agent.show("busy")
    peer.until_told("WORKING screen")
    stopped = subprocess.run(
        ["pgrep", "-f", f"^[^ ]*python[^ ]* .*{agent.fifo}"],
        capture_output=True,
        text=True,
        check=True,
    )
    pid = int(stopped.stdout.split()[0])
    os.kill(pid, signal.SIGSTOP)
    peer.until_told("HUNG process stopped")
    os.kill(pid, signal.SIGCONT)
    peer.until_told("WORKING screen")


def test_a_tmux_that_hangs_delays_no_beat(
    client: Start, peer: Peer, home: Home, tmux: Tmux
) -> None:
    agent = Agent(home)
    client(tmux.pane("atlas", "one", agent.command))
    agent.show("busy")
    peer.until_told("WORKING screen")
    pid = int(tmux.run("display-message", "-p", "#{pid}"))
    os.kill(pid, signal.SIGSTOP)
    try:
        peer.until_beats(15)  # within 15 s: each look at it takes 5 s
        assert not any(beat.HasField("quiet") for beat in peer.told("beat")[-5:])
    finally:
        os.kill(pid, signal.SIGCONT)
    agent.show("done")
    peer.until_told("IDLE screen")


# ---- many panes ----


def test_of_many_panes_those_of_agents_are_told(
    fleet: Callable[[], object], peer: Peer, home: Home, tmux: Tmux
) -> None:
    agent = Agent(home)
    tmux.pane("atlas", "one", agent.command)
    tmux.pane("atlas", "two", "cat")
    fleet()
    agent.show("start")
    peer.until_told("IDLE screen claude/composer")
    for name, state in (("busy", "WORKING"), ("permission", "WAITING"), ("done", "IDLE")):
        agent.show(name)
        peer.until_told(f"{state}")
    agent.exit(0)
    until(lambda: peer.told("goodbye"), "the end of its pane")
    assert {hello.kind for hello in peer.hellos} == {"claude", ""}


def test_the_fleet_sees_an_agent_leave_come_back_and_stop(
    fleet: Callable[[], object], peer: Peer, home: Home, tmux: Tmux
) -> None:
    agent = Agent(home)
    pane = tmux.pane("atlas", "one")
    fleet()
    for _ in range(2):
        tmux.type(pane, agent.command)
        agent.show("busy")
        peer.until_told("WORKING screen claude/spinner")
        agent.exit(0)
        peer.until_told("SHELL process foreground")
