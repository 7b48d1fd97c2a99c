"""The product against the oracle, which was written from the rules alone: 100,000 stories of a
task, its schedule and zone, outages, pauses, limits and policies. Rows, states and moments agree.

A story that differs is told again by `python -m tests.scheduling.test_against_oracle SEED`.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.scheduling.cases import generate
from tests.scheduling.oracle import Verdict, expected
from tests.scheduling.world import World

STORIES = 100_000
_PART = 2_500


def differences(first: int) -> list[int]:
    """The seeds, of a part of the stories, that the product and the oracle tell differently."""
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            cases = ((seed, generate(seed)) for seed in range(first, first + _PART))
            return [seed for seed, case in cases if world.tell(case) != expected(case)]
        finally:
            world.close()


@pytest.mark.timeout(3600)  # it gives way to all that runs beside it
def test_every_occurrence_has_the_outcome_and_reason_of_the_oracle() -> None:
    parts = range(0, STORIES, _PART)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        wrong = [seed for found in pool.map(differences, parts) for seed in found]
    assert not wrong, f"{len(wrong)} stories differ, such as {wrong[:10]}"


def _print(told: Verdict, expected_one: Verdict) -> None:
    print(f"state: {told.state}, expected {expected_one.state}")
    for row in sorted({*told.rows, *expected_one.rows}):
        ours, theirs = row in told.rows, row in expected_one.rows
        when = (told.decided.get(row[0]), expected_one.decided.get(row[0]))
        mark = {(True, True): " ", (True, False): "ours", (False, True): "oracle"}[ours, theirs]
        print(f"{mark:6} {row[0]} {row[1]} {row[2]} {when if when[0] != when[1] else ''}")


if __name__ == "__main__":
    story = generate(int(sys.argv[1]))
    print(story)
    with TemporaryDirectory() as scratch:
        _print(World(Path(scratch)).tell(story), expected(story))
