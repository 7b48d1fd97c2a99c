"""`python -m bench`: runs the figures asked for and prints them as one table."""

from __future__ import annotations

import argparse
import signal
import sys

from bench import (
    authorization,
    cold,
    create,
    fleet,
    heartbeat,
    importing,
    liveness,
    memory,
    report,
    scheduling,
    state,
    status,
)
from bench.scale import FULL, QUICK

_SUITES = {
    "heartbeat": heartbeat.measure,
    "create": create.measure,
    "state": state.measure,
    "cold": cold.measure,
    "memory": memory.measure,
    "fleet": fleet.measure,
    "liveness": liveness.measure,
    "scheduling": scheduling.measure,
    "authorization": authorization.measure,
    "importing": importing.measure,
    "status": status.measure,
}


def main() -> int:
    """Returns the exit status: 0 when all was measured, whether a goal was reached or missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(_SUITES)}")
    parser.add_argument("--quick", action="store_true", help="a smoke test, under a minute")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in _SUITES]
    if unknown:
        parser.error(f"there is no '{unknown[0]}'; there are: {', '.join(_SUITES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    scale = QUICK if args.quick else FULL
    print(report.machine())
    print(report.head(), flush=True)
    for name in args.names or _SUITES:
        for figure in _SUITES[name](scale):
            print(report.line(figure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
