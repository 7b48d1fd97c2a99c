"""The scheduler: notes that come due, once or again and again."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from orch_server.core.clock import Clock
from orch_server.core.delivery import DeliveryMode
from orch_server.core.errors import InvalidInput, OrchError
from orch_server.core.event import Event
from orch_server.core.identity import Caller
from orch_server.core.schedule import (
    CATCH_UP,
    Asked,
    Missed,
    Schedule,
    check_catch_up,
    due,
    plan,
    upcoming,
)
from orch_server.core.task import OPEN, Occurrence, Outcome, Pause, Task, TaskState
from orch_server.core.text import clean_text
from orch_server.services.events import LocalBus
from orch_server.services.targets import Targets
from orch_server.storage import agenda, firing, tasks
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store, Transaction

MAX_WATCHED = 1000
_MAX_PREVIEW = 1000
_PREVIEW = 5
_MAX_REQUEST_ID = 200
_MAX_REASON = 4096
_BATCH = 500
_NOW = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NewTask:
    """A note to be scheduled; see CreateTaskRequest."""

    note: str
    asked: Asked
    target: str = ""
    request_id: str = ""
    catch_up: timedelta = CATCH_UP
    missed: Missed = Missed.ONE
    mode: DeliveryMode = DeliveryMode.WAIT_IDLE


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the whole scheduler."""

    pause: Pause | None
    next_due: datetime | None
    open_tasks: int


