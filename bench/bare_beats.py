"""The bare counterpart of `orch-client heartbeat --all`: streams on one channel that only beat.

python -m bench.bare_beats ADDRESS STREAMS SECONDS
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

import grpc

from bench import frames
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub


async def main(address: str, streams: int, seconds: float) -> None:
    """Opens the streams, says so, and beats on each every so many seconds until it is ended."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = HeartbeatServiceStub(channel)
        calls = [stub.Connect() for _ in range(streams)]
        for index, call in enumerate(calls):
            await call.write(frames.hello(frames.SESSION, index))
            await call.read()
        print("open", flush=True)
        await asyncio.gather(*(_beat(call, seconds) for call in calls))


async def _beat(call: Any, seconds: float) -> None:
    await asyncio.sleep(random.uniform(0, seconds))
    sequence = 0
    while True:
        sequence += 1
        await call.write(frames.beat(sequence))
        await call.read()
        await asyncio.sleep(seconds)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
