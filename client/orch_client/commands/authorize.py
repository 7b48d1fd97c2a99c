"""`authorize`, `pending`, `authorization`, `approve`, `deny`, `withdraw`: leave to act."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from orch_client import errors, output
from orch_client.commands.arguments import parse_duration, read_text
from orch_client.errors import ClientError

EXAMPLES = """examples:
  orch-client authorize --priority high "Deploy to production"
  orch-client authorize --wait "Drop the old schema" && ./migrate
  orch-client pending
  orch-client approve 3fa8
  orch-client deny 3fa8 --reason "not before the backup"
"""
_INTERRUPTED = 130
_PRIORITIES = ("high", "medium", "low")
_ENDS = {"APPROVED": 0, "DENIED": errors.DENIED, "EXPIRED": errors.EXPIRED}
_VERBS = {"authorization": "Get", "withdraw": "Cancel", "approve": "Approve", "deny": "Deny"}


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    if name == "authorize":
        parser.add_argument(
            "--priority", choices=_PRIORITIES, help="derived from the words if not given"
        )
        parser.add_argument("--to", metavar="ROLE", default="", help="the role that is asked")
        parser.add_argument("--wait", action="store_true", help="wait for the decision")
        parser.add_argument(
            "--timeout", metavar="DURATION", help="wait at most so long: 90s, 5m, 1h"
        )
        parser.add_argument("action", metavar="ACTION", nargs="?", help="what is to be done")
    elif name == "pending":
        parser.add_argument("--session", default="", help="only this session")
    else:
        parser.add_argument("id", metavar="ID", help="an authorization's id or the beginning of it")
        if name in ("approve", "deny"):
            parser.add_argument("--reason", default="", required=name == "deny", help="why")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    if name == "authorize":
        return _authorize(args)
    return _pending(args) if name == "pending" else _by_id(args, name)


def _authorize(args: argparse.Namespace) -> int:
    if args.timeout and not args.wait:
        raise ClientError("--timeout goes with --wait.", errors.USAGE)
    limit = parse_duration(args.timeout) if args.timeout else None
    action = read_text(_action(args.action), "action")

    from orch.v1 import authorization_pb2 as pb
    from orch.v1 import authorization_pb2_grpc
    from orch_client import channel

    request = pb.RequestAuthorizationRequest(
        action=action, approver_role=args.to, request_id=os.urandom(16).hex()
    )
    if args.priority:
        request.priority = pb.AuthorizationPriority.Value(
            f"AUTHORIZATION_PRIORITY_{args.priority.upper()}"
        )
    with channel.connected() as (grpc_channel, metadata):
        stub = authorization_pb2_grpc.AuthorizationServiceStub(grpc_channel)
        answer = stub.RequestAuthorization(request, timeout=channel.DEADLINE, metadata=metadata)
    asked = answer.authorization
    if not args.wait:
        _print(asked, args.json)
        return 0
    if not args.json:
        print(f"{asked.id} asked of {asked.approver_role}; waiting", flush=True)
    try:
        return _wait(asked.id, limit, args.json)
    except KeyboardInterrupt:
        stands = f"{asked.id} still stands; take it back: orch-client withdraw {asked.id}"
        raise ClientError(stands, _INTERRUPTED) from None


def _wait(authorization_id: str, limit: float | None, as_json: bool) -> int:
    """Waits for the end, over restarts of the server."""
    from orch.v1 import authorization_pb2 as pb
    from orch.v1 import authorization_pb2_grpc
    from orch_client.commands.follow import follow

    request = pb.WaitAuthorizationRequest(id=authorization_id)
    current = pb.Authorization()

    def watch(grpc_channel: Any, timeout: float | None, metadata: Any) -> Any:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(grpc_channel)
        return stub.WaitAuthorization(request, timeout=timeout, metadata=metadata)

    def is_decided() -> bool:
        return current.state > pb.AUTHORIZATION_STATE_PENDING

    decided = follow(
        watch, lambda change: current.CopyFrom(change.authorization), is_decided, limit
    )
    if current.id:
        _print(current, as_json)
    if not decided:
        return errors.PENDING
    state = pb.AuthorizationState.Name(current.state).removeprefix("AUTHORIZATION_STATE_")
    return _ENDS.get(state, errors.CANCELLED)


def _pending(args: argparse.Namespace) -> int:
    from orch.v1 import authorization_pb2 as pb
    from orch.v1 import authorization_pb2_grpc
    from orch_client import channel

    request = pb.ListAuthorizationsRequest(
        session=args.session, state=pb.AUTHORIZATION_STATE_PENDING, page_size=1000
    )
    found: list[pb.Authorization] = []
    with channel.connected() as (grpc_channel, metadata):
        stub = authorization_pb2_grpc.AuthorizationServiceStub(grpc_channel)
        while True:
            page = stub.ListAuthorizations(request, timeout=channel.DEADLINE, metadata=metadata)
            found.extend(page.authorizations)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    if args.json:
        output.print_json_list(found)
        return 0
    rows = [
        (
            a.id,
            f"{a.session}:{a.requester_role}",
            _priority(a),
            a.approver_role,
            output.moment(a.deadline),
            output.one_line(a.action),
        )
        for a in found
    ]
    head = ("ID", "FROM", "PRIORITY", "TO", "EXPIRES", "ACTION")
    output.print_table(head, rows, "Nothing waits for a decision.")
    return 0


def _by_id(args: argparse.Namespace, name: str) -> int:
    from orch.v1 import authorization_pb2 as pb
    from orch.v1 import authorization_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = authorization_pb2_grpc.AuthorizationServiceStub(grpc_channel)

        verb = _VERBS[name]
        method = getattr(stub, f"{verb}Authorization")
        request = getattr(pb, f"{verb}AuthorizationRequest")(id=args.id)
        if name in ("approve", "deny"):
            request.reason = args.reason

        def call(passphrase: str) -> Any:
            if passphrase:
                request.passphrase = passphrase
            return method(request, timeout=channel.DEADLINE, metadata=metadata)

        found = with_passphrase(call).authorization
    _print(found, args.json)
    return 0


def with_passphrase(call: Callable[[str], Any]) -> Any:
    """Makes the call; when the server wants the passphrase, asks for it on the terminal."""
    import grpc

    from orch_client import channel

    try:
        return call("")
    except grpc.RpcError as exc:
        if not channel.has_reason(exc, "PASSPHRASE_REQUIRED") or not sys.stdin.isatty():
            raise
    import getpass

    return call(getpass.getpass("Operator's passphrase: "))


def _print(found: Any, as_json: bool) -> None:
    from orch.v1 import authorization_pb2 as pb

    if as_json:
        output.print_json(found)
        return
    state = pb.AuthorizationState.Name(found.state)
    output.print_fields(
        (
            ("id", found.id),
            ("state", output.word(state, "AUTHORIZATION_STATE_")),
            ("action", found.action),
            ("from", f"{found.session}:{found.requester_role}"),
            ("to", found.approver_role),
            ("priority", _priority(found)),
            ("expires", "" if found.HasField("resolve_time") else output.moment(found.deadline)),
            ("resolved", output.moment(found.resolve_time)),
            ("by", found.resolver),
            ("reason", found.reason),
        )
    )


def _priority(found: Any) -> str:
    from orch.v1 import authorization_pb2 as pb

    name = pb.AuthorizationPriority.Name(found.priority)
    derived = " (derived)" if found.priority_derived else ""
    return output.word(name, "AUTHORIZATION_PRIORITY_") + derived


def _action(given: str | None) -> str | None:
    """What was given, else what is typed on a terminal; None for standard input."""
    if not given and sys.stdin.isatty():
        return input("Action: ")
    return None if given in ("", "-") else given
