"""The clock on the wall: zones, and the moment that a time on it means. Pure but for the zone data.

docs/reference/scheduling.md has the rule for times that do not exist or exist twice.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from orch_server.core.errors import InvalidInput
from orch_server.core.text import printable

_DAY = timedelta(days=1)
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?\Z", re.ASCII)
_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?\Z", re.ASCII
)
_LONGEST_ZONE = 64
#: Files of the zone data that are no zones, or count leap seconds.
_OTHER_TIME = ("right/", "posixrules", "Factory", "localtime")


@lru_cache(maxsize=256)
def _known_zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def zone(name: str, field: str = "time_zone") -> ZoneInfo:
    """The zone with this IANA name. Raises InvalidInput."""
    try:
        if 0 < len(name) <= _LONGEST_ZONE and not name.startswith(_OTHER_TIME):
            return _known_zone(name)
    except (
        ValueError,
        OSError,
        KeyError,
    ):  # what zoneinfo raises depends on what the name looks like
        pass
    raise InvalidInput(
        field,
        f"'{printable(name)}' is no time zone; use an IANA name such as Europe/Vienna or UTC.",
    )


def wall(at: datetime, tz: tzinfo) -> datetime:
    """What the wall shows at this moment; without a zone."""
    return at.astimezone(tz).replace(tzinfo=None)


def instant(shown: datetime, tz: tzinfo) -> datetime:
    """The moment (UTC) that a time on the wall means: the first of two, the end of a gap."""
    first = shown.replace(tzinfo=tz, fold=0).astimezone(UTC)
    if wall(first, tz) == shown:
        return first
    after = shown.replace(tzinfo=tz, fold=1).astimezone(UTC)
    change = next_change(tz, after, first)
    return first if change is None else change


def next_change(tz: tzinfo, after: datetime, until: datetime) -> datetime | None:
    """The first moment in (after, until] from which on the wall has another offset than before;
    None when it does not change. Two changes within a day that undo each other are not seen."""
    for year in range(after.year, until.year + 1):
        for change in _changes(tz, year):
            if after < change <= until:
                return change
    return None


@lru_cache(maxsize=4096)
def _changes(tz: tzinfo, year: int) -> tuple[datetime, ...]:
    """The changes of the offset within a year (UTC)."""
    found = []
    left, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    while left < end:
        right = left + _DAY
        if right.astimezone(tz).utcoffset() != left.astimezone(tz).utcoffset():
            found.append(_change_between(tz, left, right))
        left = right
    return tuple(found)


def _change_between(tz: tzinfo, before: datetime, changed: datetime) -> datetime:
    """The whole second at which the offset changes; it does between these two."""
    offset = before.astimezone(tz).utcoffset()
    low, high = int(before.timestamp()), -int(-changed.timestamp() // 1)
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, UTC).astimezone(tz).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)


def moment(field: str, text: str, tz: tzinfo, now: datetime) -> datetime:
    """The moment (UTC) that "09:00" or "2026-11-22T09:00" means in this zone: a time of day is the
    next one after `now`. Raises InvalidInput naming the field."""
    time_of_day = _TIME.match(text)
    try:
        if time_of_day:
            hour, minute, second = (int(part or 0) for part in time_of_day.groups())
            today = wall(now, tz).replace(hour=hour, minute=minute, second=second, microsecond=0)
            found = instant(today, tz)
            return found if found > now else instant(today + _DAY, tz)
        if _MOMENT.match(text):
            given = datetime.fromisoformat(text)
            return instant(given, tz) if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidInput(field, f"'{printable(text)}' is no time: {exc}.") from exc
    raise InvalidInput(
        field,
        f"'{printable(text)}' is no time; use 09:00, 2026-11-22T09:00 or 2026-11-22T09:00+01:00.",
    )
