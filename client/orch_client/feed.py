"""What `top` shows, kept up to date: asks for the status when something has happened.

An event says that something has; then all is asked for anew, at most four times a second and for at
most a tenth of the time. What no event tells, such as the age of evidence, is asked for every few
seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from orch.v1 import event_pb2, event_pb2_grpc, session_state_pb2_grpc
from orch.v1 import session_state_pb2 as pb
from orch_client import channel, errors
from orch_client.commands.follow import is_worth_waiting
from orch_client.errors import ClientError

T = TypeVar("T")
_SOONEST, _LATEST = 0.25, 5.0  # seconds between two answers
_SHARE = 10  # of the time, at most one part in so many goes into asking
_DEADLINE = 5.0
_PAUSE = (0.2, 1.0)


class Feed:
    """The newest answer to `request`; `on_change` is called when there is another one, or when the
    server goes away. `lost`: since when it is away, on the terminal's clock; "" while it is there.
    Without an event it is asked for every `latest` seconds.
    """

    def __init__(
        self,
        request: pb.GetStatusRequest,
        answer: pb.GetStatusResponse,
        latest: float = _LATEST,
    ) -> None:
        self._request = request
        self._latest = latest
        self.on_change: Callable[[], None] = lambda: None
        self.lost = ""
        self._take(answer)

    def _take(self, answer: pb.GetStatusResponse) -> None:
        self.answer = answer
        self.lost = ""
        self._taken = time.monotonic()

    @property
    def now(self) -> float:
        """The time on the server's clock, in seconds since the epoch."""
        at = self.answer.time
        return at.seconds + at.nanos / 1e9 + time.monotonic() - self._taken

    async def keep(self) -> None:
        """Keeps it up to date for ever, also over restarts of the server. Raises ClientError when
        the server refuses."""
        while True:
            target = channel.address()
            try:
                await self._connected(target)
            except ClientError as exc:
                if exc.status != errors.UNREACHABLE:
                    raise
            except grpc.RpcError as exc:
                if not is_worth_waiting(exc.code(), target):
                    channel.fail(exc, target)
            self.lost = self.lost or time.strftime("%H:%M:%S")
            self.on_change()
            await asyncio.sleep(random.uniform(*_PAUSE))  # noqa: S311

    async def _connected(self, target: str) -> None:
        """Until the connection breaks."""
        metadata = await _aside(lambda: channel.credentials(target))
        async with grpc.aio.insecure_channel(target, options=channel.STREAM_OPTIONS) as opened:
            stub = session_state_pb2_grpc.SessionStateServiceStub(opened)
            await self._ask(stub, metadata)
            happened = asyncio.Event()
            both = [
                asyncio.create_task(self._listen(opened, metadata, happened)),
                asyncio.create_task(self._follow(stub, metadata, happened)),
            ]
            try:
                done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    async def _listen(self, opened: Any, metadata: Any, happened: asyncio.Event) -> None:
        stub = event_pb2_grpc.EventServiceStub(opened)
        request = event_pb2.WatchEventsRequest(after=self.answer.event_number)
        async for _ in stub.WatchEvents(request, metadata=metadata):
            happened.set()

    async def _follow(self, stub: Any, metadata: Any, happened: asyncio.Event) -> None:
        took = 0.0
        while True:
            await asyncio.sleep(max(_SOONEST, took * (_SHARE - 1)))
            await _set_within(happened, self._latest)
            happened.clear()
            took = await self._ask(stub, metadata)

    async def _ask(self, stub: Any, metadata: Any) -> float:
        """Asks once; returns how many seconds that took."""
        begun = time.monotonic()
        self._take(await stub.GetStatus(self._request, timeout=_DEADLINE, metadata=metadata))
        self.on_change()
        return time.monotonic() - begun


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def _aside(call: Callable[[], T]) -> T:
    """What a call that blocks returns or raises. Its thread keeps nobody from leaving, however long
    a server that is stopped is waited for."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[Any], None], what: object) -> None:
        def unless_cancelled() -> None:
            if not outcome.done():
                settle(what)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(unless_cancelled)

    def body() -> None:
        try:
            result = call()
        except ClientError as exc:
            tell(outcome.set_exception, exc)
        else:
            tell(outcome.set_result, result)

    threading.Thread(target=body, daemon=True).start()
    return await outcome
