"""`events`: every change that the server has written down, and those that come."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orch_client import output
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import event_pb2 as pb

EXAMPLES = """examples:
  orch-client events                                 the newest 50
  orch-client events --session atlas --kind task --kind delivery.confirmed
  orch-client events --subject 3fa8                  all that happened to one thing, newest 50
  orch-client events --after 1200                    all that came after number 1200
  orch-client events --follow                        each as it comes, until Ctrl-C
  orch-client events --follow --after 0 --json       all, then each as it comes, an object a line
"""
_NEWEST = 50
_PAGE = 1000
_FURTHER = 8
_MAX_NUMBER = 2**63 - 1
_WIDTHS = (8, 23, 24, 14, 32)


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--after", metavar="N", help="only what has a greater number than N")
    parser.add_argument("--session", default="", help="only what concerns this session")
    parser.add_argument(
        "--kind",
        metavar="KIND",
        action="append",
        default=[],
        help="only this kind, such as task.fired, or task for all of its kinds; may be repeated",
    )
    parser.add_argument(
        "--subject", metavar="ID", default="", help="only what happened to this task, delivery, …"
    )
    parser.add_argument("--follow", action="store_true", help="go on with what comes; loops")
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    after = None if args.after is None else _number(args.after)
    if args.follow:
        return _follow(args, after)
    found = _newest(args) if after is None else _all(args, after)
    if args.json:
        output.print_json_list(found)
        return 0
    is_empty = True
    for event in found:
        if is_empty:
            _print_head()
            is_empty = False
        print(_line(event))
    if is_empty:
        print("No events.")
    return 0


def _number(given: str) -> int:
    if not given.isascii() or not given.isdigit() or len(given) > 19 or int(given) > _MAX_NUMBER:
        raise ClientError(
            f"--after is '{output.one_line(given)}'; use the number of an event, or 0 for all.",
            USAGE,
        )
    return int(given)


# ---- what is stored ----


def _all(args: argparse.Namespace, after: int) -> Iterator[pb.Event]:
    """All that are wanted after a number, page by page."""
    from orch.v1 import event_pb2 as pb

    request = pb.ListEventsRequest(
        after=after,
        session=args.session,
        kinds=args.kind,
        subject=args.subject,
        page_size=_PAGE,
    )
    for page in _pages(request):
        yield from page.events


def _newest(args: argparse.Namespace) -> list[pb.Event]:
    """The newest ones that are wanted: looks further and further back until there are enough."""
    last, back = _last_number(), _NEWEST
    while True:
        after = max(0, last - back)
        found = list(_all(args, after))
        if len(found) >= _NEWEST or after == 0:
            return found[-_NEWEST:]
        back *= _FURTHER


def _last_number() -> int:
    """The number of the newest event of all; 0 when there is none."""
    from orch.v1 import event_pb2 as pb

    return next(_pages(pb.ListEventsRequest(page_size=1))).last_number


def _pages(request: pb.ListEventsRequest) -> Iterator[pb.ListEventsResponse]:
    from orch.v1 import event_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = event_pb2_grpc.EventServiceStub(grpc_channel)
        while True:
            page = stub.ListEvents(request, timeout=channel.DEADLINE, metadata=metadata)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


# ---- what comes ----


def _follow(args: argparse.Namespace, after: int | None) -> int:
    """Prints each event once, also over a restart of the server."""
    from google.protobuf import json_format

    from orch.v1 import event_pb2 as pb
    from orch.v1 import event_pb2_grpc
    from orch_client.commands.follow import follow

    newest = _last_number()  # so that nothing is lost when the first stream breaks at once
    request = pb.WatchEventsRequest(
        after=newest if after is None else after,
        session=args.session,
        kinds=args.kind,
        subject=args.subject,
    )

    def watch(grpc_channel: Any, timeout: float | None, metadata: Any) -> Any:
        stub = event_pb2_grpc.EventServiceStub(grpc_channel)
        return stub.WatchEvents(request, timeout=timeout, metadata=metadata)

    def take(answer: pb.WatchEventsResponse) -> None:
        if args.json:
            shown = json_format.MessageToJson(
                answer.event, preserving_proto_field_name=True, indent=None
            )
            print(shown, flush=True)
        else:
            print(_line(answer.event), flush=True)
        request.after = answer.event.number

    if not args.json:
        _print_head()
    follow(watch, take, lambda: False, None)
    return 0


# ---- what people read ----


def _print_head() -> None:
    print(_columns("NUMBER", "TIME", "KIND", "SUBJECT", "WHO", "DETAIL"), flush=True)


def _line(event: pb.Event) -> str:
    """One event; its words may be an agent's, so they are flattened."""
    return _columns(
        str(event.number),
        output.to_the_millisecond(event.time),
        output.one_line(event.kind),
        output.one_line(event.subject) or "-",
        _who(event),
        output.one_line(event.detail, 120),
    )


def _who(event: pb.Event) -> str:
    """The session that is concerned and who did it."""
    by = f"by {output.one_line(event.actor)}" if event.actor else ""
    return f"{output.one_line(event.session)} {by}".strip() or "-"


def _columns(*cells: str) -> str:
    """In columns of fixed width, since the later lines are not known yet."""
    *others, detail = cells
    padded = [cell.ljust(width) for cell, width in zip(others, _WIDTHS, strict=True)]
    return "  ".join([*padded, detail]).rstrip()
