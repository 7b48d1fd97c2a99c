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
    try:
        local = tzlocal.get_localzone_name()
        named = zone(local)
        if all(_shown(at) == at.astimezone(named).utcoffset() for at in (now, now + _HALF_A_YEAR)):
            return named
        said = f"'{local}' means another time than the machine shows"
    except (ZoneInfoNotFoundError, InvalidInput, ValueError, OSError) as exc:
        said = str(exc)
    logger.warning(
        "the machine's time zone has no usable name; times without a zone are taken as UTC",
        extra={"error": said},
    )
    return zone("UTC")


def _shown(at: datetime) -> timedelta | None:
    """By how much the machine's own clock differs from UTC at this time."""
    return at.astimezone().utcoffset()
