"""Follows the panes of a tmux server: serves what is new, says goodbye for what is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

import grpc

from orch.v1 import heartbeat_pb2
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub
from orch_client import channel, errors
from orch_client.connection import Reason
from orch_client.courier.control import Control
from orch_client.courier.offer import PaneAddress
from orch_client.courier.tmux import DEADLINE, PaneGone, TmuxDied, TmuxFailed, TmuxSilent
from orch_client.errors import ClientError
from orch_client.fleet.door import Door
from orch_client.fleet.member import Member
from orch_client.fleet.panes import Seen, ancestors, list_panes
from orch_client.status import StatusLine

if TYPE_CHECKING:
    from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceAsyncStub
    from orch_client.courier.deliver import Courier

_LOOK = 1.0
_SPREAD, _MOST = 0.01, 2.0  # seconds for each pane; for all together
_PATIENCE = 2 * DEADLINE + 2


class Fleet:
    """Serves every pane on a tmux socket, or those of one session, but its own."""

    def __init__(self, socket: str, session: str) -> None:
        self._socket = os.path.realpath(socket)
        self._session = session
        self._target = channel.address()
        self._control = Control(self._socket)
        self._courier: Courier | None = None
        self._status = StatusLine()
        self._door = Door(self._target, self._socket, self._status.show)
        self._stop = asyncio.Event()
        self._ours = ancestors()
        self._members: dict[PaneAddress, Member] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Returns the exit status. Raises ClientError when there is nothing to serve at first."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self._check()
            async with grpc.aio.insecure_channel(
                self._target, channel.STREAM_OPTIONS
            ) as grpc_channel:
                await self._follow(HeartbeatServiceStub(grpc_channel))
        finally:
            if self._courier is not None:
                await self._courier.close()
            await self._control.close()
            self._status.close()
        return 0

    def _the_courier(self) -> Courier:
        if self._courier is None:
            from orch_client.courier.deliver import Courier

            self._courier = Courier(lambda _: self._control)
        return self._courier

    async def _check(self) -> None:
        if not self._target.startswith("unix:"):
            raise ClientError(
                "a heartbeat needs the server's Unix socket; set ORCH_ADDRESS to unix:/PATH.",
                errors.USAGE,
            )
        if not channel.was_there(self._target):
            raise channel.unreachable(self._target)
        try:
            found = await list_panes(self._control, self._socket, self._session)
        except (PaneGone, TmuxDied, TmuxFailed, TmuxSilent) as exc:
            raise ClientError(
                f"no tmux answers at {self._socket} ({exc}); start it, or name its socket in TMUX.",
                errors.FAILED,
            ) from exc
        if not found and self._session:
            raise ClientError(
                f"there is no session '{self._session}'; look with 'tmux ls'.", errors.MISSING
            )

    async def _follow(self, stub: HeartbeatServiceAsyncStub) -> None:
        try:
            while not self._stop.is_set():
                await self._look(stub)
                self._show()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._stop.wait()
        finally:
            self._end(list(self._members), heartbeat_pb2.GOODBYE_REASON_CLIENT_STOPPED)
            if self._leaving:
                await asyncio.wait(self._leaving, timeout=_PATIENCE)
            for task in self._leaving:
                task.cancel()

    async def _look(self, stub: HeartbeatServiceAsyncStub) -> None:
        """A tmux that does not answer says nothing of its panes; one that is gone has none."""
        try:
            found = await list_panes(self._control, self._socket, self._session)
        except (PaneGone, TmuxDied):
            found = {}
        except (TmuxSilent, TmuxFailed):
            return
        gone = [at for at in self._members if at not in found]
        self._end(gone, heartbeat_pb2.GOODBYE_REASON_PANE_ENDED)
        for seen in found.values():
            self._serve(seen, stub)

    def _serve(self, seen: Seen, stub: HeartbeatServiceAsyncStub) -> None:
        member = self._members.get(seen.at)
        if member is not None:
            member.seen = seen
            if member.task is not None and member.task.done():
                member.task.result()  # it ends only when told to, or by a fault
        elif seen.pid not in self._ours:
            member = Member(seen, self._door, stub, self._control, self._the_courier, self._spread)
            self._members[seen.at] = member
            member.start()

    def _end(self, panes: list[PaneAddress], reason: Reason) -> None:
        for at in panes:
            member = self._members.pop(at)
            member.end(reason)
            if member.task is not None:
                self._leaving.add(member.task)
                member.task.add_done_callback(self._leaving.discard)

    def _spread(self) -> float:
        return min(_MOST, _SPREAD * len(self._members))

    def _show(self) -> None:
        members = self._members.values()
        alive = sum(member.alive for member in members)
        refused = [member.refused for member in members if member.refused]
        text = f"{len(members)} pane{'' if len(members) == 1 else 's'}, {alive} alive"
        if refused:
            text += f", {len(refused)} left alone ({refused[0]})"
        self._status.show(text)
