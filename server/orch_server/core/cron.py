"""Cron expressions: cronsim reads them and steps through the calendar; what the wall clock does
when summer time begins and ends is decided here. Pure.

The library gets times without a zone only: its own treatment of zones loses matches where the shift
is not a whole hour, or happens at midnight.
"""

from __future__ import annotations

import copy
import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from cronsim import CronSim, CronSimError

from orch_server.core.errors import InvalidInput
from orch_server.core.text import printable
from orch_server.core.wall import instant, next_change, wall

FIELD = "schedule.cron"
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
#: A range of one value with a step, which cronsim takes for "from this value on": just the value.
_RANGE_OF_ONE = re.compile(r"(?<![^\s,])(\w+)-(\w+)/0*[1-9]\d*(?![^\s,])", re.ASCII)
_NAMES = {
    name: number
    for names, first in (
        ("SUN MON TUE WED THU FRI SAT", 0),
        ("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC", 1),
    )
    for number, name in enumerate(names.split(), first)
}
#: The fields as cronsim calls them, and what each takes.
_FIELDS = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day-of-month", "1 to 31, L or LW"),
    ("month", "1 to 12 or JAN to DEC"),
    ("day-of-week", "0 to 7 or SUN to SAT, MON#2 or 5L"),
)
_DAY, _MONTH = 2, 3
_LONGEST = 200
_SECOND = timedelta(seconds=1)
_SAMPLE = datetime(2024, 1, 1)  # noqa: DTZ001 - a time on the wall


def check(expression: str) -> None:
    """Raises InvalidInput unless this is a cron expression that comes some day."""
    shown = printable(expression)
    fields = _ALIASES.get(expression.strip().lower(), expression).split()
    if len(expression) > _LONGEST:
        raise InvalidInput(FIELD, f"The cron expression has more than {_LONGEST} characters.")
    if expression.strip().startswith("@") and len(fields) == 1:
        known = " ".join(_ALIASES)
        raise InvalidInput(
            FIELD, f"'{shown}' is no cron expression; of this kind there are: {known}."
        )
    if len(fields) != 5:
        raise InvalidInput(
            FIELD,
            f"The cron expression '{shown}' has {len(fields)} fields; it takes five: minute, hour,"
            " day of month, month, day of week.",
        )
    try:
        next(_stepping(expression, _SAMPLE))
    except CronSimError as exc:
        raise InvalidInput(FIELD, _explained(shown, fields, str(exc))) from exc
    except StopIteration as exc:
        raise InvalidInput(FIELD, f"The cron expression '{shown}' never comes.") from exc


def _explained(shown: str, fields: list[str], said: str) -> str:
    """What is wrong with an expression that cronsim does not take; it says which field."""
    at = next((n for n, (name, _) in enumerate(_FIELDS) if said.endswith(name)), None)
    if at is None:
        return f"The cron expression '{shown}' is wrong: {said.lower()}."
    if at == _DAY and _is_right(" ".join((*fields[:_MONTH], "*", fields[-1]))):
        return f"The cron expression '{shown}' never comes: none of its months has such a day."
    name, allowed = _FIELDS[at]
    return (
        f"The cron expression '{shown}' is wrong in its {name.replace('-', ' ')}"
        f" '{printable(fields[at])}'; use {allowed}, lists (1,2), ranges that go upwards (1-5) and"
        " steps (*/2)."
    )


def _is_right(expression: str) -> bool:
    try:
        _parsed(expression)
    except CronSimError:
        return False
    return True


def following(expression: str, tz: tzinfo, after: datetime) -> datetime | None:
    """The first match strictly after this moment (UTC); None when there is none in 50 years.

    Raises InvalidInput for what cannot be read (any more).
    """
    try:
        if _repeats_through_the_day(expression):
            return _by_the_clock(expression, tz, after)
        for shown in _stepping(expression, wall(after, tz)):
            at = instant(shown, tz)
            if at > after:
                return at
    except CronSimError as exc:
        raise InvalidInput(FIELD, f"'{printable(expression)}' is no cron expression.") from exc
    except (StopIteration, OverflowError):
        pass
    return None


def _by_the_clock(expression: str, tz: tzinfo, after: datetime) -> datetime:
    """The first moment after this one at which the wall shows a match. Between two changes of the
    offset the wall goes as time does."""
    shown = wall(after, tz)
    while True:
        offset = after.astimezone(tz).utcoffset() or timedelta(0)
        at = (next(_stepping(expression, shown)) - offset).replace(tzinfo=UTC)
        change = next_change(tz, after, at)
        if change is None:
            return at
        after, shown = change, wall(change, tz) - _SECOND


def _repeats_through_the_day(expression: str) -> bool:
    minute, hour, *_ = _canonical(expression).split()
    return minute.startswith("*") or hour.startswith("*")


def _canonical(expression: str) -> str:
    return _RANGE_OF_ONE.sub(_one, _ALIASES.get(expression.strip().lower(), expression))


def _one(term: re.Match[str]) -> str:
    first, last = (_NAMES.get(end.upper(), end.lstrip("0")) for end in term.groups())
    return term[1] if str(first) == str(last) else term[0]


def _stepping(expression: str, shown: datetime) -> CronSim:
    """Steps through the matches on the wall strictly after this second."""
    steps = copy.copy(_parsed(_canonical(expression)))
    steps.dt = shown.replace(microsecond=0)
    return steps


@lru_cache(maxsize=1024)
def _parsed(expression: str) -> CronSim:
    return CronSim(expression, _SAMPLE)
