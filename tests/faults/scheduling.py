"""The kill loop of the scheduler: `python -m tests.faults scheduling`.

Callers make tasks of all forms, and cancel, pause, resume, reschedule and run them, while the
server is killed with -9 again and again. In the end: which acknowledged task is lost, which
occurrence is doubled or missing, what fired early, and what is against the rules.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from orch.v1 import scheduler_pb2 as pb
from orch.v1.scheduler_pb2_grpc import SchedulerServiceStub
from tests.faults.scheduling_callers import Caller
from tests.faults.scheduling_courier import QUICK, Courier
from tests.faults.scheduling_grid import SECOND
from tests.faults.scheduling_ledger import BROKEN, OK, Ledger, Made, now
from tests.faults.scheduling_store import Stored, count_open, read
from tests.faults.scheduling_verdict import Verdict, judge, lines
from tests.support import Home, Server, until

_READY = 30.0
_QUIET = 90.0
_MOMENT = SECOND // 2
_SAMPLE = 400
_SOME = "2"  # one request id in eight is less


@dataclass(frozen=True)
class Options:
    """`kills`, unless `most` seconds have passed before; after each `long_each`-th the server is
    away for 12 s, longer than the shortest catch-up window, after some others for 1 to 4 s.
    `ends`: how many seconds ahead ends are set; `pause`: between two things a caller does."""

    kills: int
    seed: int
    most: float = 240.0
    callers: int = 16
    agents: int = 6
    long_each: int = 40
    outages: float = 0.1
    ends: tuple[float, float] = (16.0, 40.0)
    pause: tuple[float, float] = (0.03, 0.4)


@dataclass
class Result:
    """What came of it, and what it was judged by."""

    verdict: Verdict
    ledger: Ledger
    stored: Stored
    courier: Courier
    kills: int
    seconds: float


@dataclass
class Scene:
    """A server in its own home; `start` starts it, `close` ends it, whatever its state."""

    home: Home = field(default_factory=lambda: Home(beat=60))

    def __post_init__(self) -> None:
        self.server = Server(self.home)

    @property
    def store(self) -> Path:
        """The file of the store."""
        return self.home.path / "orch.db"

    async def start(self) -> None:
        """Starts the server. Fails when it is not ready in time."""
        starting = asyncio.create_task(asyncio.to_thread(self.server.start))
        try:
            _, late = await asyncio.wait([starting], timeout=_READY)
        except asyncio.CancelledError:  # no process is left behind that nobody knows
            await asyncio.wait([starting], timeout=_READY)
            raise
        if late:
            self.server.end()
        await starting

    def close(self) -> None:
        """Ends the server by its process id, and removes the folder."""
        self.server.end()
        self.home.remove()


async def run(options: Options, scene: Scene) -> Result:
    """Runs in a scene whose server does not run yet."""
    began = time.monotonic()
    dice = random.Random(f"scheduling {options.seed}")
    ledger, courier = Ledger(), Courier(scene.home.address, options.agents)
    await scene.start()
    async with grpc.aio.insecure_channel(scene.home.address, QUICK) as channel:
        stub = SchedulerServiceStub(channel)
        callers = [
            Caller(f"caller {n}", stub, ledger, _dice(dice), options.agents, options.ends)
            for n in range(options.callers)
        ]
        serving = asyncio.create_task(courier.run())
        try:
            async with asyncio.timeout(_READY):
                await courier.everyone.wait()
            kills = await _storm(options, scene, callers, serving, random.Random(dice.random()))
            await _settle(scene, stub, callers[0], ledger)
            stored = await asyncio.to_thread(read, scene.store)
            told = await _ask(stub, stored)
        finally:
            serving.cancel()
            await asyncio.wait([serving])
    verdict = judge(stored, ledger, courier.taken, [*courier.wrong, *told])
    return Result(verdict, ledger, stored, courier, kills, time.monotonic() - began)


def _dice(dice: random.Random) -> random.Random:
    return random.Random(dice.random())


def table(result: Result) -> Iterator[str]:
    """What came of it, for a person to read."""
    yield f"{'kills':<14}{result.kills:>7}  of the server, with -9"
    yield from lines(result.verdict)
    yield f"calls: {', '.join(_calls(result.ledger))}"
    yield f"duration: {result.seconds:.0f} s"


def _calls(ledger: Ledger) -> Iterator[str]:
    """How often each thing was done, and how many of the calls for it broke."""
    actions = [("create", made.attempts) for made in ledger.made]
    actions += [(action.kind, action.attempts) for made in ledger.made for action in made.actions]
    for kind in dict.fromkeys(kind for kind, _ in actions):
        codes = Counter(one.code for name, calls in actions if name == kind for one in calls)
        yield f"{kind} {codes[OK]:,} done, {codes[BROKEN]:,} broke"
    unheard = sum(made.acknowledged and made.created_at < _told(made) for made in ledger.made)
    yield f"{unheard:,} tasks were made by a call whose answer was lost"


def _told(made: Made) -> int:
    """When the call began that was the first to be answered."""
    return next(attempt.began for attempt in made.attempts if attempt.code == OK)


# ---- the storm ----


async def _storm(
    options: Options,
    scene: Scene,
    callers: list[Caller],
    serving: asyncio.Task[None],
    dice: random.Random,
) -> int:
    """Kills while the callers call; what they began is answered when it returns."""
    closing, hurry = asyncio.Event(), asyncio.Event()
    calling = [asyncio.create_task(one.run(closing, hurry, options.pause)) for one in callers]
    killing = asyncio.create_task(_kill(options, scene, hurry, dice))
    try:
        done, _ = await asyncio.wait(
            [*calling, killing, serving], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
        closing.set()
        await asyncio.gather(*calling)
        return await killing
    finally:
        for task in (*calling, killing):
            task.cancel()
        await asyncio.wait([*calling, killing])


async def _kill(options: Options, scene: Scene, hurry: asyncio.Event, dice: random.Random) -> int:
    """Kills at random moments, often when all callers have just called, and starts again; returns
    how often."""
    end = time.monotonic() + options.most
    kills = 0
    while kills < options.kills and time.monotonic() < end:
        await asyncio.sleep(dice.uniform(0.05, 1.5))
        if dice.random() < 0.7:
            hurry.set()
            hurry.clear()
            await asyncio.sleep(dice.uniform(0, 0.02))
        scene.server.kill()
        kills += 1
        if kills % options.long_each == 0:
            await asyncio.sleep(12)
        elif dice.random() < options.outages:
            await asyncio.sleep(dice.uniform(1, 4))
        await scene.start()
    return kills


# ---- peace ----


async def _settle(scene: Scene, stub: Any, caller: Caller, ledger: Ledger) -> None:
    """Resumes what is paused, lets all that is due be looked at, cancels what repeats, and when
    all is over asks for some of it once more."""
    by_id = {task_id: made for made in ledger.made for task_id in made.ids}
    for task in await _all_tasks(stub, pb.TASK_STATE_PAUSED):
        if task.id in by_id:
            await caller.do("resume", by_id[task.id])
    ledger.caught_up = await _caught_up(stub)
    for task in await _all_tasks(stub, pb.TASK_STATE_PENDING):
        made = by_id.get(task.id)
        if made is not None and made.plan.repeats and not task.schedule.until:
            await caller.do("cancel", made)
    await _patiently(lambda: count_open(scene.store) == 0)
    for made in ledger.made:
        if made.plan.until or made.request_id < _SOME:
            await caller.ask(made)


async def _caught_up(stub: Any) -> int:
    """Waits until nothing is overdue, within reason; returns a time that all had been looked at
    which was due before it."""
    end = now() + int(_READY * SECOND)
    while True:
        seen = now() - _MOMENT
        answer = await stub.GetScheduler(pb.GetSchedulerRequest())
        if answer.next_due_time.ToMicroseconds() > seen or not answer.open_tasks or seen > end:
            return seen
        await asyncio.sleep(0.05)


async def _patiently(probe: Callable[[], bool]) -> None:
    """Waits, within reason; what is not over then is the verdict's."""
    try:
        await asyncio.to_thread(until, probe, "the end of all", _QUIET)
    except AssertionError:
        return


