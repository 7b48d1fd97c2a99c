"""`sync`: compares the server's store with tmux, and repairs what is safe."""

from __future__ import annotations

import argparse
from typing import Any

from orch_client import output

EXAMPLES = """examples:
  orch-client sync --dry-run     only look: nothing is repaired, nothing is written
  orch-client sync               repair what is safe now, and list the rest
  orch-client sync --json

The server does this by itself every 5 minutes, and when a tmux server or a pane has ended. It
never ends anything in tmux: for that it only shows the command.
"""
_PATIENCE = 30.0
#: So many of those that have the same advice are listed.
_MOST = 10


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--dry-run", action="store_true", help="only look; change nothing")
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    from orch.v1 import session_state_pb2 as pb
    from orch.v1 import session_state_pb2_grpc
    from orch_client import channel

    request = pb.SynchronizeSessionsRequest(dry_run=args.dry_run)
    with channel.connected() as (grpc_channel, metadata):
        stub = session_state_pb2_grpc.SessionStateServiceStub(grpc_channel)
        answer = stub.SynchronizeSessions(request, timeout=_PATIENCE, metadata=metadata)
    if args.json:
        output.print_json(answer)
    else:
        _print(answer)
    return 0


def _print(answer: Any) -> None:
    from orch.v1 import session_state_pb2 as pb

    alike: dict[tuple[str, str, str], list[Any]] = {}
    for found in answer.mismatches:
        kind = output.word(pb.MismatchKind.Name(found.kind), "MISMATCH_KIND_")
        state = "repaired" if found.repaired else "safe" if found.safe else "open"
        alike.setdefault((kind, state, found.advice), []).append(found)
    rows = [row for (kind, state, _), some in alike.items() for row in _rows(kind, state, some)]
    head = ("KIND", "WHAT", "STATE", "SINCE", "DETAIL")
    output.print_table(head, rows, "The store and tmux agree.")
    for (kind, state, advice), some in alike.items():
        if advice and state != "repaired":
            many = f"{len(some)} {kind}"
            whose = many if len(some) > 1 else output.one_line(some[0].subject, 60)
            # Whole: a command that is cut must not be pasted.
            print(f"\n{whose}:\n  {output.plain(advice)}")
    for socket in answer.unanswered_sockets:
        print(f"\ntmux on {output.one_line(socket, 200)} did not answer: nothing is known of it.")


def _rows(kind: str, state: str, alike: list[Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            kind,
            output.one_line(found.subject, 60),
            state,
            output.moment(found.begin_time),
            output.one_line(found.detail, 200),
        )
        for found in alike[:_MOST]
    ]
    if len(alike) > _MOST:
        rows.append((kind, f"and {len(alike) - _MOST} more", state, "", "all with --json"))
    return rows
