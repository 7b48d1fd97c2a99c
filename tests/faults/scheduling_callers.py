"""The callers: they make tasks and do things to them; a call that breaks is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import scheduler_pb2 as pb
from tests.faults.scheduling_courier import SESSION, role
from tests.faults.scheduling_grid import MINUTE, SECOND, Plan
from tests.faults.scheduling_ledger import BROKEN, HOUR, OK, Action, Attempt, Ledger, Made, now

_DEADLINE = 20.0
_AGAIN = 0.05
_REPEATING = 3  # open ones of a caller
_ONCE = 5
_Code = grpc.StatusCode
_BROKEN = (_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.CANCELLED)
_REFUSED = (_Code.FAILED_PRECONDITION, _Code.INVALID_ARGUMENT)
_ACTIONS = ["cancel"] * 2 + ["pause"] * 3 + ["reschedule"] * 3 + ["run"] * 3
_WHEN_PAUSED = ["resume"] * 6 + ["run", "reschedule", "pause", "cancel"]
_CATCH_UPS = (0, 10 * SECOND, 10 * SECOND, 15 * SECOND, MINUTE)


class Caller:
    """One of many. `ends` is the range, in seconds, of how far ahead an end is set."""

    def __init__(
        self,
        name: str,
        stub: Any,
        ledger: Ledger,
        dice: random.Random,
        agents: int,
        ends: tuple[float, float],
    ) -> None:
        self._name = name
        self._stub = stub
        self._ledger = ledger
        self._dice = dice
        self._agents = agents
        self._ends = ends
        self._mine: list[Made] = []
        self._open: list[Made] = []

    async def run(
        self, closing: asyncio.Event, hurry: asyncio.Event, pause: tuple[float, float]
    ) -> None:
        """Goes on until it is told to end; what it began is answered then. `pause` is the range,
        in seconds, of the time between two things it does; `hurry` cuts one short."""
        while not closing.is_set():
            await self._something()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._dice.uniform(*pause)):
                    await hurry.wait()

    async def do(self, kind: str, made: Made, insist: bool = True) -> Action:
        """Does something to a task; unless it insists, a call that broke is the last."""
        plan = self._next_plan(made.plan) if kind == "reschedule" else None
        action = Action(kind, plan, self._id() if kind == "run" else "")
        made.actions.append(action)
        method, request = self._call(action, made.id)
        answer = await self._try(method, request, action.attempts, insist)
        if answer is not None:
            action.answered = pb.TaskState.Name(answer.task.state).removeprefix("TASK_STATE_")
        if kind == "run" and answer is not None:
            action.nominals.add(_micros(answer.occurrence.nominal_time))
            if self._dice.random() < 0.3:
                await self._run_again(method, request, action)
        if kind == "cancel" or action.attempts[-1].code not in (OK, BROKEN):
            self._open = [one for one in self._open if one is not made]
        return action

    async def ask(self, made: Made) -> None:
        """Asks for the task, for the first time or again."""
        request = pb.CreateTaskRequest(
            note=made.note,
            target=f"{SESSION}:{role(int(made.request_id[:8], 16) % self._agents)}",
            request_id=made.request_id,
            schedule=_schedule(made.plan),
            missed=pb.MissedPolicy.Value(f"MISSED_POLICY_{made.missed}"),
        )
        if made.catch_up != HOUR:
            request.catch_up.FromMicroseconds(made.catch_up)
        answer = await self._try(self._stub.CreateTask, request, made.attempts, True)
        if answer is not None:
            made.ids.add(answer.task.id)
            made.created_at = made.created_at or _micros(answer.task.create_time)

    # ---- what it does ----

    async def _something(self) -> None:
        chance = self._dice.random()
        repeating = [made for made in self._open if made.plan.repeats]
        once = [made for made in self._open if not made.plan.repeats]
        if len(repeating) > _REPEATING:
            await self.do("cancel", self._dice.choice(repeating))
        elif chance < 0.6 or not self._mine:
            await self._make()
        elif chance < 0.68:
            await self.ask(self._dice.choice(self._mine))
        elif self._open:
            chosen = self._dice.choice(repeating if repeating and chance < 0.85 else self._open)
            kinds = _WHEN_PAUSED if _is_paused(chosen) else _ACTIONS
            await self.do(self._dice.choice(kinds), chosen, insist=self._dice.random() < 0.75)
        if len(once) > _ONCE:  # the earliest is over by now
            self._open = [made for made in self._open if made is not once[0]]

    async def _make(self) -> None:
        dice = self._dice
        made = Made(
            note=f"{self._name} note {len(self._ledger.made)}",
            request_id=self._id(),
            plan=self._new_plan(),
            catch_up=dice.choice(_CATCH_UPS) or HOUR,
            missed=dice.choice(("ONE", "ALL")),
        )
        self._ledger.made.append(made)
        await self.ask(made)
        if made.acknowledged:
            self._mine.append(made)
            self._open.append(made)
            if dice.random() < 0.15:
                await self.ask(made)

    async def _run_again(
        self, method: Callable[..., Awaitable[Any]], request: Any, action: Action
    ) -> None:
        again = await self._try(method, request, action.attempts, True)
        if again is not None:
            action.nominals.add(_micros(again.occurrence.nominal_time))

    async def _try(
        self,
        method: Callable[..., Awaitable[Any]],
        request: Any,
        attempts: list[Attempt],
        insist: bool,
    ) -> Any:
        """Calls until there is an answer; None when it was refused, or gave up."""
        while True:
            began = now()
            try:
                answer = await method(request, timeout=_DEADLINE)
            except grpc.aio.AioRpcError as exc:
                code = exc.code()
                broken = code in _BROKEN
                attempts.append(Attempt(began, now(), BROKEN if broken else code.name))
                if not broken and code not in _REFUSED:
                    self._ledger.errors.append(
                        f"{type(request).__name__}: {code.name} {exc.details()}"
                    )
                if not broken or not insist:
                    return None
                await asyncio.sleep(_AGAIN)
            else:
                attempts.append(Attempt(began, now(), OK))
                return answer

    # ---- what it asks for ----

    def _call(self, action: Action, task_id: str) -> tuple[Callable[..., Awaitable[Any]], Any]:
        stub = self._stub
        match action.kind:
            case "cancel":
                return stub.CancelTask, pb.CancelTaskRequest(id=task_id)
            case "pause":
                return stub.PauseTask, pb.PauseTaskRequest(id=task_id, note="for a moment")
            case "resume":
                return stub.ResumeTask, pb.ResumeTaskRequest(id=task_id)
            case "run":
                return stub.RunTask, pb.RunTaskRequest(id=task_id, request_id=action.request_id)
        assert action.plan is not None
        return stub.UpdateTask, pb.UpdateTaskRequest(id=task_id, schedule=_schedule(action.plan))

    def _new_plan(self) -> Plan:
        dice, kind = self._dice, self._dice.random()
        if kind < 0.8:
            return Plan("once", dice.choice((0, dice.randrange(2 * SECOND))))
        jitter = dice.choice((0, 0, SECOND // 3, SECOND, MINUTE))
        if kind < 0.83:
            return Plan("cron", MINUTE, jitter)
        until = 0
        if dice.random() < 0.35:
            until = now() // SECOND * SECOND + int(dice.uniform(*self._ends)) * SECOND
        return Plan("every", dice.choice((1, 2)) * SECOND, jitter, until)

    def _next_plan(self, plan: Plan) -> Plan:
        """Another of its kind: once stays once."""
        while True:
            found = self._new_plan()
            if found.repeats == plan.repeats:
                return found

    def _id(self) -> str:
        return str(uuid.UUID(int=self._dice.getrandbits(128)))


def _is_paused(made: Made) -> bool:
    """Whether a pause may be the last that was heard of it."""
    said = [a.kind for a in made.actions if a.kind in ("pause", "resume") and a.possible]
    return said[-1:] == ["pause"]


def _schedule(plan: Plan) -> pb.Schedule:
    schedule = pb.Schedule(time_zone="" if plan.form == "once" else "UTC")
    if plan.form == "cron":
        schedule.cron = "* * * * *"
    elif plan.form == "every":
        schedule.every.FromMicroseconds(plan.step)
    else:
        schedule.delay.FromMicroseconds(plan.step)
    if plan.jitter:
        schedule.jitter.FromMicroseconds(plan.jitter)
    if plan.until:
        end = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=plan.until)
        schedule.until = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    return schedule


def _micros(at: Timestamp) -> int:
    return at.ToMicroseconds()
