"""What the wall clock shows, found by asking for each minute of UTC, and cron on top of it.

Above: `oracle.py` and `cases.py`. Nothing here computes with the offset of a zone. Zones are IANA
names; instants are aware and in UTC; wall times are naive. Every shift is at a whole minute.
"""

import re
from bisect import bisect_right
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
FARTHEST = 3_700  # days that are searched for a match of a cron expression
REACH = timedelta(hours=15)  # further than any zone is from UTC
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
TIME = re.compile(r"(?:(\d{4}-\d\d-\d\d)T)?(\d\d):(\d\d)(?::(\d\d))?(Z|[+-]\d\d:\d\d)?")

Hour = tuple[date, int, tuple[tuple[int, datetime], ...]]  # date, hour, (minute, instant) each


def shown(zone: str, instant: datetime) -> datetime:
    """Return what the wall of `zone` shows at `instant`, without a zone."""
    return instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


@lru_cache(maxsize=1024)
def wall_day(zone: str, day: date) -> tuple[datetime, ...]:
    """Return the instants of the 1,440 minutes of a wall day, by minute of the day.

    Each is the first minute of UTC at which the wall shows that time or, when it never shows it,
    a later one: the first of two, or the end of the gap.
    """
    midnight = datetime.combine(day, time())
    instant = midnight.replace(tzinfo=UTC) - REACH
    found: list[datetime] = []
    while len(found) < 1440:
        wall = shown(zone, instant)
        while len(found) < 1440 and midnight + len(found) * MINUTE <= wall:
            found.append(instant)
        instant += MINUTE
    return tuple(found)


@lru_cache(maxsize=1024)
def utc_day(zone: str, day: date) -> tuple[Hour, ...]:
    """Return what the wall shows in the 1,440 minutes of a day of UTC, in their order.

    Neighbours that show the same hour are put together.
    """
    hours: list[tuple[date, int, list[tuple[int, datetime]]]] = []
    start = datetime.combine(day, time(), UTC)
    for number in range(1440):
        instant = start + number * MINUTE
        wall = shown(zone, instant)
        if not hours or hours[-1][:2] != (wall.date(), wall.hour):
            hours.append((wall.date(), wall.hour, []))
        hours[-1][2].append((wall.minute, instant))
    return tuple((shown_on, hour, tuple(minutes)) for shown_on, hour, minutes in hours)


def instant_of(zone: str, wall: datetime) -> datetime:
    """Return the instant of a wall time: the first of two, or the moment at which its gap ends."""
    minute = wall_day(zone, wall.date())[wall.hour * 60 + wall.minute]
    exact = shown(zone, minute) == wall.replace(second=0)
    return minute + timedelta(seconds=wall.second) if exact else minute


def resolve(text: str, zone: str, after: datetime) -> datetime:
    """Return the instant that a TIME of the command line names when it is said at `after`.

    A time of day is strictly after `after`; a full date is what it is, also when it has passed.
    """
    match = TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"not a time: {text!r}")
    day, hour, minute, second, offset = match.groups()
    clock = time(int(hour), int(minute), int(second or 0))
    if offset:
        return datetime.fromisoformat(text).astimezone(UTC)
    if day:
        return instant_of(zone, datetime.combine(date.fromisoformat(day), clock))
    today = shown(zone, after).date()
    days = (today + number * DAY for number in range(-2, 5))
    instants = (instant_of(zone, datetime.combine(each, clock)) for each in days)
    return min(each for each in instants if each > after)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression, taken apart."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]  # of the month; 0 is the last, -1 the last from Monday to Friday
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 to 6, Sunday is 0; 10 * nth + weekday; 60 + weekday for the last
    either: bool  # a match of `days` or of `weekdays` is enough
    follows: bool  # it repeats through the day, so it follows the clock


def _number(text: str, names: list[str], first: int) -> int:
    return names.index(text.upper()) + first if text.upper() in names else int(text)


def _members(field: str, low: int, high: int, names: list[str]) -> frozenset[int]:
    """Return the values of one plain field: stars, numbers, names, ranges, steps, lists."""
    values: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        start = low if span == "*" else _number(first, names, low)
        end = high if span == "*" else _number(last, names, low) if dash else start
        if not low <= start <= end <= high or (step and not dash and span != "*"):
            raise ValueError(f"not a cron field: {field!r}")
        values.update(range(start, end + 1, int(step or 1)))
    return frozenset(values)


