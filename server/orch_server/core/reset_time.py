"""When a usage limit ends, read from what an agent CLI says of it.

The words are the CLIs' own and change with their releases; what is not understood is None, never a
guess. A time of day is the next one, a weekday the next one, a date without a year the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

#: No limit lasts longer; what is further away was misread.
_FURTHEST = timedelta(days=31)
#: A time of day that has just passed may be meant, or the one of tomorrow: that is unsure.
_JUST_PAST = timedelta(minutes=10)
_LONGEST = 500
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_EPOCH = re.compile(r"limit reached\|(\d{10})\b", re.I)
_BEGIN = re.compile(r"\b(?:resets?|try again|available again)\b", re.I)
_IN = re.compile(
    r"^\W*in\s+(?:about\s+)?((?:\d+\s*(?:days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\b"
    r"[\s,]*(?:and\s+)?)+)",
    re.I,
)
_PART = re.compile(r"(\d+)\s*([dhms])", re.I)
_DATE = re.compile(
    r"\b(" + "|".join(_MONTHS) + r")[a-z]*\.?\s+(\d{1,2})(?:st|nd|rd|th)?\b(?:,?\s+(\d{4})\b)?",
    re.I,
)
_DAY = re.compile(r"\b(tomorrow\b|(?:" + "|".join(_DAYS) + r")[a-z]*\b)", re.I)
_TIME = re.compile(r"(?<![\d:])(\d{1,2})(?::(\d{2}))?(?::\d{2})?\s*([ap])\.?m\b", re.I)
_TIME_24 = re.compile(r"(?<![\d:])(\d{1,2}):(\d{2})(?::\d{2})?(?![\d:])")
_ZONE = re.compile(
    r"\(([A-Za-z]+(?:[/_+-][A-Za-z0-9_+-]+)*)\)|(?<=[\dmM])\s+(?![AP]M\b)([A-Z]{2,5})\b"
)


def reset_time(text: str, now: datetime, zone: tzinfo) -> datetime | None:
    """The time, UTC, that the text names as the end of a limit; `zone` is that of times without
    one. None when it names none, none in the next 31 days, or one that cannot be."""
    try:
        found = _read(text[:_LONGEST], now, zone)
    except (ValueError, OverflowError):  # such as February 30
        return None
    if found is None or not now < found <= now + _FURTHEST:
        return None
    return found


def _read(text: str, now: datetime, zone: tzinfo) -> datetime | None:
    if match := _EPOCH.search(text):
        return datetime.fromtimestamp(int(match[1]), UTC)
    begin = _BEGIN.search(text)
    if begin is None:
        return None
    rest = text[begin.end() :]
    if match := _IN.match(rest):
        seconds = sum(int(n) * _UNITS[unit.lower()] for n, unit in _PART.findall(match[1]))
        return now + timedelta(seconds=seconds)
    time, there = _time_of_day(rest), now.astimezone(_zone(rest, zone))
    if match := _DATE.search(rest):
        return _first(_dates(match, there.year), time or (0, 0), there)
    if time is None:
        return None
    if match := _DAY.search(rest):
        return _first(_days(match[1].lower(), there.date()), time, there)
    found = _first((there.date() + timedelta(days=n) for n in (0, 1)), time, there)
    past = None if found is None else found - timedelta(days=1)
    return None if past is not None and past <= now < past + _JUST_PAST else found


def _time_of_day(text: str) -> tuple[int, int] | None:
    if match := _TIME.search(text):
        hour = int(match[1])
        if not 1 <= hour <= 12:
            raise ValueError
        return hour % 12 + (12 if match[3].lower() == "p" else 0), int(match[2] or 0)
    if match := _TIME_24.search(text):
        return int(match[1]), int(match[2])
    return None


def _zone(text: str, default: tzinfo) -> tzinfo:
    """The zone in the text. Raises ValueError for one that nobody knows, such as "PST"."""
    match = _ZONE.search(text)
    if match is None:
        return default
    try:
        return ZoneInfo(match[1] or match[2])
    except (ZoneInfoNotFoundError, OSError) as exc:
        raise ValueError from exc


def _dates(match: re.Match[str], year: int) -> Iterator[date]:
    month, day = _MONTHS.index(match[1].lower()) + 1, int(match[2])
    if match[3]:
        yield date(int(match[3]), month, day)
    else:
        yield date(year, month, day)
        yield date(year + 1, month, day)


def _days(word: str, today: date) -> Iterator[date]:
    if word == "tomorrow":
        yield today + timedelta(days=1)
    else:
        ahead = (_DAYS.index(word[:3]) - today.weekday()) % 7
        yield today + timedelta(days=ahead)
        yield today + timedelta(days=ahead + 7)


def _first(days: Iterator[date], time: tuple[int, int], now: datetime) -> datetime | None:
    """The first of these days' moments after now, UTC; None when all have passed.

    A moment that daylight saving leaves out is as much later; of one that it repeats both count.
    """
    for day in days:
        for fold in (0, 1):
            local = datetime(day.year, day.month, day.day, *time, tzinfo=now.tzinfo, fold=fold)
            if (found := local.astimezone(UTC)) > now:
                return found
    return None
