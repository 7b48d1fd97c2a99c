"""Streams that beat as fast as they are let and never read an answer.

python -m tests.e2e.flood ADDRESS COUNT
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
from bench import frames

from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub


async def _flood(stub: Any, index: int) -> None:
    call = stub.Connect()
    await call.write(frames.hello("flood", index))
    await call.read()
    sequence = 0
    while True:
        sequence += 1
        await call.write(frames.beat(sequence))


async def main(address: str, count: int) -> None:
    """Goes on until it is killed."""
    small = (("grpc.http2.bdp_probe", 0),)  # a window of 64 KB, which is full soon
    async with grpc.aio.insecure_channel(address, small) as channel:
        stub = HeartbeatServiceStub(channel)
        floods = [asyncio.create_task(_flood(stub, 1000 + index)) for index in range(count)]
        await asyncio.sleep(0)
        print("open", flush=True)
        await asyncio.gather(*floods, return_exceptions=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
