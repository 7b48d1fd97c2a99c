"""What the tests of the scheduler over a connection share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from orch.v1 import scheduler_pb2 as pb
from tests.transport.harness import PATIENCE, START, Serving, Stream, run

HOUR = 3600.0


def span(seconds: float) -> Duration:
    found = Duration()
    found.FromTimedelta(timedelta(seconds=seconds))
    return found


def every(seconds: float, **more: Any) -> pb.Schedule:
    return pb.Schedule(every=span(seconds), **more)


async def create(at: Serving, note: str = "look", **more: Any) -> pb.Task:
    if "schedule" not in more and "delay" not in more:
        more["delay"] = span(60)
    request = pb.CreateTaskRequest(note=note, target="atlas:dev", **more)
    return (await at.scheduler.CreateTask(request, timeout=PATIENCE)).task


async def get(at: Serving, task: pb.Task) -> pb.Task:
    return (await at.scheduler.GetTask(pb.GetTaskRequest(id=task.id))).task


async def rows(at: Serving, task: pb.Task) -> list[tuple[float, str, str]]:
    """The task's occurrences, the oldest first: seconds since the start, outcome, reason."""
    request = pb.ListOccurrencesRequest(task_id=task.id, page_size=1000)
    found = (await at.scheduler.ListOccurrences(request)).occurrences
    return [
        (
            (o.nominal_time.ToDatetime(START.tzinfo) - START).total_seconds(),
            pb.OccurrenceOutcome.Name(o.outcome).removeprefix("OCCURRENCE_OUTCOME_"),
            pb.OccurrenceReason.Name(o.reason).removeprefix("OCCURRENCE_REASON_"),
        )
        for o in reversed(found)
    ]


async def fire(at: Serving, seconds: float = 0.0) -> None:
    """Time passes, and the firing loop looks."""
    at.clock.advance(seconds)
    await at.core.scheduler.fire_due()


async def take(stream: Stream) -> str:
    """The agent takes the next text."""
    frame = await stream.read()
    while frame.WhichOneof("frame") != "offer":
        frame = await stream.read()
    await stream.report(frame.offer, "CONFIRMED")
    while (await stream.read()).WhichOneof("frame") != "report_ack":
        pass
    return str(frame.offer.text)


def state_of(task: pb.Task) -> str:
    return pb.TaskState.Name(task.state).removeprefix("TASK_STATE_")


def with_agent(
    folder: Path, body: Callable[[Serving, Stream], Awaitable[None]], **how: Any
) -> None:
    async def connected(at: Serving) -> None:
        await body(at, await at.alive("dev", "%1"))

    run(folder, connected, **how)
