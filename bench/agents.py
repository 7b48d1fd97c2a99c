"""Agents that beat for ever, each with a stream of its own, and come back as the real client does.

    python -m bench.agents ADDRESS COUNT SESSION BEAT

With BEAT 0 they beat at the pace that the server sets. A measurement of so many seconds returns how
many are alive at its end, how often one was welcomed and how often a stream ended since the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from dataclasses import dataclass
from typing import Any

import grpc
import uvloop

from bench import child, frames
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub
from orch_client.channel import OPTIONS

PER_CHANNEL = 100
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 1.0
_WELCOME = 10.0
_FAULTS = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, TimeoutError)


@dataclass(slots=True)
class Tally:
    """What all agents of this process have seen."""

    alive: int = 0
    welcomed: int = 0
    ended: int = 0


class _Silent(TimeoutError):
    """The server was not heard for a lease, or has ended the stream."""


class Agent:
    """One agent and its stream."""

    def __init__(self, stub: Any, session: str, index: int, beat: float, tally: Tally) -> None:
        self._stub = stub
        self._hello = frames.hello(session, index)
        self._hello.hello.client_id = f"{session}-{index}"
        self._fixed = beat
        self._tally = tally
        self._beat = self._lease = 0.0

    async def live(self) -> None:
        """Connects, beats, and connects again when the stream is lost."""
        failures = 0
        while True:
            welcomed = self._tally.welcomed
            with contextlib.suppress(*_FAULTS):
                await self._connection()
            failures = failures + 1 if self._tally.welcomed == welcomed else 0
            await asyncio.sleep(random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**failures)))

    async def _connection(self) -> None:
        call = self._stub.Connect()
        try:
            await call.write(self._hello)
            async with asyncio.timeout(_WELCOME):
                answer = await call.read()
            if answer is grpc.aio.EOF:
                raise _Silent
            self._set_pace(answer.welcome)
            self._tally.welcomed += 1
            self._tally.alive += 1
            try:
                await self._beats(call)
            finally:
                self._tally.alive -= 1
                self._tally.ended += 1
        finally:
            call.cancel()

    async def _beats(self, call: Any) -> None:
        heard = time.monotonic()
        due = heard + random.uniform(0, self._beat)
        sequence = 0
        reading = asyncio.ensure_future(call.read())
        try:
            while True:
                await asyncio.wait({reading}, timeout=max(0.0, due - time.monotonic()))
                now = time.monotonic()
                if reading.done():
                    answer = reading.result()
                    if answer is grpc.aio.EOF or answer.HasField("drain"):
                        raise _Silent
                    reading = asyncio.ensure_future(call.read())
                    heard = now
                    if answer.ack.HasField("lease"):
                        self._set_pace(answer.ack)
                        due = min(due, now + self._beat)
                if now >= due:
                    sequence += 1
                    await call.write(frames.beat(sequence))
                    due = now + self._beat
                if now - heard > self._lease:
                    raise _Silent
        finally:
            reading.cancel()

    def _set_pace(self, told: Any) -> None:
        self._beat = self._fixed or told.beat_interval.ToTimedelta().total_seconds()
        self._lease = told.lease.ToTimedelta().total_seconds()


def stubs(address: str, count: int, per_channel: int = PER_CHANNEL) -> list[Any]:
    """A stub for each of so many streams, a hundred of them on one connection."""
    channels = [
        grpc.aio.insecure_channel(address, (*_OWN_CONNECTION, *OPTIONS))
        for _ in range(-(-count // per_channel))
    ]
    ready = [HeartbeatServiceStub(channel) for channel in channels]
    return [ready[index // per_channel] for index in range(count)]


async def _main(address: str, count: int, session: str, beat: float) -> None:
    tally = Tally()
    agents = [
        Agent(stub, session, index, beat, tally) for index, stub in enumerate(stubs(address, count))
    ]
    lives = [asyncio.create_task(agent.live()) for agent in agents]
    while tally.alive < count:  # noqa: ASYNC110 - what is looked at has no event
        await asyncio.sleep(0.05)

    async def measure(seconds: float) -> child.Answer:
        await asyncio.sleep(seconds)
        told = {"alive": tally.alive, "welcomed": tally.welcomed, "ended": tally.ended}
        tally.welcomed = tally.ended = 0
        return {name: float(value) for name, value in told.items()}

    await child.serve(measure)
    for life in lives:
        life.cancel()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
