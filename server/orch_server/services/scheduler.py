"""The scheduler: notes that come due once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from orch_server.core.clock import Clock
from orch_server.core.identity import Caller
from orch_server.core.schedule import Task, TaskState, check_cancel, due_time
from orch_server.core.text import clean_text
from orch_server.services.targets import Targets
from orch_server.storage import tasks
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store, Transaction

_BATCH = 500
_NOW = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


class SchedulerService:
    """Creates, shows, withdraws and fires tasks."""

    def __init__(
        self, store: Store, targets: Targets, clock: Clock, wake_agent: Callable[[str], None]
    ) -> None:
        self._store = store
        self._targets = targets
        self._clock = clock
        self._wake_agent = wake_agent
        self.changed = asyncio.Event()  # a task may be due earlier than was thought
        self._next = _NEVER  # when the firing loop wakes by itself; _NOW while it looks

    async def create(
        self, caller: Caller, note: str, delay: timedelta, target: str, request_id: str
    ) -> tuple[Task, int]:
        """Schedules a note. Returns the task and how many control characters were removed."""
        now = self._clock.now()
        due = due_time(now, delay)
        text, removed = clean_text("note", note)
        agent = await self._targets.resolve(caller, target)
        task = Task(
            id=new_id(),
            agent_id=agent.id,
            session=agent.session,
            role=agent.role,
            note=text,
            due_at=due,
            state=TaskState.PENDING,
            creator=self._targets.name(caller),
            created_at=now,
        )
        stored = await self._store.write(lambda tx: tasks.insert(tx, task, request_id))
        if self._next is _NOW or due < self._next:
            self.changed.set()
        return (task if stored == task.id else await self.get(stored)), removed

    async def get(self, task_id: str) -> Task:
        """One task by id or prefix."""
        return await self._store.read(lambda db: tasks.get(db, task_id))

    async def list_page(
        self, session: str, state: TaskState | None, size: int, token: str
    ) -> tuple[list[Task], str]:
        """One page of tasks and the token for the next."""
        return await self._store.read(lambda db: tasks.list_page(db, session, state, size, token))

    async def cancel(self, caller: Caller, task_id: str) -> Task:
        """Withdraws a pending task. Raises Conflict when it fired."""
        actor = self._targets.name(caller)

        def unit(tx: Transaction) -> str:
            task = tasks.get(tx.db, task_id)
            check_cancel(task)
            tasks.cancel(tx, task, actor)
            return task.id

        return await self.get(await self._store.write(unit))

    async def fire_due(self) -> datetime | None:
        """Fires all that is due and returns when the next one is."""
        self._next = _NOW
        while True:
            agents = await self._store.write(lambda tx: tasks.fire_due(tx, _BATCH))
            for agent_id in dict.fromkeys(agents):
                self._wake_agent(agent_id)
            if len(agents) < _BATCH:
                break
        due = await self._store.read(tasks.next_due)
        self._next = due or _NEVER
        return due
