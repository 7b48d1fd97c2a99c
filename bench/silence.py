"""Streams that fall silent: how late the server says so, seen from here.

    python -m bench.silence ADDRESS COUNT SESSION

A measurement lets each stream beat for a random part of its seconds and then say nothing. It
returns by how many seconds the end of the stream came later than the lease after the last beat.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from typing import Any

import grpc
import uvloop

from bench import child, frames
from bench.agents import stubs


async def _lateness(stub: Any, session: str, index: int, seconds: float) -> float:
    """Beats a few times, the last time at a random moment; then waits for its end."""
    call = stub.Connect()
    await call.write(frames.hello(session, index))
    lease = (await call.read()).welcome.lease.ToTimedelta().total_seconds()
    last = time.monotonic()
    end = last + random.uniform(0, seconds)
    sequence = 0
    while last < end:
        await asyncio.sleep(min(lease / 3, end - last))
        sequence += 1
        last = time.monotonic()
        await call.write(frames.beat(sequence))
        await call.read()
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as exc:
        if "whole lease" not in (exc.details() or ""):
            raise
    return time.monotonic() - last - lease


async def _main(address: str, count: int, session: str) -> None:
    ready = stubs(address, count)

    async def measure(seconds: float) -> child.Answer:
        work = (_lateness(stub, session, i, seconds) for i, stub in enumerate(ready))
        late = sorted(await asyncio.gather(*work))
        p99 = late[int(0.99 * (len(late) - 1))]
        return {"least": late[0], "median": statistics.median(late), "p99": p99, "worst": late[-1]}

    await child.serve(measure)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
