"""What keeps `top` up to date, against the real server in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from orch.v1 import session_state_pb2 as pb
from orch_client.errors import REFUSED, ClientError
from orch_client.feed import Feed
from tests.transport.harness import PATIENCE, Serving, run

_NEVER = 3600.0


class _Watcher:
    """Waits until the feed shows what is wanted."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._changed = asyncio.Event()
        feed.on_change = self._changed.set

    async def until(self, probe: Callable[[pb.GetStatusResponse], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not probe(self._feed.answer):
                self._changed.clear()
                await self._changed.wait()


def _over_tcp(monkeypatch: pytest.MonkeyPatch, at: Serving, token: str) -> None:
    monkeypatch.setenv("ORCH_ADDRESS", at.addresses[-1])
    monkeypatch.setenv("ORCH_TOKEN", token)


def test_an_event_brings_a_new_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(at: Serving) -> None:
        ((_, bearer),) = at.token("", "")
        _over_tcp(monkeypatch, at, bearer.removeprefix("Bearer "))
        feed = Feed(pb.GetStatusRequest(), pb.GetStatusResponse(), latest=_NEVER)
        watcher = _Watcher(feed)
        keeper = asyncio.create_task(feed.keep())
        try:
            await watcher.until(lambda answer: bool(answer.server_version))
            await at.alive("pm", "%1")
            await watcher.until(lambda answer: len(answer.sessions) == 1)
            await at.alive("tester", "%2")
            await watcher.until(lambda answer: len(answer.sessions[0].agents) == 2)
            assert feed.lost == ""
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    run(tmp_path, body, tcp=True)


def test_a_refusal_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(at: Serving) -> None:
        _over_tcp(monkeypatch, at, "not-a-token")
        feed = Feed(pb.GetStatusRequest(), pb.GetStatusResponse())
        with pytest.raises(ClientError) as refused:
            await asyncio.wait_for(feed.keep(), PATIENCE)
        assert refused.value.status == REFUSED

    run(tmp_path, body, tcp=True)
