"""SchedulerService over gRPC."""

from __future__ import annotations

from typing import Any

from orch.v1 import scheduler_pb2 as pb
from orch.v1.scheduler_pb2_grpc import SchedulerServiceServicer
from orch_server.services.scheduler import SchedulerService
from orch_server.transport import convert
from orch_server.transport.guard import caller


class SchedulerServicer(SchedulerServiceServicer):
    """Converts, calls, converts back."""

    def __init__(self, scheduler: SchedulerService) -> None:
        self._scheduler = scheduler

    async def CreateTask(
        self, request: pb.CreateTaskRequest, context: Any
    ) -> pb.CreateTaskResponse:
        delay = convert.to_timedelta("delay", request.delay)
        task, removed = await self._scheduler.create(
            caller(), request.note, delay, request.target, request.request_id
        )
        return pb.CreateTaskResponse(task=convert.task(task), removed_characters=removed)

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.GetTaskResponse:
        return pb.GetTaskResponse(task=convert.task(await self._scheduler.get(request.id)))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        state = convert.task_state(request.state)
        tasks, token = await self._scheduler.list_page(
            request.session, state, request.page_size, request.page_token
        )
        return pb.ListTasksResponse(tasks=[convert.task(t) for t in tasks], next_page_token=token)

    async def CancelTask(
        self, request: pb.CancelTaskRequest, context: Any
    ) -> pb.CancelTaskResponse:
        task = await self._scheduler.cancel(caller(), request.id)
        return pb.CancelTaskResponse(task=convert.task(task))
