"""`authorize`, `consume`, `pending`, `authorization`, `approve`, `deny`, `withdraw`, `escalate`:
leave to act."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from orch_client import errors, output
from orch_client.commands import authorization_calls as calls
from orch_client.commands import authorization_words as words
from orch_client.commands.arguments import as_duration, length_given, parse_duration, read_text
from orch_client.errors import ClientError

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from orch.v1 import authorization_pb2 as pb

EXAMPLES = ""  # each command has its own, which configure() sets
_DECIDED = "\n\nexit status: 4 there is no such request, 5 not the caller's to decide, 6 too late"
_EXAMPLES = {
    "authorize": """
  orch-client authorize --priority high "Deploy to production"
  orch-client authorize --wait "Drop the old schema" && ./migrate
  orch-client authorize --deadline 1h --to project_manager "Tidy up the branches"
  git diff | orch-client authorize --wait --timeout 10m -

exit status with --wait: 0 approved, and used by this: it may be done now, once;
  10 denied, 11 expired, 12 withdrawn, 13 still pending when --timeout ended,
  6 approved, but used by another command or lapsed""",
    "consume": """
  orch-client consume 3fa8 && ./deploy
  orch-client consume 3fa8 --wait --timeout 10m && ./deploy

exit status: 0 it may be done now, once; 13 it is still pending;
  6 it was used, has lapsed or was not approved; 5 it is another agent's, or for another folder
  or pane; with --wait as of authorize --wait: also 10 denied, 11 expired, 12 withdrawn""",
    "pending": """
  orch-client pending --session atlas
  orch-client pending --state approved           those that may be used still""",
    "authorization": """
  orch-client authorization 3fa8                 one, with all that is known of it
  orch-client authorization stats                how long decisions took, in the last 7 days
  orch-client authorization stats --since 24h --session atlas""",
    "approve": f"""
  orch-client approve 3fa8
  orch-client approve 3fa8 --reason "after the backup"
{_DECIDED[1:]},
  2 the class needs a reason, and none was given""",
    "deny": f"""
  orch-client deny 3fa8 --reason "not before the backup"{_DECIDED}""",
    "withdraw": """
  orch-client withdraw 3fa8

exit status: 4 there is no such request, 5 it is another agent's, 6 it was decided already""",
    "escalate": """
  orch-client escalate 3fa8                      do not wait for the time of the next level

exit status: 4 there is no such request, 6 it was decided, or every level was told already""",
}
_INTERRUPTED = 130
_PRIORITIES = ("high", "medium", "low")
_ENDS = {"denied": errors.DENIED, "expired": errors.EXPIRED, "cancelled": errors.CANCELLED}
_METHODS = {
    "authorization": "GetAuthorization",
    "withdraw": "CancelAuthorization",
    "escalate": "EscalateAuthorization",
    "approve": "ApproveAuthorization",
    "deny": "DenyAuthorization",
}
_STATES = ("pending", "approved", "denied", "expired", "cancelled", "consumed", "lapsed", "all")
_STATS = "stats"
_WINDOW = "7d"
_MAX_ACTION_BYTES = 16 * 1024


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.epilog = f"examples:{_EXAMPLES[name]}\n"
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    if name == "authorize":
        _configure_authorize(parser)
    elif name == "pending":
        parser.add_argument("--session", default="", help="only this session")
        parser.add_argument(
            "--state",
            choices=_STATES,
            default="pending",
            help="those in this state instead of those that wait",
        )
    elif name == "authorization":
        parser.add_argument(
            "--since",
            metavar="DURATION",
            help=f"with stats: of the last so long; default {_WINDOW}",
        )
        parser.add_argument("--session", default="", help="with stats: only this session")
        parser.add_argument(
            "id", metavar="ID|stats", help="an authorization's id or the beginning of it"
        )
    else:
        parser.add_argument("id", metavar="ID", help="an authorization's id or the beginning of it")
    if name == "consume":
        _configure_wait(parser)
    elif name == "deny":
        parser.add_argument("--reason", required=True, help="why not")
    elif name == "approve":
        parser.add_argument(
            "--reason", default="", help="why; some classes of actions are not approved without"
        )


def _configure_authorize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--priority", choices=_PRIORITIES, help="derived from the words if not given"
    )
    parser.add_argument("--to", metavar="ROLE", default="", help="the role that is asked")
    parser.add_argument(
        "--deadline",
        metavar="DURATION",
        help="how long there is to decide, 1s to 24h; by the priority if not given",
    )
    _configure_wait(parser)
    parser.add_argument("action", metavar="ACTION", nargs="?", help="what is to be done")


