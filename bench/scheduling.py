"""The scheduler: how late notes are typed, and what many pending tasks cost."""

from __future__ import annotations

from collections.abc import Iterator

from bench import notes, pending
from bench.report import Figure, Plain
from bench.scale import Scale


def measure(scale: Scale) -> Iterator[Figure | Plain]:
    """Lateness first, then tasks that are not due."""
    yield from notes.measure(scale)
    yield from pending.measure(scale)
