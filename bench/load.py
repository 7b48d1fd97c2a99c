"""The load generator, the same for the product and the bare server.

    python -m bench.load heartbeat ADDRESS STREAMS PER_CHANNEL SESSION
    python -m bench.load create ADDRESS CALLERS AGENTS
    python -m bench.load update ADDRESS CALLERS

Each stream or caller sends its next frame as soon as the one before was answered. Each request has
a note of its own, for the agents in turn, so that none has more open tasks than it may have; each
updating caller has a session of its own, and names the version that the answer before told.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import uvloop

from bench import child, frames
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub
from orch.v1.scheduler_pb2_grpc import SchedulerServiceStub
from orch.v1.session_state_pb2_grpc import SessionStateServiceStub

_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
_OPENING = 30.0


class _Stream:
    """A heartbeat: opened once, then beats while it is asked to."""

    def __init__(self, stub: Any, session: str, index: int) -> None:
        self._call = stub.Connect()
        self._hello = frames.hello(session, index)
        self._sequence = 0

    async def open(self) -> None:
        """Sends the hello and takes the welcome."""
        await self._call.write(self._hello)
        answer = await self._call.read()
        assert answer.WhichOneof("frame") == "welcome", answer

    async def beat(self, end: float) -> int:
        """Beats until `end`, at least once; returns how often."""
        read, write = self._call.read, self._call.write
        before = self._sequence
        while True:
            self._sequence += 1
            await write(frames.beat(self._sequence))
            answer = await read()
            assert answer.ack.sequence == self._sequence, answer
            if time.perf_counter() >= end:
                return self._sequence - before

    async def close(self) -> None:
        """Says goodbye; the server ends the stream."""
        await self._call.write(frames.goodbye())
        await self._call.done_writing()
        while await self._call.read() is not grpc.aio.EOF:
            pass


async def _beat_streams(streams: list[_Stream], seconds: float) -> child.Answer:
    start = time.perf_counter()
    counts = await asyncio.gather(*(stream.beat(start + seconds) for stream in streams))
    return {"count": sum(counts), "seconds": time.perf_counter() - start}


async def _heartbeat(address: str, count: int, per_channel: int, session: str) -> None:
    channels = [
        grpc.aio.insecure_channel(address, _OWN_CONNECTION) for _ in range(-(-count // per_channel))
    ]
    stubs = [HeartbeatServiceStub(channel) for channel in channels]
    streams = [_Stream(stubs[i // per_channel], session, i) for i in range(count)]
    async with asyncio.timeout(_OPENING):
        await asyncio.gather(*(stream.open() for stream in streams))
    await child.serve(lambda seconds: _beat_streams(streams, seconds))
    async with asyncio.timeout(_OPENING):
        await asyncio.gather(*(stream.close() for stream in streams))
    await asyncio.gather(*(channel.close() for channel in channels))


async def _call(stub: Any, turns: Iterator[int], end: float) -> list[float]:
    """Creates tasks until `end`; returns the time each answer took."""
    took = []
    while True:
        start = time.perf_counter()
        await stub.CreateTask(frames.task_request(next(turns)))
        now = time.perf_counter()
        took.append(now - start)
        if now >= end:
            return took


async def _update(stub: Any, index: int, end: float) -> list[float]:
    """Updates a session until `end`; returns the time each answer took."""
    took: list[float] = []
    version = 0
    while not took or time.perf_counter() < end:
        start = time.perf_counter()
        answer = await stub.UpdateSession(frames.update_request(index, version))
        took.append(time.perf_counter() - start)
        # the bare server knows no versions, and tells one that is not 0 all the same
        version = answer.session.version
    return took


async def _all(calls: Callable[[float, int], Any], callers: int, seconds: float) -> child.Answer:
    """Runs `calls(END, INDEX)` for each caller."""
    start = time.perf_counter()
    lists = await asyncio.gather(*(calls(start + seconds, index) for index in range(callers)))
    elapsed = time.perf_counter() - start
    took = [one for some in lists for one in some]
    middle, worst = statistics.median(took), max(took)
    return {"count": len(took), "seconds": elapsed, "median": middle, "worst": worst}


async def _create(address: str, callers: int, agents: int) -> None:
    turns = itertools.cycle(range(agents))
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SchedulerServiceStub(channel)
        await child.serve(
            lambda seconds: _all(lambda end, _: _call(stub, turns, end), callers, seconds)
        )


async def _updates(address: str, callers: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SessionStateServiceStub(channel)
        await child.serve(
            lambda seconds: _all(lambda end, index: _update(stub, index, end), callers, seconds)
        )


def _main(what: str, address: str, count: str, *rest: str) -> None:
    if what == "heartbeat":
        per_channel, session = rest
        uvloop.run(_heartbeat(address, int(count), int(per_channel), session))
    elif what == "update":
        uvloop.run(_updates(address, int(count)))
    else:
        uvloop.run(_create(address, int(count), int(rest[0])))


if __name__ == "__main__":
    _main(*sys.argv[1:])
