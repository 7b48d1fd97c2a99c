"""The figures by which a team is steered: computed from events, kept by the hour and the day.

All that is needed to go on is in the store: which hours are kept, with which event each one ends,
and what the agents did then. So a restart is no special case, and nothing is computed twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from orch_server.core.clock import Clock
from orch_server.core.errors import InvalidInput
from orch_server.core.metrics import Metrics, Period
from orch_server.core.metrics_course import MEASURED, Course, Doing, Timed, measured
from orch_server.core.metrics_figures import add_sums, compose
from orch_server.core.metrics_parts import ALL, DAY, HOUR, BySession, Parts, floor
from orch_server.services.metrics_work import Feed, Workshop
from orch_server.storage import metrics as table
from orch_server.storage import sessions
from orch_server.storage.metrics import Look, Progress
from orch_server.storage.store import Store

#: An hour is kept so long after its end: what was committed in its last moments is there then.
SLACK = timedelta(seconds=60)
#: Over a longer time the steps are days; beyond one day more, percentiles come from the steps'.
SHORT = timedelta(days=2)
#: What happened before is not caught up with.
_OLDEST = timedelta(days=90)
#: When more than this is not kept yet, it is being caught up with.
_BEHIND = timedelta(hours=3)
_MOST_STEPS = 2000
_PATIENCE, _LONG_PATIENCE = timedelta(seconds=8), timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class _Live:
    """The hours that are not kept yet, of one session or all together, and what is not known."""

    hours: Mapping[datetime, Parts]
    notes: tuple[str, ...]


class MetricsService:
    """Keeps them once an hour is over, and computes what is not kept yet when it is asked."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._workshop = Workshop(store, clock)
        self.changed = asyncio.Event()

    async def tell_start(self) -> None:
        """Writes that the server runs again; before anything else of a start."""
        await self._store.write(table.tell_start)

    # ---- keeping ----

    async def run_due(self) -> datetime:
        """Keeps the figures of every hour and day that are over; returns when to call it again."""
        now = self._clock.now()
        progress = await self._progress(now)
        last = floor(now - SLACK, Period.HOUR)
        if progress.ends_at < last:
            await self._keep_hours(progress, last, now)
        await self._keep_days()
        return max(progress.ends_at, last) + HOUR + SLACK

    async def _progress(self, now: datetime) -> Progress:
        """How far they are kept; when nothing is, up to the first event."""
        kept = await self._store.read(table.progress)
        if kept is not None:
            return kept
        oldest = await self._store.read(table.oldest_event)
        since = now if oldest is None else min(oldest[1], now)
        return Progress(floor(since, Period.HOUR), since, 0, {})

    async def _keep_hours(self, progress: Progress, last: datetime, now: datetime) -> None:
        course, feed = (
            Course(progress.ends_at, progress.agents),
            Feed(self._store, progress.number, now),
        )
        begins = max(progress.ends_at, floor(now - _OLDEST, Period.HOUR))
        if begins > progress.ends_at:
            await _follow(course, feed, begins)  # only what the agents did then is of use
        workshop = Workshop(self._store, self._clock)  # nobody who asks waits for this one
        since = max(begins, progress.since)
        work = await workshop.between(since, last, ALL, _LONG_PATIENCE)
        known = dict(progress.agents)
        while begins < last:
            parts = await _follow(course, feed, begins + HOUR)
            work.add_to(parts, begins, begins + HOUR)
            changed = dict(course.agents) if course.agents != known else None
            await self._keep(begins, parts, feed.number, changed)
            known, begins = changed or known, begins + HOUR

    async def _keep(
        self, begins: datetime, parts: BySession, number: int, agents: dict[str, Doing] | None
    ) -> None:
        await self._store.write(lambda tx: table.keep(tx, begins, parts, number, agents))

    async def _keep_days(self) -> None:
        """A day is over when all of its hours are kept."""
        day, ends_at = await self._store.read(table.days_due)
        while day is not None and day + DAY <= ends_at:
            await self._keep_day(day)
            day += DAY

    async def _keep_day(self, day: datetime) -> None:
        first = await self._store.read(lambda db: table.number_before(db, day))
        last = await self._store.read(lambda db: table.number_before(db, day + DAY))
        found = await asyncio.to_thread(measured, await self._measured(first, last, ALL))
        await self._store.write(lambda tx: table.keep_day(tx, day, day + DAY, found))

    # ---- asking ----

    async def get(self, since: datetime | None, session: str, period: Period | None) -> Metrics:
        """The figures since a time, a day ago when None; of one session, or of all for "".

        The time begins with the hour, or the day, that `since` is in, or with the first of which
        anything is known. Raises InvalidInput for a
        time that is to come or too long ago for so many steps, NotFound for an unknown session.
        """
        now = self._clock.now()
        begins, period = _window(now - DAY if since is None else since, period, now)
        if session and not await self._store.read(lambda db: table.is_known(db, session)):
            await self._store.read(lambda db: sessions.get(db, session))
        live = await self._live(now, session)  # first: an hour that is kept meanwhile is in both
        kept = await self._store.read(lambda db: table.kept(db, period, begins, session))
        open_steps = await self._open_steps(period, begins, session, live, kept)
        steps = _course(kept | open_steps, period, now)
        begins = steps[0][0] if steps else begins
        exact, notes = None, list(live.notes)
        if now - begins <= SHORT + DAY:
            exact = await self._percentiles(begins, session)
        elif steps:
            notes.append(
                "Over more than three days the p95 and p99 are the greatest of the days, and the"
                " median is the mean of theirs."
            )
        since = await self._measured_since(begins, period, now) if steps else begins
        return Metrics(compose(steps, exact), since, now, tuple(notes))

    async def _measured_since(self, begins: datetime, period: Period, now: datetime) -> datetime:
        """From when on the step is measured that begins then: all of it, but for the very first."""
        oldest = await self._store.read(table.oldest_event)
        is_first = oldest is not None and oldest[0] == 1 and floor(oldest[1], period) == begins
        return min(oldest[1], now) if oldest is not None and is_first else begins

    async def _live(self, now: datetime, session: str) -> _Live:
        """The hours since the last one that is kept, up to now."""
        progress = await self._progress(now)
        begins = progress.ends_at
        if begins > now:
            note = f"The clock was set back: nothing is measured until {begins:%Y-%m-%d %H:%M} UTC."
            return _Live({}, (note,))
        if now - begins > _BEHIND:
            note = f"What happened since {begins:%Y-%m-%d %H:%M} UTC is still being computed."
            return _Live({}, (note,))
        course, feed = Course(begins, progress.agents), Feed(self._store, progress.number, now)
        work = await self._workshop.between(progress.since, now, session, _PATIENCE)
        hours: dict[datetime, Parts] = {}
        while begins < now:
            ends = min(begins + HOUR, now)
            parts = await _follow(course, feed, begins + HOUR, ends)
            work.add_to(parts, begins, ends)
            hours[begins], begins = parts.get(session, {}), begins + HOUR
        return _Live(hours, work.notes)

    async def _open_steps(
        self,
        period: Period,
        begins: datetime,
        session: str,
        live: _Live,
        kept: Mapping[datetime, Parts],
    ) -> dict[datetime, Parts]:
        """The steps that are not kept: running hours as they are, days put together of hours."""
        if period is Period.HOUR:
            return {at: parts for at, parts in live.hours.items() if at >= begins}
        day = max([begins, *(at + DAY for at in kept)])
        hours = await self._store.read(lambda db: table.kept(db, Period.HOUR, day, session))
        days: dict[datetime, Parts] = {}
        for at, parts in (hours | dict(live.hours)).items():
            if at >= day:
                add_sums(days.setdefault(floor(at, Period.DAY), {}), parts)
        for at in days:
            days[at] |= await self._percentiles(at, session, at + DAY)
        return days

    async def _percentiles(
        self, begins: datetime, session: str, ends: datetime | None = None
    ) -> Parts:
        """Those of all that was measured in this time, exactly; up to now for None."""
        first = await self._store.read(lambda db: table.number_before(db, begins))
        found = await self._measured(first, None, session)

        def compute() -> Parts:
            within = (one for one in found if _is_within(one.event.at, begins, ends))
            return measured(within).get(session, {})

        return await asyncio.to_thread(compute)

    async def _measured(self, after: int, last: int | None, session: str) -> list[Timed]:
        """The ends whose time is measured after an event, up to another; up to now for None."""
        found: list[Timed] = []
        reached = after
        while last is None or reached < last:
            look = await self._look(reached, session)
            found += look.found
            reached, last = look.reached, look.newest if last is None else last
        return [one for one in found if one.event.number <= (last or 0)]

    async def _look(self, after: int, session: str) -> Look:
        kinds = tuple(MEASURED)
        return await self._store.read(lambda db: table.read(db, after, kinds, session))


