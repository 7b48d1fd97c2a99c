"""SchedulerService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from orch.v1 import scheduler_pb2 as pb
from orch.v1.scheduler_pb2_grpc import SchedulerServiceServicer
from orch_server.core.errors import InvalidInput
from orch_server.services.scheduler import SchedulerService
from orch_server.transport import convert_schedule as convert
from orch_server.transport.guard import caller


class SchedulerServicer(SchedulerServiceServicer):
    """Converts, calls, converts back."""

    def __init__(self, scheduler: SchedulerService) -> None:
        self._scheduler = scheduler

    async def CreateTask(
        self, request: pb.CreateTaskRequest, context: Any
    ) -> pb.CreateTaskResponse:
        task, removed = await self._scheduler.create(caller(), convert.new_task(request))
        return pb.CreateTaskResponse(task=convert.task(task), removed_characters=removed)

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.GetTaskResponse:
        return pb.GetTaskResponse(task=convert.task(await self._scheduler.get(request.id)))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        state = convert.task_state(request.state)
        tasks, token = await self._scheduler.list_page(
            request.session, state, request.page_size, request.page_token
        )
        return pb.ListTasksResponse(tasks=[convert.task(t) for t in tasks], next_page_token=token)

    async def WatchTasks(
        self, request: pb.WatchTasksRequest, context: Any
    ) -> AsyncIterator[pb.WatchTasksResponse]:
        async for task, event in self._scheduler.watch(request.session, tuple(request.ids)):
            yield pb.WatchTasksResponse(task=convert.task(task), event_number=event)

    async def UpdateTask(
        self, request: pb.UpdateTaskRequest, context: Any
    ) -> pb.UpdateTaskResponse:
        task = await self._scheduler.reschedule(
            caller(), request.id, convert.asked(request.schedule), request.expected_version
        )
        return pb.UpdateTaskResponse(task=convert.task(task))

    async def CancelTask(
        self, request: pb.CancelTaskRequest, context: Any
    ) -> pb.CancelTaskResponse:
        task = await self._scheduler.cancel(caller(), request.id)
        return pb.CancelTaskResponse(task=convert.task(task))

    async def PauseTask(self, request: pb.PauseTaskRequest, context: Any) -> pb.PauseTaskResponse:
        if _means_all(request.id, request.all):
            await self._scheduler.pause_all(caller(), request.note)
            return pb.PauseTaskResponse()
        task = await self._scheduler.pause(caller(), request.id, request.note)
        return pb.PauseTaskResponse(task=convert.task(task))

    async def ResumeTask(
        self, request: pb.ResumeTaskRequest, context: Any
    ) -> pb.ResumeTaskResponse:
        if _means_all(request.id, request.all):
            await self._scheduler.resume_all(caller())
            return pb.ResumeTaskResponse()
        task = await self._scheduler.resume(caller(), request.id)
        return pb.ResumeTaskResponse(task=convert.task(task))

    async def RunTask(self, request: pb.RunTaskRequest, context: Any) -> pb.RunTaskResponse:
        task, occurrence = await self._scheduler.run_now(caller(), request.id, request.request_id)
        return pb.RunTaskResponse(
            task=convert.task(task), occurrence=convert.occurrence(occurrence)
        )

    async def ListOccurrences(
        self, request: pb.ListOccurrencesRequest, context: Any
    ) -> pb.ListOccurrencesResponse:
        found, token = await self._scheduler.occurrences(
            request.task_id,
            convert.outcome(request.outcome),
            request.page_size,
            request.page_token,
        )
        return pb.ListOccurrencesResponse(
            occurrences=[convert.occurrence(o) for o in found], next_page_token=token
        )

    async def PreviewSchedule(
        self, request: pb.PreviewScheduleRequest, context: Any
    ) -> pb.PreviewScheduleResponse:
        times, schedule = await self._scheduler.preview(
            convert.asked(request.schedule), request.count, convert.start_time(request)
        )
        return convert.preview(times, schedule)

    async def GetScheduler(
        self, request: pb.GetSchedulerRequest, context: Any
    ) -> pb.GetSchedulerResponse:
        return convert.overview(await self._scheduler.overview())


def _means_all(task_id: str, all_of_them: bool) -> bool:
    """Raises InvalidInput when both, or neither, are named."""
    if bool(task_id) is all_of_them:
        said = "Both a task and all are named" if task_id else "No task is named"
        raise InvalidInput("id", f"{said}; give the id of one task, or all.")
    return all_of_them
