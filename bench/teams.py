"""Sessions with agents, all at work: `python -m bench.teams ADDRESS SESSIONS AGENTS`."""

from __future__ import annotations

import asyncio
import sys

import grpc

from bench import child, frames
from orch.v1 import agent_pb2, heartbeat_pb2
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub

_OPENING = 30.0


async def _open(stub: HeartbeatServiceStub, session: str, index: int) -> object:
    """A stream whose client has seen its agent work."""
    call = stub.Connect()
    await call.write(frames.hello(session, index))
    assert (await call.read()).WhichOneof("frame") == "welcome"
    beat = frames.beat(1)
    beat.beat.observation.CopyFrom(
        heartbeat_pb2.Observation(
            source=agent_pb2.EVIDENCE_SOURCE_SCREEN,
            state=agent_pb2.AGENT_STATE_WORKING,
            rule="generic/spinner",
        )
    )
    await call.write(beat)
    assert (await call.read()).ack.sequence == 1
    return call


async def _main(address: str, sessions: int, agents: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = HeartbeatServiceStub(channel)
        async with asyncio.timeout(_OPENING):
            calls = [
                await asyncio.gather(*(_open(stub, f"bench-{n:03}", i) for i in range(agents)))
                for n in range(sessions)
            ]
        await child.serve(child.nothing)
        del calls  # until here the streams are open


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
