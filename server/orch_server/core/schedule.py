"""Schedules: what may be asked for, and the times that follow from it. Pure.

A nominal time is what a schedule names; the time at which it is due may be later by its jitter. The
rules are in docs/reference/scheduling.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from hashlib import blake2b
from itertools import islice, takewhile

from orch_server.core import cron
from orch_server.core.errors import InvalidInput
from orch_server.core.wall import moment, zone

MAX_DELAY = timedelta(days=366)
MIN_EVERY = timedelta(seconds=1)
MAX_JITTER = timedelta(hours=24)
MIN_CATCH_UP = timedelta(seconds=10)
CATCH_UP = timedelta(hours=1)
_NONE = timedelta(0)
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_YEAR = 9000  # later times are not written
_PREVIEWED = timedelta(days=36_525)


class Form(StrEnum):
    """How a schedule repeats."""

    ONCE = "ONCE"
    EVERY = "EVERY"
    CRON = "CRON"


class Missed(StrEnum):
    """What happens to missed occurrences; see MissedPolicy in scheduler.proto."""

    ONE = "ONE"
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Asked:
    """A schedule as it was asked for; see Schedule in scheduler.proto. One form is not None."""

    delay: timedelta | None = None
    at: str | None = None
    every: timedelta | None = None
    cron: str | None = None
    time_zone: str = ""
    jitter: timedelta = _NONE
    until: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that was checked. `first` is its first nominal time, `end_at` the last one that it
    may have; `time_zone` is "" when none was needed."""

    form: Form
    first: datetime
    every: timedelta = _NONE
    cron: str = ""
    time_zone: str = ""
    jitter: timedelta = _NONE
    end_at: datetime | None = None

    @property
    def repeats(self) -> bool:
        """Whether it names more than one time."""
        return self.form is not Form.ONCE


def plan(asked: Asked, now: datetime, local_zone: str) -> Schedule:
    """Checks what was asked for at this moment. `local_zone` is used when none was named.

    Raises InvalidInput, naming the field, for what makes no sense or would never fire.
    """
    forms = [f for f in ("delay", "at", "every", "cron") if getattr(asked, f) is not None]
    if len(forms) != 1:
        said = f"names {' and '.join(forms)}" if forms else "is empty"
        raise InvalidInput(
            "schedule", f"The schedule {said}; give one of delay, at, every and cron."
        )
    if asked.delay is not None:
        _refuse_extras(asked)
        if asked.time_zone:
            raise InvalidInput(
                "schedule.time_zone", "A delay needs no time zone; it goes with at, cron or until."
            )
        return Schedule(Form.ONCE, due_time(now, asked.delay))
    name = asked.time_zone or local_zone
    tz = zone(name, "schedule.time_zone")
    if asked.at is not None:
        _refuse_extras(asked)
        return Schedule(
            Form.ONCE, _ahead(moment("schedule.at", asked.at, tz, now), now, tz), time_zone=name
        )
    _check_jitter(asked.jitter)
    end_at = _end(asked.until, tz, now)
    if asked.every is not None:
        _check_every(asked.every)
        found = Schedule(Form.EVERY, now + asked.every, every=asked.every)
        found = replace(found, time_zone=name if asked.until else "")
    else:
        expression = (asked.cron or "").strip()
        cron.check(expression)
        first = cron.following(expression, tz, now)
        if first is None:
            raise InvalidInput(cron.FIELD, "The cron expression does not come within 50 years.")
        found = Schedule(Form.CRON, first, cron=expression, time_zone=name)
    if end_at is not None and found.first > end_at:
        raise InvalidInput(
            "schedule.until",
            f"The schedule would never fire: its first time is {_shown(found.first, tz)}, after its"
            f" end at {_shown(end_at, tz)}; give a later end.",
        )
    return replace(found, jitter=asked.jitter, end_at=end_at)


def due_time(now: datetime, delay: timedelta) -> datetime:
    """When a note with this delay comes due. Raises InvalidInput outside 0 to 366 days."""
    if not _NONE <= delay <= MAX_DELAY:
        raise InvalidInput(
            "delay",
            f"A delay of {_length(delay)} makes no sense; use 0 to"
            f" {MAX_DELAY // timedelta(minutes=1):,} minutes ({MAX_DELAY.days} days).",
        )
    return now + delay


