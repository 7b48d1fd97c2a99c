"""Interleavings of twins, late packets and resurrected panes, through the real services.

    python -m bench.fencing COUNT

A measurement takes a seed, runs so many on a new store and returns what tests/interleavings.py has
counted.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import uvloop
from tests import interleavings
from tests.transport.harness import START, settings_for

from bench import child
from orch_server import wiring
from orch_server.core.clock import ManualClock

_ROLES = 24


async def _run(seed: int, count: int) -> child.Answer:
    with tempfile.TemporaryDirectory(prefix="orch-t-") as folder:
        clock = ManualClock(START)
        core = await wiring.wire(settings_for(Path(folder)), clock)
        try:
            tally, stale = await interleavings.run(core, clock, seed, count, _ROLES)
        finally:
            await core.store.close()
    for line in stale[:20]:
        print(f"seed {seed}: {line}", file=sys.stderr)
    return {
        "interleavings": tally.interleavings,
        "refused": tally.refused,
        "written": tally.written,
        "stale": len(stale),
    }


async def _main(count: int) -> None:
    logging.disable(logging.WARNING)
    await child.serve(lambda seed: _run(int(seed), count))


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
