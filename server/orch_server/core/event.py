"""Events: each change, numbered, append-only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `kind` is "noun.past", `subject` the noun's id; `session` and `agent` (an id) are
    those it concerns, "" when none."""

    number: int
    at: datetime
    kind: str
    subject: str
    session: str
    agent: str
    actor: str
    detail: str
