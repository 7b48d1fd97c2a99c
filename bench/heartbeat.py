"""Heartbeat round trips, whole stack, against a bare bidi echo of typed frames."""

from __future__ import annotations

from collections.abc import Iterator

from bench.frames import SESSION
from bench.processes import Child, bare, cpu_seconds, home, product
from bench.report import Figure
from bench.scale import Scale

_PER_CHANNEL = 100
_WARM_UP = 0.5
_RATE_GOAL = 0.9
_CPU_GOAL = 1.25


def measure(scale: Scale) -> Iterator[Figure]:
    """Round trips a second, and the server's CPU time a beat, for each number of streams."""
    for streams in scale.streams:
        pairs = [pair for _ in range(scale.starts) for pair in _pairs(scale, streams)]
        rates = [(ours[0], theirs[0]) for ours, theirs in pairs]
        costs = [(ours[1], theirs[1]) for ours, theirs in pairs]
        noun = "stream" if streams == 1 else "streams"
        yield Figure(f"heartbeat round trips/s, {streams:,} {noun}", rates, at_least=_RATE_GOAL)
        yield Figure(f"server CPU a beat (us), {streams:,} {noun}", costs, at_most=_CPU_GOAL)


def _pairs(scale: Scale, streams: int) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """What the product and the bare server did, in turn; all processes are new.

    Two equal servers may differ by a tenth for as long as they live, by the cores that their
    threads came to rest on; so the repeats are spread over several starts.
    """
    with (
        home() as at,
        product(at) as (ours, pid),
        bare(at) as (theirs, bare_pid),
        Child("load", "heartbeat", theirs, streams, _PER_CHANNEL, SESSION) as bare_load,
        Child("load", "heartbeat", ours, streams, _PER_CHANNEL, SESSION) as load,
    ):
        for one in (bare_load, load):
            one.measure(_WARM_UP)
        pairs = []
        for _ in range(scale.repeats // scale.starts):
            alone = _run(bare_load, bare_pid, scale.seconds)
            pairs.append((_run(load, pid, scale.seconds), alone))
        return pairs


def _run(load: Child, server: int, seconds: float) -> tuple[float, float]:
    """Round trips a second, and the server's microseconds of CPU for each."""
    before = cpu_seconds(server)
    done = load.measure(seconds)
    used = cpu_seconds(server) - before
    return done["count"] / done["seconds"], used * 1e6 / done["count"]
