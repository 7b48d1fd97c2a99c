"""`schedule`, `reschedule`: notes that come due, once or again and again."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from orch_client import output
from orch_client.commands import schedule_form
from orch_client.commands.arguments import as_duration, length_given, read_text

if TYPE_CHECKING:
    from orch.v1 import scheduler_pb2 as pb

EXAMPLES = """examples:
  orch-client schedule 15 "check the build"                 in 15 minutes, into this pane
  orch-client schedule 0.5 "look again" --to atlas:tester   in 30 seconds, to another agent
  make report | orch-client schedule 5 -                    the note from standard input
  orch-client schedule "stand-up" --at 09:00 --tz Europe/Vienna
  orch-client schedule "still on course?" --every 20m --jitter 2m --until 18:00
  orch-client schedule "weekly report" --cron "0 17 * * FRI" --dry-run
  orch-client reschedule 3fa8 30                            in 30 minutes from now
  orch-client reschedule 3fa8 --every 1h

A note that begins with a dash goes last, after --.

exit status: 4 there is no such target or task, 6 refused as a repetition, as too many, or since the
task is over
"""
#: The words may stand between the flags; what follows "--" is taken as it is.
WORDS = True
_FORMS = "[--tz ZONE] [--jitter DURATION] [--until TIME]"
_MODES = ("wait-idle", "turn-boundary", "immediate")
_FIRINGS = 5


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    schedule_form.configure(parser)
    if name == "reschedule":
        parser.usage = (
            "orch-client reschedule ID (MINUTES | --at TIME | --every DURATION | --cron EXPR)"
            f" {_FORMS} [--json]"
        )
        parser.add_argument(
            "words",
            metavar="ID",
            nargs="*",
            help="a task's id or the beginning of it; then MINUTES, unless a flag says when",
        )
        return
    parser.usage = (
        "orch-client schedule (MINUTES NOTE | NOTE (--at TIME | --every DURATION | --cron EXPR))"
        f" {_FORMS} [OPTIONS]"
    )
    parser.add_argument(
        "words",
        metavar="MINUTES NOTE | NOTE",
        nargs="*",
        help="in how many minutes, fractions allowed, unless a flag says when; and the text, - to"
        " read it from standard input",
    )
    parser.add_argument("--to", metavar="TARGET", default="", help="session:X, %%pane or role")
    parser.add_argument(
        "--catch-up", metavar="DURATION", help="how late it may fire after an outage; default: 1h"
    )
    parser.add_argument(
        "--missed", choices=("one", "all"), help="of those missed meanwhile; default: one"
    )
    parser.add_argument("--mode", choices=_MODES, help="when it may enter; default: wait-idle")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the next firings, schedule nothing"
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    if name == "reschedule":
        return _reschedule(args)
    minutes, note = schedule_form.split(args, "NOTE")
    schedule = schedule_form.schedule_of(args, minutes)
    catch_up = length_given(args.catch_up, "--catch-up")
    if args.dry_run:
        return _preview(schedule, args.json)

    from orch.v1 import scheduler_pb2 as pb

    request = pb.CreateTaskRequest(
        note=read_text(None if note == "-" else note, "note"),
        target=args.to,
        request_id=os.urandom(16).hex(),
    )
    if minutes is None:
        request.schedule.CopyFrom(schedule)
    else:
        request.delay.CopyFrom(schedule.delay)
    if catch_up is not None:
        request.catch_up.CopyFrom(as_duration(catch_up))
    _add_choices(request, args)
    return _create(request, args.json)


def _add_choices(request: pb.CreateTaskRequest, args: argparse.Namespace) -> None:
    from orch.v1 import delivery_pb2
    from orch.v1 import scheduler_pb2 as pb

    if args.missed:
        request.missed = pb.MissedPolicy.Value(f"MISSED_POLICY_{args.missed.upper()}")
    if args.mode:
        mode = args.mode.upper().replace("-", "_")
        request.mode = delivery_pb2.DeliveryMode.Value(f"DELIVERY_MODE_{mode}")


def _create(request: pb.CreateTaskRequest, as_json: bool) -> int:
    answer = call("CreateTask", request)
    if answer.removed_characters:
        print(
            f"orch-client: {answer.removed_characters} control characters were removed"
            " from the note.",
            file=sys.stderr,
        )
    _print_due(answer.task, as_json)
    return 0


def _reschedule(args: argparse.Namespace) -> int:
    minutes, given = schedule_form.split(args, "ID")
    schedule = schedule_form.schedule_of(args, minutes)

    from orch.v1 import scheduler_pb2 as pb

    request = pb.UpdateTaskRequest(id=given, schedule=schedule)
    _print_due(call("UpdateTask", request).task, args.json)
    return 0


def _print_due(task: pb.Task, as_json: bool) -> None:
    if as_json:
        output.print_json(task)
        return
    then = schedule_form.then(task.schedule)
    paused = ", but paused" if task.paused_by else ""
    due = output.moment(task.due_time)
    print(f"{task.id}  {task.session}:{task.role}  due {due}{then}{paused}")


# ---- --dry-run ----


def _preview(schedule: pb.Schedule, as_json: bool) -> int:
    from orch.v1 import scheduler_pb2 as pb

    request = pb.PreviewScheduleRequest(schedule=schedule, count=_FIRINGS)
    answer = call("PreviewSchedule", request)
    if as_json:
        output.print_json(answer)
        return 0
    by_the_wall = schedule.WhichOneof("form") in ("at", "cron") or schedule.until
    _print_firings(answer, answer.time_zone if by_the_wall else "")
    if schedule.HasField("jitter") and answer.nominal_times:
        print(f"Each is later by up to {schedule_form.length(schedule.jitter)}, at random.")
    return 0


def _print_firings(answer: pb.PreviewScheduleResponse, zone: str) -> None:
    from orch_client.commands.times import elsewhere

    rows = [[output.moment(at)] for at in answer.nominal_times]
    head = ["FIRES"]
    there = elsewhere(answer.nominal_times, zone)
    if there:
        head.append(f"IN {output.one_line(zone)}")
        rows = [[*row, shown] for row, shown in zip(rows, there, strict=True)]
    output.print_table(head, rows, "It would never fire.")


# ---- calls ----


def call(method: str, request: Any) -> Any:
    """Calls the scheduler."""
    from orch.v1 import scheduler_pb2_grpc
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = scheduler_pb2_grpc.SchedulerServiceStub(grpc_channel)
        return getattr(stub, method)(request, timeout=channel.DEADLINE, metadata=metadata)
