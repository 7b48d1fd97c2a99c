"""`orch-server`, and `python -m orch_server`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line and exits with its status."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # we exec, and its warnings are noise
    from orch_server.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
