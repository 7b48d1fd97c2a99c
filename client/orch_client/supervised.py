"""An agent in the foreground, its heartbeat beside it in the same process: `orch-client run`.

The agent comes first: it runs without a server, without tmux, whatever becomes of its heartbeat.
While it has the terminal nothing of ours is written there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from asyncio import FIRST_COMPLETED
from datetime import timedelta

from orch.v1 import heartbeat_pb2
from orch_client import channel
from orch_client.child import Child
from orch_client.courier import programs
from orch_client.errors import ClientError
from orch_client.heartbeat import Heartbeat, Options
from orch_client.restart import MOST, End, History, after_crash
from orch_client.status import Silent
from orch_client.terminal import Terminal, own_error, say

_BEFORE = 0.5  # seconds for the first connection, before the agent gets the terminal
_LAST_WORDS, _GOODBYE = 1.0, 1.5  # seconds, after it
_NOT_FOUND, _NOT_STARTED = 127, 126


class Beside:
    """The heartbeat that runs beside the agent; none when there is no pane to beat for. `trouble`
    says, as one sentence, why the agent is not supervised; "" when it is."""

    def __init__(self, options: Options, agent: str) -> None:
        self._heartbeat: Heartbeat | None = None
        self._beating: asyncio.Task[None] | None = None
        self.trouble = ""
        if not os.environ.get("TMUX_PANE"):
            self.trouble = "This is no tmux pane."
            return
        try:
            self._heartbeat = Heartbeat(options, Silent(), agent)
        except ClientError as exc:
            self.trouble = exc.message

    async def begin(self) -> str:
        """Tries to connect while the user still has the terminal; returns what to say to them."""
        heartbeat = self._heartbeat
        if heartbeat is None:
            return f"not supervised: {self.trouble}"
        self._beating = asyncio.create_task(self._beat(heartbeat))
        trying = asyncio.create_task(heartbeat.tried.wait())
        await asyncio.wait([self._beating, trying], timeout=_BEFORE, return_when=FIRST_COMPLETED)
        trying.cancel()
        heartbeat.attended = False
        if self.trouble:
            return f"not supervised: {self.trouble}"
        return "not supervised until there is an orch-server." if heartbeat.absent else ""

    def started(self, program: str) -> None:
        """The agent runs from now on."""
        if self._heartbeat is not None:
            self._heartbeat.started = program

    async def say(self, ended: heartbeat_pb2.AgentExit) -> None:
        """Tells how the agent has ended."""
        if self._heartbeat is not None:
            self._heartbeat.started = ""
            await self._heartbeat.say(heartbeat_pb2.ConnectRequest(exit=ended))

    async def say_stopped(self) -> None:
        """Tells that the agent is stopped, and this process in a moment."""
        if self._heartbeat is not None:
            await self._heartbeat.say_stopped()

    async def end(self) -> None:
        """Says what is left to say, and goodbye, within a short time."""
        if self._heartbeat is None or self._beating is None:
            return
        if not (self._heartbeat.absent or self._beating.done()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await self._heartbeat.all_said()
        self._heartbeat.stop()
        await asyncio.wait([self._beating], timeout=_GOODBYE)
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)

    async def _beat(self, heartbeat: Heartbeat) -> None:
        try:
            await heartbeat.serve()
        except ClientError as exc:
            self.trouble = exc.message


class Run:
    """Runs a command until it has ended for good; after a crash again, if it is to `restart`."""

    def __init__(self, command: list[str], options: Options, restart: bool) -> None:
        self._name = os.path.basename(command[0])  # noqa: PTH119 - it is what the user typed
        self._restart = restart
        self._beside = Beside(options, programs.classify(command).agent)
        self._child = Child(command, self._beside.say_stopped)
        self._history = History()

    async def run(self) -> int:
        """Returns the exit status of the command; 128 + N when signal N ended it."""
        known = await self._beside.begin()
        if known:
            say(2, f"{self._name} is {known}")
        self._child.watch_signals()
        try:
            with own_error(f"{channel.home()}/logs/run.log") as error:
                return await self._live(Terminal(), error)
        finally:
            await self._beside.end()
            if self._beside.trouble and not known:
                say(2, f"{self._name} was not supervised any more: {self._beside.trouble}")

    async def _live(self, terminal: Terminal, error: int) -> int:
        """Life after life. `error` is where the user reads."""
        while True:
            began = time.monotonic()
            end = await self._life(error)
            told = self._told(end, began)
            await self._beside.say(told)
            if told.gave_up:
                say(error, f"{self._name} {end}, {MOST} times in short order; it is given up.")
            if not told.HasField("restart_after"):
                return end.shown
            pause = told.restart_after.ToTimedelta().total_seconds()
            terminal.take_back()
            say(error, f"{self._name} {end}; it starts again in {pause:g} s. Ctrl-C: no more.")
            if await self._left_within(pause):
                await self._beside.say(_exit(end, wanted=True))
                return end.shown

    async def _life(self, error: int) -> End:
        try:
            self._child.start(error)
        except OSError as exc:
            say(error, f"cannot start {self._name}: {exc.strerror}.")
            missing = isinstance(exc, FileNotFoundError)
            return End(_NOT_FOUND if missing else _NOT_STARTED, 0)
        self._beside.started(self._name)
        return await self._child.ended()

    def _told(self, end: End, began: float) -> heartbeat_pb2.AgentExit:
        """What the server is told, with the decision on what comes next."""
        told = _exit(end, wanted=self._child.was_asked or not self._child.was_started)
        if self._restart and end.is_crash and not told.wanted:
            self._history, pause = after_crash(self._history, began, time.monotonic())
            if pause is None:
                told.gave_up = True
            else:
                told.restart_after.FromTimedelta(timedelta(seconds=pause))
        return told

    async def _left_within(self, seconds: float) -> bool:
        """Whether the user wants an end while nothing runs."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._child.leave.wait()
        return self._child.leave.is_set()


def _exit(end: End, wanted: bool) -> heartbeat_pb2.AgentExit:
    return heartbeat_pb2.AgentExit(status=end.status, signal=end.signal, wanted=wanted)
