"""One pane's stream to the server: from hello to goodbye, with the beats between.

heartbeat.py has one, fleet/ one for each pane. What is offered over it goes to the desk (desk.py),
what the beats tell comes from observe.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache
from typing import Any, TypeAlias

import grpc

from orch.v1 import heartbeat_pb2
from orch_client.courier.tmux import DEADLINE
from orch_client.desk import Desk
from orch_client.observe import Key, Sight, Watch, key

Reason: TypeAlias = heartbeat_pb2.GoodbyeReason.ValueType

_HELLO_DEADLINE = 10.0
_FAREWELL = 1.0
_LONGEST_NAME = 100


@cache
def client_id() -> str:
    """Names this process, whatever number of panes it serves."""
    return os.urandom(8).hex()


class Lost(Exception):
    """The server is not heard any more; connect again."""


class Superseded(Exception):
    """A newer client serves the pane; the message says which."""


class Ended(Exception):
    """The server ended the stream, or never accepted it; `error` says why."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error.details())
        self.error = error


class Connection:
    """One stream, which tells with each beat what `watch` sees."""

    def __init__(
        self,
        call: Any,
        desk: Desk,
        watch: Watch,
        show: Callable[[str], None] = lambda text: None,
        welcomed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._call = call
        self._desk = desk
        self._watch = watch
        self._show_text = show
        self._welcomed = welcomed
        self._lock = asyncio.Lock()
        self._heard = time.monotonic()
        self._acked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._interval, self._lease = 5.0, 15.0
        self._sequence = 0
        self._told: Key | None = None
        self._ends = 0  # of agents, that were told; what was seen before one does not count after
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

        Returns when `stop` is set, after the one beat, or when it is to come back after `drained`
        seconds: as the server asked, or since an agent came whose kind the hello did not tell.
        Raises Ended, Lost or Superseded.
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
        """Sends one frame. After the end of an agent all that is seen is news."""
        async with self._lock:
            if frame.WhichOneof("frame") == "exit":
                self._ends += 1
                self._told = None
            await self._call.write(frame)

    async def _converse(
        self,
        hello: heartbeat_pb2.Hello,
        stop: asyncio.Event,
        goodbye: Callable[[], Awaitable[Reason]],
        once: bool,
    ) -> None:
        async with _Group(stop) as group:
            opening = group.start(self._open(hello))
            await group.until(opening)
            if self.welcome is None:  # stopped just now; the server may have taken the hello
                await asyncio.wait([opening], timeout=_FAREWELL)
            if self.welcome is None:
                return
            receiving = group.start(self._receive())
            await group.until(receiving, self._beats(hello.kind, once))
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
        self._lease = frame.welcome.lease.ToTimedelta().total_seconds()
        self._desk.open(self)
        self._show("connected")
        if self._welcomed is not None:
            await self._welcomed()

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
        if ack.HasField("lease"):
            self._lease = ack.lease.ToTimedelta().total_seconds()
        if ack.HasField("beat_interval"):
            self._interval = ack.beat_interval.ToTimedelta().total_seconds()
            self._hurry.set()
        self._acked.set()
        self._show(f"{ack.sequence} beats")

    async def _beats(self, kind: str, once: bool) -> None:
        """Beats at the server's pace. Raises Lost when nothing was heard for a lease."""
        while True:
            began = time.monotonic()
            sight = await self.beat(self._interval)
            if once:
                await self._acked.wait()
                return
            if sight.agent not in ("", kind) and not self._desk.busy:
                self.drained = 0.0
                return
            await self._rest(began)
            if time.monotonic() - self._heard > self._lease:
                raise Lost

    async def beat(self, patience: float) -> Sight:
        """Sends one beat with what is seen within so many seconds, of which only what is new on
        this stream. Returns all that is seen."""
        ends = self._ends
        sight = await self._watch.sight(patience)
        async with self._lock:
            if ends != self._ends:
                sight = Sight(sight.program)
            self._sequence += 1
            beat = heartbeat_pb2.Beat(
                sequence=self._sequence, foreground_program=sight.program[:_LONGEST_NAME]
            )
            if sight.observation is not None and key(sight.observation) != self._told:
                self._told = key(sight.observation)
                beat.observation.CopyFrom(sight.observation)
            if sight.quiet is not None:
                beat.quiet.FromMilliseconds(int(sight.quiet * 1000))
            await self._call.write(heartbeat_pb2.ConnectRequest(beat=beat))
        return sight

    async def _rest(self, began: float) -> None:
        """Until the next beat is due, by the pace of that moment, or a late look has come."""
        self._watch.on_late = self._hurry.set
        while not self._watch.late and (left := began + self._interval - time.monotonic()) > 0:
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._hurry.wait()

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


async def _why(call: Any) -> grpc.aio.AioRpcError:
    """The error with which the server ended the call."""
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        await call.details() or "",
    )
