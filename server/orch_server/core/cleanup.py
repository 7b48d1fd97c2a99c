"""Which ended sessions are removed, and why others are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from orch_server.core.errors import InvalidInput

DEFAULT_AGE = timedelta(days=30)
MAX_AGE = timedelta(days=36_500)
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A session that is removed, or would be; `kept_because` is "" unless it is kept all the
    same."""

    name: str
    completed_at: datetime
    agents: int
    tasks: int
    deliveries: int
    kept_because: str = ""


def age(given: timedelta | None) -> timedelta:
    """How long ago sessions must have ended; None: 30 days. Raises InvalidInput."""
    if given is None:
        return DEFAULT_AGE
    if not timedelta() <= given <= MAX_AGE:
        raise InvalidInput("older_than", "older_than is an age, from 0 to 36,500 days.")
    return given


def kept_because(living: list[str], pending: int) -> str:
    """Why a session that ended is kept, by its living agents and the number of its pending tasks
    and authorizations; "" when it is not."""
    if living:
        more = f" and {len(living) - _NAMED} more" if len(living) > _NAMED else ""
        return f"living: {', '.join(living[:_NAMED])}{more}"
    if pending:
        return f"{pending} pending task{'s' * (pending > 1)} or authorization{'s' * (pending > 1)}"
    return ""
