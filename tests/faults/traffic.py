"""Sends texts to all agents at once, each text unlike any other, whatever the server suffers."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc

from orch.v1 import delivery_pb2, messaging_pb2
from orch.v1.messaging_pb2_grpc import MessagingServiceStub
from tests.faults.arena import Agent

_LOOK = 0.05
_AGAIN = 0.1
_DEADLINE = 10.0
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # also the time to take a connection
    ("grpc.max_reconnect_backoff_ms", 300),
)
_LATER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_WAIT_IDLE = delivery_pb2.DELIVERY_MODE_WAIT_IDLE
_BOUNDARY = delivery_pb2.DELIVERY_MODE_TURN_BOUNDARY
_IMMEDIATE = delivery_pb2.DELIVERY_MODE_IMMEDIATE
_MODES = [_WAIT_IDLE] * 6 + [_BOUNDARY] + [_IMMEDIATE] * 3
_SAYING = """fix the parser; -x $HOME `id` #(id) %0 \\ 'one' "two" {three} [four] ä漢👍 ~ * ! ? ;
    Do you want to proceed? esc to interrupt ❯ ── ✻ Thinking… | && <tag> 100%"""
_WORDS = (*_SAYING.split(), "\t", "", "e\u0301")
_HUGE = 256 * 1024


@dataclass(frozen=True)
class Sent:
    """A delivery that the server accepted; `text` is what the model has to receive."""

    id: str
    agent: Agent
    text: str


class Traffic:
    """The senders: one for each agent, which sends a burst whenever few are open."""

    def __init__(self, address: str, store: Path, agents: list[Agent], seed: int) -> None:
        self._address = address
        self._store = store
        self._agents = agents
        self._dice = random.Random(f"traffic {seed}")
        self._left = 0
        self._open: Counter[str] = Counter()
        self._looked = asyncio.Condition()
        self.sent: dict[str, Sent] = {}

    async def run(self, count: int) -> None:
        """Returns when so many more were accepted."""
        self._left = count
        async with grpc.aio.insecure_channel(self._address, _OPTIONS) as channel:
            stub = MessagingServiceStub(channel)
            looking = asyncio.create_task(self._look())
            try:
                await asyncio.gather(*(self._serve(stub, agent) for agent in self._agents))
            finally:
                looking.cancel()

    async def settle(self, patience: float) -> int:
        """Waits until nothing is open, at most so many seconds; returns how many are."""
        looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(patience), self._looked:
                await self._looked.wait()
                await self._looked.wait_for(lambda: not self._open)
        except TimeoutError:
            pass
        finally:
            looking.cancel()
        return self.count_open().total()

    async def accepted(self, count: int) -> None:
        """Waits until so many were accepted altogether."""
        async with self._looked:
            await self._looked.wait_for(lambda: len(self.sent) >= count)

    def count_open(self) -> Counter[str]:
        """How many deliveries of each agent have not come to an end."""
        db = sqlite3.connect(f"file:{self._store}?mode=ro", uri=True, timeout=10)
        try:
            return Counter(
                dict(
                    db.execute(
                        "select a.session || ':' || a.role, count(*) from delivery d"
                        " join agent a on a.id = d.agent_id"
                        " where d.state in ('PENDING', 'OFFERED', 'PASTED') group by 1"
                    )
                )
            )
        finally:
            db.close()

    async def _look(self) -> None:
        while True:
            self._open = self.count_open()
            async with self._looked:
                self._looked.notify_all()
            await asyncio.sleep(_LOOK)

    async def _serve(self, stub: MessagingServiceStub, agent: Agent) -> None:
        while self._left > 0:
            limit = self._dice.choice((1, 1, 1, 2, 4))
            for _ in range(limit):
                if self._left > 0:
                    self._left -= 1
                    await self._send(stub, agent)
            async with self._looked:
                await self._looked.wait()  # what was just sent is counted from the next look on
                await self._looked.wait()
                while self._open[agent.address] >= limit and self._left > 0:
                    await self._looked.wait()

    async def _send(self, stub: MessagingServiceStub, agent: Agent) -> None:
        plain, text = self._text()
        request = messaging_pb2.SendMessageRequest(
            targets=[agent.address],
            text=text,
            plain=plain,
            mode=self._dice.choice(_MODES),
            request_id=str(uuid.UUID(int=self._dice.getrandbits(128))),
        )
        while True:
            try:
                answer = await stub.SendMessage(request, timeout=_DEADLINE)
                break
            except grpc.aio.AioRpcError as exc:
                if exc.code() not in _LATER:
                    raise
                await asyncio.sleep(_AGAIN)
        (result,) = answer.results
        assert not result.error, result.error
        found = result.delivery
        whole = f"{found.header}\n{found.text}" if found.header else found.text
        self.sent[found.id] = Sent(found.id, agent, whole)

    def _text(self) -> tuple[bool, str]:
        """Whether it is sent plain, and the text; only the header tells short ones apart."""
        dice, name = self._dice, f"t{self._dice.getrandbits(48):x}"
        kind = dice.random()
        if kind < 0.15:
            return False, dice.choice("x?;-#!\\é漢")
        if kind < 0.5:
            return True, f"{name}{dice.choice(_WORDS)}"
        if kind < 0.8:
            return True, f"{name} {self._words(dice.randint(3, 60), ' ')} {name}"
        if kind < 0.95:
            return dice.random() < 0.5, f"{name}\n{self._words(dice.randint(2, 60), chr(10))}"
        if kind < 0.999:
            return True, f"{name} {self._words(dice.randint(200, 1500), ' ')}"
        return True, f"{name} {'0123456 ' * (_HUGE // 8)}"[:_HUGE]

    def _words(self, count: int, between: str) -> str:
        return between.join(self._dice.choice(_WORDS) for _ in range(count)).strip() or "."
