"""`orch-client status` of many sessions, whole processes, beside a cold `orch-client schedule`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support import BIN

from bench import cold
from bench.frames import NOTE
from bench.processes import Child, home, product
from bench.report import Figure
from bench.scale import Scale

_AGENTS = 5
_GOAL = 2


def measure(scale: Scale) -> Iterator[Figure]:
    """Milliseconds of whole processes, one after the other in turn."""
    client = str(BIN / "orch-client")
    with home() as at, product(at), Child("teams", at.address, scale.teams, _AGENTS):
        pairs = []
        for number in range(cold.WARM_UP + scale.cold_runs):
            note = f"{NOTE} ({number:03})"  # the product refuses repeated ones
            call = [client, "schedule", "60", note, "--to", "bench-000:agent-0"]
            pairs.append((cold.run(at, [client, "status"]), cold.run(at, call)))
        name = f"status of {scale.teams} x {_AGENTS} agents, cold (ms)"
        yield Figure(name, pairs[cold.WARM_UP :], at_most=_GOAL)
