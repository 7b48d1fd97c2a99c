"""`schedule`, `reschedule`: notes that come due, once or again and again."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.commands import schedule_form
from orch_client.commands.arguments import as_duration, length_given, read_text
from orch_client.commands.scheduler_calls import all_is_paused, call

if TYPE_CHECKING:
    from orch.v1 import scheduler_pb2 as pb

EXAMPLES = ""  # each command has its own, which configure() sets
_EXAMPLES = {
    "schedule": """examples:
  orch-client schedule 15 "check the build"                 in 15 minutes, into this pane
  orch-client schedule 90s "look again" --to atlas:tester   in 90 seconds, to another agent
  make report | orch-client schedule 5 -                    the note from standard input
  orch-client schedule "stand-up" --at 09:00 --tz Europe/Vienna
  orch-client schedule "still on course?" --every 20m --jitter 2m --until 18:00
  orch-client schedule "weekly report" --cron "0 17 * * FRI" --dry-run

A note that begins with a dash goes last, after --.

exit status: 4 there is no such target, 6 refused as a repetition, or as too many
""",
    "reschedule": """examples:
  orch-client reschedule 3fa8 30                            in 30 minutes from now
  orch-client reschedule 3fa8 --every 1h

The jitter and the end that it had are not kept; give them anew.

exit status: 4 there is no such task, 6 it is over
""",
}
#: The words may stand between the flags; what follows "--" is taken as it is.
WORDS = True
_WITH_A_TIME = "[--tz ZONE] [--jitter DURATION] [--until TIME]"
_MODES = ("wait-idle", "turn-boundary", "immediate")
_FIRINGS = 5


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.epilog = _EXAMPLES[name]
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    schedule_form.configure(parser)
    if name == "reschedule":
        parser.usage = (
            "orch-client reschedule ID (MINUTES | --at TIME | --every DURATION | --cron EXPR)"
            f" {_WITH_A_TIME} [--json]"
        )
        parser.add_argument(
            "words",
            metavar="ID",
            nargs="*",
            help="a task's id or the beginning of it; then MINUTES (15, 0.5, or a duration: 90s),"
            " unless a flag says when",
        )
        return
    parser.usage = (
        "orch-client schedule (MINUTES NOTE | NOTE (--at TIME | --every DURATION | --cron EXPR))"
        f" {_WITH_A_TIME} [OPTIONS]"
    )
    _configure_schedule(parser)


def _configure_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        metavar="MINUTES NOTE | NOTE",
        nargs="*",
        help="in how many minutes (15, 0.5) or in what duration (90s, 2h), unless a flag says when;"
        " and the text, - to read it from standard input",
    )
    parser.add_argument(
        "--to",
        metavar="TARGET",
        default="",
        help="session:X, %%pane or role; default: the caller's pane",
    )
    parser.add_argument(
        "--catch-up", metavar="DURATION", help="how late it may fire after an outage; default: 1h"
    )
    parser.add_argument(
        "--missed",
        choices=("one", "all"),
        help="after an outage, fire one for all that were missed, or all of them; default: one",
    )
    parser.add_argument(
        "--mode",
        choices=_MODES,
        help="when the note may enter its pane; default: wait-idle",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the next firings, schedule nothing; the time is checked, the target is not",
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    return _reschedule(args) if name == "reschedule" else _schedule(args)


# ---- schedule ----


def _schedule(args: argparse.Namespace) -> int:
    minutes, given = schedule_form.split(args, "NOTE")
    schedule = schedule_form.schedule_of(args, minutes)
    catch_up = length_given(args.catch_up, "--catch-up")
    note = read_text(None if given == "-" else given, "note")
    if args.dry_run:
        return _preview(schedule, args.json)

    from orch.v1 import scheduler_pb2 as pb

    request = pb.CreateTaskRequest(
        note=note, target=args.to, request_id=os.urandom(16).hex(), schedule=schedule
    )
    if catch_up is not None:
        request.catch_up.CopyFrom(as_duration(catch_up))
    _add_choices(request, args)
    answer = call("CreateTask", request)
    _tell_of_removed(answer.removed_characters)
    if args.json:
        output.print_json(answer.task)
    else:
        print(_due(answer.task))
    return 0


def _add_choices(request: pb.CreateTaskRequest, args: argparse.Namespace) -> None:
    from orch.v1 import delivery_pb2
    from orch.v1 import scheduler_pb2 as pb

    if args.missed:
        request.missed = pb.MissedPolicy.Value(f"MISSED_POLICY_{args.missed.upper()}")
    if args.mode:
        mode = args.mode.upper().replace("-", "_")
        request.mode = delivery_pb2.DeliveryMode.Value(f"DELIVERY_MODE_{mode}")


def _tell_of_removed(count: int) -> None:
    if count:
        were = "1 control character was" if count == 1 else f"{count} control characters were"
        print(f"orch-client: {were} removed from the note.", file=sys.stderr)


def _due(task: pb.Task) -> str:
    due = output.moment(task.due_time)
    return f"{task.id}  {task.session}:{task.role}  due {due}{schedule_form.then(task.schedule)}"


# ---- reschedule ----


def _reschedule(args: argparse.Namespace) -> int:
    from orch_client.commands import task_words

    minutes, given = schedule_form.split(args, "ID")
    task_words.check_id(given)
    schedule = schedule_form.schedule_of(args, minutes)

    from orch.v1 import scheduler_pb2 as pb

    request = pb.UpdateTaskRequest(id=given, schedule=schedule)
    if args.json:
        output.print_json(call("UpdateTask", request).task)
        return 0
    before = call("GetTask", pb.GetTaskRequest(id=given)).task
    all_paused = all_is_paused()
    task = call("UpdateTask", request).task
    lost = schedule_form.lost(before.schedule, task.schedule)
    print(f"{_due(task)}{lost}{task_words.but_paused(task, all_paused)}")
    return 0


# ---- schedule --dry-run ----


def _preview(schedule: pb.Schedule, as_json: bool) -> int:
    from orch.v1 import scheduler_pb2 as pb

    request = pb.PreviewScheduleRequest(schedule=schedule, count=_FIRINGS)
    answer = call("PreviewSchedule", request)
    if as_json:
        output.print_json(answer)
        return 0
    by_the_wall = schedule.WhichOneof("form") in ("at", "cron") or schedule.until
    _print_firings(answer, answer.time_zone if by_the_wall else "")
    is_jittered = schedule.jitter.seconds or schedule.jitter.nanos
    if is_jittered and answer.nominal_times:
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
