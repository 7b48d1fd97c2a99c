"""The fault harness in short; `make faults` runs it in full."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.faults.arena import Arena
from tests.faults.run import Options, run
from tests.faults.verdict import lines

#: Beside a busy machine all of it takes several times as long as alone.
pytestmark = pytest.mark.timeout(300)
OPTIONS = Options(150, seed=7, panes=8, last=0, pace=3.0, patience=45.0, lengthy=False)


@pytest.fixture
def arena() -> Iterator[Arena]:
    """Everything that runs; all of it ended afterwards."""
    made = Arena(OPTIONS.panes, OPTIONS.seed, OPTIONS.lengthy)
    try:
        made.open()
        yield made
    finally:
        made.close()


def test_nothing_is_lost_doubled_or_pretended_in_a_storm_of_faults(arena: Arena) -> None:
    result = asyncio.run(run(OPTIONS, arena))
    table = "\n".join(lines(result.storm))
    assert result.storm.good, table
    assert result.storm.answered == 0, table
    assert result.storm.out_of_order == 0, table
    assert result.kills["server"] > 0, "nothing was killed"
