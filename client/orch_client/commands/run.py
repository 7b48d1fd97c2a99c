"""`run`: an agent in the foreground, with its heartbeat beside it."""

from __future__ import annotations

import argparse

from orch_client.commands.heartbeat import check_kind
from orch_client.errors import USAGE, ClientError

EXAMPLES = """examples:
  orch-client run claude
  orch-client run --role tester -- claude --continue
  orch-client run --restart --role developer -- codex
  orch-client run --kind generic -- ./my-agent --loop

The command's own flags go after '--'. Ctrl-C, Ctrl-Z and the exit status are those of the command;
128 + N when signal N ended it, 127 when there is no such command.
"""
#: The command stands between the flags; what follows "--" is all its own.
WORDS = True


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="the agent, with arguments")
    parser.add_argument(
        "--role", default="", help="default: the pane's option @orch_role, else its window's name"
    )
    parser.add_argument(
        "--kind",
        default="",
        help="what the command is, such as claude, codex or generic; default: told by its name",
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
        "--restart",
        action="store_true",
        help="start it again after a crash: after 1, 2, 4 … 60 s; not after 5 crashes in 10 min",
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    if not args.words:
        raise ClientError("no command is given; say which: orch-client run -- claude", USAGE)
    check_kind(args.kind)

    import asyncio

    from orch_client.heartbeat import Options
    from orch_client.supervised import Run

    options = Options(
        role=args.role,
        kind=args.kind,
        take_over=args.take_over,
        credential=args.credential,
        patient=True,
    )
    return asyncio.run(Run(args.words, options, args.restart).run())
