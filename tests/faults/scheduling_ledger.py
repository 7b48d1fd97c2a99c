"""What the callers know: which tasks they made, what they did to them, and what was answered.

A call has a beginning and an end, in microseconds since 1970. One that broke may have been done at
any moment between them, or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.scheduling_grid import SECOND, Given, Plan

OK, BROKEN = "OK", "BROKEN"
HOUR = 3600 * SECOND


def now() -> int:
    """Microseconds since 1970, as the server counts them."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Attempt:
    """One call; `code` is OK, BROKEN, or the name of the status with which it was refused."""

    began: int
    ended: int
    code: str


@dataclass
class Action:
    """One thing done to a task, tried until it was acknowledged, refused or given up.

    `kind` is "cancel", "pause", "resume", "reschedule" (to `plan`) or "run" (with `request_id`).
    `answered` is the state that the answer showed, `nominals` the occurrences that "run" returned.
    """

    kind: str
    plan: Plan | None = None
    request_id: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    answered: str = ""
    nominals: set[int] = field(default_factory=set)

    @property
    def acknowledged(self) -> bool:
        """Whether it certainly happened."""
        return any(attempt.code == OK for attempt in self.attempts)

    @property
    def possible(self) -> bool:
        """Whether it may have happened."""
        return any(attempt.code in (OK, BROKEN) for attempt in self.attempts)

    @property
    def began(self) -> int:
        """When it was first tried."""
        return self.attempts[0].began

    @property
    def ended(self) -> int:
        """When the last call ended."""
        return self.attempts[-1].ended


@dataclass
class Made:
    """A task that was asked for; `ids` has every id that was ever returned for its request id."""

    note: str
    request_id: str
    plan: Plan
    catch_up: int = HOUR
    missed: str = "ONE"
    ids: set[str] = field(default_factory=set)
    created_at: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        """Whether the caller was told that it is on disk."""
        return bool(self.ids)

    @property
    def id(self) -> str:
        """Its id; of several, which there must not be, the first."""
        return min(self.ids)

    def some(self, kind: str) -> Iterator[Action]:
        """The actions of this kind."""
        return (action for action in self.actions if action.kind == kind)

    def givens(self) -> list[Given]:
        """The schedules that it had or may have had, in their order."""
        given = [Given(self.plan, self.created_at, self.created_at)]
        for action in self.some("reschedule"):
            assert action.plan is not None
            for attempt in action.attempts:
                if attempt.code in (OK, BROKEN):
                    certain = attempt.code == OK
                    given.append(Given(action.plan, attempt.began, attempt.ended, certain))
        return given


@dataclass
class Ledger:
    """All of it; `errors` are answers that no call should have got. `caught_up` is a time before
    which all that was due had been looked at, when the kills were over."""

    made: list[Made] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    caught_up: int = 0
