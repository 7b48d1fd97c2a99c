"""The inside of a helper process: it says that it is ready, then answers line by line.

Each line on standard input is the seconds of one measurement, each answer one line of JSON. The end
of the input ends the process, so nothing outlives the run that started it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable

Answer = dict[str, float]


async def serve(measure: Callable[[float], Awaitable[Answer]]) -> None:
    """Answers until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    _say({})
    while line := await asyncio.to_thread(sys.stdin.readline):
        _say(await measure(float(line)))


async def nothing(seconds: float) -> Answer:
    """For a helper that measures nothing."""
    return {}


def _say(answer: Answer) -> None:
    print(json.dumps(answer), flush=True)
