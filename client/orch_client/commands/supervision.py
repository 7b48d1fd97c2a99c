"""`alerts`, `nudges`, `escalations`, `credit`: what the supervision did, and what it holds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from orch_client import output
from orch_client.commands.arguments import parse_duration
from orch_client.commands.times import ahead, before, moment_given
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import supervision_pb2

EXAMPLES = """examples:
  orch-client alerts --session atlas
  orch-client nudges --agent atlas:tester --since 12h   who was woken, and how often not
  orch-client escalations                               what is being escalated now
  orch-client escalations --session atlas --all         also what is over
  orch-client credit                                    the accounts that are held
  orch-client credit hold claude@host --until 19:00
  orch-client credit hold atlas:tester --for 2h         the account of this agent
  orch-client credit release claude@host                whatever was said of its limit
"""
WORDS = True
_PAGE = 1000
_CREDIT = "hold NAME | release NAME"


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    if name == "credit":
        parser.usage = f"orch-client credit [{_CREDIT}] [--until TIME | --for DURATION] [--json]"
        end = parser.add_mutually_exclusive_group()
        end.add_argument("--until", metavar="TIME", help="such as 19:00 or 2026-11-22T07:00")
        end.add_argument("--for", metavar="DURATION", dest="length", help="such as 2h")
        parser.add_argument("words", metavar=_CREDIT, nargs="*", help="hold an account by hand")
        return
    parser.set_defaults(words=[])
    if name == "nudges":
        parser.add_argument("--agent", default="", help="only of this agent: session:role")
        parser.add_argument("--since", metavar="DURATION", help="only of the last so long")
    else:
        parser.add_argument("--session", default="", help="only of this session")
    if name == "escalations":
        parser.add_argument("--all", action="store_true", help="also those that are over")
    parser.add_argument("--limit", metavar="N", default="50", help="at most so many; default 50")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    if name == "credit":
        return _credit(args)
    if args.words:
        raise ClientError(f"{name} takes no words but flags.", USAGE)
    commands = {"alerts": _alerts, "nudges": _nudges, "escalations": _escalations}
    return commands[name](args, _limit(args.limit))


def _limit(given: str) -> int:
    if not given.isascii() or not given.isdigit() or not 0 < int(given) <= 1_000_000:
        raise ClientError(
            f"--limit is '{output.one_line(given)}'; use a number from 1 to 1,000,000.", USAGE
        )
    return int(given)


# ---- what was told and done ----


def _alerts(args: argparse.Namespace, limit: int) -> int:
    from orch.v1 import supervision_pb2 as pb

    request = pb.ListAlertsRequest(session=args.session)
    found, _ = _fetch("ListAlerts", request, "alerts", limit)
    if args.json:
        output.print_json_list(found)
        return 0
    rows = [
        (
            output.moment(one.create_time),
            output.word(pb.AlertSeverity.Name(one.severity), "ALERT_SEVERITY_"),
            one.kind,
            one.subject or "-",
            str(one.suppressed or ""),
            _webhook(one),
            output.one_line(one.text, 100),
        )
        for one in found
    ]
    head = ("TIME", "SEVERITY", "KIND", "ABOUT", "MORE", "WEBHOOK", "ALERT")
    output.print_table(head, rows, "No alerts.")
    return 0


def _webhook(one: supervision_pb2.Alert) -> str:
    if one.HasField("webhook_time"):
        return "took it"
    return output.one_line(one.webhook_error, 30) or "-"


def _nudges(args: argparse.Namespace, limit: int) -> int:
    from orch.v1 import supervision_pb2 as pb

    request = pb.ListNudgesRequest(agent=args.agent)
    if args.since is not None:
        request.since.CopyFrom(before(parse_duration(args.since)))
    found, counts = _fetch("ListNudges", request, "nudges", limit)
    if args.json:
        output.print_json(pb.ListNudgesResponse(nudges=found, counts=counts))
        return 0
    rows = [
        (
            output.moment(one.create_time),
            one.agent,
            output.word(pb.NudgeReason.Name(one.reason), "NUDGE_REASON_"),
            one.delivery_id[:8],
            "false alarm" if one.false_alarm else "",
        )
        for one in found
    ]
    output.print_table(("TIME", "AGENT", "WHY", "DELIVERY", ""), rows, "No nudges.")
    print(f"\n{_counts(counts)}")
    return 0


def _counts(counts: supervision_pb2.NudgeCounts) -> str:
    kept = (
        ("nothing had changed", counts.nothing_changed),
        ("over the budget", counts.over_budget),
        ("not wanted", counts.not_wanted),
        ("no credit", counts.no_credit),
        ("suspended", counts.suspended),
    )
    why = ", ".join(f"{what} {count}" for what, count in kept if count)
    total = sum(count for _, count in kept)
    false = f" ({counts.false_alarms} of them false alarms)" if counts.false_alarms else ""
    return f"{counts.sent} sent{false}, {total} not sent{': ' + why if why else ''}"


def _escalations(args: argparse.Namespace, limit: int) -> int:
    from orch.v1 import supervision_pb2 as pb

    request = pb.ListEscalationsRequest(session=args.session, open_only=not args.all)
    found, _ = _fetch("ListEscalations", request, "escalations", limit)
    if args.json:
        output.print_json_list(found)
        return 0
    rows = [
        (
            one.agent,
            output.word(pb.Matter.Name(one.matter), "MATTER_"),
            str(one.level),
            output.moment(one.create_time),
            "over " + output.moment(one.end_time) if one.HasField("end_time") else _next(one),
            output.one_line(one.detail, 80),
        )
        for one in found
    ]
    head = ("AGENT", "MATTER", "LEVEL", "SINCE", "NEXT", "SEEN")
    output.print_table(head, rows, "No escalations.")
    return 0


def _next(one: supervision_pb2.Escalation) -> str:
    return output.moment(one.next_time) or "all were told"


# ---- accounts ----


def _credit(args: argparse.Namespace) -> int:
    ends = args.until is not None or args.length is not None
    match args.words:
        case ["hold", account] if ends:
            return _hold(args, account)
        case ["hold", _]:
            raise ClientError("say until when: --until 19:00 or --for 2h.", USAGE)
        case [] | ["release", _] if ends:
            raise ClientError("--until and --for go with hold.", USAGE)
        case []:
            return _holds(args)
        case ["release", account]:
            return _release(args, account)
    raise ClientError("use: credit, credit hold NAME or credit release NAME.", USAGE)


def _holds(args: argparse.Namespace) -> int:
    from orch.v1 import supervision_pb2 as pb

    found = list(_call("ListCreditHolds", pb.ListCreditHoldsRequest()).holds)
    if args.json:
        output.print_json_list(found)
        return 0
    rows = [
        (
            one.credential,
            output.moment(one.begin_time),
            output.moment(one.end_time) + ("" if one.reset_known else ", a guess"),
            str(len(one.agents)),
            one.source,
            output.one_line(one.detail, 60),
        )
        for one in found
    ]
    head = ("ACCOUNT", "SINCE", "UNTIL", "AGENTS", "SAID BY", "SEEN")
    output.print_table(head, rows, "No account is held.")
    return 0


def _hold(args: argparse.Namespace, account: str) -> int:
    from orch.v1 import supervision_pb2 as pb

    given = args.until
    end = moment_given(given) if given is not None else ahead(parse_duration(args.length))
    hold = _call("HoldCredit", pb.HoldCreditRequest(credential=account, end_time=end)).hold
    if args.json:
        output.print_json(hold)
    else:
        agents = len(hold.agents)
        print(f"{hold.credential} held until {output.moment(hold.end_time)}, {agents} agents")
    return 0


def _release(args: argparse.Namespace, account: str) -> int:
    from orch.v1 import supervision_pb2 as pb

    answer = _call("ReleaseCredit", pb.ReleaseCreditRequest(credential=account))
    if args.json:
        output.print_json(answer)
    else:
        print(f"{output.one_line(account)}: nothing is held any more")
    return 0


# ---- calls ----


def _fetch(method: str, request: Any, field: str, limit: int) -> tuple[list[Any], Any]:
    """At most so many entries over all pages, and the counts of the first page, if it has any."""
    found: list[Any] = []
    counts = None
    while True:
        request.page_size = min(_PAGE, limit - len(found))
        page = _call(method, request)
        counts = counts or getattr(page, "counts", None)
        found.extend(getattr(page, field))
        if not page.next_page_token or len(found) >= limit:
            return found, counts
        request.page_token = page.next_page_token


def _call(method: str, request: Any) -> Any:
    from orch.v1 import supervision_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = supervision_pb2_grpc.SupervisionServiceStub(grpc_channel)
        return getattr(stub, method)(request, timeout=channel.DEADLINE, metadata=metadata)
