"""The calls of the scheduler's commands: one answer, the entries of all pages, or the stream.

grpc is imported by the call that needs it, so that usage errors are quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    import grpc

    from orch.v1 import scheduler_pb2 as pb

#: A field that the server refuses, and the flag that gave it.
_FLAGS = {
    "schedule.at": "--at",
    "schedule.every": "--every",
    "schedule.cron": "--cron",
    "schedule.time_zone": "--tz",
    "schedule.jitter": "--jitter",
    "schedule.until": "--until",
    "catch_up": "--catch-up",
}
_PAGE = 1000
#: A dozen notes of 256 KiB fit into one gRPC message of 4 MiB.
_PAGE_OF_LARGE_ONES = 12


def call(method: str, request: Any) -> Any:
    """The answer of the scheduler."""
    with _connected() as ask:
        return ask(method, request)


def all_is_paused() -> bool:
    """Whether all firing is paused."""
    from orch.v1 import scheduler_pb2 as pb

    return bool(call("GetScheduler", pb.GetSchedulerRequest()).paused)


def all_pages(method: str, request: Any, field: str) -> list[Any]:
    """The entries of all pages, whose name is `field`."""
    import grpc

    found: list[Any] = []
    request.page_size, request.page_token = _PAGE, ""
    with _connected() as ask:
        while True:
            try:
                page = ask(method, request)
            except grpc.RpcError as exc:
                # One page of long notes may be larger than gRPC takes: from here on, few at a time.
                too_large = exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                if not too_large or request.page_size == _PAGE_OF_LARGE_ONES:
                    raise
                request.page_size = _PAGE_OF_LARGE_ONES
                continue
            found.extend(getattr(page, field))
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


def follow_tasks(session: str, take: Callable[[pb.WatchTasksResponse], None]) -> None:
    """Hands each task to `take`, then each change, over restarts of the server; says on standard
    error when it goes away."""
    import grpc

    from orch.v1 import scheduler_pb2 as pb
    from orch.v1 import scheduler_pb2_grpc
    from orch_client.commands.follow import follow

    is_away = False

    def say_away() -> None:
        nonlocal is_away
        if not is_away:
            print("orch-client: the server is away; waiting.", file=sys.stderr, flush=True)
        is_away = True

    def watch(grpc_channel: Any, timeout: float | None, metadata: Any) -> Iterator[Any]:
        nonlocal is_away
        stub = scheduler_pb2_grpc.SchedulerServiceStub(grpc_channel)
        request = pb.WatchTasksRequest(session=session)
        try:
            for change in stub.WatchTasks(request, timeout=timeout, metadata=metadata):
                is_away = False
                yield change
        except grpc.RpcError as exc:
            if exc.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                say_away()
            raise
        say_away()

    follow(watch, take, lambda: False, None)


@contextmanager
def _connected() -> Iterator[Callable[[str, Any], Any]]:
    """What calls a method of the scheduler; an error becomes a ClientError."""
    import grpc

    from orch.v1 import scheduler_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = scheduler_pb2_grpc.SchedulerServiceStub(grpc_channel)

        def ask(method: str, request: Any) -> Any:
            return getattr(stub, method)(request, timeout=channel.DEADLINE, metadata=metadata)

        try:
            yield ask
        except grpc.RpcError as exc:
            flag = _refused_flag(exc)
            if flag:
                raise ClientError(f"{flag}: {exc.details()}", USAGE) from exc
            raise


def _refused_flag(exc: grpc.RpcError) -> str:
    """The flag whose value the server refuses; "" when it is none of these."""
    import grpc

    from orch_client import channel

    if exc.code() is not grpc.StatusCode.INVALID_ARGUMENT:
        return ""
    info = channel.error_info(exc)
    return _FLAGS.get(info.metadata.get("field", ""), "") if info else ""
