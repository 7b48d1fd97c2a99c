"""A crowd of streams at once, most of them of no use.

    python -m bench.crowd ADDRESS COUNT SESSION

Of three streams one has a valid hello, one an invalid one, and one says nothing. A measurement
opens all of them and returns how many were welcomed, refused, and left without an answer by the end
of its seconds.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from bench import child, frames
from bench.agents import stubs


async def _one(stub: Any, session: str, index: int, counts: dict[str, float]) -> None:
    call = stub.Connect()
    try:
        if index % 3 < 2:
            hello = frames.hello(session, index)
            if index % 3:
                hello.hello.role = "no role!"
            await call.write(hello)
        answer = await call.read()
        counts["welcomed" if answer is not grpc.aio.EOF else "refused"] += 1
        await call.read()  # until the end
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        if index % 3:
            counts["refused"] += 1


async def _main(address: str, count: int, session: str) -> None:
    ready = stubs(address, count)

    async def measure(seconds: float) -> child.Answer:
        counts = {"welcomed": 0.0, "refused": 0.0}
        work = [
            asyncio.create_task(_one(stub, session, index, counts))
            for index, stub in enumerate(ready)
        ]
        await asyncio.sleep(seconds)
        for one in work:
            one.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        return {**counts, "unanswered": count - counts["welcomed"] - counts["refused"]}

    await child.serve(measure)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
