"""Fixtures: a home, a server, a tmux; all real, all ended afterwards, also when a test fails."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import Client, Home, Server, Tmux

# A shell's background job ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis's own limits are 0.2 s for an example and some seconds to draw them: a machine that is
# busy for a moment goes beyond. What is drawn depends on the test alone, not on earlier runs.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")


@pytest.fixture
def home() -> Iterator[Home]:
    """An empty ORCH_HOME; the server there beats every 0.2 s."""
    made = Home()
    yield made
    made.remove()


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    """A running server on the home's socket."""
    running = Server(home).start()
    yield running
    running.end()


@pytest.fixture
def tmux(home: Home) -> Iterator[Tmux]:
    """A private tmux server; it starts with its first pane."""
    private = Tmux(home)
    yield private
    private.end()


@pytest.fixture
def heartbeat(tmux: Tmux, server: Server) -> Iterator[Callable[..., Client]]:
    """Starts heartbeat clients for panes, from outside of them."""
    started: list[Client] = []

    def start(pane: str, *args: str) -> Client:
        started.append(Client(tmux, pane, *args))
        return started[-1]

    yield start
    for client in started:
        client.end()
