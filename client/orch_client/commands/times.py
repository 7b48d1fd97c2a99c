"""Times that people give, in the terminal's own zone, and how long ago something was."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp


def moment_given(text: str) -> Timestamp:
    """ "19:00" (the next time that it is so late) or "2026-11-22T07:00". Raises ClientError."""
    now = datetime.now().astimezone()  # noqa: TID251 - the person's own clock
    try:
        return _stamp(next_time(text, now).timestamp())
    except (ValueError, OverflowError) as exc:
        raise ClientError(
            f"'{output.one_line(text)}' is no time; use 19:00 or 2026-11-22T07:00.", USAGE
        ) from exc


def next_time(text: str, now: datetime) -> datetime:
    """The time that a person means who says this now. Raises ValueError.

    What has no zone is local: hours are read off a clock on the wall, also over a change to or
    from summer time.
    """
    if len(text) <= 5:
        at = datetime.strptime(text, "%H:%M")  # noqa: DTZ007 - only the time of day
        wall = now.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0, tzinfo=None)
        found = wall.astimezone()
        return found if found > now else (wall + timedelta(days=1)).astimezone()
    given = datetime.fromisoformat(text)
    return given if given.tzinfo else given.astimezone()


def ahead(seconds: float) -> Timestamp:
    """So many seconds from now."""
    return _stamp(time.time() + seconds)  # noqa: TID251 - the person's own clock


def before(seconds: float) -> Timestamp:
    """So many seconds ago."""
    return _stamp(time.time() - seconds)  # noqa: TID251 - the person's own clock


def since(at: Timestamp) -> float:
    """Seconds that have passed since then."""
    now = time.time()  # noqa: TID251 - the person's own clock
    return now - at.seconds - at.nanos / 1e9


def age(at: Timestamp) -> str:
    """How long ago, such as "3m"; "" when not set."""
    return output.apart(-max(0.0, since(at))).removesuffix(" ago") if at.seconds else ""


def _stamp(at: float) -> Timestamp:
    from google.protobuf.timestamp_pb2 import Timestamp

    whole, part = divmod(round(at * 1_000_000), 1_000_000)
    if whole < 0:
        raise ValueError(at)
    return Timestamp(seconds=whole, nanos=part * 1000)
