"""`tasks`, `task`, `occurrences`, `pause`, `resume`, `run-now`, `cancel`: what is scheduled."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from orch_client import output
from orch_client.commands import task_words as words
from orch_client.commands.schedule import call
from orch_client.commands.schedule_form import in_words
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import scheduler_pb2 as pb

EXAMPLES = """examples:
  orch-client tasks --session atlas --state pending
  orch-client tasks --watch                      each change, until Ctrl-C
  orch-client task 3fa8                          one, with its newest occurrences
  orch-client occurrences 3fa8 --outcome skipped
  orch-client pause 3fa8 --note "until the release is out"
  orch-client pause --all                        nothing fires until resume --all
  orch-client resume 3fa8
  orch-client run-now 3fa8                       once now, besides its schedule
  orch-client cancel 3fa8

exit status: 4 there is no such task, 6 it is over
"""
_STATES = ("pending", "paused", "fired", "skipped", "expired", "ended", "cancelled")
_OUTCOMES = ("fired", "coalesced", "skipped", "expired")
_PAGE = 1000
#: A dozen notes of 256 KiB fit into one gRPC message of 4 MiB.
_PAGE_OF_LARGE_ONES = 12
_NEWEST = 10


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    if name == "tasks":
        parser.add_argument("--session", default="", help="only tasks for agents of this session")
        parser.add_argument("--state", choices=_STATES, help="only tasks in this state")
        parser.add_argument(
            "--watch", action="store_true", help="a line for each, and for each change; loops"
        )
        return
    can_be_all = name in ("pause", "resume")
    parser.add_argument(
        "id",
        metavar="ID",
        nargs="?" if can_be_all else None,
        help="a task's id or the beginning of it",
    )
    if can_be_all:
        parser.add_argument("--all", action="store_true", help="the firing of all tasks")
    if name == "pause":
        parser.add_argument("--note", metavar="TEXT", default="", help="why")
    elif name == "occurrences":
        parser.add_argument("--outcome", choices=_OUTCOMES, help="only those with this outcome")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    if name == "tasks":
        return _watch(args) if args.watch else _tasks(args)
    commands = {
        "task": _task,
        "occurrences": _occurrences,
        "pause": _pause,
        "resume": _resume,
        "run-now": _run_now,
        "cancel": _cancel,
    }
    return commands[name](args)


# ---- many ----


def _tasks(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    request = pb.ListTasksRequest(session=args.session, page_size=_PAGE)
    if args.state:
        request.state = pb.TaskState.Value(f"TASK_STATE_{args.state.upper()}")
    tasks: list[pb.Task] = _all("ListTasks", request, "tasks")
    if args.json:
        output.print_json_list(tasks)
        return 0
    _print_pause_of_all(call("GetScheduler", pb.GetSchedulerRequest()))
    rows = [
        (
            task.id,
            f"{task.session}:{task.role}",
            words.state(task),
            words.next_time(task),
            in_words(task.schedule),
            words.last(task) or "-",
            task.creator,
            output.one_line(task.note, 40),
        )
        for task in tasks
    ]
    head = ("ID", "FOR", "STATE", "NEXT", "SCHEDULE", "LAST", "BY", "NOTE")
    output.print_table(head, rows, "No tasks.")
    return 0


def _print_pause_of_all(answer: pb.GetSchedulerResponse) -> None:
    if answer.paused:
        note = f": {output.one_line(answer.pause_note, 200)}" if answer.pause_note else ""
        since = output.moment(answer.pause_time)
        print(f"All firing is paused, by {answer.paused_by} at {since}{note}", flush=True)


def _watch(args: argparse.Namespace) -> int:
    """Prints each task as it is, then each change, also over a restart of the server."""
    from google.protobuf import json_format

    from orch.v1 import scheduler_pb2 as pb
    from orch.v1 import scheduler_pb2_grpc
    from orch_client.commands.follow import follow

    known: dict[str, bytes] = {}

    def watch(grpc_channel: Any, timeout: float | None, metadata: Any) -> Any:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(grpc_channel)
        request = pb.WatchTasksRequest(session=args.session)
        return stub.WatchTasks(request, timeout=timeout, metadata=metadata)

    def take(change: pb.WatchTasksResponse) -> None:
        task = change.task
        as_it_is = task.SerializeToString(deterministic=True)
        if known.get(task.id) == as_it_is or args.state not in (None, words.state(task)):
            return
        known[task.id] = as_it_is
        if args.json:
            shown = json_format.MessageToJson(task, preserving_proto_field_name=True, indent=None)
            print(shown, flush=True)
        else:
            print(_line(task), flush=True)

    scheduler = call("GetScheduler", pb.GetSchedulerRequest())
    if not args.json:
        _print_pause_of_all(scheduler)
    follow(watch, take, lambda: False, None)
    return 0


def _line(task: pb.Task) -> str:
    import time

    cells = (time.strftime("%H:%M:%S"), task.id, f"{task.session}:{task.role}", words.state(task))
    due = "next" if words.is_open(task) else "was due"
    return "  ".join((*cells, f"{due} {words.next_time(task)}", f"last {words.last(task) or '-'}"))


def _all(method: str, request: Any, field: str) -> list[Any]:
    """The entries of all pages."""
    import grpc

    from orch.v1 import scheduler_pb2_grpc
    from orch_client import channel

    found: list[Any] = []
    with channel.connected() as (grpc_channel, metadata):
        get = getattr(scheduler_pb2_grpc.SchedulerServiceStub(grpc_channel), method)
        while True:
            try:
                page = get(request, timeout=channel.DEADLINE, metadata=metadata)
            except grpc.RpcError as exc:
                too_large = exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                if not too_large or request.page_size == _PAGE_OF_LARGE_ONES:
                    raise
                request.page_size = _PAGE_OF_LARGE_ONES
                continue
            found.extend(getattr(page, field))
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


# ---- one ----


def _task(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    task = call("GetTask", pb.GetTaskRequest(id=args.id)).task
    if args.json:
        output.print_json(task)
        return 0
    newest = pb.ListOccurrencesRequest(task_id=task.id, page_size=_NEWEST)
    found = call("ListOccurrences", newest).occurrences
    words.print_task(task)
    if found:
        print()
        words.print_occurrences(found)
    return 0


def _occurrences(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    request = pb.ListOccurrencesRequest(task_id=args.id, page_size=_PAGE)
    if args.outcome:
        request.outcome = pb.OccurrenceOutcome.Value(f"OCCURRENCE_OUTCOME_{args.outcome.upper()}")
    found = _all("ListOccurrences", request, "occurrences")
    if args.json:
        output.print_json_list(found)
    else:
        words.print_occurrences(found)
    return 0


# ---- what can be done to one ----


def _one_or_all(args: argparse.Namespace, name: str) -> None:
    if args.all == (args.id is not None):
        raise ClientError(f"use: {name} ID or {name} --all.", USAGE)


def _pause(args: argparse.Namespace) -> int:
    _one_or_all(args, "pause")

    from orch.v1 import scheduler_pb2 as pb

    request = pb.PauseTaskRequest(id=args.id or "", all=args.all, note=args.note)
    answer = call("PauseTask", request)
    return _told(args, answer, f"{answer.task.id} paused", "all firing is paused")


def _resume(args: argparse.Namespace) -> int:
    _one_or_all(args, "resume")

    from orch.v1 import scheduler_pb2 as pb

    answer = call("ResumeTask", pb.ResumeTaskRequest(id=args.id or "", all=args.all))
    resumed = f"{answer.task.id} resumed, due {words.next_time(answer.task)}"
    return _told(args, answer, resumed, "all firing goes on")


def _told(args: argparse.Namespace, answer: Any, of_one: str, of_all: str) -> int:
    if args.json:
        output.print_json(answer if args.all else answer.task)
    else:
        print(of_all if args.all else of_one)
    return 0


def _run_now(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    request = pb.RunTaskRequest(id=args.id, request_id=os.urandom(16).hex())
    answer = call("RunTask", request)
    if args.json:
        output.print_json(answer)
        return 0
    one = answer.occurrence
    delivery = f"; delivery {one.delivery_id[:8]} {words.delivery(one)}" if one.delivery_id else ""
    print(f"{answer.task.id} {words.outcome(one)} now{delivery}")
    return 0


def _cancel(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    task = call("CancelTask", pb.CancelTaskRequest(id=args.id)).task
    if args.json:
        output.print_json(task)
    else:
        print(f"{task.id} cancelled")
    return 0
