"""`tasks`, `task`, `occurrences`, `pause`, `resume`, `run-now`, `cancel`: what is scheduled."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from orch_client import output
from orch_client.commands import task_words
from orch_client.commands.scheduler_calls import all_is_paused, all_pages, call, follow_tasks
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import scheduler_pb2 as pb

EXAMPLES = ""  # each command has its own, which configure() sets
_GONE = "\n\nexit status: 4 there is no such task"
_OVER = f"{_GONE}, 6 it is over"
_EXAMPLES = {
    "tasks": """
  orch-client tasks                              all, and what became of them
  orch-client tasks --open --session atlas       those that may fire yet, of one session
  orch-client tasks --state skipped
  orch-client tasks --watch                      each change, until Ctrl-C""",
    "task": f"""
  orch-client task 3fa8                          one, with its newest occurrences{_GONE}""",
    "occurrences": f"""
  orch-client occurrences 3fa8
  orch-client occurrences 3fa8 --outcome skipped{_GONE}""",
    "pause": f"""
  orch-client pause 3fa8 --note "until the release is out"
  orch-client pause --all                        nothing fires until resume --all
{_OVER[1:]}, or paused already""",
    "resume": f"""
  orch-client resume 3fa8
  orch-client resume --all{_GONE}, 6 it is not paused""",
    "run-now": f"""
  orch-client run-now 3fa8                       once now, besides its schedule{_OVER}""",
    "cancel": f"""
  orch-client cancel 3fa8{_OVER}""",
}
_STATES = ("pending", "paused", "fired", "skipped", "expired", "ended", "cancelled")
_OPEN = ("pending", "paused")
_OUTCOMES = ("fired", "coalesced", "skipped", "expired")
_NEWEST = 10


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.epilog = f"examples:{_EXAMPLES[name]}\n"
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    if name == "tasks":
        _configure_tasks(parser)
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


def _configure_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", default="", help="only tasks for agents of this session")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--state",
        choices=_STATES,
        help="only tasks in this state",
    )
    which.add_argument("--open", action="store_true", help="only those pending or paused")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="print a line for each of them, then one for each change, until Ctrl-C",
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    if name == "tasks":
        return _watch(args) if args.watch else _tasks(args)
    _check_named(args, name)
    commands = {
        "task": _task,
        "occurrences": _occurrences,
        "pause": _pause,
        "resume": _resume,
        "run-now": _run_now,
        "cancel": _cancel,
    }
    return commands[name](args)


def _check_named(args: argparse.Namespace, name: str) -> None:
    """Raises ClientError unless one task is named, or all are."""
    if name in ("pause", "resume"):
        if args.all == (args.id is not None):
            raise ClientError(f"use: {name} ID or {name} --all.", USAGE)
        if args.all:
            return
    task_words.check_id(args.id)


# ---- many ----


def _tasks(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    tasks: list[pb.Task] = []
    for state in _OPEN if args.open else (args.state,):
        request = pb.ListTasksRequest(session=args.session)
        if state:
            request.state = pb.TaskState.Value(f"TASK_STATE_{state.upper()}")
        tasks += all_pages("ListTasks", request, "tasks")
    tasks.sort(key=lambda task: (task.due_time.seconds, task.due_time.nanos, task.id))
    if args.json:
        output.print_json_list(tasks)
        return 0
    scheduler = call("GetScheduler", pb.GetSchedulerRequest())
    task_words.print_pause_of_all(scheduler)
    task_words.print_tasks(tasks, scheduler.paused)
    return 0


def _watch(args: argparse.Namespace) -> int:
    """Prints each task as it is, then each change, also over a restart of the server."""
    from google.protobuf import json_format

    from orch.v1 import scheduler_pb2 as pb

    shown: dict[str, int] = {}

    def take(change: pb.WatchTasksResponse) -> None:
        task = change.task
        if not (task.id in shown or _is_asked_for(args, change)):
            return
        if args.json:
            line: str | bytes = task.SerializeToString(deterministic=True)
        else:
            line = task_words.line(task)
        if shown.get(task.id) == hash(line):
            return
        shown[task.id] = hash(line)
        if args.state not in (None, task_words.state(task)):
            del shown[task.id]  # it has just left the state
        if isinstance(line, str):
            print(f"{output.time_of_day()}  {line}", flush=True)
        else:
            text = json_format.MessageToJson(task, preserving_proto_field_name=True, indent=None)
            print(text, flush=True)

    scheduler = call("GetScheduler", pb.GetSchedulerRequest())
    if not args.json:
        task_words.print_pause_of_all(scheduler)
    follow_tasks(args.session, take)
    return 0


def _is_asked_for(args: argparse.Namespace, change: pb.WatchTasksResponse) -> bool:
    """Whether to show this one: of those that are there those in the state, else the open ones."""
    if args.state:
        return bool(task_words.state(change.task) == args.state)
    return change.event_number > 0 or task_words.is_open(change.task)


# ---- one ----


def _task(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    task = call("GetTask", pb.GetTaskRequest(id=args.id)).task
    if args.json:
        output.print_json(task)
        return 0
    newest = pb.ListOccurrencesRequest(task_id=task.id, page_size=_NEWEST)
    found = call("ListOccurrences", newest).occurrences
    task_words.print_task(task, task_words.is_open(task) and all_is_paused())
    if found:
        print()
        task_words.print_occurrences(found)
    return 0


def _occurrences(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    request = pb.ListOccurrencesRequest(task_id=args.id)
    if args.outcome:
        request.outcome = pb.OccurrenceOutcome.Value(f"OCCURRENCE_OUTCOME_{args.outcome.upper()}")
    found = all_pages("ListOccurrences", request, "occurrences")
    if args.json:
        output.print_json_list(found)
    else:
        task_words.print_occurrences(found)
    return 0


# ---- what can be done to one ----


def _pause(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    request = pb.PauseTaskRequest(id=args.id or "", all=args.all, note=args.note)
    answer = call("PauseTask", request)
    return _told(args, answer, f"{answer.task.id} paused", "all firing is paused")


def _resume(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    all_paused = not args.all and not args.json and all_is_paused()
    answer = call("ResumeTask", pb.ResumeTaskRequest(id=args.id or "", all=args.all))
    return _told(args, answer, task_words.resumed(answer.task, all_paused), "all firing goes on")


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
    delivery = f"; delivery {one.delivery_id[:8]} {task_words.delivery_state(one)}"
    said = f"{answer.task.id} {task_words.outcome(one)} now"
    print(said + (delivery if one.delivery_id else ""))
    return 0


def _cancel(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb

    task = call("CancelTask", pb.CancelTaskRequest(id=args.id)).task
    if args.json:
        output.print_json(task)
    else:
        print(f"{task.id} cancelled")
    return 0
