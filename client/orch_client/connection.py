"""One pane's stream to the server, and the desk that takes the offers which come over it.

heartbeat.py has one of each, fleet.py one for each pane. Text goes to the courier; this module only
carries offers in and outcomes out. It keeps no memory of deliveries: what was done is known to the
tmux server, so a killed client loses and doubles nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from orch.v1 import delivery_pb2, heartbeat_pb2
from orch_client.courier.offer import Offer, Outcome, PaneAddress, Reply
from orch_client.courier.tmux import DEADLINE

if TYPE_CHECKING:
    from orch_client.courier.deliver import Courier

Reason: TypeAlias = heartbeat_pb2.GoodbyeReason.ValueType

_HELLO_DEADLINE = 10.0
_FAREWELL = 1.0
_LONGEST_NAME = 100
_LONGEST_REPLY = 64 * 1024
_WAIT_IDLE = "WAIT_IDLE"


class Lost(Exception):
    """The server is not heard any more; connect again."""


class Superseded(Exception):
    """A newer client serves the pane; the message says which."""


class Ended(Exception):
    """The server ended the stream, or never accepted it; `error` says why."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error.details())
        self.error = error


class Desk:
    """Takes the offers for one pane to the courier, and what became of them to the server."""

    def __init__(self, courier: Callable[[], Courier], at: PaneAddress) -> None:
        self._courier = courier
        self._at = at
        self._connection: Connection | None = None
        self._works: dict[int, asyncio.Task[None]] = {}

    def open(self, connection: Connection) -> None:
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

    async def tell(self, frame: heartbeat_pb2.ConnectRequest, grant: int = 0) -> None:
        """Sends a frame, if there is a stream and it is still that of the grant; 0: any."""
        connection = self._connection
        if connection is None or (grant and grant != connection.epoch):
            return
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await connection.write(frame)


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


class Connection:
    """One stream. `foreground` names the program in the pane's foreground, for each beat."""

    def __init__(
        self,
        call: Any,
        desk: Desk,
        foreground: Callable[[], str],
        show: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._call = call
        self._desk = desk
        self._foreground = foreground
        self._show_text = show
        self._lock = asyncio.Lock()
        self._heard = time.monotonic()
        self._acked = asyncio.Event()
        self._interval = 5.0
        self.welcome: heartbeat_pb2.Welcome | None = None
        self.drained: float | None = None

    @property
    def epoch(self) -> int:
        """The number of this connection; 0 until it is welcome."""
        return self.welcome.epoch if self.welcome is not None else 0

    async def run(
        self,
        hello: heartbeat_pb2.Hello,
        stop: asyncio.Event,
        goodbye: Callable[[], Awaitable[Reason]],
        once: bool = False,
    ) -> None:
        """The stream from hello to goodbye.

        Returns when `stop` is set, after the one beat, or when the server asks to come back after
        `drained` seconds. Raises Ended, Lost or Superseded.
        """
        try:
            await self._converse(hello, stop, goodbye, once)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError) and not self._call.done():
                raise
            raise Ended(await _why(self._call)) from exc
        finally:
            self._desk.close()
            self._call.cancel()

    async def write(self, frame: heartbeat_pb2.ConnectRequest) -> None:
        """Sends one frame."""
        async with self._lock:
            await self._call.write(frame)

    async def _converse(
        self,
        hello: heartbeat_pb2.Hello,
        stop: asyncio.Event,
        goodbye: Callable[[], Awaitable[Reason]],
        once: bool,
    ) -> None:
        async with _Group(stop) as group:
            await group.until(self._open(hello))
            if self.welcome is None:
                return
            receiving = group.start(self._receive())
            await group.until(receiving, self._beat(once))
            if self.drained is not None:
                reason: Reason = heartbeat_pb2.GOODBYE_REASON_DRAINED
            else:
                reason = await goodbye()
            await self._leave(reason, receiving)

    async def _open(self, hello: heartbeat_pb2.Hello) -> None:
        """Sends the hello and takes the welcome."""
        try:
            async with asyncio.timeout(_HELLO_DEADLINE):
                await self.write(heartbeat_pb2.ConnectRequest(hello=hello))
                frame = await self._call.read()
        except TimeoutError as exc:
            raise Lost from exc
        if frame is grpc.aio.EOF:
            raise asyncio.InvalidStateError("the server ended the stream")
        self._heard = time.monotonic()
        self.welcome = frame.welcome
        self._interval = frame.welcome.beat_interval.ToTimedelta().total_seconds()
        self._desk.open(self)
        self._show("connected")

    async def _receive(self) -> None:
        """Takes frames until the stream ends or the server asks to come back later."""
        while True:
            frame = await self._call.read()
            if frame is grpc.aio.EOF:
                raise asyncio.InvalidStateError("the server ended the stream")
            self._heard = time.monotonic()
            kind = frame.WhichOneof("frame")
            if kind == "ack":
                self._take_ack(frame.ack)
            elif kind == "offer":
                self._desk.take(frame.offer)
            elif kind == "drain":
                self.drained = frame.drain.reconnect_after.ToTimedelta().total_seconds()
                return
            elif kind == "superseded":
                raise Superseded(frame.superseded.by)

    def _take_ack(self, ack: heartbeat_pb2.Ack) -> None:
        if ack.HasField("beat_interval"):
            self._interval = ack.beat_interval.ToTimedelta().total_seconds()
        self._acked.set()
        self._show(f"{ack.sequence} beats")

    async def _beat(self, once: bool) -> None:
        """Beats at the server's pace. Raises Lost when nothing was heard for a lease."""
        assert self.welcome is not None
        lease = self.welcome.lease.ToTimedelta().total_seconds()
        sequence = 0
        while True:
            sequence += 1
            program = self._foreground()[:_LONGEST_NAME]
            beat = heartbeat_pb2.Beat(sequence=sequence, foreground_program=program)
            await self.write(heartbeat_pb2.ConnectRequest(beat=beat))
            if once:
                await self._acked.wait()
                return
            await asyncio.sleep(self._interval)
            if time.monotonic() - self._heard > lease:
                raise Lost

    async def _leave(self, reason: Reason, receiving: asyncio.Future[None]) -> None:
        """Says goodbye, after what is being delivered."""
        await self._desk.settle(2 * DEADLINE)
        frame = heartbeat_pb2.ConnectRequest(goodbye=heartbeat_pb2.Goodbye(reason=reason))
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self.write(frame)
                await self._call.done_writing()
                if receiving.done():  # it ended with the drain
                    while await self._call.read() is not grpc.aio.EOF:
                        pass
                else:
                    await asyncio.wait([receiving])

    def _show(self, what: str) -> None:
        assert self.welcome is not None
        agent = f"{self.welcome.session}:{self.welcome.role}"
        self._show_text(f"{agent} · alive · epoch {self.welcome.epoch} · {what}")


class _Group:
    """Tasks that end with their block. A read that is cancelled cancels its call, so that what runs
    beside the goodbye is cancelled after it."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._tasks: list[asyncio.Future[Any]] = []

    async def __aenter__(self) -> _Group:
        self._stopping = self.start(self._stop.wait())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Runs beside what follows."""
        self._tasks.append(asyncio.ensure_future(work))
        return self._tasks[-1]

    async def until(self, *works: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> None:
        """Returns when one of these has returned or the stop was set; raises what one raised."""
        tasks = [w if isinstance(w, asyncio.Future) else self.start(w) for w in works]
        await asyncio.wait([*tasks, self._stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()


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


async def _why(call: Any) -> grpc.aio.AioRpcError:
    """The error with which the server ended the call."""
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        await call.details() or "",
    )
