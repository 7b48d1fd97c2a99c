"""`orch-client events --follow` beside a server that is killed and stopped."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support import BIN, Home, Server, until


@pytest.fixture
def follower(home: Home, server: Server) -> Iterator[subprocess.Popen[str]]:
    """A person who follows, from now on."""
    log = home.path / "orch-followed"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(BIN / "orch-client"), "events", "--follow", "--kind", "scheduler"],
            env=home.env(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            text=True,
        )
    until(log.read_text, "the head of the table")
    yield process
    process.kill()
    process.wait(10)


def _do(home: Home, *argv: str) -> None:
    command = [str(BIN / "orch-client"), *argv]
    subprocess.run(command, env=home.env(), capture_output=True, timeout=30, check=True)


def test_following_goes_on_over_restarts_and_shows_each_event_once(
    home: Home, server: Server, follower: subprocess.Popen[str]
) -> None:
    server.kill()  # before the first event: also then nothing may be missed
    server.start()
    _do(home, "pause", "--all")
    _do(home, "resume", "--all")
    server.kill()
    server.start()
    _do(home, "pause", "--all", "--note", "one\n\x1b[31mtwo")
    assert server.stop() == 0
    server.start()
    _do(home, "resume", "--all")

    def kinds() -> list[str]:
        lines = (home.path / "orch-followed").read_text().splitlines()[1:]
        return [line.split()[3] for line in lines]

    until(lambda: len(kinds()) >= 4, "four events")
    assert kinds() == ["scheduler.paused", "scheduler.resumed"] * 2
    assert "\x1b" not in (home.path / "orch-followed").read_text()
    follower.send_signal(signal.SIGINT)
    assert follower.wait(10) == 130
