"""When a schedule's occurrences have to be: the grid of nominal times, computed anew from the rules
of docs/reference/scheduling.md. Times and lengths are microseconds; pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

SECOND = 1_000_000
MINUTE = 60 * SECOND


@dataclass(frozen=True)
class Plan:
    """A schedule. `form` is "once", "every" or "cron" (each minute); `step` is the delay of the
    first, else what lies between two. `until` 0: without end."""

    form: str
    step: int
    jitter: int = 0
    until: int = 0

    @property
    def repeats(self) -> bool:
        """Whether there is more than one occurrence."""
        return self.form != "once"

    def first(self, anchor: int) -> int:
        """The first nominal time of a schedule that was given at `anchor`."""
        if self.form == "cron":
            return (anchor // MINUTE + 1) * MINUTE
        return anchor + self.step

    def after(self, nominal: int) -> int | None:
        """The nominal time that follows; None when this was the last."""
        following = nominal + self.step
        return following if self.repeats and self._holds(following) else None

    def due(self, task_id: str, nominal: int) -> int:
        """When the occurrence is due: the nominal time and its part of the jitter."""
        if not self.jitter:
            return nominal
        digest = hashlib.blake2b(f"{task_id}:{nominal}".encode()).digest()
        part = int.from_bytes(digest[:8], "big")
        return nominal + (part * min(self.jitter, self.step) >> 64)

    def _holds(self, nominal: int) -> bool:
        return not self.until or nominal <= self.until


@dataclass(frozen=True)
class Given:
    """A schedule that a task was given at some moment from `earliest` to `latest`; `certain` when
    that was acknowledged."""

    plan: Plan
    earliest: int
    latest: int
    certain: bool = True

    def begins(self, nominal: int) -> bool:
        """Whether its first occurrence may be this one."""
        if self.plan.form == "cron" and nominal % MINUTE:
            return False
        return self.plan.first(self.earliest) <= nominal <= self.plan.first(self.latest)


#: A schedule that may be in force, by number, and the nominal time that it has next.
_State = tuple[int, int | None]


@dataclass
class Walk:
    """What was found along the grid. `placed` has the plans that each nominal time may belong to;
    `ahead` what may be in force at the end, with its next nominal time, None where nothing comes
    any more."""

    holes: int = 0
    extra: list[int] = field(default_factory=list)
    placed: dict[int, set[Plan]] = field(default_factory=dict)
    ahead: set[tuple[Plan, int | None]] = field(default_factory=set)


def walk(givens: Sequence[Given], nominals: Iterable[int]) -> Walk:
    """Follows nominal times, in their order, over the grids of a task's schedules; the first of
    these is known to the microsecond. Where two schedules are possible, it follows both."""
    found = Walk()
    states: set[_State] = {(0, givens[0].plan.first(givens[0].earliest))}
    for nominal in nominals:
        following = {one for state in states for one in _following(givens, state, nominal)}
        if not following:
            beyond = {state for state in states if _is_beyond(givens, state, nominal)}
            following = {(place, givens[place].plan.after(nominal)) for place, _ in beyond}
            found.holes += min((_skipped(givens, *s, nominal) for s in beyond), default=0)
        if not following:
            found.extra.append(nominal)
            continue
        states = following
        found.placed[nominal] = {givens[place].plan for place, _ in states}
    found.ahead = {one for state in states for one in _ahead(givens, *state)}
    return found


def _following(givens: Sequence[Given], state: _State, nominal: int) -> Iterator[_State]:
    """What may be in force after this nominal time, when it belongs to the grid."""
    place, expected = state
    for number, given in enumerate(givens[place:], place):
        fits = nominal == expected if number == place else given.begins(nominal)
        if fits and not _is_forgotten(givens, number, nominal):
            yield number, given.plan.after(nominal)


def _is_forgotten(givens: Sequence[Given], place: int, nominal: int) -> bool:
    """Whether another schedule was certainly in force by then."""
    return any(given.certain and given.latest < nominal for given in givens[place + 1 :])


def _is_beyond(givens: Sequence[Given], state: _State, nominal: int) -> bool:
    """Whether it is on the same grid, but not the next."""
    (place, expected), plan = state, givens[state[0]].plan
    if expected is None or not plan.repeats or _is_forgotten(givens, place, nominal):
        return False
    return nominal > expected and (nominal - expected) % plan.step == 0


def _skipped(givens: Sequence[Given], place: int, expected: int | None, nominal: int) -> int:
    assert expected is not None
    return (nominal - expected) // givens[place].plan.step


def _ahead(
    givens: Sequence[Given], place: int, expected: int | None
) -> list[tuple[Plan, int | None]]:
    possible: list[tuple[Plan, int | None]] = [(givens[place].plan, expected)]
    for given in givens[place + 1 :]:
        if given.certain:
            possible.clear()
        first = given.plan.first(given.latest)
        until = given.plan.until
        possible.append((given.plan, None if until and first > until else first))
    return possible
