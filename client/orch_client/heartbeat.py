"""The heartbeat client of one pane: one stream to the server, for as long as the pane lives.

It introduces its pane, beats at the server's pace, and is the courier of that pane; connection.py
is the stream, fleet.py does the same for all panes of a tmux server. A lost server is tried again
for ever, the first time within 100 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from orch.v1 import heartbeat_pb2, identity_pb2
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub
from orch_client import __version__, channel, errors, identity
from orch_client.connection import Connection, Desk, Ended, Lost, Reason, Superseded
from orch_client.courier import programs
from orch_client.courier.offer import PaneAddress
from orch_client.errors import ClientError
from orch_client.pane import PaneWatch
from orch_client.status import StatusLine

if TYPE_CHECKING:
    from orch_client.courier.deliver import Courier

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 1.0
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


class Heartbeat:
    """Loops until the pane ends, the user stops it, or another client takes the role."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._target = channel.address()
        self._courier: Courier | None = None
        self._stop = asyncio.Event()
        self._passphrase = ""
        self._status = StatusLine()
        self._known: identity_pb2.IdentifyResponse | None = None

    async def run(self) -> int:
        """Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        failures = 0
        try:
            while not self._stop.is_set():
                try:
                    await self._attempt()
                    failures = 0
                except Lost:
                    failures += 1
                if self._options.once or self._stop.is_set():
                    break
                await pause(self._stop, failures)
        finally:
            if self._courier is not None:
                await self._courier.close()
        self._status.close()
        return 0

    async def _attempt(self) -> None:
        """One connection, from the introduction to its end. Raises Lost to try again."""
        try:
            pane, metadata = await self._introduce()
        except OSError as exc:
            if self._options.once or not channel.was_there(self._target):
                raise channel.unreachable(self._target) from exc
            self._status.show(f"waiting for the server at {self._target}")
            raise Lost from exc
        async with grpc.aio.insecure_channel(self._target, channel.OPTIONS) as grpc_channel:
            call = HeartbeatServiceStub(grpc_channel).Connect(metadata=metadata)
            await self._serve(call, pane)

    async def _serve(
        self,
        call: grpc.aio.StreamStreamCall[
            heartbeat_pb2.ConnectRequest, heartbeat_pb2.ConnectResponse
        ],
        pane: identity_pb2.IdentifyResponse,
    ) -> None:
        """Serves the connection until it ends, the pane ends, or the user wants an end."""
        watch = PaneWatch(pane.pane.tmux_socket, pane.pane.pane_id, pane.pane_pid)
        watching = asyncio.create_task(self._stop_with(watch))

        async def goodbye() -> Reason:
            if watching.done() or (self._stop.is_set() and await watch.is_gone()):
                return heartbeat_pb2.GOODBYE_REASON_PANE_ENDED
            return heartbeat_pb2.GOODBYE_REASON_CLIENT_STOPPED

        desk = Desk(self._the_courier, address(pane))
        connection = Connection(
            call, desk, lambda: programs.foreground(pane.pane_pid, "").name, self._status.show
        )
        try:
            await connection.run(self._hello(pane), self._stop, goodbye, self._options.once)
        except Superseded as exc:
            raise ClientError(f"{exc} took over; this heartbeat ends.", errors.CONFLICT) from exc
        except Ended as exc:
            self._give_up_or_go_on(exc.error)
        finally:
            watching.cancel()
        if connection.drained is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(connection.drained):
                    await self._stop.wait()

    def _the_courier(self) -> Courier:
        """Made with the first offer: a client that delivers nothing does without its 0.4 MB."""
        if self._courier is None:
            from orch_client.courier.deliver import Courier

            self._courier = Courier()
        return self._courier

    async def _stop_with(self, watch: PaneWatch) -> None:
        await watch.ended()
        self._stop.set()

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

    def _give_up_or_go_on(self, error: grpc.aio.AioRpcError) -> None:
        """Raises Lost to try again, ClientError to give up."""
        if channel.has_reason(error, "PASSPHRASE_REQUIRED") and self._ask_passphrase():
            raise Lost from error
        if error.code() in _FATAL:
            self._status.close()
            channel.fail(error, self._target)
        self._status.show(f"lost the server at {self._target}; trying again")
        raise Lost from error

    def _ask_passphrase(self) -> bool:
        if self._passphrase or not sys.stdin.isatty():
            return False
        import getpass

        self._passphrase = getpass.getpass("Operator's passphrase: ")
        return True


async def pause(stop: asyncio.Event, failures: int) -> None:
    """Full jitter, doubling from 100 ms to 1 s; ends early when the user wants an end."""
    most = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(failures, 10))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(random.uniform(0, most)):  # noqa: S311
            await stop.wait()


def address(who: identity_pb2.IdentifyResponse) -> PaneAddress:
    """The pane as the courier knows it."""
    pane = who.pane
    return PaneAddress(
        pane.tmux_socket,
        pane.tmux_server_pid,
        pane.tmux_server_start_time.seconds,
        pane.pane_id,
    )
