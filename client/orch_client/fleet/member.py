"""One pane of many: its stream to the server, for as long as the pane lives.

A pane that has a client of its own, or that the server does not let us serve for another reason, is
left alone and tried again from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import agent_pb2, heartbeat_pb2
from orch_client import __version__
from orch_client.connection import Connection, Ended, Lost, Reason, Superseded, client_id
from orch_client.courier import programs
from orch_client.courier.tmux import Tmux
from orch_client.desk import Desk
from orch_client.fleet.door import Door, Entry
from orch_client.fleet.panes import Seen
from orch_client.fleet.screen import Screen
from orch_client.heartbeat import pause
from orch_client.observe import Observer, Watch

if TYPE_CHECKING:
    from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceAsyncStub
    from orch_client.courier.deliver import Courier

_AWAY = 15.0
#: With these the stream is tried again at once; all others are the server's no to this pane.
_PASSING = {
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class _Refused(Exception):
    """This pane is not ours to serve now; the message says why."""


class Member:
    """A pane, as it was `seen` last. `spread` tells how many seconds all panes should take to come
    back, so that they do not come at one moment."""

    def __init__(
        self,
        seen: Seen,
        door: Door,
        stub: HeartbeatServiceAsyncStub,
        tmux: Tmux,
        courier: Callable[[], Courier],
        spread: Callable[[], float],
    ) -> None:
        self.seen = seen
        self.refused = ""
        self._door = door
        self._stub = stub
        self._desk = Desk(courier, seen.at)
        self._spread = spread
        self._stop = asyncio.Event()
        self._connection: Connection | None = None
        self._reason: Reason = heartbeat_pb2.GOODBYE_REASON_CLIENT_STOPPED
        self._judged: tuple[int, str] | None = None
        self._program = programs.classify([""])
        screen = Screen(tmux, lambda: self.seen)
        self._watch = Watch(Observer(self._judge, screen.capture))
        self.task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the server has welcomed this pane's stream."""
        return self._connection is not None and self._connection.welcome is not None

    def start(self) -> None:
        """Begins; `task` ends after `end`."""
        self.task = asyncio.create_task(self._run(), name=f"pane {self.seen.at.pane}")

    def end(self, reason: Reason) -> None:
        """Says goodbye, after what is being delivered."""
        self._reason = reason
        self._stop.set()
        if self._connection is None and self.task is not None:
            self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._follow()
        finally:
            self._watch.give_up()

    async def _follow(self) -> None:
        doubted: Entry | None = None
        failures = 0
        while not self._stop.is_set():
            await self._rest(random.uniform(0, self._spread()))  # noqa: S311
            try:
                doubted = entry = await self._door.entry(self.seen.at.pane, doubted)
                later = await self._serve(entry)
                doubted, failures = None, 0
                await self._rest(later)
            except Lost:
                failures += 1
                await pause(self._stop, failures)
            except _Refused as exc:
                doubted, failures, self.refused = None, 0, str(exc)
                await self._rest(random.uniform(0.7, 1.3) * _AWAY)  # noqa: S311

    async def _serve(self, entry: Entry) -> float:
        """One stream; returns after how many seconds to come back."""
        call = self._stub.Connect(metadata=entry.metadata, wait_for_ready=True)
        self._connection = connection = Connection(call, self._desk, self._watch)
        try:
            await connection.run(self._hello(entry), self._stop, self._goodbye)
        except Superseded as exc:
            raise _Refused(f"{exc} took over") from exc
        except Ended as exc:
            if exc.error.code() in _PASSING:
                raise Lost from exc
            raise _Refused(exc.error.details() or "") from exc
        finally:
            if connection.welcome is not None:
                self.refused = ""
            self._connection = None
        return connection.drained or 0.0

    async def _goodbye(self) -> Reason:
        return self._reason

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _hello(self, entry: Entry) -> heartbeat_pb2.Hello:
        at = self.seen.at
        pane = agent_pb2.Pane(
            host=entry.host,
            tmux_socket=at.socket,
            tmux_server_pid=at.server_pid,
            tmux_server_start_time=Timestamp(seconds=at.started),
            pane_id=at.pane,
        )
        return heartbeat_pb2.Hello(
            pane=pane,
            pane_pid=self.seen.pid,
            session=self.seen.session,
            kind=self._judge().agent or self._watch.observer.agent,
            client_version=__version__,
            courier=True,
            client_id=client_id(),
        )

    def _judge(self) -> programs.Program:
        """The program in the foreground. All of /proc is read only when tmux sees another command
        or the process is another; whether an agent is stopped, each time."""
        now = (self.seen.pid, self.seen.command)
        same = now == self._judged
        if same and not self._program.agent:
            return self._program
        known = programs.again(self._program) if same else None
        # An agent that is gone makes the list an old one: judge again until there is a new one.
        self._judged = now if known is not None or not same else None
        self._program = known or programs.foreground(*now)
        return self._program
