"""`waiting`: who waits for whom, and waits of one's own."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from orch_client import output
from orch_client.commands.arguments import as_duration, parse_duration, read_text
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import session_state_pb2 as pb

EXAMPLES = """examples:
  orch-client waiting                                        who waits for whom, and deadlocks
  orch-client waiting --session atlas --json
  orch-client waiting add developer "the new schema"         for an hour at most
  orch-client waiting add atlas:tester "the report" --timeout 30m
  orch-client waiting remove 3fa8                            it is there

A deadlock is broken by itself: of the least urgent waits in it the youngest is ended.
"""
WORDS = True
_WORDS = "add TARGET REASON | remove ID"


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.usage = f"orch-client waiting [{_WORDS}] [--timeout DURATION] [--session S] [--json]"
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    parser.add_argument("--session", metavar="S", help="only waits of this session's agents")
    parser.add_argument("--timeout", metavar="DURATION", help="with add: at most so long; 1h")
    parser.add_argument("words", metavar=_WORDS, nargs="*", help="declare a wait, or end one")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    match args.words:
        case []:
            _check(args, add=False, listing=True)
            return _list(args)
        case ["add", target, reason]:
            _check(args, add=True, listing=False)
            return _add(args, target, reason)
        case ["remove", given]:
            _check(args, add=False, listing=False)
            return _remove(args, given)
    raise ClientError("use: waiting, waiting add TARGET REASON or waiting remove ID.", USAGE)


def _check(args: argparse.Namespace, add: bool, listing: bool) -> None:
    if args.timeout is not None and not add:
        raise ClientError("--timeout goes with add.", USAGE)
    if args.session is not None and not listing:
        raise ClientError("--session goes with the list.", USAGE)


def _list(args: argparse.Namespace) -> int:
    from orch.v1 import session_state_pb2 as pb

    answer = _call("ListWaiting", pb.ListWaitingRequest(session=args.session or ""))
    if args.json:
        output.print_json(answer)
        return 0
    caught = {wait_id for cycle in answer.cycles for wait_id in cycle.wait_ids}
    rows = [
        (
            wait.id,
            wait.waiter,
            wait.holder,
            output.word(pb.WaitKind.Name(wait.kind), "WAIT_KIND_"),
            output.moment(wait.create_time),
            output.moment(wait.deadline),
            ("DEADLOCK " if wait.id in caught else "") + output.one_line(wait.reason, 50),
        )
        for wait in answer.waits
    ]
    head = ("ID", "WHO", "WAITS FOR", "KIND", "SINCE", "UNTIL", "WHAT FOR")
    output.print_table(head, rows, "Nobody waits.")
    _print_cycles(answer)
    return 0


def _print_cycles(answer: pb.ListWaitingResponse) -> None:
    waiters = {wait.id: wait.waiter for wait in answer.waits}
    for cycle in answer.cycles:
        agents = [waiters.get(wait_id, "an agent elsewhere") for wait_id in cycle.wait_ids]
        print(f"Deadlock, about to be broken: {' -> '.join([*agents, *agents[:1]])}")


def _add(args: argparse.Namespace, target: str, reason: str) -> int:
    from orch.v1 import session_state_pb2 as pb

    request = pb.AddDependencyRequest(
        target=target, reason=read_text(reason, "reason"), request_id=os.urandom(16).hex()
    )
    if args.timeout is not None:
        request.timeout.CopyFrom(as_duration(parse_duration(args.timeout)))
    wait = _call("AddDependency", request).wait
    if args.json:
        output.print_json(wait)
    else:
        until = output.moment(wait.deadline)
        print(f"{wait.id}  {wait.waiter} waits for {wait.holder} until {until}")
    return 0


def _remove(args: argparse.Namespace, given: str) -> int:
    from orch.v1 import session_state_pb2 as pb

    answer = _call("RemoveDependency", pb.RemoveDependencyRequest(id=given))
    if args.json:
        output.print_json(answer)
    else:
        print(f"{output.one_line(given)}: the wait is over")
    return 0


def _call(method: str, request: Any) -> Any:
    from orch.v1 import session_state_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = session_state_pb2_grpc.SessionStateServiceStub(grpc_channel)
        return getattr(stub, method)(request, timeout=channel.DEADLINE, metadata=metadata)