class SchedulerService:
    """Creates, shows, changes and fires tasks."""

    def __init__(
        self,
        store: Store,
        targets: Targets,
        bus: LocalBus,
        clock: Clock,
        wake_agent: Callable[[str], None],
        local_zone: str,
        max_open: int,
    ) -> None:
        self._store = store
        self._targets = targets
        self._bus = bus
        self._clock = clock
        self._wake_agent = wake_agent
        self._local_zone = local_zone
        self._max_open = max_open
        self.held: Callable[[], Mapping[str, datetime]] = dict  # until when agents are limited
        self._freed: set[str] = set()
        self.changed = asyncio.Event()  # a task may be due earlier than was thought
        self._next = _NEVER  # when the firing loop wakes by itself; _NOW while it looks

    # ---- what is asked for ----

    async def create(self, caller: Caller, new: NewTask) -> tuple[Task, int]:
        """Schedules a note. Returns the task and how many control characters were removed.

        A repeat with the same request id returns the first one's task, also when it would be
        refused by now. Raises InvalidInput, RepeatedNote, LimitReached and what resolving the
        target raises.
        """
        _check_request_id(new.request_id)
        try:
            task, removed = await self._planned(caller, new)
        except OrchError:
            made = await self._store.read(lambda db: tasks.made_by(db, new.request_id))
            if made is None:
                raise
            return await self.get(made), 0
        with self._looking_anew():
            stored = await self._store.write(
                lambda tx: tasks.insert(tx, task, new.request_id, self._max_open)
            )
        self._look_by(task.due_at)
        return (task if stored == task.id else await self.get(stored)), removed

    async def _planned(self, caller: Caller, new: NewTask) -> tuple[Task, int]:
        """The task as it is to be written, and how many control characters were removed."""
        now = self._clock.now()
        schedule = plan(new.asked, now, self._local_zone)
        text, removed = clean_text("note", new.note)
        agent = await self._targets.resolve(caller, new.target)
        task_id = new_id()
        task = Task(
            id=task_id,
            agent_id=agent.id,
            session=agent.session,
            role=agent.role,
            note=text,
            schedule=schedule,
            next_at=schedule.first,
            due_at=due(schedule, task_id, schedule.first),
            creator=self._targets.name(caller),
            created_at=now,
            catch_up=check_catch_up(new.catch_up),
            missed=new.missed,
            mode=new.mode,
        )
        return task, removed

    async def reschedule(
        self, caller: Caller, task_id: str, asked: Asked, expected_version: int
    ) -> Task:
        """Gives an open task another schedule, counted from now."""
        schedule = plan(asked, self._clock.now(), self._local_zone)
        return await self._change(
            caller,
            lambda tx, actor: tasks.reschedule(tx, task_id, schedule, expected_version, actor),
        )

    async def cancel(self, caller: Caller, task_id: str) -> Task:
        """Withdraws an open task. Raises Conflict when it is over."""
        return await self._change(caller, lambda tx, actor: tasks.cancel(tx, task_id, actor))

    async def pause(self, caller: Caller, task_id: str, note: str) -> Task:
        """Pauses a task. Raises Conflict unless it is pending."""
        said = _reason(note)
        return await self._change(caller, lambda tx, actor: tasks.pause(tx, task_id, said, actor))

    async def resume(self, caller: Caller, task_id: str) -> Task:
        """Ends the pause of a task. Raises Conflict unless it is paused."""
        return await self._change(caller, lambda tx, actor: tasks.resume(tx, task_id, actor))

    async def pause_all(self, caller: Caller, note: str) -> None:
        """Pauses all firing."""
        said, actor = _reason(note), self._targets.name(caller)
        await self._store.write(lambda tx: tasks.pause_all(tx, said, actor))

    async def resume_all(self, caller: Caller) -> None:
        """Ends the pause of all firing."""
        actor = self._targets.name(caller)
        with self._looking_anew():
            await self._store.write(lambda tx: tasks.resume_all(tx, actor))
        self.changed.set()

    async def run_now(
        self, caller: Caller, task_id: str, request_id: str
    ) -> tuple[Task, Occurrence]:
        """Fires a task now; returns it with what it made. Raises Conflict when it is over."""
        _check_request_id(request_id)
        actor = self._targets.name(caller)
        found, nominal, agent_id = await self._store.write(
            lambda tx: firing.run_now(tx, task_id, actor, request_id)
        )
        if agent_id:
            self._wake_agent(agent_id)
        occurrence = await self._store.read(lambda db: agenda.occurrence(db, found, nominal))
        return await self.get(found), occurrence

    # ---- what is shown ----

    async def get(self, task_id: str) -> Task:
        """One task by id or prefix."""
        return await self._store.read(lambda db: agenda.get(db, task_id))

    async def list_page(
        self, session: str, state: TaskState | None, size: int, token: str
    ) -> tuple[list[Task], str]:
        """One page of tasks and the token for the next."""
        return await self._store.read(lambda db: agenda.list_page(db, session, state, size, token))

    async def occurrences(
        self, task_id: str, outcome: Outcome | None, size: int, token: str
    ) -> tuple[list[Occurrence], str]:
        """One page of a task's occurrences, the newest first, and the token for the next."""
        return await self._store.read(
            lambda db: agenda.occurrences(db, task_id, outcome, size, token)
        )

    async def overview(self) -> Overview:
        """Whether all firing is paused, and what is to come."""
        return await self._store.read(
            lambda db: Overview(agenda.paused(db), tasks.next_due(db), agenda.count_open(db))
        )

    async def preview(
        self, asked: Asked, count: int, start: datetime | None
    ) -> tuple[list[datetime], Schedule]:
        """The next nominal times of a schedule, and the schedule as it was understood."""
        if not 0 <= count <= _MAX_PREVIEW:
            raise InvalidInput(
                "count", f"A preview of {count} firings makes no sense; use 1 to {_MAX_PREVIEW:,}."
            )
        schedule = plan(asked, start or self._clock.now(), self._local_zone)
        times = await asyncio.to_thread(upcoming, schedule, count or _PREVIEW)
        return times, schedule

    async def watch(self, session: str, given: tuple[str, ...]) -> AsyncIterator[tuple[Task, int]]:
        """Every task that is selected, then each that changes, with the number of the event."""
        if len(given) > MAX_WATCHED:
            raise InvalidInput("ids", f"Name at most {MAX_WATCHED:,} tasks.")
        chosen = {(await self.get(one)).id for one in given}
        shown = _Shown()

        def wanted(event: Event) -> bool:
            mine = session in ("", event.session)
            return mine and event.kind.startswith(("task.", "delivery."))

        with self._bus.subscribe(wanted) as changes:
            async for task in self._selected(session, chosen):
                shown.take(task)
                yield task, 0
            async for event in changes:
                task_id = shown.task_of(event)
                if not task_id or (chosen and task_id not in chosen):
                    continue
                for task in await self._store.read(partial(agenda.get_many, ids=[task_id])):
                    shown.take(task)
                    yield task, event.number

    # ---- what comes due ----

    def agent_freed(self, agent_id: str) -> None:
        """The agent's account is not limited any more: what waits for that is looked at."""
        self._freed.add(agent_id)
        self.changed.set()

    async def fire_due(self) -> datetime | None:
        """Fires all that is due and returns when to look again; None when nothing is to come."""
        self._next = _NOW
        while True:
            freed = frozenset(self._freed)
            fired = await self._store.write(partial(_fire, held=self.held(), freed=freed))
            self._freed -= freed
            for agent_id in dict.fromkeys(fired.agents):
                self._wake_agent(agent_id)
            if not fired.more:
                break
        self._next = fired.next_due or _NEVER
        return fired.next_due

    # ---- parts ----

    async def _change(self, caller: Caller, unit: Callable[[Transaction, str], str]) -> Task:
        actor = self._targets.name(caller)
        with self._looking_anew():
            task_id = await self._store.write(lambda tx: unit(tx, actor))
            task = await self.get(task_id)
        if task.state in OPEN:
            self._look_by(task.due_at)
        return task

    @contextmanager
    def _looking_anew(self) -> Iterator[None]:
        """When the caller leaves, what he asked for is written all the same, before what the loop
        asks for next: so let it look."""
        try:
            yield
        except asyncio.CancelledError:
            self.changed.set()
            raise

    def _look_by(self, at: datetime) -> None:
        if self._next is _NOW or at < self._next:
            self.changed.set()

    async def _selected(self, session: str, chosen: Iterable[str]) -> AsyncIterator[Task]:
        wanted = set(chosen)
        if wanted:
            for task in await self._store.read(lambda db: agenda.get_many(db, sorted(wanted))):
                if session in ("", task.session):
                    yield task
            return
        number = 0
        while True:
            ids, number = await self._store.read(partial(agenda.ids_after, number=number))
            if not ids:
                return
            for task in await self._store.read(partial(agenda.get_many, ids=ids)):
                if session in ("", task.session):
                    yield task


