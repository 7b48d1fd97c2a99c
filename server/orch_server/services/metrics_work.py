"""What the metrics are computed from: the events in their order, and what no event tells."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from orch_server.core.clock import Clock
from orch_server.core.metrics import Period
from orch_server.core.metrics_course import Timed, with_stop
from orch_server.core.metrics_parts import BySession, Ended, Span, add_work, floor
from orch_server.core.text import printable
from orch_server.services import git_log
from orch_server.storage import metrics as table
from orch_server.storage.store import Store

#: The commits of the running hour are read again after this.
_FRESH = 60.0
_SHOWN = 20


class Feed:
    """The events after a number, up to the newest that there is when the first is read."""

    def __init__(self, store: Store, after: int, now: datetime) -> None:
        self._store = store
        self._now = now
        self._reached = after
        self._newest: int | None = None
        self._waiting: deque[Timed] = deque()

    @property
    def number(self) -> int:
        """The number up to which all events were given out."""
        return self._waiting[0].event.number - 1 if self._waiting else self._reached

    async def until(self, ends: datetime) -> AsyncIterator[Timed]:
        """The next ones, up to the first that is not from before this time. One that is from after
        now was written under a wrong clock; it holds nothing up."""
        while (head := await self._head()) is not None:
            if ends <= head.event.at <= self._now:
                return
            yield self._waiting.popleft()

    async def _head(self) -> Timed | None:
        while not self._waiting and (self._newest is None or self._reached < self._newest):
            look = await self._store.read(lambda db: table.read(db, self._reached))
            self._newest = look.newest if self._newest is None else self._newest
            self._reached = look.reached
            self._waiting.extend(one for timed in look.found for one in with_stop(timed))
        return self._waiting[0] if self._waiting else None


@dataclass(frozen=True, slots=True)
class Work:
    """Phases and commits since a time, by the hour in which they ended. A session that is not in
    `commits` has no worktree that could be read."""

    since: datetime
    spans: list[Span]
    phases: Mapping[datetime, list[Ended]]
    commits: Mapping[str, Mapping[datetime, dict[str, datetime]]]
    notes: tuple[str, ...]

    def add_to(self, parts: BySession, begins: datetime, ends: datetime) -> None:
        """Adds what belongs to this hour, which is over or runs."""
        commits = {session: hours.get(begins, {}) for session, hours in self.commits.items()}
        phases = self.phases.get(begins, [])
        add_work(parts, max(begins, self.since), ends, self.spans, phases, commits)


class Workshop:
    """Reads what no event tells, from the store and from git."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._reading = asyncio.Lock()
        self._recent: dict[str, tuple[float, datetime, dict[str, datetime] | str]] = {}

    async def between(
        self, begins: datetime, ends: datetime, session: str, patience: timedelta
    ) -> Work:
        """What was done in this time, in one session or in all for ""."""
        spans = await self._store.read(table.spans)
        ended = await self._store.read(lambda db: table.phases(db, begins, ends))
        paths = await self._store.read(lambda db: table.worktrees(db, begins, session))
        every = {path for its in paths.values() for path in its}
        async with self._reading:
            read = await self._commits(every, begins, ends, patience)
        phases: dict[datetime, list[Ended]] = {}
        for one in ended:
            phases.setdefault(floor(one.at, Period.HOUR), []).append(one)
        commits: dict[str, dict[datetime, dict[str, datetime]]] = {}
        for name, its in paths.items():
            for path in its:
                _add(commits, name, read[path])
        return Work(begins, spans, phases, commits, _notes(paths, read))

    async def _commits(
        self, paths: set[str], begins: datetime, ends: datetime, patience: timedelta
    ) -> dict[str, dict[str, datetime] | str]:
        """The commits of each directory, or why they are not known; what was read a short while
        ago is not read again."""
        now = self._clock.monotonic()
        recent = {
            path: one
            for path, one in self._recent.items()
            if one[1] == begins and now - one[0] < _FRESH
        }
        stale = paths - recent.keys()
        found, faults = await git_log.commits(stale, begins, ends, patience.total_seconds())
        recent |= {path: (now, begins, its) for path, its in (found | faults).items()}
        self._recent = recent
        return {path: recent[path][2] for path in paths}


def _add(
    to: dict[str, dict[datetime, dict[str, datetime]]],
    session: str,
    found: dict[str, datetime] | str,
) -> None:
    if isinstance(found, str):
        return
    hours = to.setdefault(session, {})
    for name, at in found.items():
        hours.setdefault(floor(at, Period.HOUR), {})[name] = at


def _notes(
    paths: Mapping[str, set[str]], read: Mapping[str, dict[str, datetime] | str]
) -> tuple[str, ...]:
    """What could not be measured, and why; texts of others in it are made printable."""
    nowhere = sorted(name for name, its in paths.items() if not its)
    unread: dict[str, list[str]] = {}
    for path, why in sorted(read.items()):
        if isinstance(why, str):
            unread.setdefault(why, []).append(path)
    notes = [_unread(why, its) for why, its in sorted(unread.items())]
    if nowhere:
        named = ", ".join(printable(name) for name in nowhere[:_SHOWN])
        more = f" and {len(nowhere) - _SHOWN} more" if len(nowhere) > _SHOWN else ""
        notes.append(f"No worktree and no project is known of: {named}{more}.")
    if len(notes) > _SHOWN:
        notes[_SHOWN:] = [f"{len(notes) - _SHOWN} more could not be measured."]
    return tuple(notes)


def _unread(why: str, its: list[str]) -> str:
    """Of which directories the commits are not counted, and why."""
    first = printable(its[0], 200)
    where = first if len(its) == 1 else f"{len(its)} directories, such as {first},"
    return f"Commits in {where} are not counted: {printable(why, 200)}."
