"""`top`: what `status` shows, live."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import TYPE_CHECKING

from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from orch_client.live import Live

EXAMPLES = """examples:
  orch-client top                     q or Ctrl-C quits, arrows scroll
  orch-client top --session atlas
  orch-client top --all               ended sessions too
"""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--session", default="", help="only this session")
    parser.add_argument("--all", action="store_true", help="ended sessions too")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    if dumb or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ClientError("top draws on a terminal, and here is none; use status.", USAGE)
    asyncio.run(_live(args).run())
    return 0


def _live(args: argparse.Namespace) -> Live:
    try:
        from orch_client.live import Live
    except ModuleNotFoundError as exc:
        if exc.name is None or not exc.name.startswith(("prompt_toolkit", "wcwidth")):
            raise
        raise ClientError(
            "top needs a library more; install it: pip install 'tmux-orchestrator[top]'."
        ) from exc
    from orch.v1 import session_state_pb2 as pb
    from orch_client.commands.status import fetch
    from orch_client.feed import Feed

    request = pb.GetStatusRequest(session=args.session, include_ended=args.all)
    return Live(Feed(request, fetch(args.session, args.all)))
