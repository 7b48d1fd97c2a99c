"""The bare counterpart of `orch-client heartbeat`: holds one open stream until it is ended."""

from __future__ import annotations

import asyncio
import sys

import grpc

from orch.v1 import agent_pb2, heartbeat_pb2
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub


async def main(address: str) -> None:
    """Opens the stream, says so, and waits for what never comes."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = HeartbeatServiceStub(channel).Connect()
        hello = heartbeat_pb2.Hello(pane=agent_pb2.Pane(pane_id="%0"))
        await call.write(heartbeat_pb2.ConnectRequest(hello=hello))
        await call.read()
        print("open", flush=True)
        await call.read()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
