"""Lateness: from the time that a note is due to the time that the program in its pane reads it.

All times are of CLOCK_REALTIME: the server's due time, the reading program's time after the read.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from bench import recorders
from bench.frames import SESSION
from bench.processes import Child, home, product
from bench.recorders import Records
from bench.report import Figure, Plain
from bench.scale import Scale
from orch.v1 import delivery_pb2, scheduler_pb2
from orch.v1.scheduler_pb2_grpc import SchedulerServiceStub

_LATE_GOAL, _BURST_GOAL = 100.0, 0.5
_SPREAD = 5.0
_LEAD = 1.5  # seconds before the first note is due, beside the time that creating them takes
_CREATING, _ADDING = 500, 120  # notes, and jobs of APScheduler, a second at least

_When = Callable[[int], scheduler_pb2.CreateTaskRequest]


@dataclass(frozen=True, slots=True)
class Late:
    """Milliseconds from due to: the delivery is written, the text is read, its Enter is read."""

    fired: list[float]
    text: list[float]
    enter: list[float]


class Notes:
    """Schedules notes for the agents in turn and tells how late each was."""

    def __init__(self, stub: SchedulerServiceStub, records: Records, panes: int) -> None:
        self._stub = stub
        self._records = records
        self._panes = panes
        self._number = 0

    def run(self, count: int, when: _When) -> Late:
        """So many notes; `when` gives the request for the n-th, of which only the time is set.

        Raises RuntimeError when one was due before the last was created.
        """
        self._records.clear()
        first, self._number = self._number, self._number + count
        tasks = {n: self._create(n, when(n - first)) for n in range(first, self._number)}
        due = {number: task.due_time.ToNanoseconds() for number, task in tasks.items()}
        if count > self._panes and time.time_ns() > min(due.values()):
            raise RuntimeError("creating the notes took longer than they had")
        self._records.wait(count)
        read = self._records.notes()
        fired = {number: self._fired(task.id) for number, task in tasks.items()}
        return Late(
            [(fired[number] - due[number]) / 1e6 for number in tasks],
            [(read[number].text - due[number]) / 1e6 for number in tasks],
            [(read[number].enter - due[number]) / 1e6 for number in tasks],
        )

    def _create(self, number: int, request: scheduler_pb2.CreateTaskRequest) -> scheduler_pb2.Task:
        request.note = recorders.text(number)
        request.target = f"{SESSION}:agent-{number % self._panes}"
        request.mode = delivery_pb2.DELIVERY_MODE_IMMEDIATE
        return self._stub.CreateTask(request).task

    def _fired(self, task_id: str) -> int:
        """Nanoseconds since 1970."""
        request = scheduler_pb2.GetTaskRequest(id=task_id)
        return self._stub.GetTask(request).task.fire_time.ToNanoseconds()


def measure(scale: Scale) -> Iterator[Figure | Plain]:
    """Spread notes, then a burst beside APScheduler's."""
    count, panes = scale.scheduling.notes, scale.scheduling.panes
    with (
        home() as at,
        product(at),
        recorders.panes(at, panes) as records,
        grpc.insecure_channel(at.address) as channel,
        tempfile.TemporaryDirectory(dir=at.path) as folder,
        Child("apscheduler_jobs", folder, count) as jobs,
    ):
        notes = Notes(SchedulerServiceStub(channel), records, panes)
        notes.run(panes, _now)  # what is loaded with the first text is loaded
        spread = [notes.run(count, _spread(count)) for _ in range(scale.scheduling.rounds)]
        yield from _spread_figures(count, spread)
        burst, theirs = [], []
        for _ in range(scale.scheduling.rounds):
            theirs.append(jobs.measure(_LEAD + count / _ADDING))
            burst.append(notes.run(count, _at_once(count)))
        yield from _burst_figures(count, burst, theirs)


# ---- when ----


def _lead(count: int) -> float:
    """Seconds between the first creation and the first due time."""
    return _LEAD + count / _CREATING


def _now(_: int) -> scheduler_pb2.CreateTaskRequest:
    return _after(0.0)


def _spread(count: int) -> _When:
    """Evenly over so many seconds."""
    start = time.time() + _lead(count)
    return lambda n: _after(start + _SPREAD * n / count - time.time())


def _at_once(count: int) -> _When:
    """All at one whole second."""
    second = datetime.fromtimestamp(math.ceil(time.time() + _lead(count)), UTC)
    schedule = scheduler_pb2.Schedule(at=second.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return lambda _: scheduler_pb2.CreateTaskRequest(schedule=schedule)


def _after(seconds: float) -> scheduler_pb2.CreateTaskRequest:
    request = scheduler_pb2.CreateTaskRequest()
    request.delay.FromMicroseconds(int(seconds * 1e6))
    return request


# ---- figures ----


def _spread_figures(count: int, rounds: list[Late]) -> Iterator[Plain]:
    name = f"{count:,} notes over {_SPREAD:g} s, due to typed (ms)"
    yield Plain(f"{name}, p99", [_p99(late.text) for late in rounds], at_most=_LATE_GOAL)
    yield Plain("  - p50", [statistics.median(late.text) for late in rounds])
    yield Plain("  - max", [max(late.text) for late in rounds])
    yield from _parts(rounds)


def _burst_figures(
    count: int, rounds: list[Late], theirs: list[dict[str, float]]
) -> Iterator[Figure | Plain]:
    name = f"{count:,} at once, to APScheduler"
    p99 = [(_p99(late.text), bare["p99"]) for late, bare in zip(rounds, theirs, strict=True)]
    p50 = [
        (statistics.median(late.text), bare["p50"])
        for late, bare in zip(rounds, theirs, strict=True)
    ]
    yield Figure(f"{name}, p99 (ms)", p99, at_most=_BURST_GOAL)
    yield Figure("  - p50", p50)
    yield from _parts(rounds)


def _parts(rounds: list[Late]) -> Iterator[Plain]:
    yield Plain("  - due to delivery written, p99", [_p99(late.fired) for late in rounds])
    yield Plain("  - due to Enter, p99", [_p99(late.enter) for late in rounds])


def _p99(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
