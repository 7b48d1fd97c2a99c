"""The heartbeat client: one stream to the server, for as long as the pane lives.

It introduces its pane, beats at the server's pace, and is the courier of that pane: it types what
the server offers and reports what became of it. It keeps no memory of deliveries: what was done is
known to the tmux server, so a killed client loses and doubles nothing. A lost server is tried again
for ever, the first time within 100 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import grpc

from orch.v1 import delivery_pb2, heartbeat_pb2, identity_pb2
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub
from orch_client import __version__, channel, errors, identity
from orch_client.courier import deliver, programs, tmux
from orch_client.errors import ClientError
from orch_client.pane import PaneWatch
from orch_client.status import StatusLine

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 1.0
_HELLO_DEADLINE = 10.0
_FATAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    pane: str
    role: str
    kind: str
    take_over: bool
    once: bool


class _Lost(Exception):
    """The server is not heard any more; connect again."""


class Heartbeat:
    """Loops until the pane ends, the user stops it, or another client takes the role."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._target = channel.address()
        self._courier = deliver.Courier()
        self._stop = asyncio.Event()
        self._goodbye: heartbeat_pb2.GoodbyeReason.ValueType = (
            heartbeat_pb2.GOODBYE_REASON_CLIENT_STOPPED
        )
        self._passphrase = ""
        self._status = StatusLine()
        self._known: identity_pb2.IdentifyResponse | None = None

    async def run(self) -> int:
        """Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        failures = 0
        while not self._stop.is_set():
            try:
                welcomed = await self._attempt()
                failures = 0 if welcomed else failures + 1
            except _Lost:
                failures += 1
            if self._options.once or self._stop.is_set():
                break
            await self._pause(failures)
        self._status.close()
        return 0

    async def _attempt(self) -> bool:
        """One connection, from the introduction to its end. True when it was welcomed."""
        try:
            pane, metadata = await self._introduce()
        except OSError as exc:
            if self._options.once or not channel.was_there(self._target):
                raise channel.unreachable(self._target) from exc
            self._status.show(f"waiting for the server at {self._target}")
            raise _Lost from exc
        async with grpc.aio.insecure_channel(self._target, channel.OPTIONS) as grpc_channel:
            call = HeartbeatServiceStub(grpc_channel).Connect(metadata=metadata)
            connection = _Connection(call, self._courier, pane, self._status)
            try:
                await connection.open(self._hello(pane))
                await self._serve(connection, pane)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as exc:
                if isinstance(exc, asyncio.CancelledError) and not call.done():
                    raise
                await self._ended(call)
            finally:
                connection.close()
        return connection.welcome is not None

    async def _serve(self, connection: _Connection, pane: identity_pb2.IdentifyResponse) -> None:
        """Serves the connection until it ends, the pane ends, or the user wants an end."""
        watch = PaneWatch(pane.pane.tmux_socket, pane.pane.pane_id, pane.pane_pid)
        work: list[Coroutine[Any, Any, Any]] = [
            connection.receive(),
            connection.beat(once=self._options.once),
            self._stop.wait(),
            watch.ended(),
        ]
        tasks = [asyncio.ensure_future(item) for item in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[3].done() or (tasks[2].done() and await watch.is_gone()):
                self._goodbye = heartbeat_pb2.GOODBYE_REASON_PANE_ENDED
                self._stop.set()
            for task in tasks[:2]:
                if task.done():
                    task.result()
            if connection.drained is not None:
                await connection.leave(heartbeat_pb2.GOODBYE_REASON_DRAINED)
                await asyncio.sleep(connection.drained)
            elif self._stop.is_set() or self._options.once:
                await connection.leave(self._goodbye)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _introduce(self) -> tuple[identity_pb2.IdentifyResponse, channel.Metadata]:
        """The facts of the pane, and the token. Raises OSError when the server is not there."""
        if not self._target.startswith("unix:"):
            raise ClientError(
                "a heartbeat needs the server's Unix socket; set ORCH_ADDRESS to unix:/PATH.",
                errors.USAGE,
            )
        who = await asyncio.to_thread(
            identity.ask, self._target, with_pane=True, pane_id=self._options.pane
        )
        if who.HasField("pane"):
            self._known = who
        elif self._known is not None:  # tmux was silent just now; the pane is still ours
            who.pane.CopyFrom(self._known.pane)
            who.pane_pid, who.session = self._known.pane_pid, self._known.session
        elif "did not answer" in who.problem:
            raise ClientError(who.problem, errors.FAILED)
        else:
            hint = (
                ""
                if self._options.pane
                else (" Run this inside a tmux pane, or name one with --pane %ID.")
            )
            raise ClientError(who.problem + hint, errors.USAGE)
        return who, channel.bearer(who.token)

    def _hello(self, who: identity_pb2.IdentifyResponse) -> heartbeat_pb2.Hello:
        kind = self._options.kind or programs.foreground(who.pane_pid, "").agent
        return heartbeat_pb2.Hello(
            pane=who.pane,
            pane_pid=who.pane_pid,
            session=who.session,
            role=self._options.role,
            kind=kind,
            client_version=__version__,
            take_over=self._options.take_over,
            passphrase=self._passphrase,
        )

    async def _ended(self, call: Any) -> None:
        """Why the server ended the call: raises _Lost to try again, ClientError to give up."""
        code = await call.code()
        details = await call.details() or ""
        error = grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), details
        )
        if channel.has_reason(error, "PASSPHRASE_REQUIRED") and self._ask_passphrase():
            raise _Lost
        if code in _FATAL:
            self._status.close()
            channel.fail(error, self._target)
        self._status.show(f"lost the server at {self._target}; trying again")
        raise _Lost

    def _ask_passphrase(self) -> bool:
        if self._passphrase or not sys.stdin.isatty():
            return False
        import getpass

        self._passphrase = getpass.getpass("Operator's passphrase: ")
        return True

    async def _pause(self, failures: int) -> None:
        """Full jitter, doubling from 100 ms to 1 s; ends early when the user wants an end."""
        most = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(failures, 10))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0, most)):  # noqa: S311
                await self._stop.wait()


class _Connection:
    """One open stream."""

    def __init__(
        self,
        call: Any,
        courier: deliver.Courier,
        pane: identity_pb2.IdentifyResponse,
        status: StatusLine,
    ) -> None:
        self._call = call
        self._courier = courier
        self._pane = pane
        self._at = deliver.PaneAddress(
            pane.pane.tmux_socket,
            pane.pane.tmux_server_pid,
            pane.pane.tmux_server_start_time.seconds,
            pane.pane.pane_id,
        )
        self._status = status
        self._lock = asyncio.Lock()
        self._deliveries: dict[int, asyncio.Task[None]] = {}
        self._heard = time.monotonic()
        self._acked = asyncio.Event()
        self._interval = 5.0
        self._closed = False
        self.welcome: heartbeat_pb2.Welcome | None = None
        self.drained: float | None = None

    async def open(self, hello: heartbeat_pb2.Hello) -> None:
        """Sends the hello, takes the welcome. Raises AioRpcError when refused, _Lost if silent."""
        try:
            async with asyncio.timeout(_HELLO_DEADLINE):
                await self._write(heartbeat_pb2.ConnectRequest(hello=hello))
                frame = await self._call.read()
        except TimeoutError as exc:
            raise _Lost from exc
        if frame is grpc.aio.EOF:
            raise asyncio.InvalidStateError("the server ended the stream")
        self.welcome = frame.welcome
        self._interval = frame.welcome.beat_interval.ToTimedelta().total_seconds()
        self._show("connected")

    async def receive(self) -> None:
        """Takes frames until the stream ends or the server asks to come back later."""
        while True:
            frame = await self._call.read()
            if frame is grpc.aio.EOF:
                raise asyncio.InvalidStateError("the server ended the stream")
            self._heard = time.monotonic()
            kind = frame.WhichOneof("frame")
            if kind == "ack":
                if frame.ack.HasField("beat_interval"):
                    self._interval = frame.ack.beat_interval.ToTimedelta().total_seconds()
                self._acked.set()
                self._show(f"{frame.ack.sequence} beats")
            elif kind == "offer":
                self._take(frame.offer)
            elif kind == "drain":
                self.drained = frame.drain.reconnect_after.ToTimedelta().total_seconds()
                return
            elif kind == "superseded":
                raise ClientError(
                    f"{frame.superseded.by} took over; this heartbeat ends.", errors.CONFLICT
                )

    async def beat(self, once: bool) -> None:
        """Beats at the server's pace. Raises _Lost when nothing was heard for a lease."""
        assert self.welcome is not None
        lease = self.welcome.lease.ToTimedelta().total_seconds()
        sequence = 0
        while True:
            sequence += 1
            program = programs.foreground(self._pane.pane_pid, "").name
            beat = heartbeat_pb2.Beat(sequence=sequence, foreground_program=program[:100])
            await self._write(heartbeat_pb2.ConnectRequest(beat=beat))
            if once:
                await self._acked.wait()
                return
            await asyncio.sleep(self._interval)
            if time.monotonic() - self._heard > lease:
                raise _Lost

    async def leave(self, reason: heartbeat_pb2.GoodbyeReason.ValueType) -> None:
        """Says goodbye, after what is being delivered."""
        if self._deliveries:
            await asyncio.wait(self._deliveries.values(), timeout=2 * tmux.DEADLINE)
        goodbye = heartbeat_pb2.Goodbye(reason=reason)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(1):
                await self._write(heartbeat_pb2.ConnectRequest(goodbye=goodbye))
                await self._call.done_writing()
                while await self._call.read() is not grpc.aio.EOF:
                    pass

    def close(self) -> None:
        """Ends the stream; deliveries under way are tried again by the next connection."""
        self._closed = True
        for task in self._deliveries.values():
            task.cancel()
        self._call.cancel()

    def _take(self, offer: delivery_pb2.DeliveryOffer) -> None:
        if offer.sequence not in self._deliveries:
            task = asyncio.create_task(self._deliver(offer))
            self._deliveries[offer.sequence] = task
            task.add_done_callback(lambda _: self._deliveries.pop(offer.sequence, None))

    async def _deliver(self, offer: delivery_pb2.DeliveryOffer) -> None:
        async def report(outcome: deliver.Outcome) -> None:
            if self._closed:
                return
            state = delivery_pb2.DeliveryState.Value(f"DELIVERY_STATE_{outcome.state}")
            given = delivery_pb2.DeliveryReport(
                delivery_id=offer.delivery_id,
                sequence=offer.sequence,
                grant=offer.grant,
                state=state,
                detail=outcome.detail,
            )
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._write(heartbeat_pb2.ConnectRequest(report=given))

        asked = deliver.Offer(
            offer.sequence, offer.generation, offer.text, offer.kind, offer.tried_before
        )
        await report(await self._courier.deliver(asked, self._at, report))

    async def _write(self, frame: heartbeat_pb2.ConnectRequest) -> None:
        async with self._lock:
            await self._call.write(frame)

    def _show(self, what: str) -> None:
        assert self.welcome is not None
        agent = f"{self.welcome.session}:{self.welcome.role}"
        self._status.show(f"{agent} · alive · epoch {self.welcome.epoch} · {what}")
