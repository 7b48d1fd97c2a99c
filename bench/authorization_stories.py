"""Interleavings of all that can happen to authorizations, through the real service.

    python -m bench.authorization_stories COUNT

A measurement takes a seed, runs so many on a new store and returns what
tests/authorization_stories.py has counted. The faults are printed. Where there is a file system in
memory, the store lies there: a crash is a copy of the files, so the disk plays no part.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import uvloop
from tests import authorization_stories

from bench import child

_MEMORY = Path("/dev/shm")


async def _run(seed: int, count: int) -> child.Answer:
    where = _MEMORY if await asyncio.to_thread(_MEMORY.is_dir) else None
    with tempfile.TemporaryDirectory(prefix="orch-t-", dir=where) as folder:
        tally, faults = await authorization_stories.run(Path(folder), seed, count)
    for fault in faults[:5]:
        print(f"seed {seed}: {fault}", file=sys.stderr)
    return {
        "interleavings": tally.interleavings,
        "requests": tally.requests,
        "restarts": tally.restarts,
        "accepted": tally.accepted,
        "refused": tally.refused,
        "faults": len(faults),
    }


async def _main(count: int) -> None:
    logging.disable(logging.CRITICAL)
    await child.serve(lambda seed: _run(int(seed), count))


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