def _fire(tx: Transaction, held: Mapping[str, datetime], freed: Collection[str]) -> firing.Fired:
    return firing.fire_due(tx, _BATCH, held, freed)


class _Shown:
    """Whose deliveries a watch shows: each task's last one, and that of its last occurrence."""

    def __init__(self) -> None:
        self._tasks: dict[str, str] = {}
        self._deliveries: dict[str, tuple[str, ...]] = {}

    def take(self, task: Task) -> None:
        """The task is shown as it is here."""
        for delivery in self._deliveries.pop(task.id, ()):
            self._tasks.pop(delivery, None)
        last = task.last.delivery_id if task.last else ""
        self._deliveries[task.id] = (task.delivery_id or "", last)
        self._tasks |= dict.fromkeys(self._deliveries[task.id], task.id)

    def task_of(self, event: Event) -> str:
        """The task that an event concerns; "" when it is none that is shown."""
        if event.kind.startswith("task."):
            return event.subject
        return self._tasks.get(event.subject, "")


def _reason(note: str) -> str:
    return clean_text("note", note, _MAX_REASON)[0] if note.strip() else ""


def _check_request_id(request_id: str) -> None:
    if len(request_id) > _MAX_REQUEST_ID:
        raise InvalidInput(
            "request_id", f"The request id has more than {_MAX_REQUEST_ID} characters."
        )
