"""Agents in real panes that wait for each other: the server breaks it, and a person hears of it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest

from tests.services.receivers import Receiver, raw, receiver
from tests.support import BIN, Client, Home, Server, Tmux, liveness, until

_UNPOSTED = """insert into alert (id, severity, kind, subject, session, text, created_at,
    suppressed, webhook_error, webhook_attempts, webhook_next_at)
    values ('a1', 'WARNING', 'escalation', 'atlas:dev', 'atlas', 'It hangs.', 0, 0, '', 1, 1)"""


@pytest.fixture
def hook(home: Home) -> Iterator[Receiver]:
    """A webhook that the server, started later, is configured for."""
    with receiver(500) as at:
        home.configure(f'beat_interval = 1\nalert_webhook = "{at.url}"\n')
        yield at


@pytest.fixture
def team(home: Home, tmux: Tmux, hook: Receiver) -> Iterator[dict[str, str]]:
    """A server, and the panes of atlas:developer and atlas:tester, each with a client."""
    server = Server(home).start()
    panes = {role: tmux.pane("atlas", role) for role in ("developer", "tester")}
    clients = [Client(tmux, pane, "--kind", "shell") for pane in panes.values()]
    try:
        for role in panes:
            until(lambda r=role: liveness(home, f"atlas:{r}") == "ALIVE", role)
        yield panes
    finally:
        for client in clients:
            client.end()
        server.end()


def _in_pane(tmux: Tmux, pane: str, *args: str) -> None:
    """Runs orch-client in a pane, as an agent does."""
    tmux.type(pane, f"{BIN / 'orch-client'} {' '.join(args)}")


def test_two_agents_that_wait_for_each_other_are_told_and_so_is_a_person(
    home: Home, tmux: Tmux, hook: Receiver, team: dict[str, str]
) -> None:
    _in_pane(tmux, team["developer"], "waiting", "add", "tester", "'the #(touch x) report'")
    first = until(lambda: home.json("waiting").get("waits"), "the first wait")[0]
    assert (first["waiter"], first["holder"]) == ("atlas:developer", "atlas:tester")
    assert "tester: dependency" in home.client("agents").stdout
    _in_pane(tmux, team["tester"], "waiting", "add", "developer", "'the branch'", "--timeout", "5m")
    ended = "the wait of atlas:tester for atlas:developer was ended"
    for pane in team.values():
        until(lambda p=pane: ended in _joined(tmux.screen(p)), f"the text in {pane}")
    assert [w["id"] for w in home.json("waiting")["waits"]] == [first["id"]]
    refused, taken = hook.got.get(timeout=15), hook.got.get(timeout=15)
    assert refused.body == taken.body, "the receiver refused the first attempt"
    assert (taken.body["kind"], taken.body["subject"]) == ("deadlock", "atlas:tester")
    assert "the #(touch x) report" in taken.body["text"]
    done = home.client("waiting", "remove", first["id"][:5])
    assert done.returncode == 0, done.stderr
    assert home.client("waiting").stdout == "Nobody waits.\n"
    assert home.client("waiting", "remove", first["id"]).returncode == 6


def test_outside_of_a_pane_nobody_can_wait_and_the_sentence_says_so(
    home: Home, team: dict[str, str]
) -> None:
    done = home.client("waiting", "add", "atlas:tester", "x")
    assert done.returncode == 5
    assert done.stderr.startswith("orch-client: Only an agent can wait for another agent;")
    assert home.client("waiting", "remove", "ffff").returncode == 4


def _joined(screen: str) -> str:
    return " ".join(screen.split())


def test_a_server_that_waits_for_a_hanging_webhook_stops_at_once(home: Home) -> None:
    asked = threading.Event()
    with raw(lambda connection: asked.set()) as port:
        home.configure(f'alert_webhook = "http://127.0.0.1:{port}/"\n')
        server = Server(home).start()
        assert server.stop() == 0
        with contextlib.closing(sqlite3.connect(home.path / "orch.db")) as db, db:
            db.execute(_UNPOSTED)
        server.start()
        assert asked.wait(15), "what was not posted before is posted now"
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 4, "the deadline of the webhook is 5 s"
        assert "Traceback" not in server.log
