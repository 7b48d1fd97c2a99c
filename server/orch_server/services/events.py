"""The local event bus: what was committed, handed to those in this process who watch.

Every subscriber has a bounded queue of its own; one that falls behind is told so and must begin
again. Nobody slows the writer down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import chain

from orch_server.core.errors import Draining, Unavailable
from orch_server.core.event import Event

_DEPTH = 4096


class Subscription:
    """The events that one watcher asked for, in order."""

    def __init__(self, wanted: Callable[[Event], bool]) -> None:
        self._wanted = wanted
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_DEPTH)
        self._lagged = False

    def offer(self, events: list[Event]) -> None:
        """Queues what is wanted; called by the bus."""
        for event in events:
            if self._lagged or not self._wanted(event):
                continue
            if self._queue.qsize() >= _DEPTH - 1:
                self._lagged = True
                self._queue.put_nowait(None)
                return
            self._queue.put_nowait(event)

    def close(self) -> None:
        """Ends the iteration with Draining."""
        if self._queue.qsize() < _DEPTH:
            self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._queue.get()) is not None:
            yield event
        if self._lagged:
            raise Unavailable("This watch fell too far behind; begin it again.")
        raise _draining()


class LocalBus:
    """Hands committed events to the subscribers of this process."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._about: dict[str, set[Subscription]] = {}  # those that watch one subject
        self._closed = False

    def publish(self, events: list[Event]) -> None:
        """Called by the store after each commit, on the event loop, in order."""
        for subscription in self._subscriptions:
            subscription.offer(events)
        if self._about:
            for event in events:
                for subscription in self._about.get(event.subject, ()):
                    subscription.offer([event])

    @contextmanager
    def subscribe(
        self, wanted: Callable[[Event], bool] = lambda event: True, about: str = ""
    ) -> Iterator[Subscription]:
        """Subscribes for as long as the block lasts: to the events of the subject `about`, which
        costs nothing when others change, or else to all; of these to what is wanted."""
        subscription = Subscription(wanted)
        if self._closed:
            subscription.close()
        same = self._about.setdefault(about, set()) if about else self._subscriptions
        same.add(subscription)
        try:
            yield subscription
        finally:
            same.discard(subscription)
            if about and not same:
                self._about.pop(about, None)

    def check_open(self) -> None:
        """Raises Draining when the server stops."""
        if self._closed:
            raise _draining()

    def close(self) -> None:
        """Ends all watches, since the server stops; one that begins later ends at once."""
        self._closed = True
        for subscription in [*self._subscriptions, *chain(*self._about.values())]:
            subscription.close()


def _draining() -> Draining:
    return Draining("The server stops; begin this watch again in a moment.")
