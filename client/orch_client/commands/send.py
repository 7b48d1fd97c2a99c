"""`send`: a text for agents, and on request what became of it and what they said."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from orch_client import output
from orch_client.commands.arguments import as_duration, parse_duration, read_text
from orch_client.errors import FAILED, USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import delivery_pb2, messaging_pb2

EXAMPLES = """examples:
  orch-client send atlas:tester please run the tests again
  orch-client send @atlas "stand-up in five minutes" --mode turn-boundary
  make report | orch-client send atlas:pm
  orch-client send %5 --template status-request -v topic="the parser"
  orch-client send atlas:tester --wait-reply 2m "does the build pass?"
  orch-client send atlas:tester --plain -- -v is what I meant

TEXT that begins with a dash goes last, after --. Without TEXT it is read from standard input.

exit status:
  0 accepted; --wait: every delivery was taken; --wait-reply: every reply is complete
  1 a target failed, or the time ended first
"""
#: The words of TARGET and TEXT may stand between the flags; what follows "--" is taken as it is.
WORDS = True
MODES = ("wait-idle", "turn-boundary", "immediate")
PRIORITIES = ("normal", "high")
_TAKEN = ("confirmed", "queued-by-agent")
_MOVING = ("pending", "offered", "pasted")
_INTERRUPTED = 130
#: How much longer than the reply's own time the client waits for the report of it, in seconds.
_MARGIN = 5.0


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.usage = "orch-client send TARGET [TEXT…] [OPTIONS]"
    parser.add_argument(
        "words",
        metavar="TARGET",
        nargs="*",
        help="session:role, session:window, %%pane, role, @session, @session:NAME, @role:NAME or"
        " @all; then the text, its words joined by blanks",
    )
    parser.add_argument("--template", metavar="NAME", default="", help="a template, not a text")
    parser.add_argument(
        "-v",
        dest="values",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a parameter of the template",
    )
    parser.add_argument(
        "--plain", action="store_true", help="without the line that names sender and id"
    )
    parser.add_argument("--mode", choices=MODES, help="when it may enter; default: wait-idle")
    parser.add_argument("--priority", choices=PRIORITIES, help="default: normal")
    parser.add_argument("--ttl", metavar="DURATION", help="kept so long; default: 1d")
    parser.add_argument("--wait", metavar="DURATION", help="wait so long until it is taken")
    parser.add_argument(
        "--wait-reply", metavar="DURATION", help="wait so long for what the agent says next"
    )
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    if not args.words:
        raise ClientError("TARGET is missing; name one, such as session:role or %5.", USAGE)
    patience = parse_duration(args.wait_reply) if args.wait_reply else 0.0
    limit = parse_duration(args.wait) if args.wait else 0.0
    answer = _send(_request(args, patience))
    _complain(answer)
    sent = [result.delivery for result in answer.results if result.HasField("delivery")]
    whole = len(sent) == len(answer.results)
    if args.wait or args.wait_reply:
        try:
            _await(sent, max(limit, _MARGIN if patience else 0.0) + patience)
        except KeyboardInterrupt:
            raise ClientError(_stands(sent), _INTERRUPTED) from None
    if args.json:
        output.print_json(answer)
    elif args.wait_reply:
        _print_replies(sent)
    else:
        _print_sent(sent)
    asked = bool(args.wait or args.wait_reply)
    lacking = [one for one in sent if asked and not _has_arrived(one, patience)]
    return 0 if whole and not lacking else FAILED


def _request(args: argparse.Namespace, patience: float) -> messaging_pb2.SendMessageRequest:
    target, *words = args.words
    values = _values(args.values)
    if args.template and words:
        raise ClientError("TEXT and --template exclude each other; give one of them.", USAGE)
    if values and not args.template:
        raise ClientError("-v goes with --template.", USAGE)
    lifetime = parse_duration(args.ttl) if args.ttl else None
    text = "" if args.template else _text(words)

    from orch.v1 import delivery_pb2 as delivery
    from orch.v1 import messaging_pb2 as pb

    request = pb.SendMessageRequest(
        targets=[target],
        text=text,
        template=args.template,
        parameters=values,
        plain=args.plain,
        request_id=os.urandom(16).hex(),
    )
    if args.mode:
        request.mode = delivery.DeliveryMode.Value(_constant("DELIVERY_MODE_", args.mode))
    if args.priority:
        value = _constant("DELIVERY_PRIORITY_", args.priority)
        request.priority = delivery.DeliveryPriority.Value(value)
    if lifetime is not None:
        request.time_to_live.CopyFrom(as_duration(lifetime))
    if patience:
        request.reply_patience.CopyFrom(as_duration(patience))
    return request


def _text(words: list[str]) -> str:
    """The words joined; without words, what comes from a pipe."""
    if not words and sys.stdin.isatty():
        raise ClientError("TEXT is missing; give it, or pipe it in.", USAGE)
    return read_text(" ".join(words) if words else None, "text")


def _values(given: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not key or not equals or key in values:
            raise ClientError(
                f"'{output.one_line(pair)}' is no parameter; use KEY=VALUE, each key once.", USAGE
            )
        values[key] = value
    return values


def _constant(prefix: str, word: str) -> str:
    return prefix + word.upper().replace("-", "_")


def _send(request: messaging_pb2.SendMessageRequest) -> messaging_pb2.SendMessageResponse:
    from orch.v1 import messaging_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = messaging_pb2_grpc.MessagingServiceStub(grpc_channel)
        return stub.SendMessage(request, timeout=channel.DEADLINE, metadata=metadata)


def _complain(answer: messaging_pb2.SendMessageResponse) -> None:
    """What went wrong, on standard error."""
    if answer.removed_characters:
        _say(f"{answer.removed_characters} control characters were removed from the text.")
    for result in answer.results:
        if not result.HasField("delivery"):
            _say(f"{output.one_line(result.target)}: {result.error}")


def _await(sent: list[delivery_pb2.Delivery], limit: float) -> bool:
    """Brings the deliveries up to date until all have come to an end or the time has.

    Returns whether they have. Survives a restart of the server.
    """
    if not sent:
        return True
    from orch.v1 import messaging_pb2, messaging_pb2_grpc
    from orch_client.commands.follow import follow

    known = {one.id: one for one in sent}
    request = messaging_pb2.WatchDeliveriesRequest(ids=list(known))

    def watch(grpc_channel: Any, timeout: float | None, metadata: Any) -> Any:
        stub = messaging_pb2_grpc.MessagingServiceStub(grpc_channel)
        return stub.WatchDeliveries(request, timeout=timeout, metadata=metadata)

    def take(change: messaging_pb2.WatchDeliveriesResponse) -> None:
        known[change.delivery.id].CopyFrom(change.delivery)

    return follow(watch, take, lambda: all(state(one) not in _MOVING for one in sent), limit)


def _has_arrived(one: delivery_pb2.Delivery, patience: float) -> bool:
    """Whether it was taken and, when asked, answered in full; says on standard error if not."""
    if state(one) not in _TAKEN:
        still = "still " if state(one) in _MOVING else ""
        detail = f": {one.detail}" if one.detail else "."
        _say(f"{one.id[:8]} for {one.session}:{one.role} is {still}{state(one)}{detail}")
        return False
    if patience and not one.reply_complete:
        _say(f"the time ended before {one.session}:{one.role} had come to rest ({one.id[:8]}).")
        return False
    return True


def _print_sent(sent: list[delivery_pb2.Delivery]) -> None:
    rows = [(f"{one.session}:{one.role}", one.id[:8], state(one)) for one in sent]
    if rows:
        output.print_table(("AGENT", "DELIVERY", "STATE"), rows, "")


def _print_replies(sent: list[delivery_pb2.Delivery]) -> None:
    """The text alone when one was asked; else each under its agent's name."""
    for number, one in enumerate(sent):
        if len(sent) > 1:
            print(f"{chr(10) if number else ''}{one.session}:{one.role} ({one.id[:8]})")
        if one.reply:
            print(output.plain(one.reply.rstrip("\n")))


def state(one: delivery_pb2.Delivery) -> str:
    """A delivery's state as people write it."""
    from orch.v1 import delivery_pb2

    return output.word(delivery_pb2.DeliveryState.Name(one.state), "DELIVERY_STATE_")


def _stands(sent: list[delivery_pb2.Delivery]) -> str:
    names = ", ".join(one.id[:8] for one in sent)
    return f"the wait ended, what was sent stands ({names}); see: orch-client delivery ID"


def _say(sentence: str) -> None:
    print(f"orch-client: {sentence}", file=sys.stderr)
