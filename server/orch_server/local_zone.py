"""The time zone of the machine, by a name that schedules can carry."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import tzlocal

from orch_server.core.errors import InvalidInput
from orch_server.core.wall import zone

logger = logging.getLogger(__name__)

_HALF_A_YEAR = timedelta(days=182)


def local_zone(now: datetime) -> ZoneInfo:
    """The machine's zone; UTC, with a warning, where it has no name or the name means another."""
    named, why = find_zone(now)
    if why:
        logger.warning(
            "the machine's time zone has no usable name; times without a zone are taken as UTC",
            extra={"error": why},
        )
    return named


def find_zone(now: datetime) -> tuple[ZoneInfo, str]:
    """The machine's zone; or UTC, and why the machine's has no usable name."""
    utc = zone("UTC")
    times = (now, now + _HALF_A_YEAR)
    try:
        local = tzlocal.get_localzone_name() or "UTC"
        named = zone(local)
        if all(_shown(at.astimezone()) == _shown(at.astimezone(named)) for at in times):
            return named, ""
        why = f"'{local}' means another time than the machine shows"
    except (ZoneInfoNotFoundError, InvalidInput, ValueError, OSError) as exc:
        why = str(exc)
    return utc, why


def _shown(at: datetime) -> tuple[timedelta | None, str | None]:
    """By how much a clock differs from UTC, and the zone that it names when it does not: where TZ
    is not known, the machine shows UTC, by what stands in TZ."""
    offset = at.utcoffset()
    return offset, None if offset else at.tzname()
