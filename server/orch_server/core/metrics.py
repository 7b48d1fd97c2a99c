"""The figures: what each means, its target, and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Period(StrEnum):
    """The length of the steps in which values are kept."""

    HOUR = "HOUR"
    DAY = "DAY"


class Goal(StrEnum):
    """On which side of its target a figure should be."""

    NONE = ""
    AT_MOST = "AT_MOST"
    AT_LEAST = "AT_LEAST"


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a figure's course; `value` is None when nothing is known."""

    begins_at: datetime
    value: float | None
    samples: int


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure over a time; `value` is None when nothing is known, `target` when it has none."""

    name: str
    unit: str
    description: str
    value: float | None
    samples: int
    target: float | None
    goal: Goal
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class Metrics:
    """All figures from `begins_at` until `ends_at`; `notes` say what could not be measured."""

    metrics: tuple[Metric, ...]
    begins_at: datetime
    ends_at: datetime
    notes: tuple[str, ...] = ()
