"""`heartbeat`: beats for a pane and delivers what comes for it."""

from __future__ import annotations

import argparse
import os

from orch_client.courier import kinds
from orch_client.courier.tmux import is_pane_id
from orch_client.errors import USAGE, ClientError

EXAMPLES = """examples:
  orch-client heartbeat                       in an agent's pane; loops until the pane ends
  orch-client heartbeat --role tester &       beside what the pane's shell starts next
  orch-client heartbeat --pane %5 --kind generic
  orch-client heartbeat --all                 for every pane of the tmux server, in one process
  orch-client heartbeat --all --session atlas
"""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--pane", metavar="%ID", default="", help="the pane; default: this one")
    parser.add_argument(
        "--role", default="", help="default: the pane's option @orch_role, else its window's name"
    )
    parser.add_argument(
        "--kind",
        default="",
        help="what runs in the pane, such as claude, codex or generic; lets text be typed into it",
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="take the role from a living client elsewhere, or give this pane a new role",
    )
    parser.add_argument(
        "--credential",
        metavar="NAME",
        default="",
        help="the account that the agent runs under; default: its kind and host, claude@HOST",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="serve all panes that have no client of their own, but not this one",
    )
    parser.add_argument("--session", metavar="NAME", default="", help="with --all: only these")
    parser.add_argument("--once", action="store_true", help="one beat, then leave")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    if args.pane and not is_pane_id(args.pane):
        raise ClientError(
            f"'{args.pane}' is no pane; give its id, such as %5 (tmux lsp -a).", USAGE
        )

    check_kind(args.kind)
    if args.all:
        return _run_all(args)
    if args.session:
        raise ClientError("--session goes with --all.", USAGE)

    import asyncio

    from orch_client.heartbeat import Heartbeat, Options

    options = Options(
        pane=args.pane,
        role=args.role,
        kind=args.kind,
        take_over=args.take_over,
        once=args.once,
        credential=args.credential,
    )
    return asyncio.run(Heartbeat(options).run())


def check_kind(kind: str) -> None:
    """Raises ClientError when there are no rules for such a kind; "" is none."""
    if kind and kind not in kinds.load():
        known = ", ".join(sorted(kinds.load()))
        raise ClientError(f"'{kind}' is no kind; there are: {known}.", USAGE)


def _run_all(args: argparse.Namespace) -> int:
    """Serves many panes. Raises ClientError when an option for one pane is given."""
    for option in ("pane", "role", "kind", "take_over", "once", "credential"):
        if getattr(args, option):
            name = option.replace("_", "-")
            raise ClientError(f"--{name} is for one pane; leave it away with --all.", USAGE)

    import asyncio

    from orch_client.fleet.all import Fleet
    from orch_client.identity import tmux_socket

    folder = os.environ.get("TMUX_TMPDIR", "/tmp")  # noqa: S108 - where tmux has its own
    usual = f"{folder}/tmux-{os.getuid()}/default"
    return asyncio.run(Fleet(tmux_socket() or usual, args.session).run())
