"""Long operations that agents announce: until their end, silence is no cause for concern."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

from orch_server.core.agent import Agent
from orch_server.core.agent_state import AgentState, Operation, Status
from orch_server.core.clock import Clock
from orch_server.core.errors import Conflict, InvalidInput, OrchError
from orch_server.core.identity import Caller
from orch_server.core.text import clean_text, one_line
from orch_server.services.targets import Targets
from orch_server.storage import operations as table
from orch_server.storage.store import Store

logger = logging.getLogger(__name__)

LONGEST = timedelta(hours=2)
CAP = timedelta(hours=6)
_MAX_REASON_BYTES = 1000
_NONE = timedelta(0)
_MINUTE = timedelta(minutes=1)
_OVER = frozenset({AgentState.SHELL, AgentState.DEAD})


@dataclass(frozen=True, slots=True)
class _Known:
    """An operation, and its beginning and end as monotonic times."""

    operation: Operation
    began: float
    ends: float


class OperationService:
    """Takes announcements, and knows which hold."""

    def __init__(
        self, store: Store, targets: Targets, clock: Clock, changed: Callable[[Agent], None]
    ) -> None:
        self._store = store
        self._targets = targets
        self._clock = clock
        self._changed = changed
        self._known: dict[str, _Known] = {}
        self._writes: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Reads what was announced; once, at the start."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        for agent_id, operation in (await self._store.read(table.load_all)).items():
            left = min(operation.ends_at - now, LONGEST)
            if left > _NONE:
                lasted = max(_NONE, now - operation.began_at)
                began = monotonic - lasted.total_seconds()
                self._known[agent_id] = _Known(operation, began, monotonic + left.total_seconds())

    def current(self, agent_id: str) -> Operation | None:
        """What the agent has announced and is not over."""
        known = self._running(agent_id)
        return known.operation if known is not None else None

    def ends(self, agent_id: str) -> float | None:
        """The monotonic time at which the operation is over; None when there is none."""
        known = self._running(agent_id)
        return known.ends if known is not None else None

    async def extend(
        self, caller: Caller, length: timedelta, reason: str
    ) -> tuple[Operation | None, timedelta]:
        """Announces an operation from now on, or makes it longer; returns it, and how much longer
        it could still be made. A length of 0 ends it.

        Raises InvalidInput, NotAllowed for a caller who is no agent, and Conflict beyond the cap.
        """
        if not _NONE <= length <= LONGEST:
            raise InvalidInput(
                "duration",
                "An operation is announced for at most 2 h at a time, 0 ends it; extend it again"
                " when it goes on.",
            )
        agent = await self._targets.own(caller, "announce an operation")
        if length == _NONE:
            await self._end(agent)
            return None, CAP
        said = one_line(clean_text("reason", reason, _MAX_REASON_BYTES)[0], 200)
        now, monotonic = self._clock.now(), self._clock.monotonic()
        running = self._running(agent.id)
        began = running.began if running is not None else monotonic
        left = CAP - timedelta(seconds=monotonic - began) - length
        if left < _NONE:
            raise Conflict(
                f"The operation of {agent.address} may be made"
                f" {max(_NONE, left + length) // _MINUTE} min longer at most (6 h in all); end it"
                " with a duration of 0 and announce another."
            )
        began_at = running.operation.began_at if running is not None else now
        operation = Operation(said, began_at, now + length)
        await self._store.write(lambda tx: table.save(tx, agent, operation))
        self._known[agent.id] = _Known(operation, began, monotonic + length.total_seconds())
        self._changed(agent)
        return operation, left

    def state_changed(self, agent: Agent, old: Status, new: Status) -> None:
        """An agent that has ended, or lives in another pane, is not at it any more."""
        told = new.evidence
        exited = told is not None and told.rule == "exit"
        over = exited or new.state in _OVER or (told is None and old.evidence is not None)
        if over and self._running(agent.id) is not None:
            del self._known[agent.id]
            task = asyncio.create_task(_ended(self._store.write(lambda tx: table.end(tx, agent))))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    def forget(self, agent_ids: Iterable[str]) -> None:
        """Agents are deleted."""
        for agent_id in agent_ids:
            self._known.pop(agent_id, None)

    async def _end(self, agent: Agent) -> None:
        """Ends what is running; an event only then."""
        if self._running(agent.id) is not None:
            await self._store.write(lambda tx: table.end(tx, agent))
            self._known.pop(agent.id, None)
            self._changed(agent)

    def _running(self, agent_id: str) -> _Known | None:
        known = self._known.get(agent_id)
        return known if known is not None and known.ends > self._clock.monotonic() else None


async def _ended(ending: Awaitable[None]) -> None:
    try:
        await ending
    except OrchError as exc:
        logger.warning("end of an operation not stored", extra={"error": exc.message})
