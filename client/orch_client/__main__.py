"""`orch-client`, and `python -m orch_client`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line and exits with its status.

    Leaves without the interpreter's clean-up, which costs a fifth of a short command's time.
    """
    # This may run in an agent's pane, where gRPC's own log lines would disturb; set before grpc.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from orch_client.cli import main as run

    status = run(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
