"""EventService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from orch.v1 import event_pb2 as pb
from orch.v1.event_pb2_grpc import EventServiceServicer
from orch_server.core.event import Event, Wanted
from orch_server.services.event_log import EventLog
from orch_server.transport.convert import timestamp


class EventServicer(EventServiceServicer):
    """Converts, calls, converts back."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: Any
    ) -> pb.ListEventsResponse:
        page, token = await self._log.list_page(
            _wanted(request), request.after, request.page_size, request.page_token
        )
        return pb.ListEventsResponse(
            events=[_event(one) for one in page.events],
            next_page_token=token,
            last_number=page.newest,
        )

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Any
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        async for one in self._log.watch(_wanted(request), request.after, request.new_only):
            yield pb.WatchEventsResponse(event=_event(one))


def _wanted(given: pb.ListEventsRequest | pb.WatchEventsRequest) -> Wanted:
    return Wanted(given.session, tuple(given.kinds), given.subject)


def _event(given: Event) -> pb.Event:
    return pb.Event(
        number=given.number,
        time=timestamp(given.at),
        kind=given.kind,
        subject=given.subject,
        session=given.session,
        agent=given.agent,
        actor=given.actor,
        detail=given.detail,
    )
