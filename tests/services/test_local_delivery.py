"""The server's own courier at work: a real pane without a client, and what is heard of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta

import pytest

from orch_server.core.clock import SystemClock
from orch_server.core.delivery import Delivery, DeliveryState
from orch_server.core.identity import Incarnation, InPane
from orch_server.services.messaging import Draft
from orch_server.tmux.processes import host_name
from tests.support import Home, Tmux
from tests.transport.harness import Serving, run


@pytest.fixture
def tmux() -> Iterator[Tmux]:
    home = Home()
    made = Tmux(home)
    yield made
    made.end()
    home.remove()


def _serve(tmux: Tmux, body: Callable[[Serving], Awaitable[None]]) -> None:
    run(tmux.home.path, body, clock=SystemClock())


async def _send(at: Serving, tmux: Tmux, pane: str, draft: Draft) -> Delivery:
    fields = await asyncio.to_thread(tmux.run, "display-message", "-p", "#{pid} #{start_time}")
    pid, started = fields.split()
    inside = Incarnation(host_name(), str(tmux.socket), int(pid), int(started), pane)
    (sent,), _ = await at.core.messaging.send(InPane(inside), draft)
    assert sent.delivery is not None
    return sent.delivery


async def _over(at: Serving, delivery_id: str) -> Delivery:
    """The delivery when nothing more happens to it."""
    async with asyncio.timeout(20):
        async for current in at.core.messaging.watch((delivery_id,)):
            last = current
    return last


def test_a_pane_in_copy_mode_gets_its_text_when_it_is_left(tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "developer")
    tmux.run("copy-mode", "-t", pane)

    async def body(at: Serving) -> None:
        sent = await _send(at, tmux, pane, Draft((pane,), "hello there"))
        with at.core.bus.subscribe(lambda e: e.kind == "delivery.refused") as refused:
            if not (await at.core.messaging.get(sent.id)).reason:
                async with asyncio.timeout(10):
                    await anext(aiter(refused))
        await asyncio.to_thread(tmux.run, "send-keys", "-t", pane, "-X", "cancel")
        shown = await _over(at, sent.id)
        assert shown.state is DeliveryState.CONFIRMED
        steps = [s.step for s in (await at.core.messaging.get(sent.id)).steps]
        assert steps[:3] == ["created", "offered", "refused"]
        assert "hello there" in await asyncio.to_thread(tmux.screen, pane)

    _serve(tmux, body)


def test_a_reply_that_was_asked_for_ends_the_watch(tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "developer")

    async def body(at: Serving) -> None:
        draft = Draft((pane,), "hello there", reply_patience=timedelta(seconds=1))
        shown = await _over(at, (await _send(at, tmux, pane, draft)).id)
        assert shown.state is DeliveryState.CONFIRMED
        assert shown.reply_at is not None

    _serve(tmux, body)
