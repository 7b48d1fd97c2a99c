"""What the old system's times mean. They come in five forms, often several in one column:

- a number, or a number as text: seconds since 1970;
- text with an offset or Z: that moment;
- text with a T and no offset, as Python wrote it: local time of the machine that wrote it;
- text with a blank and no offset, as SQLite wrote it (CURRENT_TIMESTAMP): UTC;
- a day alone: local midnight.

A local time that came twice, when clocks went back, is the first of the two; one that never was is
read with the offset before the change.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, tzinfo

from orch_server.core.text import printable

_NUMBER = re.compile(r"-?\d{1,13}(\.\d+)?\Z", re.ASCII)
_TEXT = re.compile(
    r"\d{4}-\d\d-\d\d(?:(?P<blank>[T ])\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?"
    r"(?P<offset>Z|[+-]\d\d:?\d\d)?)?\Z",
    re.ASCII,
)
_LAST_YEAR = 9000  # later times are not written


def read_time(value: object, zone: tzinfo) -> datetime | None:
    """The moment, in UTC; None for null and blank text. `zone` is that of times without an offset.

    Raises ValueError, saying what is wrong, for everything that is no time after 1969.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        found = _seconds(float(text)) if _NUMBER.match(text) else _moment(text, zone)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = _seconds(value)
    else:
        raise ValueError(f"{printable(repr(value), 40)} is no time")
    if not 1970 <= found.year < _LAST_YEAR:
        raise ValueError(f"{printable(str(value), 40)} is no time between 1970 and {_LAST_YEAR}")
    return found


def _seconds(number: float) -> datetime:
    try:
        if not math.isfinite(number) or number < 0:
            raise ValueError
        return datetime.fromtimestamp(number, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise ValueError(f"{printable(str(number), 40)} is no time between 1970 and 9000") from exc


def _moment(text: str, zone: tzinfo) -> datetime:
    form = _TEXT.match(text)
    if form is None:
        raise ValueError(f"'{printable(text, 40)}' is no time")
    try:
        found = datetime.fromisoformat(text)
        if form["offset"] is None:
            found = found.replace(tzinfo=UTC if form["blank"] == " " else zone)
        return found.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"'{printable(text, 40)}' is no time") from exc
