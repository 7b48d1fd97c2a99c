"""The figures: what each means, its target, and how it comes from the parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from orch_server.core.metrics import Goal, Metric, Point
from orch_server.core.metrics_parts import (
    ALIVE,
    COMMIT_TIME,
    COMMITS,
    DECIDED,
    FALSE_NUDGES,
    IDLE,
    INTERACTIONS,
    NUDGES,
    PHASE_TIME,
    PHASES,
    SECONDS,
    Part,
    Parts,
    merge,
    nearest_rank,
)

#: What is measured one by one, since percentiles are no sums.
CONFIRMED, DECISION = "delivery_confirm_seconds", "authorization_seconds"
_SAMPLES = ""  # as a denominator: the number of measurements


@dataclass(frozen=True, slots=True)
class Ratio:
    """One sum by another, or by the number of its own measurements, times `factor`. `counted` is
    the sum whose measurements are shown."""

    over: str
    under: str
    factor: float
    counted: str


@dataclass(frozen=True, slots=True)
class Percentile:
    """Of what is measured one by one."""

    of: str
    percent: int


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, without its value; see Metric."""

    name: str
    unit: str
    description: str
    rule: Ratio | Percentile
    target: float | None = None
    goal: Goal = Goal.NONE


#: In the order in which they are shown.
FIGURES = (
    Figure(
        "commits_per_hour",
        "1/h",
        "Commits in the worktrees of the sessions, each once, per hour.",
        Ratio(COMMITS, COMMIT_TIME, 3600, COMMITS),
        4,
        Goal.AT_LEAST,
    ),
    Figure(
        "idle_percent",
        "%",
        "The share of the time in which agents were alive that they were idle.",
        Ratio(IDLE, ALIVE, 100, ALIVE),
        10,
        Goal.AT_MOST,
    ),
    Figure(
        "authorization_seconds",
        "s",
        "How long it took until a request was approved or denied, on average.",
        Ratio(DECIDED, _SAMPLES, 1, DECIDED),
        600,
        Goal.AT_MOST,
    ),
    Figure(
        "authorization_seconds_p95",
        "s",
        "In how long 95 of 100 of those requests were decided.",
        Percentile(DECISION, 95),
    ),
    Figure(
        "phase_hours",
        "h",
        "How long a completed phase took, on average.",
        Ratio(PHASE_TIME, _SAMPLES, 1 / 3600, PHASE_TIME),
    ),
    Figure(
        "phases_per_day",
        "1/d",
        "Completed phases per day.",
        Ratio(PHASES, SECONDS, 86_400, PHASES),
        1,
        Goal.AT_LEAST,
    ),
    Figure(
        "interactions_per_hour",
        "1/h",
        "Texts that reached agents (messages, notes and nudges) per hour.",
        Ratio(INTERACTIONS, SECONDS, 3600, INTERACTIONS),
    ),
    Figure(
        "false_nudge_percent",
        "%",
        "The share of nudges that went to an agent that had been active.",
        Ratio(FALSE_NUDGES, NUDGES, 100, NUDGES),
        10,
        Goal.AT_MOST,
    ),
    Figure(
        CONFIRMED,
        "s",
        "From the last offer of a text until it was taken; half of them took less.",
        Percentile(CONFIRMED, 50),
    ),
    Figure(
        f"{CONFIRMED}_p99",
        "s",
        "In how long 99 of 100 of those texts were taken.",
        Percentile(CONFIRMED, 99),
        1,
        Goal.AT_MOST,
    ),
)
PERCENTILES = tuple(one.name for one in FIGURES if isinstance(one.rule, Percentile))


def percentiles(of: str, seconds: Iterable[float]) -> Parts:
    """The percentiles of what was measured, by the names of their figures."""
    took = sorted(seconds)
    return {
        one.name: Part(nearest_rank(took, one.rule.percent), len(took))
        for one in FIGURES
        if isinstance(one.rule, Percentile) and one.rule.of == of and took
    }


def add_sums(to: Parts, more: Mapping[str, Part]) -> None:
    """Adds the parts of a step to others, without the percentiles."""
    merge(to, {name: part for name, part in more.items() if name not in PERCENTILES})


def compose(steps: Sequence[tuple[datetime, Parts]], exact: Parts | None) -> tuple[Metric, ...]:
    """All figures over these steps, the oldest first. `exact` are the percentiles over them all;
    None: they are taken from those of the steps (see `_about`)."""
    total: Parts = {}
    for _, parts in steps:
        add_sums(total, parts)
    total.update(_about(steps) if exact is None else exact)
    return tuple(_metric(one, total, steps) for one in FIGURES)


def _about(steps: Sequence[tuple[datetime, Parts]]) -> Parts:
    """Percentiles over several steps from theirs: the mean of the medians, weighted, and of the
    others the greatest, than which the true one is not greater."""
    found: Parts = {}
    for one in FIGURES:
        kept = [parts[one.name] for _, parts in steps if one.name in parts]
        if not isinstance(one.rule, Percentile) or not kept:
            continue
        samples = sum(part.samples for part in kept)
        value = max(part.value for part in kept)
        if one.rule.percent == 50:
            value = sum(part.value * part.samples for part in kept) / samples
        found[one.name] = Part(value, samples)
    return found


def _metric(figure: Figure, total: Parts, steps: Sequence[tuple[datetime, Parts]]) -> Metric:
    value, samples = _value(figure, total)
    return Metric(
        figure.name,
        figure.unit,
        figure.description,
        value,
        samples,
        figure.target,
        figure.goal,
        tuple(Point(at, *_value(figure, parts)) for at, parts in steps),
    )


def _value(figure: Figure, parts: Mapping[str, Part]) -> tuple[float | None, int]:
    """The figure's value, None when nothing is known, and how many measurements are in it."""
    rule = figure.rule
    if isinstance(rule, Percentile):
        kept = parts.get(figure.name)
        return (None, 0) if kept is None else (kept.value, kept.samples)
    over = parts.get(rule.over, Part())
    under = over.samples if rule.under == _SAMPLES else parts.get(rule.under, Part()).value
    samples = parts.get(rule.counted, Part()).samples
    return (rule.factor * over.value / under if under else None), samples
