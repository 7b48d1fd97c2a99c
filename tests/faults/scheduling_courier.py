"""The courier of agents without panes: it takes each offer at once, as the guard in tmux would let
it in, and comes back after each death of the server.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import grpc

from orch.v1 import delivery_pb2, heartbeat_pb2
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub
from tests.transport.harness import hello

SESSION = "arena"
#: A channel that looks for a server that was killed at once, and then often.
QUICK = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 5000),  # also the time to take a connection
    ("grpc.max_reconnect_backoff_ms", 200),
)
_AGAIN = 0.05
#: What grpc says of a write into a stream that has just broken.
_CUT_OFF = "Internal error from Core"


def role(number: int) -> str:
    """The role of an agent, by number."""
    return f"n{number}"


class Courier:
    """`taken` has, for each delivery, the numbers under which its text was let in, with the text;
    `wrong` what should not have come: a number again with another delivery, another error than
    the server's death."""

    def __init__(self, address: str, agents: int) -> None:
        self._address = address
        self._agents = agents
        self._welcomed: set[int] = set()
        self._used: dict[int, str] = {}
        self.taken: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.wrong: list[str] = []
        self.everyone = asyncio.Event()

    async def run(self) -> None:
        """Serves all agents until it is cancelled."""
        async with grpc.aio.insecure_channel(self._address, QUICK) as channel:
            stub = HeartbeatServiceStub(channel)
            await asyncio.gather(*(self._serve(stub, n) for n in range(self._agents)))

    async def _serve(self, stub: Any, number: int) -> None:
        while True:
            call = stub.Connect()
            try:
                await self._listen(call, number)
            except grpc.aio.AioRpcError as exc:
                if exc.code() is not grpc.StatusCode.UNAVAILABLE and exc.details() != _CUT_OFF:
                    self.wrong.append(f"the courier's stream: {exc.code().name} {exc.details()}")
            except asyncio.InvalidStateError:  # the stream had ended when something was written
                pass
            finally:
                call.cancel()
            await asyncio.sleep(_AGAIN)

    async def _listen(self, call: Any, number: int) -> None:
        said = hello(role(number), f"%{number}", session=SESSION, client_id=f"courier-{number}")
        await call.write(heartbeat_pb2.ConnectRequest(hello=said))
        while (frame := await call.read()) is not grpc.aio.EOF:
            if frame.HasField("welcome"):
                self._welcomed.add(number)
                if len(self._welcomed) == self._agents:
                    self.everyone.set()
            elif frame.HasField("offer"):
                self._take(frame.offer)
                await call.write(_confirmed(frame.offer))

    def _take(self, offer: delivery_pb2.DeliveryOffer) -> None:
        """A number that was used lets nothing in."""
        before = self._used.setdefault(offer.sequence, offer.delivery_id)
        if before != offer.delivery_id:
            self.wrong.append(f"number {offer.sequence}: {before}, then {offer.delivery_id}")
        elif all(number != offer.sequence for number, _ in self.taken[offer.delivery_id]):
            self.taken[offer.delivery_id].append((offer.sequence, offer.text))


def _confirmed(offer: delivery_pb2.DeliveryOffer) -> heartbeat_pb2.ConnectRequest:
    report = delivery_pb2.DeliveryReport(
        delivery_id=offer.delivery_id,
        sequence=offer.sequence,
        grant=offer.grant,
        state=delivery_pb2.DELIVERY_STATE_CONFIRMED,
        detail="Taken.",
    )
    return heartbeat_pb2.ConnectRequest(report=report)
