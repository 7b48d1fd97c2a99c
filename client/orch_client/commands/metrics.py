"""`metrics`: the figures by which a team is steered, beside their targets."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.commands.arguments import seconds_of
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from orch.v1 import metrics_pb2 as pb

EXAMPLES = """examples:
  orch-client metrics                               of the last day, all sessions together
  orch-client metrics --since 7d --session atlas
  orch-client metrics --since 07:00                 since it was last so late
  orch-client metrics --since 2026-11-01 --period day --json
"""
_HEAD = ("FIGURE", "VALUE", "TARGET", "", "SAMPLES", "COURSE")
_BARS = "▁▂▃▄▅▆▇█"
_UNKNOWN = "·"
_FEWEST = 8  # with less room for it the course is left out
_GAP = "  "
_COLOURS = {"reached": "32", "missed": "1;31"}


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--since", metavar="TIME", default="1d", help="a duration such as 7d, or a time; default 1d"
    )
    parser.add_argument("--session", default="", help="only of this session")
    parser.add_argument(
        "--period",
        choices=("hour", "day"),
        help="the steps of the course; default: hours up to two days, days beyond",
    )
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    from orch.v1 import metrics_pb2 as pb
    from orch.v1 import metrics_pb2_grpc
    from orch_client import channel

    request = pb.GetMetricsRequest(since=_since(args.since), session=args.session)
    if args.period:
        request.period = pb.MetricPeriod.Value(f"METRIC_PERIOD_{args.period.upper()}")
    with channel.connected() as (grpc_channel, metadata):
        stub = metrics_pb2_grpc.MetricsServiceStub(grpc_channel)
        found = stub.GetMetrics(request, timeout=channel.DEADLINE, metadata=metadata)
    if args.json:
        output.print_json(found)
        return 0
    print(f"from {output.clock(found.begin_time)} to {output.clock(found.end_time)}\n")
    for line in _lines(found.metrics, shutil.get_terminal_size().columns, _is_coloured()):
        print(line)
    for number, note in enumerate(found.notes):
        print("\n" * (number == 0) + output.one_line(note, 500))
    return 0


def _since(given: str) -> Timestamp:
    """So long ago, "07:00" (the last time that it was so late), or a date with or without a time.
    Raises ClientError."""
    from datetime import datetime

    from orch_client.commands import times

    seconds = seconds_of(given)
    try:
        if seconds > 0:
            return times.before(seconds)
        now = datetime.now().astimezone()  # noqa: TID251 - the person's own clock
        at = times.next_time(given, now)
        if at > now:
            at -= timedelta(days=1)
        return times.before((now - at).total_seconds())
    except (ValueError, OverflowError) as exc:
        raise ClientError(
            f"--since is '{output.one_line(given)}'; use a duration such as 90m or 7d, or a time"
            " such as 07:00, 2026-11-20 or 2026-11-20T07:00.",
            USAGE,
        ) from exc


# ---- what people read ----


def _lines(found: Sequence[pb.Metric], width: int, is_coloured: bool) -> Iterator[str]:
    """The table; the course of each figure as far as there is room, the newest at its end."""
    rows = [(one, _cells(one)) for one in found]
    head = _HEAD[:-1]
    columns = [
        max(len(line[i]) for line in (head, *(c for _, c in rows))) for i in range(len(head))
    ]
    room = width - sum(columns) - len(_GAP) * len(columns)
    yield _row(_HEAD if room >= _FEWEST else head, columns, is_coloured)
    for one, cells in rows:
        course = (_course([*one.points][-room:]),) if room >= _FEWEST else ()
        yield _row((*cells, *course), columns, is_coloured)


def _row(cells: Sequence[str], columns: Sequence[int], is_coloured: bool) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, columns, strict=False)]
    padded += cells[len(columns) :]
    if is_coloured and cells[3] in _COLOURS:
        padded[3] = f"\x1b[{_COLOURS[cells[3]]}m{padded[3]}\x1b[0m"
    return _GAP.join(padded).rstrip()


def _cells(one: pb.Metric) -> tuple[str, ...]:
    from orch.v1 import metrics_pb2 as pb

    target, mark = "-", ""
    if one.HasField("target"):
        sign = "<=" if one.goal == pb.METRIC_GOAL_AT_MOST else ">="
        target = f"{sign} {_amount(one.target, one.unit)}"
    if one.HasField("reached"):
        mark = "reached" if one.reached else "missed"
    value = _amount(one.value, one.unit) if one.HasField("value") else "unknown"
    name = output.one_line(one.name).replace("_", " ")
    return name, value, target, mark, str(one.samples)


def _amount(value: float, unit: str) -> str:
    """Three digits and the unit; long times in minutes."""
    if unit == "s" and value >= 120:
        value, unit = value / 60, "min"
    shown = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    rate = unit.startswith("1/")
    return f"{shown}{unit[1:]}" if rate else f"{shown} {output.one_line(unit)}"


def _course(points: Sequence[pb.MetricPoint]) -> str:
    """A bar a step, of nothing up to the greatest value; a dot where nothing is known."""
    top = max((point.value for point in points), default=0.0) or 1.0
    last = len(_BARS) - 1
    return "".join(
        _BARS[max(0, min(last, round(point.value / top * last)))]
        if point.HasField("value")
        else _UNKNOWN
        for point in points
    )


def _is_coloured() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return sys.stdout.isatty() and not plain
