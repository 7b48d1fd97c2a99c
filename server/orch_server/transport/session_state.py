"""SessionStateService over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from orch.v1 import session_state_pb2 as pb
from orch.v1.session_state_pb2_grpc import SessionStateServiceServicer
from orch_server.core.clock import Clock
from orch_server.services.progress import ProgressService
from orch_server.services.retention import Retention
from orch_server.services.session_state import SessionStateService
from orch_server.services.status import StatusService
from orch_server.services.synchronizer import Synchronizer
from orch_server.services.waiting import WaitingService
from orch_server.transport import convert, convert_session, convert_status, convert_waiting, paging
from orch_server.transport.guard import caller


class SessionStateServicer(SessionStateServiceServicer):
    """Converts, calls, converts back."""

    def __init__(
        self,
        state: SessionStateService,
        clock: Clock,
        waiting: WaitingService,
        status: StatusService,
        synchronizer: Synchronizer,
        retention: Retention,
        progress: ProgressService,
    ) -> None:
        self._state = state
        self._clock = clock
        self._waiting = waiting
        self._status = status
        self._synchronizer = synchronizer
        self._retention = retention
        self._progress = progress

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Any
    ) -> pb.CreateSessionResponse:
        wanted = convert_session.to_session(request.session, self._clock.now())
        needs = convert_session.to_dependencies(request.session)
        view = await self._state.create(caller(), wanted, needs)
        return pb.CreateSessionResponse(session=convert_session.session(view))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Any
    ) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(
            session=convert_session.session(await self._state.get(request.name))
        )

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Any
    ) -> pb.ListSessionsResponse:
        views, token = await self._state.list_page(request.page_size, request.page_token)
        page = [convert_session.session(view) for view in views]
        page, token = paging.fitting(page, request.page_token, token)
        return pb.ListSessionsResponse(sessions=page, next_page_token=token)

    async def UpdateSession(
        self, request: pb.UpdateSessionRequest, context: Any
    ) -> pb.UpdateSessionResponse:
        given, paths = request.session, tuple(request.update_mask.paths)
        changes = convert_session.changes(given, paths)
        view = await self._state.update(caller(), given.name, changes, paths, given.version)
        return pb.UpdateSessionResponse(session=convert_session.session(view))

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Any
    ) -> pb.DeleteSessionResponse:
        await self._state.delete(caller(), request.name, request.version)
        return pb.DeleteSessionResponse()

    async def WatchSessions(
        self, request: pb.WatchSessionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        async for view in self._state.watch(request.name, request.after):
            yield pb.WatchSessionsResponse(
                session=convert_session.session(view) if view.name else None,
                deleted=view.session is None and bool(view.name),
                event_number=view.event,
                ends_round=view.ends_round,
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

    async def UpdateAgentState(
        self, request: pb.UpdateAgentStateRequest, context: Any
    ) -> pb.UpdateAgentStateResponse:
        given = request.agent
        named = given.id or f"{given.session}:{given.role}"
        paths = tuple(request.update_mask.paths)
        detail = convert_session.to_detail(given)
        view = await self._state.update_agent(caller(), named, detail, paths)
        return pb.UpdateAgentStateResponse(agent=convert.agent(view))

    async def CompletePhase(
        self, request: pb.CompletePhaseRequest, context: Any
    ) -> pb.CompletePhaseResponse:
        phase = await self._progress.complete_phase(
            caller(), request.session, request.name, request.request_id
        )
        return pb.CompletePhaseResponse(phase=convert_session.phase(phase))

    async def ReportStatus(
        self, request: pb.ReportStatusRequest, context: Any
    ) -> pb.ReportStatusResponse:
        report = await self._progress.report(
            caller(), request.topic, request.status, request.details
        )
        return pb.ReportStatusResponse(report=convert_session.report(report))

    async def ListProjects(
        self, request: pb.ListProjectsRequest, context: Any
    ) -> pb.ListProjectsResponse:
        found, token = await self._progress.projects(request.page_size, request.page_token)
        return pb.ListProjectsResponse(
            projects=[convert_session.project(one) for one in found], next_page_token=token
        )

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        view = await self._status.look(request.session, request.include_ended)
        return await asyncio.to_thread(convert_status.status, view)

    async def SynchronizeSessions(
        self, request: pb.SynchronizeSessionsRequest, context: Any
    ) -> pb.SynchronizeSessionsResponse:
        found, unanswered = await self._synchronizer.synchronize(request.dry_run)
        return pb.SynchronizeSessionsResponse(
            mismatches=[convert_session.mismatch(one) for one in found],
            unanswered_sockets=unanswered,
            generation=self._synchronizer.generation,
        )

    async def CleanupSessions(
        self, request: pb.CleanupSessionsRequest, context: Any
    ) -> pb.CleanupSessionsResponse:
        is_given = request.HasField("older_than")
        older = convert.to_timedelta("older_than", request.older_than) if is_given else None
        found, backup = await self._retention.cleanup(caller(), older, request.execute)
        return pb.CleanupSessionsResponse(
            sessions=[convert_session.cleaned(one) for one in found], backup_path=backup
        )