async def _follow(
    course: Course, feed: Feed, ends: datetime, until: datetime | None = None
) -> BySession:
    """Takes the events from before `ends`; returns what was measured, up to `until`."""
    async for timed in feed.until(ends):
        course.take(timed)
    return await asyncio.to_thread(course.close, until or ends)  # it sorts what was measured


def _is_within(at: datetime, begins: datetime, ends: datetime | None) -> bool:
    return begins <= at and (ends is None or at < ends)


def _course(
    known: Mapping[datetime, Parts], period: Period, now: datetime
) -> list[tuple[datetime, Parts]]:
    """Every step from the first of which anything is known up to now."""
    steps, length = [], HOUR if period is Period.HOUR else DAY
    at = min((at for at, parts in known.items() if parts), default=now)
    while at < now:
        steps.append((at, known.get(at, {})))
        at += length
    return steps


def _window(since: datetime, period: Period | None, now: datetime) -> tuple[datetime, Period]:
    """When the first step begins, and how long each is."""
    if since > now:
        raise InvalidInput("since", "The time since which is asked for is still to come.")
    period = period or (Period.HOUR if now - since <= SHORT else Period.DAY)
    begins = floor(since, period)
    length, steps, advice = HOUR, "hours", ", or for days"
    if period is Period.DAY:
        length, steps, advice = DAY, "days", ""
    if (now - begins) / length > _MOST_STEPS:
        message = f"That is more than {_MOST_STEPS:,} {steps} ago; ask for a shorter time{advice}."
        raise InvalidInput("since", message)
    return begins, period
