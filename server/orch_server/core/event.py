"""Events: each change, numbered, append-only; and which of them somebody wants to see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from orch_server.core.errors import InvalidInput
from orch_server.core.text import printable

MAX_KINDS = 100
_KIND = re.compile(r"[a-z]{1,40}(\.[a-z_]{1,40})?\Z")


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


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events; "" and () for all. A kind without a dot is a noun: all of its kinds."""

    session: str = ""
    kinds: tuple[str, ...] = ()
    subject: str = ""

    def admits(self, event: Event) -> bool:
        """Whether the event is one of them."""
        return (
            self.session in ("", event.session)
            and self.subject in ("", event.subject)
            and (
                not self.kinds
                or event.kind in self.kinds
                or event.kind.partition(".")[0] in self.kinds
            )
        )


def check_kinds(given: tuple[str, ...]) -> None:
    """Raises InvalidInput for too many, and for what cannot be a kind or a noun."""
    if len(given) > MAX_KINDS:
        raise InvalidInput("kinds", f"Name at most {MAX_KINDS} kinds.")
    for kind in given:
        if not _KIND.match(kind):
            raise InvalidInput(
                "kinds", f"'{printable(kind)}' is no kind; use one like 'task.fired' or 'task'."
            )


def check_after(after: int) -> None:
    """Raises InvalidInput for what cannot be a number of an event."""
    if after < 0:
        raise InvalidInput("after", f"No event has a number before {after}; use 0 for all events.")
