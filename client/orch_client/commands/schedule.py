"""`schedule`, `tasks`, `task`, `cancel`: scheduled notes."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.commands.arguments import as_duration, read_text
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import scheduler_pb2

EXAMPLES = """examples:
  orch-client schedule 15 "check the build"                 in 15 minutes, into this pane
  orch-client schedule 0.5 "look again" --to atlas:tester   in 30 seconds, to another agent
  make report | orch-client schedule 5 -                    the note from standard input
  orch-client tasks --state pending
  orch-client cancel 3fa8
"""
_YEAR_MINUTES = 366 * 24 * 60
_STATES = ("pending", "fired", "cancelled")


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    if name == "schedule":
        parser.add_argument(
            "minutes", metavar="MINUTES", help="in how many minutes; fractions allowed"
        )
        parser.add_argument("note", metavar="NOTE", help="the text; - reads it from standard input")
        parser.add_argument("--to", metavar="TARGET", default="", help="session:X, %%pane or role")
    elif name == "tasks":
        parser.add_argument("--session", default="", help="only tasks for agents of this session")
        parser.add_argument("--state", choices=_STATES, help="only tasks in this state")
    else:
        parser.add_argument("id", metavar="ID", help="a task's id or the beginning of it")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    return {"schedule": _schedule, "tasks": _tasks, "task": _task, "cancel": _cancel}[name](args)


def _schedule(args: argparse.Namespace) -> int:
    seconds = _seconds(args.minutes)
    note = read_text(None if args.note == "-" else args.note, "note")

    from orch.v1 import scheduler_pb2, scheduler_pb2_grpc
    from orch_client import channel

    request = scheduler_pb2.CreateTaskRequest(
        note=note,
        delay=as_duration(seconds),
        target=args.to,
        request_id=os.urandom(16).hex(),
    )
    with channel.connected() as (grpc_channel, metadata):
        stub = scheduler_pb2_grpc.SchedulerServiceStub(grpc_channel)
        answer = stub.CreateTask(request, timeout=channel.DEADLINE, metadata=metadata)
    if answer.removed_characters:
        print(
            f"orch-client: {answer.removed_characters} control characters were removed"
            " from the note.",
            file=sys.stderr,
        )
    task = answer.task
    if args.json:
        output.print_json(task)
    else:
        print(f"{task.id}  {task.session}:{task.role}  due {output.moment(task.due_time)}")
    return 0


def _tasks(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2 as pb
    from orch.v1 import scheduler_pb2_grpc
    from orch_client import channel

    request = pb.ListTasksRequest(session=args.session, page_size=1000)
    if args.state:
        request.state = pb.TaskState.Value(f"TASK_STATE_{args.state.upper()}")
    tasks: list[pb.Task] = []
    with channel.connected() as (grpc_channel, metadata):
        stub = scheduler_pb2_grpc.SchedulerServiceStub(grpc_channel)
        while True:
            page = stub.ListTasks(request, timeout=channel.DEADLINE, metadata=metadata)
            tasks.extend(page.tasks)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    if args.json:
        output.print_json_list(tasks)
        return 0
    rows = [
        (
            task.id,
            f"{task.session}:{task.role}",
            output.word(pb.TaskState.Name(task.state), "TASK_STATE_"),
            output.moment(task.due_time),
            _delivery(task),
            task.creator,
            output.one_line(task.note, 40),
        )
        for task in tasks
    ]
    head = ("ID", "FOR", "STATE", "DUE", "DELIVERY", "BY", "NOTE")
    output.print_table(head, rows, "No tasks.")
    return 0


def _task(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2, scheduler_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = scheduler_pb2_grpc.SchedulerServiceStub(grpc_channel)
        request = scheduler_pb2.GetTaskRequest(id=args.id)
        task = stub.GetTask(request, timeout=channel.DEADLINE, metadata=metadata).task
    _print_task(task, args.json)
    return 0


def _cancel(args: argparse.Namespace) -> int:
    from orch.v1 import scheduler_pb2, scheduler_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = scheduler_pb2_grpc.SchedulerServiceStub(grpc_channel)
        request = scheduler_pb2.CancelTaskRequest(id=args.id)
        task = stub.CancelTask(request, timeout=channel.DEADLINE, metadata=metadata).task
    if args.json:
        output.print_json(task)
    else:
        print(f"{task.id} cancelled")
    return 0


def _print_task(task: scheduler_pb2.Task, as_json: bool) -> None:
    from orch.v1 import scheduler_pb2 as pb

    if as_json:
        output.print_json(task)
        return
    output.print_fields(
        (
            ("id", task.id),
            ("for", f"{task.session}:{task.role}"),
            ("state", output.word(pb.TaskState.Name(task.state), "TASK_STATE_")),
            ("due", output.moment(task.due_time)),
            ("by", task.creator),
            ("created", output.moment(task.create_time)),
            ("fired", output.moment(task.fire_time)),
            ("delivery", _delivery(task)),
            ("seen", task.delivery_detail),
            ("note", task.note),
        )
    )


def _delivery(task: scheduler_pb2.Task) -> str:
    from orch.v1 import delivery_pb2

    if not task.delivery_state:
        return ""
    name = delivery_pb2.DeliveryState.Name(task.delivery_state)
    return output.word(name, "DELIVERY_STATE_")


def _seconds(minutes: str) -> float:
    try:
        value = float(minutes)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _YEAR_MINUTES:
        raise ClientError(
            f"MINUTES is '{output.one_line(minutes)}'; use a number from 0 to {_YEAR_MINUTES:,}"
            " (366 days), such as 15 or 0.5.",
            USAGE,
        )
    return value * 60
