"""The heartbeat client of one pane: one stream to the server, for as long as the pane lives.

It introduces its pane, beats at the server's pace, tells what the pane shows, and is the courier of
that pane; connection.py is the stream, observe.py the eyes, fleet/ does the same for all panes of a
tmux server, supervised.py runs it beside an agent. A lost server is tried again for ever, the first
time within 100 ms.
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
from orch_client.connection import Connection, Ended, Lost, Reason, Superseded, client_id
from orch_client.courier import programs
from orch_client.courier.offer import PaneAddress
from orch_client.courier.tmux import Subprocess
from orch_client.desk import Desk
from orch_client.errors import ClientError
from orch_client.observe import Observer, Watch
from orch_client.pane import PaneWatch
from orch_client.status import Status, StatusLine

if TYPE_CHECKING:
    from orch_client.courier.deliver import Courier

_LAST_WORD = 0.5
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
    """What the user asked for. `patient`: a server that was never there is waited for too."""

    pane: str = ""
    role: str = ""
    kind: str = ""
    take_over: bool = False
    once: bool = False
    credential: str = ""
    patient: bool = False


class Heartbeat:
    """Loops until the pane ends, it is stopped, or another client takes the role. `agent` is the
    kind of the agent that is about to start, "" when that is not known."""

    def __init__(self, options: Options, status: Status | None = None, agent: str = "") -> None:
        self._options = options
        self._target = channel.address()
        self._courier: Courier | None = None
        self._stop = asyncio.Event()
        self._passphrase = ""
        self._proving = False  # the passphrase was just given, and not tried yet
        self._status = status or StatusLine()
        self._known: identity_pb2.IdentifyResponse | None = None
        self._watch: tuple[PaneAddress, PaneWatch, Watch] | None = None
        self._agent = agent
        self._desk: Desk | None = None
        self._connection: Connection | None = None
        self._unsaid: heartbeat_pb2.ConnectRequest | None = None
        self._said = asyncio.Event()
        self.tried = asyncio.Event()  # the server welcomed this client, or was not to be had
        self.attended = True  # the user may be asked for the passphrase
        self.absent = False  # the server is not there
        self.started = ""  # what `run` has started beside this client, while it runs

    async def run(self) -> int:
        """Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        await self.serve()
        return 0

    def stop(self) -> None:
        """Says goodbye and ends."""
        self._stop.set()

    async def serve(self) -> None:
        """Beats until it is stopped. Raises ClientError when it makes no sense to go on."""
        failures = 0
        try:
            while not self._stop.is_set():
                try:
                    await self._attempt()
                    failures = 0
                except Lost as exc:
                    if self._proving:
                        self._proving = False
                        continue
                    failures += 1
                    self.tried.set()
                    if self._options.once:
                        raise channel.unreachable(self._target) from exc
                if self._options.once or self._stop.is_set():
                    break
                await pause(self._stop, failures)
        finally:
            if self._watch is not None:
                self._watch[2].give_up()
            if self._courier is not None:
                await self._courier.close()
        self._status.close()

    async def _attempt(self) -> None:
        """One connection, from the introduction to its end. Raises Lost to try again."""
        try:
            pane, metadata = await self._introduce()
            self.absent = False
        except OSError as exc:
            self.absent = True
            patient = self._options.patient or channel.was_there(self._target)
            if self._options.once or not patient:
                raise channel.unreachable(self._target) from exc
            self._status.show(f"waiting for the server at {self._target}")
            raise Lost from exc
        async with grpc.aio.insecure_channel(self._target, channel.STREAM_OPTIONS) as grpc_channel:
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
        end, watch = self._eyes(pane)
        watching = asyncio.create_task(self._stop_with(end))

        async def goodbye() -> Reason:
            if watching.done() or (self._stop.is_set() and await end.is_gone()):
                return heartbeat_pb2.GOODBYE_REASON_PANE_ENDED
            return heartbeat_pb2.GOODBYE_REASON_CLIENT_STOPPED

        desk = Desk(self._the_courier, address(pane))
        connection = Connection(call, desk, watch, self._status.show, self._welcomed)
        self._desk, self._connection = desk, connection
        try:
            await connection.run(self._hello(pane), self._stop, goodbye, self._options.once)
        except Superseded as exc:
            raise ClientError(f"{exc} took over; this heartbeat ends.", errors.CONFLICT) from exc
        except Ended as exc:
            self._give_up_or_go_on(exc.error)
        finally:
            self._connection = None
            watching.cancel()
        if connection.drained is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(connection.drained):
                    await self._stop.wait()

    def _eyes(self, pane: identity_pb2.IdentifyResponse) -> tuple[PaneWatch, Watch]:
        """They outlive a connection, for they remember since when the pane has not moved."""
        at = address(pane)
        if self._watch is None or self._watch[0] != at:
            end = PaneWatch(at.socket, at.pane, pane.pane_pid)
            tmux = Subprocess(at.socket)

            async def capture(fresh: bool) -> str:
                from orch_client.courier.look import glimpse

                return await glimpse(tmux, at)

            observer = Observer(
                lambda: programs.foreground(end.pid, ""),
                capture,
                self._options.kind,
                self._agent,
                lambda: self.started,
            )
            if self._watch is not None:
                self._watch[2].give_up()
            self._watch = at, end, Watch(observer)
        self._watch[1].pid = pane.pane_pid
        return self._watch[1:]

    async def _welcomed(self) -> None:
        """What could not be said while there was no stream is said now."""
        self.tried.set()
        frame, self._unsaid = self._unsaid, None
        if frame is not None:
            await self.say(frame)
        self._said.set()

    def _the_courier(self) -> Courier:
        """Made with the first offer: a client that delivers nothing does without its 0.4 MB."""
        if self._courier is None:
            from orch_client.courier.deliver import Courier

            self._courier = Courier()
        return self._courier

    async def say(self, frame: heartbeat_pb2.ConnectRequest) -> None:
        """Tells the server; when it is not there, as soon as it is. What was seen of the pane
        before is not told after it."""
        if self._watch is not None:
            self._watch[2].give_up()
        if self._desk is None or not await self._desk.tell(frame):
            self._unsaid = frame
            self._said.clear()

    async def all_said(self) -> None:
        """Waits until nothing is left to be said."""
        if self._unsaid is not None:
            await self._said.wait()

    async def say_stopped(self) -> None:
        """One beat more, before this program is stopped together with its agent. A look that is
        under way is given up: it may wait for tmux, and began before the stop."""
        connection = self._connection
        if connection is None or connection.welcome is None:
            return
        if self._watch is not None:
            self._watch[2].give_up()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await connection.beat(_LAST_WORD)

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
        assert self._watch is not None
        seen = programs.foreground(who.pane_pid, "").agent or self._watch[2].observer.agent
        return heartbeat_pb2.Hello(
            pane=who.pane,
            pane_pid=who.pane_pid,
            session=who.session,
            role=self._options.role,
            kind=self._options.kind or seen,
            client_version=__version__,
            take_over=self._options.take_over,
            passphrase=self._passphrase,
            client_id=client_id(),
            credential=self._options.credential,
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
        if self._passphrase or not self.attended or not sys.stdin.isatty():
            return False
        import getpass

        self._passphrase = getpass.getpass("Operator's passphrase: ")
        self._proving = bool(self._passphrase)
        return self._proving


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