def check_catch_up(window: timedelta) -> timedelta:
    """The catch-up window. Raises InvalidInput outside 10 seconds to 366 days."""
    if not MIN_CATCH_UP <= window <= MAX_DELAY:
        raise InvalidInput(
            "catch_up",
            f"A catch-up window of {_length(window)} makes no sense; use 10 seconds to"
            f" {MAX_DELAY.days} days.",
        )
    return window


def following(schedule: Schedule, nominal: datetime) -> datetime | None:
    """The nominal time after this one, whatever the schedule's end; None when there is none."""
    if schedule.form is Form.EVERY:
        after = nominal + schedule.every
    elif schedule.form is Form.CRON:
        found = cron.following(schedule.cron, zone(schedule.time_zone), nominal)
        if found is None:
            return None
        after = found
    else:
        return None
    return after if after.year < _LAST_YEAR else None


def successor(schedule: Schedule, nominal: datetime) -> datetime | None:
    """The occurrence after this one; None when this is the last."""
    after = following(schedule, nominal)
    return None if after is None or (schedule.end_at and after > schedule.end_at) else after


def due(schedule: Schedule, task_id: str, nominal: datetime) -> datetime:
    """When the occurrence with this nominal time is due."""
    if not schedule.jitter:
        return nominal
    after = following(schedule, nominal)
    span = schedule.jitter if after is None else min(schedule.jitter, after - nominal)
    key = f"{task_id}:{(nominal - _EPOCH) // _MICROSECOND}"
    part = int.from_bytes(blake2b(key.encode()).digest()[:8], "big")
    return nominal + timedelta(microseconds=(span // _MICROSECOND) * part >> 64)


def upcoming(schedule: Schedule, count: int) -> list[datetime]:
    """The first nominal times, at most so many, within a hundred years."""
    last = schedule.first + _PREVIEWED
    return list(islice(takewhile(lambda at: at < last, _times(schedule)), count))


def _times(schedule: Schedule) -> Iterator[datetime]:
    nominal: datetime | None = schedule.first
    while nominal is not None:
        yield nominal
        nominal = successor(schedule, nominal)


def _refuse_extras(asked: Asked) -> None:
    for field, given in (("jitter", asked.jitter), ("until", asked.until)):
        if given:
            raise InvalidInput(
                f"schedule.{field}",
                f"'{field}' makes sense only for a note that repeats (every, cron); leave it out.",
            )


def _end(until: str, tz: tzinfo, now: datetime) -> datetime | None:
    if not until:
        return None
    end_at = moment("schedule.until", until, tz, now)
    if end_at.year >= _LAST_YEAR:
        raise InvalidInput(
            "schedule.until", f"The end {_shown(end_at, tz)} is too far away; leave it out."
        )
    return end_at


def _ahead(at: datetime, now: datetime, tz: tzinfo) -> datetime:
    if now < at <= now + MAX_DELAY:
        return at
    days = f"{MAX_DELAY.days} days"
    wrong = "has passed; use one that is" if at <= now else f"is more than {days}"
    raise InvalidInput("schedule.at", f"The time {_shown(at, tz)} {wrong} ahead.")


def _shown(at: datetime, tz: tzinfo) -> str:
    """A time as its zone has it, to the second."""
    try:
        return at.astimezone(tz).isoformat(" ", "seconds")
    except OverflowError:  # at the ends of the calendar
        return at.isoformat(" ", "seconds")


def _length(span: timedelta) -> str:
    """A length of time in the largest unit that gives a whole number."""
    for name, unit in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, rest = divmod(span.total_seconds(), unit)
        if not rest and (count or unit == 1):
            return f"{count:,.0f} {name}{'' if count == 1 else 's'}"
    return f"{span.total_seconds():,.15g} seconds"


def _check_every(every: timedelta) -> None:
    if not MIN_EVERY <= every <= MAX_DELAY:
        raise InvalidInput(
            "schedule.every",
            f"An interval of {_length(every)} makes no sense; use 1 second to"
            f" {MAX_DELAY.days} days.",
        )


def _check_jitter(jitter: timedelta) -> None:
    if not _NONE <= jitter <= MAX_JITTER:
        raise InvalidInput(
            "schedule.jitter",
            f"A jitter of {_length(jitter)} makes no sense; use 0 to 24 hours.",
        )
