"""`messages`, `delivery`, `dnd`, `templates`: what was sent, and what becomes of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from orch_client import output
from orch_client.commands.send import state
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from orch.v1 import delivery_pb2, messaging_pb2

EXAMPLES = """examples:
  orch-client messages --agent atlas:tester --limit 10
  orch-client messages --search '"release notes" draft'
  orch-client messages --state dead                  the dead letters
  orch-client delivery 3fa8                          the story of one delivery
  orch-client delivery cancel 3fa8
  orch-client delivery redrive 3fa8 --force          also when it may have arrived
  orch-client dnd on atlas:tester                    hold back what is for it
  orch-client dnd off                                for one's own pane
  orch-client templates

exit status of delivery: 4 there is none, 6 too late to cancel, or not without --force
"""
STATES = (
    "pending",
    "offered",
    "pasted",
    "confirmed",
    "queued-by-agent",
    "unconfirmed",
    "refused",
    "expired",
    "cancelled",
    "dead",
)
_CHANGES = {"cancel": "CancelDelivery", "redrive": "RedriveDelivery"}
#: A dozen texts of 256 KiB with their replies fit into one gRPC message of 4 MiB.
_PAGE = 12


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    if name == "messages":
        parser.add_argument("--agent", default="", help="only for this agent: session:role")
        parser.add_argument("--session", default="", help="only for agents of this session")
        parser.add_argument("--state", choices=STATES, help="only in this state")
        parser.add_argument("--search", metavar="TEXT", default="", help="only with these words")
        parser.add_argument(
            "--limit", metavar="N", default="50", help="at most so many; default 50"
        )
    elif name == "delivery":
        parser.usage = "orch-client delivery [cancel|redrive] ID [--force] [--json]"
        parser.add_argument(
            "what", metavar="ID", nargs="+", help="a delivery's id or the beginning of it"
        )
        parser.add_argument(
            "--force", action="store_true", help="redrive also what may have arrived"
        )
    elif name == "dnd":
        parser.add_argument("switch", metavar="on|off", choices=("on", "off"))
        parser.add_argument(
            "target", metavar="TARGET", nargs="?", default="", help="default: one's own pane"
        )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    commands = {
        "messages": _messages,
        "delivery": _delivery,
        "dnd": _do_not_disturb,
        "templates": _templates,
    }
    return commands[name](args)


def _messages(args: argparse.Namespace) -> int:
    from orch.v1 import delivery_pb2, messaging_pb2

    request = messaging_pb2.ListDeliveriesRequest(
        agent=args.agent, session=args.session, search=args.search
    )
    if args.state:
        name = "DELIVERY_STATE_" + args.state.upper().replace("-", "_")
        request.state = delivery_pb2.DeliveryState.Value(name)
    found = _fetch(request, _limit(args.limit))
    if args.json:
        output.print_json_list(found)
        return 0
    rows = [
        (
            output.moment(one.create_time),
            one.id[:8],
            f"{one.session}:{one.role}",
            one.sender,
            state(one),
            output.one_line(one.text, 50),
        )
        for one in found
    ]
    output.print_table(("TIME", "ID", "FOR", "FROM", "STATE", "TEXT"), rows, "No messages.")
    return 0


def _limit(given: str) -> int:
    if not given.isascii() or not given.isdigit() or not 0 < int(given) <= 1_000_000:
        raise ClientError(
            f"--limit is '{output.one_line(given)}'; use a number from 1 to 1,000,000.", USAGE
        )
    return int(given)


def _fetch(request: messaging_pb2.ListDeliveriesRequest, limit: int) -> list[delivery_pb2.Delivery]:
    from orch_client import channel

    found: list[delivery_pb2.Delivery] = []
    with channel.connected() as (grpc_channel, metadata):
        stub = _stub(grpc_channel)
        while True:
            request.page_size = min(_PAGE, limit - len(found))
            page = stub.ListDeliveries(request, timeout=channel.DEADLINE, metadata=metadata)
            found.extend(page.deliveries)
            if not page.next_page_token or len(found) >= limit:
                return found
            request.page_token = page.next_page_token


def _delivery(args: argparse.Namespace) -> int:
    *doing, given = args.what
    if len(doing) > 1 or not set(doing) <= set(_CHANGES):
        raise ClientError("use: delivery ID, delivery cancel ID or delivery redrive ID.", USAGE)
    if args.force and doing != ["redrive"]:
        raise ClientError("--force goes with redrive.", USAGE)

    from orch.v1 import messaging_pb2

    method = _CHANGES[doing[0]] if doing else "GetDelivery"
    request = getattr(messaging_pb2, f"{method}Request")(id=given)
    if args.force:
        request.force = True
    one = _call(method, request).delivery
    if args.json:
        output.print_json(one)
    elif doing:
        verb = "cancelled" if doing == ["cancel"] else "waits again"
        print(f"{one.id[:8]} for {one.session}:{one.role} {verb}")
    else:
        _print_story(one)
    return 0


def _do_not_disturb(args: argparse.Namespace) -> int:
    from orch.v1 import messaging_pb2

    request = messaging_pb2.SetDoNotDisturbRequest(target=args.target, enabled=args.switch == "on")
    answer = _call("SetDoNotDisturb", request)
    if args.json:
        output.print_json(answer)
        return 0
    what = "what is for it waits" if request.enabled else "what is for it goes through"
    for agent in answer.agents:
        print(f"{agent}: {what}")
    return 0


def _templates(args: argparse.Namespace) -> int:
    from orch.v1 import messaging_pb2

    found = list(_call("ListTemplates", messaging_pb2.ListTemplatesRequest()).templates)
    if args.json:
        output.print_json_list(found)
        return 0
    rows = [
        (
            one.name,
            "own" if one.own else "shipped",
            " ".join(one.parameters) or "-",
            output.one_line(one.text),
        )
        for one in found
    ]
    output.print_table(("TEMPLATE", "FROM", "PARAMETERS", "TEXT"), rows, "No templates.")
    return 0


def _call(method: str, request: Any) -> Any:
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        call = getattr(_stub(grpc_channel), method)
        return call(request, timeout=channel.DEADLINE, metadata=metadata)


def _stub(grpc_channel: Any) -> Any:
    from orch.v1 import messaging_pb2_grpc

    return messaging_pb2_grpc.MessagingServiceStub(grpc_channel)


def _print_story(one: delivery_pb2.Delivery) -> None:
    output.print_fields(_fields(one))
    if not one.steps:
        return
    print()
    before = _seconds(one.steps[0].time)
    for step in one.steps:
        at = _seconds(step.time)
        actor = f" by {step.actor}" if step.actor else ""
        detail = f": {output.one_line(step.detail, 200)}" if step.detail else ""
        since = f"{output.to_the_millisecond(step.time)}  +{at - before:.3f} s"
        print(f"{since}  {step.step}{actor}{detail}")
        before = at


def _fields(one: delivery_pb2.Delivery) -> list[tuple[str, str]]:
    from orch.v1 import delivery_pb2 as pb

    mode = output.word(pb.DeliveryMode.Name(one.mode), "DELIVERY_MODE_")
    priority = output.word(pb.DeliveryPriority.Name(one.priority), "DELIVERY_PRIORITY_")
    reason = output.word(pb.RefusalReason.Name(one.reason), "REFUSAL_REASON_")
    is_open = one.state <= pb.DELIVERY_STATE_PASTED
    is_held = one.not_before != one.create_time
    return [
        ("id", one.id),
        ("for", f"{one.session}:{one.role}"),
        ("from", one.sender),
        ("state", state(one)),
        ("seen", one.detail),
        ("refused", reason if one.reason else ""),
        ("attempts", str(one.attempts)),
        ("mode", mode if one.mode else ""),
        ("priority", priority if one.priority else ""),
        ("origin", one.origin),
        ("created", output.moment(one.create_time)),
        ("not before", output.moment(one.not_before) if is_open and is_held else ""),
        ("expires", output.moment(one.expire_time) if is_open else ""),
        ("header", one.header),
        ("text", output.one_line(one.text, 400)),
        ("reply", output.one_line(one.reply, 400)),
    ]


def _seconds(at: Timestamp) -> float:
    return at.seconds + at.nanos / 1e9