async def _all_tasks(
    stub: Any, state: pb.TaskState.ValueType = pb.TASK_STATE_UNSPECIFIED
) -> list[pb.Task]:
    found: list[pb.Task] = []
    request = pb.ListTasksRequest(state=state, page_size=1000)
    while True:
        answer = await stub.ListTasks(request)
        found.extend(answer.tasks)
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


# ---- what the server says of it ----


async def _ask(stub: Any, stored: Stored) -> list[str]:
    """Whether the answers of the server agree with the store; a sentence for each that does not."""
    told = {task.id: task for task in await _all_tasks(stub)}
    wrong = [f"{row} is not listed" for row in stored.tasks if row.id not in told]
    wrong += [f"{task_id} is listed only" for task_id in told.keys() - {t.id for t in stored.tasks}]
    rows: dict[str, list[int]] = {task_id: [] for task_id in told}
    for row in stored.occurrences:
        rows.setdefault(row.task_id, []).append(row.nominal)
    longest = sorted(rows, key=lambda task_id: -len(rows[task_id]))
    for task_id in longest[:_SAMPLE]:
        listed = await _nominals(stub, task_id)
        if listed != rows[task_id][::-1]:
            wrong.append(f"the occurrences of {task_id} are listed otherwise than stored")
    return wrong


async def _nominals(stub: Any, task_id: str) -> list[int]:
    found: list[int] = []
    request = pb.ListOccurrencesRequest(task_id=task_id, page_size=1000)
    while True:
        answer = await stub.ListOccurrences(request)
        found.extend(one.nominal_time.ToMicroseconds() for one in answer.occurrences)
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token
