"""Credit: accounts whose usage limit was reached, and when their agents go on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

FIRST_GUESS = timedelta(minutes=15)
LONGEST_GUESS = timedelta(hours=5)
#: A limit that comes back so soon after a release shows that the guess was too early.
TOO_EARLY = timedelta(minutes=10)
#: Between two agents of an account that is let go.
STAGGER = timedelta(seconds=5)
MAX_HOLD = timedelta(days=31)


@dataclass(frozen=True, slots=True)
class CreditHold:
    """An account that is limited; see CreditHold in supervision.proto. `attempts` counts guesses
    at the end that were too early; `manual`: a person held it; `released_at`: None while it holds.
    """

    credential: str
    began_at: datetime
    ends_at: datetime
    reset_known: bool
    attempts: int
    source: str
    detail: str
    manual: bool = False
    released_at: datetime | None = None


def limited(
    credential: str,
    before: CreditHold | None,
    reset_at: datetime | None,
    source: str,
    detail: str,
    now: datetime,
    early: bool,
) -> CreditHold | None:
    """The hold after an agent of the account met its limit; None when the one there is stands.

    A time that was said counts before a guess, and the latest one of several; what a person holds
    stands. `early`: the account was let go so lately that a guess was too early.
    """
    holding = before is not None and before.released_at is None
    if before is not None and holding:
        sooner = reset_at is None or (before.reset_known and reset_at <= before.ends_at)
        if before.manual or sooner:
            return None
    guessed = before is not None and not holding and not before.reset_known
    attempts = before.attempts + 1 if before is not None and guessed and early else 0
    ends_at = reset_at or now + guess(attempts)
    began = before.began_at if before is not None and holding else now
    return CreditHold(credential, began, ends_at, reset_at is not None, attempts, source, detail)


def guess(attempts: int) -> timedelta:
    """How long to hold an account when nobody said how long, after so many guesses that were too
    early."""
    doublings = min(attempts, 10)
    return min(LONGEST_GUESS, FIRST_GUESS * (1 << doublings))
