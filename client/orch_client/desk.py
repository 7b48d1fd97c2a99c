"""Where the offers for one pane are taken to the courier, and what became of them to the server.

It keeps no memory of deliveries: what was done is known to the tmux server, so a killed client
loses and doubles nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import grpc

from orch.v1 import delivery_pb2, heartbeat_pb2
from orch_client.courier.offer import Offer, Outcome, PaneAddress, Reply

if TYPE_CHECKING:
    from orch_client.courier.deliver import Courier

_LONGEST_REPLY = 64 * 1024
_WAIT_IDLE = "WAIT_IDLE"


class Stream(Protocol):
    """The way to the server, as far as the desk needs it."""

    @property
    def epoch(self) -> int:
        """The number of this connection."""

    async def write(self, frame: heartbeat_pb2.ConnectRequest) -> None:
        """Sends one frame."""


class Desk:
    """Takes the offers for one pane to the courier, and what became of them to the server."""

    def __init__(self, courier: Callable[[], Courier], at: PaneAddress) -> None:
        self._courier = courier
        self._at = at
        self._connection: Stream | None = None
        self._works: dict[int, asyncio.Task[None]] = {}

    @property
    def busy(self) -> bool:
        """Whether something is being delivered."""
        return bool(self._works)

    def open(self, connection: Stream) -> None:
        """From now on outcomes go this way."""
        self._connection = connection

    def close(self) -> None:
        """What is under way is given up; the server offers it again to the next connection."""
        self._connection = None
        for task in self._works.values():
            task.cancel()

    async def settle(self, patience: float) -> None:
        """Waits for what is under way, so many seconds at most."""
        if self._works:
            await asyncio.wait(self._works.values(), timeout=patience)

    def take(self, given: delivery_pb2.DeliveryOffer) -> None:
        """Starts to work on an offer, unless it is being worked on."""
        if given.sequence in self._works:
            return
        work = self._courier().serve(_offer(given), self._at, _Errand(self, given))
        task = asyncio.create_task(work)
        self._works[given.sequence] = task
        task.add_done_callback(lambda _: self._works.pop(given.sequence, None))

    async def tell(self, frame: heartbeat_pb2.ConnectRequest, grant: int = 0) -> bool:
        """Sends a frame, if there is a stream and it is still that of the grant; 0: any. Returns
        whether it was sent."""
        connection = self._connection
        if connection is None or (grant and grant != connection.epoch):
            return False
        try:
            await connection.write(frame)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Errand:
    """The courier's listener for one offer. It may speak after the stream of the offer is gone."""

    desk: Desk
    given: delivery_pb2.DeliveryOffer

    async def report(self, offer: Offer, outcome: Outcome) -> None:
        given = self.given
        reason = f"REFUSAL_REASON_{outcome.reason or 'UNSPECIFIED'}"
        report = delivery_pb2.DeliveryReport(
            delivery_id=given.delivery_id,
            sequence=given.sequence,
            grant=given.grant,
            state=delivery_pb2.DeliveryState.Value(f"DELIVERY_STATE_{outcome.state}"),
            detail=outcome.detail,
            reason=delivery_pb2.RefusalReason.Value(reason),
        )
        await self.desk.tell(heartbeat_pb2.ConnectRequest(report=report), given.grant)

    async def ready(self, at: PaneAddress) -> None:
        await self.desk.tell(heartbeat_pb2.ConnectRequest(ready=heartbeat_pb2.PaneReady()))

    async def reply(self, offer: Offer, said: Reply) -> None:
        given = self.given
        reply = delivery_pb2.DeliveryReply(
            delivery_id=given.delivery_id,
            sequence=given.sequence,
            grant=given.grant,
            text=said.text.encode()[:_LONGEST_REPLY].decode("utf-8", "ignore"),
            complete=said.complete,
        )
        await self.desk.tell(heartbeat_pb2.ConnectRequest(reply=reply), given.grant)


def _offer(given: delivery_pb2.DeliveryOffer) -> Offer:
    mode = delivery_pb2.DeliveryMode.Name(given.mode).removeprefix("DELIVERY_MODE_")
    return Offer(
        sequence=given.sequence,
        generation=given.generation,
        text=given.text,
        kind=given.kind,
        tried_before=given.tried_before,
        mode=_WAIT_IDLE if mode == "UNSPECIFIED" else mode,
        reply_patience=given.reply_patience.ToTimedelta().total_seconds(),
    )
