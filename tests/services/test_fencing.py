"""What a replaced client says is never written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orch_server import wiring
from orch_server.core.clock import ManualClock
from tests import interleavings
from tests.transport.harness import START, settings_for

SEED = 20261121


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_no_stale_write_is_accepted_in_interleavings_of_twins(folder: Path, seed: int) -> None:
    """`python -m bench liveness` runs a hundred thousand."""

    async def body() -> None:
        clock = ManualClock(START)
        core = await wiring.wire(settings_for(folder), clock)
        try:
            tally, stale = await interleavings.run(core, clock, seed, 600, roles=24)
        finally:
            await core.store.close()
        assert stale == [], f"seed {seed}"
        assert tally.interleavings >= 600
        assert min(tally.refused, tally.written) > 200

    asyncio.run(body())
