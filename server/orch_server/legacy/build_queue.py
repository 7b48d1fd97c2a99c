"""Fills a plan: the notes, the messages and the other rows of the old system's queue."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from orch_server.core.delivery import DeliveryState, header
from orch_server.core.errors import InvalidInput
from orch_server.core.legacy import LegacyMessage, LegacyRow, LegacyTask
from orch_server.core.schedule import CATCH_UP, MAX_DELAY, Form
from orch_server.core.task import Outcome, Reason, TaskState, note_key
from orch_server.core.text import check_role
from orch_server.legacy.layout import priority_of
from orch_server.legacy.plan import Plan, digest
from orch_server.storage.columns import micros, span
from orch_server.storage.imports import ACTOR
from orch_server.storage.lookup import new_id

GIVEN_UP = "given up by the old system after too many failures; resume to send it again"
_LIVE = timedelta(days=1)
_STATES = {
    "pending": DeliveryState.PENDING,
    "pulled": DeliveryState.UNCONFIRMED,
    "delivered": DeliveryState.CONFIRMED,
}


class Agents(Protocol):
    """Who is there; see build.Sessions."""

    agents: dict[tuple[str, str], str]
    ended: set[str]

    def at_window(self, session: str, window: int) -> str | None:
        """The id of the agent of a window, by what is imported; by ours where that has none."""
        ...

    def ensure(self, name: str, record: str) -> None:
        """Makes the session unless it is there."""

    def bare_agent(self, session: str, role: str, window: int | None) -> str:
        """Makes an agent and returns its id."""
        ...


def add(plan: Plan, at: Agents) -> None:
    """All of the queue that is new; what is refused of it is counted."""
    for refused in plan.source.refused:
        plan.refuse(refused.where)
    for task in plan.source.tasks:
        mark = digest(task.raw)
        if not plan.is_there(f"task:{task.key}", mark, "tasks", task.session):
            _task(plan, at, task, mark)
    for message in plan.source.messages:
        mark = digest(message.raw)
        if not plan.is_there(f"message:{message.key}", mark, "messages", message.session):
            _message(plan, at, message, mark)
    seen: set[str] = set()
    for row in plan.source.rows:
        _row(plan, row, seen)


def _row(plan: Plan, row: LegacyRow, seen: set[str]) -> None:
    record = f"row:{row.record}"
    while record in seen:  # a table without a key may have the same row twice
        record += "'"
    seen.add(record)
    mark = digest(row.raw)
    if not plan.is_there(record, mark, "rows", row.session):
        plan.keep(record, row.session, row.raw, mark)


def _task(plan: Plan, at: Agents, task: LegacyTask, mark: str) -> None:
    record = f"task:{task.key}"
    agent = _of_task(plan, at, task)
    made = new_id()
    ended = task.session in at.ended
    state = TaskState.EXPIRED if ended else TaskState.PENDING
    state = TaskState.PAUSED if task.disabled and not ended else state
    # What was given up stood a year ahead; the pause keeps it from being sent, until it is resumed.
    next_at = plan.now + (task.every or timedelta(0)) if task.disabled else task.next_at
    catch_up = MAX_DELAY if task.disabled and task.every is None else CATCH_UP
    due_at = plan.now if ended else next_at  # it is over from now on, which retention goes by
    times = (None if ended else micros(next_at), micros(next_at), span(catch_up))
    paused = state is TaskState.PAUSED
    pause = (micros(plan.now), ACTOR, GIVEN_UP) if paused else (None, "", "")
    plan.put(
        "task",
        made,
        agent,
        task.note,
        micros(due_at),
        state,
        ACTOR,
        micros(task.created_at),
        None if task.last_at is None else micros(task.last_at),
        f"import:{record}",
        Form.ONCE if task.every is None else Form.EVERY,
        0 if task.every is None else span(task.every),
        micros(next_at),
        *times,
        note_key(task.note),
        *pause,
    )
    if ended:
        why = (Outcome.EXPIRED, Reason.SESSION_ENDED, micros(plan.now))
        plan.put("occurrence", made, micros(next_at), *why)
    plan.take(record, made, mark, task.session, task.raw)
    plan.created.append((made, agent, task.session))


def _of_task(plan: Plan, at: Agents, task: LegacyTask) -> str:
    record = f"task:{task.id}"
    at.ensure(task.session, record)
    found = at.agents.get((task.session, task.role))
    if found is not None:
        return found
    found = at.at_window(task.session, task.window_index)
    if found is not None:
        said = f"There is no {task.role}; it goes to the agent of window {task.window_index}."
        plan.find(record, said)
        return found
    plan.find(record, f"There was no {task.role} in {task.session}; the agent is made.")
    return at.bare_agent(task.session, task.role, task.window_index)


def _message(plan: Plan, at: Agents, message: LegacyMessage, mark: str) -> None:
    record = f"message:{message.key}"
    try:
        agent = _of_message(plan, at, message)
    except InvalidInput as exc:
        plan.find(f"message:{message.id}", f"It is only kept as a row: {exc.message}")
        plan.keep(record, message.session, message.raw, mark)
        return
    made, now = new_id(), micros(plan.now)
    queued = micros(message.queued_at)
    state = _STATES[message.state]
    changed = queued if message.delivered_at is None else micros(message.delivered_at)
    plan.put(
        "delivery",
        made,
        agent,
        message.text,
        f"import:{record}",
        f"import:{record}",
        int(priority_of(message.priority)),
        state,
        "imported",
        *(0, 0, "", 0),
        now,
        now + span(_LIVE),
        queued,
        changed,
        ACTOR,
        header(made, ACTOR),
    )
    plan.take(record, made, mark, message.session, message.raw)
    plan.queued.append((made, agent, message.session, f"import:{record}"))


def _of_message(plan: Plan, at: Agents, message: LegacyMessage) -> str:
    """Its agent, by window or role. Raises InvalidInput when there can be none."""
    name, where = message.session, message.window
    index = int(where) if where.isascii() and where.isdigit() and len(where) < 6 else None
    found = None if index is None else at.at_window(name, index)
    role = f"window{index}" if index is not None else check_role("role", where)
    found = found or at.agents.get((name, role))
    if found is not None:
        return found
    at.ensure(name, f"message:{message.id}")
    plan.find(f"message:{message.id}", f"There was no {role} in {name}; the agent is made.")
    return at.bare_agent(name, role, index)
