"""Fills a server with pending tasks, through CreateTask.

    python -m bench.fill ADDRESS AGENTS

A measurement creates so many tasks, as its number of seconds says, for the agents in turn. They are
due in an hour to a day, in no order.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Any

import grpc
import uvloop

from bench import child, frames
from orch.v1.scheduler_pb2_grpc import SchedulerServiceStub

_CALLERS = 64
_HOUR = 3600.0


async def _create(stub: Any, agents: int, count: int) -> child.Answer:
    numbers, start = iter(range(count)), time.perf_counter()

    async def some() -> None:
        for number in numbers:
            due = random.uniform(_HOUR, 24 * _HOUR)
            await stub.CreateTask(frames.task_request(number % agents, due))

    await asyncio.gather(*(some() for _ in range(_CALLERS)))
    return {"count": count, "seconds": time.perf_counter() - start}


async def _main(address: str, agents: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SchedulerServiceStub(channel)
        await child.serve(lambda count: _create(stub, agents, int(count)))


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
