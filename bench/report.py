"""The table: each figure as the ratio of the product to its bare baseline."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass

import apsw
import grpc

_WIDTHS = (45, 10, 10, 7, 7, 7, 8)
_HEAD = ("figure", "product", "bare", "ratio", "min", "max", "goal", "")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, one pair (product, bare) a repeat. The goal is for the median of the ratios."""

    name: str
    pairs: list[tuple[float, float]]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Product by bare, for each repeat."""
        return [product / bare for product, bare in self.pairs]


@dataclass(frozen=True, slots=True)
class Plain:
    """A figure without a baseline, one value a repeat. The goal is for the worst of them."""

    name: str
    values: list[float]
    at_most: float | None = None


def machine() -> str:
    """What the figures depend on, without names or paths."""
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores, Python {platform.python_version()}, grpcio {grpc.__version__},"
        f" SQLite {apsw.sqlite_lib_version()}"
    )


def head() -> str:
    """The head of the table."""
    return _aligned(_HEAD)


def line(figure: Figure | Plain) -> str:
    """A row: the medians of both sides, then median, least and largest of the ratios. Without a
    baseline: median, least and largest of the values."""
    if isinstance(figure, Plain):
        return _plain(figure)
    ratios = figure.ratios
    product = statistics.median(product for product, _ in figure.pairs)
    bare = statistics.median(bare for _, bare in figure.pairs)
    middle = statistics.median(ratios)
    return _aligned(
        (
            figure.name,
            _number(product),
            _number(bare),
            f"{middle:.2f}",
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
            *_verdict(figure, middle),
        )
    )


def _plain(figure: Plain) -> str:
    least, middle, most = (f(figure.values) for f in (min, statistics.median, max))
    goal, verdict = "-", ""
    if figure.at_most is not None:
        goal = f"<= {figure.at_most:g}"
        verdict = "reached" if most <= figure.at_most else "missed"
    shown = (_number(middle), "-", "-", _number(least), _number(most))
    return _aligned((figure.name, *shown, goal, verdict))


def _verdict(figure: Figure, middle: float) -> tuple[str, str]:
    if figure.at_least is not None:
        reached, goal = middle >= figure.at_least, f">= {figure.at_least:g}"
    elif figure.at_most is not None:
        reached, goal = middle <= figure.at_most, f"<= {figure.at_most:g}"
    else:
        return "-", ""
    return goal, "reached" if reached else "missed"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(cells: tuple[str, ...]) -> str:
    first, *rest, last = cells
    columns = [cell.rjust(width) for cell, width in zip(rest, _WIDTHS[1:], strict=True)]
    return f"{first:<{_WIDTHS[0]}}{' '.join(columns)}  {last}".rstrip()
