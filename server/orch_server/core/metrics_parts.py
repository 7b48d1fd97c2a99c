"""What figures are made of: sums that add up exactly, so that hours make a day and days a month.

A mean of means would be wrong; so for each step only sums are kept, and a figure is the ratio of
two of them (metrics_figures.py). Percentiles are no sums; they stand beside them under their own
names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orch_server.core.metrics import Period

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
#: The key of all sessions together.
ALL = ""

SECONDS = "seconds"
ALIVE, IDLE = "alive_seconds", "idle_seconds"
DECIDED = "decided_seconds"
PHASES, PHASE_TIME = "phases", "phase_seconds"
INTERACTIONS = "interactions"
NUDGES, FALSE_NUDGES = "nudges", "false_nudges"
COMMITS, COMMIT_TIME = "commits", "commit_seconds"


@dataclass(frozen=True, slots=True)
class Part:
    """A sum, and how many measurements are in it."""

    value: float = 0.0
    samples: int = 0

    def __add__(self, other: Part) -> Part:
        return Part(self.value + other.value, self.samples + other.samples)


#: The parts of one step, by their names.
Parts = dict[str, Part]
#: The same by session, and under ALL for all together.
BySession = dict[str, Parts]


def add(to: BySession, session: str, name: str, value: float, samples: int = 1) -> None:
    """Adds a measurement of a session, and to all together."""
    for key in {session, ALL}:
        parts = to.setdefault(key, {})
        parts[name] = parts.get(name, Part()) + Part(value, samples)


def merge(to: Parts, more: Mapping[str, Part]) -> None:
    """Adds parts to others."""
    for name, part in more.items():
        to[name] = to.get(name, Part()) + part


def nearest_rank(values: Sequence[float], percent: int) -> float:
    """The value at this percentile, one that was really measured; `values` are sorted, not none."""
    return values[max(0, math.ceil(percent * len(values) / 100) - 1)]


def floor(at: datetime, period: Period) -> datetime:
    """When the hour or the day, in UTC, begins that this time is in."""
    at = at.replace(minute=0, second=0, microsecond=0)
    return at if period is Period.HOUR else at.replace(hour=0)


# ---- how long there were sessions, and what they did that no event tells ----


@dataclass(frozen=True, slots=True)
class Span:
    """From when until when a session was worked on; `ends_at` None: still."""

    session: str
    begins_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Ended:
    """A phase that is over; `length` None: not known."""

    session: str
    at: datetime
    length: timedelta | None


#: The commits of each session, and the time of each by its hash. Of a session that is not there, no
#: worktree could be read.
Commits = Mapping[str, Mapping[str, datetime]]


def add_work(
    to: BySession,
    begins: datetime,
    ends: datetime,
    spans: Iterable[Span],
    phases: Iterable[Ended],
    commits: Commits,
) -> None:
    """Adds the time of the sessions, their phases and their commits to the parts of one step."""
    overlaps = {
        span.session: (max(begins, span.begins_at), min(ends, span.ends_at or ends))
        for span in spans
    }
    found = {session: over for session, over in overlaps.items() if over[0] < over[1]}
    known = {session: over for session, over in found.items() if session in commits}
    for name, times in ((SECONDS, found), (COMMIT_TIME, known)):
        for session, (start, end) in times.items():
            to.setdefault(session, {})[name] = Part((end - start).total_seconds(), 1)
        if times:
            to.setdefault(ALL, {})[name] = Part(_union(times.values()), 1)
    for phase in phases:
        if begins <= phase.at < ends:
            add(to, phase.session, PHASES, 1)
            if phase.length is not None:
                add(to, phase.session, PHASE_TIME, phase.length.total_seconds())
    _add_commits(to, known, commits)


def _add_commits(
    to: BySession, known: Mapping[str, tuple[datetime, datetime]], commits: Commits
) -> None:
    """Those from the time that is counted of their session. One that several sessions have counts
    once for all together."""
    every: set[str] = set()
    for session, (begins, ends) in known.items():
        within = {name for name, at in commits[session].items() if begins <= at < ends}
        every |= within
        if within:
            to.setdefault(session, {})[COMMITS] = Part(len(within), len(within))
    if every:
        to.setdefault(ALL, {})[COMMITS] = Part(len(every), len(every))


def _union(overlaps: Iterable[tuple[datetime, datetime]]) -> float:
    """Seconds in which at least one of them is."""
    total, reached = timedelta(), None
    for start, end in sorted(overlaps):
        begins = start if reached is None else max(start, reached)
        total += max(end - begins, timedelta())
        reached = max(begins, end)
    return total.total_seconds()