def _weekdays(field: str) -> frozenset[int]:
    """Return the days of the week, with `MON#2` and `5L` in the numbers that `Cron` has."""
    values: set[int] = set()
    for part in field.split(","):
        day, hash_sign, nth = part.partition("#")
        if hash_sign:
            values.add(10 * int(nth) + _number(day, WEEKDAYS, 0) % 7)
        elif part.upper().endswith("L"):
            values.add(60 + _number(part[:-1], WEEKDAYS, 0) % 7)
        else:
            values.update(value % 7 for value in _members(part, 0, 7, WEEKDAYS))
    return frozenset(values)


def _month_days(field: str) -> frozenset[int]:
    special = {"L": 0, "LW": -1}
    parts = field.upper().split(",")
    plain = ",".join(part for part in parts if part not in special)
    values = _members(plain, 1, 31, []) if plain else frozenset()
    return values | {special[part] for part in parts if part in special}


@cache
def parse(expression: str) -> Cron:
    """Take a cron expression or a nickname apart."""
    fields = NICKNAMES.get(expression, expression).split()
    minute, hour, day, month, weekday = fields
    return Cron(
        minutes=_members(minute, 0, 59, []),
        hours=_members(hour, 0, 23, []),
        days=_month_days(day),
        months=_members(month, 1, 12, MONTHS),
        weekdays=_weekdays(weekday),
        either=not day.startswith("*") and not weekday.startswith("*"),
        follows=minute.startswith("*") or hour.startswith("*"),
    )


@lru_cache(maxsize=65536)
def _day_names(day: date) -> tuple[frozenset[int], frozenset[int]]:
    """Return what `Cron.days` and `Cron.weekdays` may call a date."""
    length = monthrange(day.year, day.month)[1]
    workdays = [n for n in range(1, length + 1) if day.replace(day=n).weekday() < 5]
    weekday = (day.weekday() + 1) % 7
    days, weekdays = {day.day}, {weekday, 10 * ((day.day + 6) // 7) + weekday}
    if day.day == length:
        days.add(0)
    if day.day == workdays[-1]:
        days.add(-1)
    if day.day + 7 > length:
        weekdays.add(60 + weekday)
    return frozenset(days), frozenset(weekdays)


@lru_cache(maxsize=65536)
def on_day(cron: Cron, day: date) -> bool:
    """Say whether an expression names a date."""
    if day.month not in cron.months:
        return False
    days, weekdays = _day_names(day)
    by_day = not cron.days.isdisjoint(days)
    by_weekday = not cron.weekdays.isdisjoint(weekdays)
    return by_day or by_weekday if cron.either else by_day and by_weekday


def _following(cron: Cron, zone: str, after: datetime) -> Iterator[datetime]:
    """Yield each minute after `after` at which the wall shows a match."""
    for number in range(FARTHEST):
        for day, hour, minutes in utc_day_if(cron, zone, after.date() + number * DAY):
            if hour in cron.hours and on_day(cron, day):
                for minute, instant in minutes:
                    if minute in cron.minutes and instant > after:
                        yield instant


def utc_day_if(cron: Cron, zone: str, day: date) -> tuple[Hour, ...]:
    """Return `utc_day`, or nothing when no wall date that could be seen on that day matches."""
    near = (day + number * DAY for number in (-1, 0, 1))
    return utc_day(zone, day) if any(on_day(cron, each) for each in near) else ()


@cache
def _minutes_of_day(cron: Cron) -> tuple[int, ...]:
    return tuple(sorted(hour * 60 + minute for hour in cron.hours for minute in cron.minutes))


def _named(cron: Cron, zone: str, after: datetime) -> Iterator[datetime]:
    """Yield the instants after `after` of the wall times that are named, each instant once."""
    first = shown(zone, after).date() - 2 * DAY
    latest = after
    for number in range(FARTHEST):
        day = first + number * DAY
        if not on_day(cron, day):
            continue
        table = wall_day(zone, day)
        minutes = _minutes_of_day(cron)
        for minute in minutes[bisect_right([table[m] for m in minutes], latest) :]:
            if table[minute] > latest:
                latest = table[minute]
                yield latest


def cron_times(expression: str, zone: str, after: datetime) -> Iterator[datetime]:
    """Yield the nominal times of a cron expression that are strictly after `after`, in order."""
    cron = parse(expression)
    return (_following if cron.follows else _named)(cron, zone, after)
