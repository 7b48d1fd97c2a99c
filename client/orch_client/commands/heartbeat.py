"""`heartbeat`: beats for a pane and delivers what comes for it."""

from __future__ import annotations

import argparse

from orch_client.courier.tmux import is_pane_id
from orch_client.errors import USAGE, ClientError

EXAMPLES = """examples:
  orch-client heartbeat                       in an agent's pane; loops until the pane ends
  orch-client heartbeat --role tester &       beside what the pane's shell starts next
  orch-client heartbeat --pane %5 --kind generic
"""
KINDS = ("claude", "codex", "generic", "shell")


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--pane", metavar="%ID", default="", help="the pane; default: this one")
    parser.add_argument(
        "--role", default="", help="default: the pane's option @orch_role, else its window's name"
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="",
        help="what runs in the pane; lets text be typed into it",
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="take the role from a living client elsewhere, or give this pane a new role",
    )
    parser.add_argument("--once", action="store_true", help="one beat, then leave")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    if args.pane and not is_pane_id(args.pane):
        raise ClientError(
            f"'{args.pane}' is no pane; give its id, such as %5 (tmux lsp -a).", USAGE
        )

    import asyncio

    from orch_client.heartbeat import Heartbeat, Options

    options = Options(args.pane, args.role, args.kind, args.take_over, args.once)
    return asyncio.run(Heartbeat(options).run())
