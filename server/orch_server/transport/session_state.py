"""SessionStateService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from orch.v1 import session_state_pb2 as pb
from orch.v1.session_state_pb2_grpc import SessionStateServiceServicer
from orch_server.core.clock import Clock
from orch_server.services.session_state import SessionStateService
from orch_server.services.waiting import WaitingService
from orch_server.transport import convert, convert_waiting
from orch_server.transport.guard import caller


class SessionStateServicer(SessionStateServiceServicer):
    """Converts, calls, converts back."""

    def __init__(self, state: SessionStateService, clock: Clock, waiting: WaitingService) -> None:
        self._state = state
        self._clock = clock
        self._waiting = waiting

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Any
    ) -> pb.CreateSessionResponse:
        wanted = convert.to_session(request.session, self._clock.now())
        view = await self._state.create(caller(), wanted)
        return pb.CreateSessionResponse(session=convert.session(view))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Any
    ) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(session=convert.session(await self._state.get(request.name)))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Any
    ) -> pb.ListSessionsResponse:
        views, token = await self._state.list_page(request.page_size, request.page_token)
        return pb.ListSessionsResponse(
            sessions=[convert.session(view) for view in views], next_page_token=token
        )

    async def UpdateSession(
        self, request: pb.UpdateSessionRequest, context: Any
    ) -> pb.UpdateSessionResponse:
        wanted = convert.to_session(request.session, self._clock.now())
        paths = tuple(request.update_mask.paths)
        view = await self._state.update(caller(), wanted, paths, request.session.version)
        return pb.UpdateSessionResponse(session=convert.session(view))

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Any
    ) -> pb.DeleteSessionResponse:
        await self._state.delete(caller(), request.name, request.version)
        return pb.DeleteSessionResponse()

    async def WatchSessions(
        self, request: pb.WatchSessionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        async for view in self._state.watch(request.name):
            yield pb.WatchSessionsResponse(
                session=convert.session(view),
                deleted=view.session is None,
                event_number=view.event,
            )

    async def AddDependency(
        self, request: pb.AddDependencyRequest, context: Any
    ) -> pb.AddDependencyResponse:
        timeout = convert.to_timedelta("timeout", request.timeout)
        added = await self._waiting.add(
            caller(), request.target, request.reason, timeout, request.request_id
        )
        return pb.AddDependencyResponse(wait=convert_waiting.wait(added, self._waiting.address))

    async def RemoveDependency(
        self, request: pb.RemoveDependencyRequest, context: Any
    ) -> pb.RemoveDependencyResponse:
        await self._waiting.remove(caller(), request.id)
        return pb.RemoveDependencyResponse()

    async def ListWaiting(
        self, request: pb.ListWaitingRequest, context: Any
    ) -> pb.ListWaitingResponse:
        waits, cycles = await self._waiting.graph(request.session)
        return pb.ListWaitingResponse(
            waits=[convert_waiting.wait(wait, self._waiting.address) for wait in waits],
            cycles=[pb.WaitCycle(wait_ids=cycle) for cycle in cycles],
        )
