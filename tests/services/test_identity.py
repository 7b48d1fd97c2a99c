"""Tokens that say who calls: signed, short-lived, and no use when changed."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from orch_server.core.clock import ManualClock
from orch_server.core.errors import StoreUnavailable, Unidentified
from orch_server.core.identity import Caller, Incarnation, InPane, Operator, TokenAgent
from orch_server.services.agents import AgentRegistry
from orch_server.services.identity import LIFETIME, IdentityService
from orch_server.services.tokens import TokenFiles
from orch_server.storage.store import Store
from orch_server.tmux import processes
from orch_server.tmux.finder import PaneFinder
from tests.transport.harness import START

KEY = b"k" * 32
PANE = Incarnation("here", "/tmp/tmux.sock", 100, 1_700_000_000, "%1")


class Parts:
    """The service, its clock and its folder of tokens."""

    def __init__(self, folder: Path, key: bytes = KEY) -> None:
        self.clock = ManualClock(START)
        self.files = TokenFiles(folder / "tokens")
        self.registry = AgentRegistry(Store(folder / "orch.db", self.clock, print), self.clock)
        finder = PaneFinder("here", "")
        self.service = IdentityService(finder, self.registry, self.files, key, self.clock)

    def token(self) -> str:
        """A fresh token for the pane."""
        return self.service._sign(PANE, self.clock.now() + LIFETIME)

    def read(self, token: str) -> Caller:
        """Who bears this token."""
        return asyncio.run(self.service.read(token))


@pytest.fixture
def parts(folder: Path) -> Parts:
    """A service with an empty registry."""
    return Parts(folder)


def test_a_token_names_its_pane(parts: Parts) -> None:
    token = parts.token()
    assert parts.read(token) == parts.read(token) == InPane(PANE)


def test_a_token_is_over_after_its_time_also_when_it_was_read_before(parts: Parts) -> None:
    read, unread = parts.token(), parts.service._sign(PANE, parts.clock.now() + LIFETIME)
    parts.clock.advance(LIFETIME.total_seconds() - 1)
    assert parts.read(read) == InPane(PANE)
    parts.clock.advance(1)
    for token in (read, unread):
        with pytest.raises(Unidentified, match="over"):
            parts.read(token)


def test_a_token_of_another_store_is_refused(parts: Parts, folder: Path) -> None:
    other = Parts(folder, key=b"o" * 32)
    with pytest.raises(Unidentified):
        parts.read(other.token())


def _claims(token: str) -> list[object]:
    return list(json.loads(base64.urlsafe_b64decode(token.partition(".")[0])))


def _unsigned(claims: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()


@pytest.mark.parametrize("position", range(6))
def test_no_claim_can_be_changed(parts: Parts, position: int) -> None:
    token = parts.token()
    parts.read(token)
    claims = _claims(token)
    claims[position] = "%2" if isinstance(claims[position], str) else 2**40
    forged = f"{_unsigned(claims)}.{token.partition('.')[2]}"
    with pytest.raises(Unidentified):
        parts.read(forged)


@pytest.mark.parametrize(
    "token",
    ["", ".", "x", "x.", ".x", "a.b.c", "é.ü", "\x00", "orch_", "null", f"{'x' * 100_000}.{0:064}"],
    ids=ascii,
)
def test_nonsense_is_no_token(parts: Parts, token: str) -> None:
    with pytest.raises(Unidentified):
        parts.read(token)


@pytest.mark.parametrize("body", [b"not base64!", b"e30=", b"W10=", b"WzEsMl0="])
def test_a_signed_token_of_another_shape_is_refused(parts: Parts, body: bytes) -> None:
    mac = hmac.new(KEY, body, "sha256").hexdigest()
    with pytest.raises(Unidentified):
        parts.read(f"{body.decode()}.{mac}")


def test_token_files_name_agents_and_the_operator(parts: Parts) -> None:
    agent = parts.files.create("atlas", "developer", "now")
    operator = parts.files.create("", "", "now")
    assert parts.read(agent) == TokenAgent("atlas", "developer")
    assert parts.read(operator) == Operator()
    parts.files.revoke(agent.split("_")[1])
    with pytest.raises(Unidentified):
        parts.read(agent)


def test_a_later_process_of_the_same_number_is_another_one(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives a number anew, and to a child of the same tmux server at that."""
    pid, server = os.getpid(), processes.parent(os.getpid())
    pane = replace(PANE, server_pid=server)
    agent = parts.registry.new("atlas", "orchestrator")
    parts.registry.put(replace(agent, incarnation=pane, pane_pid=pid))
    assert parts.service._known([pid], 0) == pane
    began = processes.started(pid)
    assert began > 0
    monkeypatch.setattr(processes, "started", lambda _: began + 1)
    assert parts.service._known([pid], 0) is None


def test_an_agent_that_could_not_be_written_is_not_known(folder: Path) -> None:
    clock = ManualClock(START)
    registry = AgentRegistry(Store(folder / "orch.db", clock, print), clock)  # it was never opened

    async def body() -> None:
        with pytest.raises(StoreUnavailable):
            await registry.register_without_pane("atlas", "developer")
        lost = registry.new("atlas", "tester")
        registry.put(lost)
        with pytest.raises(StoreUnavailable):
            await registry._registered(replace(lost, kind="claude"))

    asyncio.run(body())
    assert registry.names() == "atlas:tester"
    (tester,) = registry.all()
    assert tester.kind == ""
