"""Times that people give, in the terminal's own zone, and how long ago something was."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from orch.v1 import scheduler_pb2 as pb

_FOLDER = "/zoneinfo/"
_ZONES = "/usr/share/zoneinfo"
#: "Europe/Vienna" or "UTC", not "CET-1CEST", which is a rule and no name.
_NAME = re.compile(r"[A-Za-z]+|[A-Za-z][\w+-]*(?:/[A-Za-z][\w+-]*)+", re.ASCII)


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


def terminal_zone() -> str:
    """The IANA name of the terminal's zone: TZ, else where /etc/localtime leads; "" when neither
    says it."""
    given = _name_in(os.environ.get("TZ", "").removeprefix(":"))
    if given:
        return given
    try:
        return _name_in(os.readlink("/etc/localtime"))  # noqa: PTH115 - a name, not a path
    except OSError:
        return ""


def nameless_zone() -> str:
    """TZ when it says something that names no zone, such as "CET-1CEST"; "" else."""
    given = os.environ.get("TZ", "").removeprefix(":")
    return "" if _name_in(given) else given


def _name_in(place: str) -> str:
    """A name as it is, or from the path of its file; "" for anything else."""
    name = place.rpartition(_FOLDER)[2].removeprefix("posix/").removeprefix("right/")
    return name if _NAME.fullmatch(name) else ""


def as_given(schedule: pb.Schedule) -> str:
    """The time of `at` as clocks in its zone show it, and the zone."""
    zone = output.one_line(schedule.time_zone)
    try:
        given = datetime.fromisoformat(schedule.at)
    except ValueError:
        return f"{output.one_line(schedule.at)} ({zone})"
    return f"{_in_full(given)} ({zone})"


def in_both(schedule: pb.Schedule, show: Callable[[Timestamp], str]) -> str:
    """The time of `until` as `show` shows it, and as clocks in its zone do when those differ from
    the terminal's."""
    try:
        given = datetime.fromisoformat(schedule.until)
        shown = show(_stamp(given.timestamp()))
        if given.utcoffset() == given.astimezone().utcoffset():
            return shown
    except (ValueError, OverflowError):
        return output.one_line(schedule.until)
    return f"{shown}, which is {_in_full(given)} ({output.one_line(schedule.time_zone)})"


def _in_full(given: datetime) -> str:
    return given.strftime("%Y-%m-%d %H:%M:%S %z")


def elsewhere(moments: Sequence[Timestamp], zone: str) -> list[str]:
    """The moments as clocks in this zone show them, such as "2026-11-22 09:00:00 +0100"; none when
    the terminal's own clock shows the same, or when the zone is not known here."""
    if not _NAME.fullmatch(zone) or not os.path.isfile(f"{_ZONES}/{zone}"):  # noqa: PTH113
        return []
    here = [time.localtime(at.seconds).tm_gmtoff for at in moments]
    with _clock_in(zone):
        there = [time.localtime(at.seconds) for at in moments]
        shown = [time.strftime("%Y-%m-%d %H:%M:%S %z", local) for local in there]
    return shown if here != [local.tm_gmtoff for local in there] else []


@contextmanager
def _clock_in(zone: str) -> Iterator[None]:
    """Lets the C library's clock go by this zone for a moment: zoneinfo is not loaded for this."""
    own = os.environ.get("TZ")
    try:
        os.environ["TZ"] = f":{zone}"
        time.tzset()
        yield
    finally:
        os.environ.pop("TZ")
        if own is not None:
            os.environ["TZ"] = own
        time.tzset()


def _stamp(at: float) -> Timestamp:
    from google.protobuf.timestamp_pb2 import Timestamp

    whole, part = divmod(round(at * 1_000_000), 1_000_000)
    if whole < 0:
        raise ValueError(at)
    return Timestamp(seconds=whole, nanos=part * 1000)
