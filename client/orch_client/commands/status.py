"""`status`: sessions, agents and the server on one screen."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from orch_client import output

if TYPE_CHECKING:
    from orch.v1 import session_state_pb2 as pb

EXAMPLES = """examples:
  orch-client status
  orch-client status --session atlas
  orch-client status --all                 ended sessions too
  orch-client status | less                every agent, however many there are
  orch-client status --json
"""


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--session", default="", help="only this session")
    parser.add_argument("--all", action="store_true", help="ended sessions too")
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    answer = fetch(args.session, args.all)
    if args.json:
        output.print_json(answer)
    else:
        print("\n".join(_shown(answer)))
    return 0


def fetch(session: str, ended: bool) -> pb.GetStatusResponse:
    """The status as it is now."""
    from orch.v1 import session_state_pb2 as pb
    from orch.v1 import session_state_pb2_grpc
    from orch_client import channel

    request = pb.GetStatusRequest(session=session, include_ended=ended)
    with channel.connected() as (grpc_channel, metadata):
        stub = session_state_pb2_grpc.SessionStateServiceStub(grpc_channel)
        return stub.GetStatus(request, timeout=channel.DEADLINE, metadata=metadata)


def _shown(answer: pb.GetStatusResponse) -> list[str]:
    """As much as the terminal has room for; all of it, uncut, where there is none."""
    from orch_client import lines as text
    from orch_client import view

    now = answer.time.seconds + answer.time.nanos / 1e9
    if not sys.stdout.isatty():
        return [text.plain(line) for line in view.screen(answer, now)]
    size = os.get_terminal_size(sys.stdout.fileno())
    width, height = size.columns or 80, (size.lines or 24) - 1  # the prompt follows
    lines = text.cut(view.screen(answer, now, width, height), width, height)
    write = text.ansi if _has_colours() else text.plain
    return [write(line) for line in lines]


def _has_colours() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
