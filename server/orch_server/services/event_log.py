"""The log of events, as others read and watch it.

A watch reads the table until it has caught up, then subscribes to the bus, reads what came in
between, and goes on with what the bus delivers: nothing is left out, nothing comes twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from orch_server.core.errors import InvalidInput
from orch_server.core.event import Event, Wanted, check_after, check_kinds
from orch_server.services.events import LocalBus
from orch_server.storage import events, lookup
from orch_server.storage.events import Portion
from orch_server.storage.store import Store

_PORTION = 1000


class EventLog:
    """Lists and watches."""

    def __init__(self, store: Store, bus: LocalBus) -> None:
        self._store = store
        self._bus = bus

    async def list_page(
        self, wanted: Wanted, after: int, size: int, token: str
    ) -> tuple[Portion, str]:
        """One page, the oldest first, and the token for the next. Raises InvalidInput.

        The token holds the number that the page has reached, so that nothing is shifted.
        """
        start, limit = lookup.window(size, token)
        known = await self._checked(wanted, after)
        page = await self._read(max(after, start), known, limit)
        return page, lookup.token_of(page.reached) if page.reached < page.newest else ""

    async def watch(self, wanted: Wanted, after: int, new_only: bool) -> AsyncIterator[Event]:
        """Every wanted event after the number, once and in order; with `new_only`, after now.

        Raises InvalidInput; Unavailable when it fell behind, Draining when the server stops.
        """
        known = await self._checked(wanted, after)
        if new_only and after:
            raise InvalidInput("new_only", "Give 'after' or 'new_only', not both.")
        reached = await self._store.read(events.newest) if new_only else after
        # Without a subscription: a long way to catch up must not fill its queue.
        async for portion in self._stored(known, reached):
            for event in portion.events:
                yield event
            reached = portion.reached
        with self._bus.subscribe(known.admits) as coming:
            async for portion in self._stored(known, reached):
                for event in portion.events:
                    yield event
                reached = portion.reached
            async for event in coming:
                if event.number > reached:
                    yield event

    async def _checked(self, wanted: Wanted, after: int) -> Wanted:
        """The same, with the whole subject. Raises InvalidInput or Ambiguous."""
        check_after(after)
        check_kinds(wanted.kinds)
        return replace(
            wanted,
            subject=await self._store.read(lambda db: events.full_subject(db, wanted.subject)),
        )

    async def _stored(self, wanted: Wanted, after: int) -> AsyncIterator[Portion]:
        """Portions of the table, until one has reached the newest event. Raises Draining."""
        reached, newest = after, after + 1
        while reached < newest:
            self._bus.check_open()
            portion = await self._read(reached, wanted, _PORTION)
            yield portion
            reached, newest = portion.reached, portion.newest

    async def _read(self, after: int, wanted: Wanted, limit: int) -> Portion:
        return await self._store.read(lambda db: events.read(db, after, wanted, limit))