def _configure_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", action="store_true", help="wait for the decision, and use the approval"
    )
    parser.add_argument(
        "--timeout",
        metavar="DURATION",
        help="wait at most so long: 90s, 5m, 1h; the request stands",
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    if name == "authorize":
        return _authorize(args)
    if name == "pending":
        return _pending(args)
    if name == "consume":
        return _consume(args)
    if name == "authorization" and args.id == _STATS:
        return _stats(args)
    return _by_id(args, name)


# ---- asking, using ----


def _authorize(args: argparse.Namespace) -> int:
    limit = _limit(args)
    deadline = _length(args.deadline, "--deadline")
    folder = _folder()
    action = read_text(_action(args.action), "action", _MAX_ACTION_BYTES)

    from orch.v1 import authorization_pb2 as pb

    request = pb.RequestAuthorizationRequest(
        action=action,
        approver_role=args.to,
        request_id=os.urandom(16).hex(),
        timeout=deadline,
        cwd=folder,
    )
    if args.priority:
        request.priority = pb.AuthorizationPriority.Value(
            f"AUTHORIZATION_PRIORITY_{args.priority.upper()}"
        )
    asked = calls.call("RequestAuthorization", request).authorization
    if not args.wait:
        _show(asked, args.json)
        return 0
    if not args.json:
        print(f"{asked.id} asked of {asked.approver_role}; waiting", flush=True)
    return _decision(asked.id, folder, limit, args)


def _consume(args: argparse.Namespace) -> int:
    limit = _limit(args)
    folder = _folder()
    if args.wait:
        return _decision(args.id, folder, limit, args)
    _show(calls.use_now(args.id, folder), args.json)
    return 0


def _limit(args: argparse.Namespace) -> float | None:
    """How many seconds to wait at most; None for as long as it takes."""
    if args.timeout is not None and not args.wait:
        raise ClientError("--timeout goes with --wait.", errors.USAGE)
    return None if args.timeout is None else parse_duration(args.timeout)


def _decision(given_id: str, folder: str, limit: float | None, args: argparse.Namespace) -> int:
    """Waits for the decision, and uses the approval."""
    try:
        found, is_decided = calls.wait(given_id, limit)
    except KeyboardInterrupt:
        raise _stands(given_id, _INTERRUPTED) from None
    if found.id:
        _show(found, args.json)
    if not is_decided:
        raise _stands(found.id or given_id, errors.PENDING)
    return _use(found, folder, args) if words.state(found) == "approved" else _ended(found)


def _stands(given_id: str, status: int) -> ClientError:
    """Nobody has decided."""
    name = output.one_line(given_id)
    return ClientError(
        f"{name} still stands; wait on: orch-client consume {name} --wait;"
        f" take it back: orch-client withdraw {name}",
        status,
    )


def _use(approved: pb.Authorization, folder: str, args: argparse.Namespace) -> int:
    """Uses the approval: only then may it be done."""
    from orch_client import channel

    try:
        calls.use(approved, folder, channel.DEADLINE if args.timeout else None)
    except KeyboardInterrupt:
        unknown = f"whether {approved.id} was used is not known"
        raise ClientError(
            f"{unknown}; look: orch-client authorization {approved.id}", _INTERRUPTED
        ) from None
    if not args.json:
        print(f"{approved.id} is used by this; it may be done now, once.")
    return 0


def _ended(found: pb.Authorization) -> int:
    """The exit status of what cannot be used."""
    state = words.state(found)
    if state == "consumed":
        raise ClientError(f"{found.id} was used by another command; ask anew.", errors.CONFLICT)
    if state == "lapsed":
        raise ClientError(f"{found.id} lapsed before it was used; ask anew.", errors.CONFLICT)
    return _ENDS.get(state, errors.FAILED)


def _action(given: str | None) -> str | None:
    """What was given, else what is typed on a terminal; None for standard input."""
    if given is None and sys.stdin.isatty():
        return input("Action: ")
    return None if given == "-" else given


def _folder() -> str:
    """The working directory, which an approval is bound to. Raises ClientError."""
    try:
        return os.getcwdb().decode()  # noqa: PTH109 - in UTF-8, whatever the locale
    except FileNotFoundError as exc:
        raise ClientError("the working directory is gone; change to one that is there.") from exc
    except UnicodeDecodeError as exc:
        raise ClientError(
            f"the working directory's path is not valid UTF-8 at byte offset {exc.start}.",
            errors.USAGE,
        ) from exc


# ---- deciding, looking ----


def _pending(args: argparse.Namespace) -> int:
    state = "UNSPECIFIED" if args.state == "all" else args.state.upper()
    found = calls.all_in(state, args.session)
    if args.json:
        output.print_json_list(found)
    elif args.state == "pending":
        words.print_pending(found)
    else:
        words.print_all(found)
    return 0


def _by_id(args: argparse.Namespace, name: str) -> int:
    if name == "authorization" and (args.since or args.session):
        raise ClientError("--since and --session go with stats.", errors.USAGE)

    from orch.v1 import authorization_pb2 as pb

    method = _METHODS[name]
    request = getattr(pb, f"{method}Request")(id=args.id)
    if name in ("approve", "deny"):
        request.reason = args.reason
    _show(calls.call_with_passphrase(method, request).authorization, args.json)
    return 0


def _stats(args: argparse.Namespace) -> int:
    window = _length(_WINDOW if args.since is None else args.since, "--since")

    from orch.v1 import authorization_pb2 as pb

    request = pb.GetAuthorizationStatsRequest(session=args.session, window=window)
    found = calls.call("GetAuthorizationStats", request)
    if args.json:
        output.print_json(found)
    else:
        words.print_stats(found)
    return 0


def _length(given: str | None, flag: str) -> Duration | None:
    """A duration whose range the server judges, but 0, for which it would take its own; None for
    none. Raises ClientError."""
    seconds = length_given(given, flag)
    if seconds is None:
        return None
    length = as_duration(seconds)
    if not length.ByteSize():
        raise ClientError(
            f"{flag} is '{output.one_line(given or '')}'; use a duration that is not 0.",
            errors.USAGE,
        )
    return length


def _show(found: Any, as_json: bool) -> None:
    if as_json:
        output.print_json(found)
    else:
        words.print_one(found)
    sys.stdout.flush()
