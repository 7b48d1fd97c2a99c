"""When a note comes due: from the arguments of `schedule` and `reschedule`, and in words.

Syntax is read here, which flags go together, and that MINUTES are no more than a year; the server
judges all other ranges, and what times, zones and cron expressions mean.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.commands.arguments import as_duration, length_given, seconds_of
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from orch.v1 import scheduler_pb2 as pb

_YEAR_MINUTES = 366 * 24 * 60
_FORMS = ("at", "every", "cron")
_WHEN = "MINUTES, --at TIME, --every DURATION or --cron EXPR"
_UNITS = (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000))


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say when."""
    parser.add_argument("--at", metavar="TIME", help="once: 09:00, or 2026-11-22T09:00")
    parser.add_argument(
        "--every",
        metavar="DURATION",
        help="again and again: 20m, 2h, 1d; a bare number is minutes",
    )
    parser.add_argument(
        "--cron", metavar="EXPR", help='again and again: five fields as in "0 17 * * FRI"; @daily'
    )
    parser.add_argument(
        "--tz",
        metavar="ZONE",
        help="the zone in which --at, --cron and --until are meant, such as Europe/Vienna;"
        " default: the terminal's",
    )
    parser.add_argument(
        "--jitter",
        metavar="DURATION",
        help="with --every or --cron: each is later by up to so much, at random",
    )
    parser.add_argument(
        "--until", metavar="TIME", help="with --every or --cron: none comes after this time"
    )


def split(args: argparse.Namespace, word: str) -> tuple[str | None, str]:
    """MINUTES, None when a flag says when, and the other word, whose name is `word`.

    Raises ClientError when not exactly one of them says when.
    """
    given = [f"--{name}" for name in _FORMS if getattr(args, name) is not None]
    quoted = ", in quotes" if word == "NOTE" else ""
    if len(given) > 1:
        raise ClientError(f"{' and '.join(given)} exclude each other; give one of them.", USAGE)
    match args.words:
        case [only] if given:
            return None, only
        case [first, second] if not given:
            return (first, second) if word == "NOTE" else (second, first)
        case [_]:
            raise ClientError(f"say when: {_WHEN}.", USAGE)
        case [_, _]:
            raise ClientError(
                f"MINUTES and {given[0]} exclude each other; with {given[0]} give {word}"
                f" alone{quoted}.",
                USAGE,
            )
    raise ClientError(f"give one {word}{quoted}, and say when: {_WHEN}.", USAGE)


def schedule_of(args: argparse.Namespace, minutes: str | None) -> pb.Schedule:
    """The schedule as the API has it. Raises ClientError for what is none."""
    _check_company(args, minutes)
    delay = None if minutes is None else _seconds(minutes)
    every = length_given(args.every, "--every")
    jitter = length_given(args.jitter, "--jitter")

    from orch.v1 import scheduler_pb2 as pb

    schedule = pb.Schedule(at=args.at, cron=args.cron, until=args.until, time_zone=_zone(args))
    if delay is not None:
        schedule.delay.CopyFrom(as_duration(delay))
    if every is not None:
        schedule.every.CopyFrom(as_duration(every))
    if jitter is not None:
        schedule.jitter.CopyFrom(as_duration(jitter))
    return schedule


def _check_company(args: argparse.Namespace, minutes: str | None) -> None:
    """Raises ClientError for a flag that does not go with the form, or says nothing."""
    repeats = args.every is not None or args.cron is not None
    for flag, value in (("--jitter", args.jitter), ("--until", args.until)):
        if value is not None and not repeats:
            raise ClientError(f"{flag} goes with --every or --cron.", USAGE)
    for flag, value in (("--tz", args.tz), ("--until", args.until)):
        if value is not None and not value.strip():
            raise ClientError(f"{flag} is empty; leave it out, or give it a value.", USAGE)
    if args.tz is not None and not _goes_by_the_wall(args):
        raise ClientError("--tz goes with --at, --cron or --until.", USAGE)


def _goes_by_the_wall(args: argparse.Namespace) -> bool:
    return any(given is not None for given in (args.at, args.cron, args.until))


def _zone(args: argparse.Namespace) -> str:
    if args.tz is not None:
        return str(args.tz)
    if not _goes_by_the_wall(args):
        return ""
    from orch_client.commands.times import nameless_zone, terminal_zone

    zone = terminal_zone()
    if nameless := nameless_zone():
        print(
            f"orch-client: TZ is '{output.one_line(nameless)}', which is no zone's name;"
            f" {zone or 'the zone of the server'} counts instead (--tz names another).",
            file=sys.stderr,
        )
    return zone


def _seconds(minutes: str) -> float:
    value = seconds_of(minutes)
    if not 0 <= value <= _YEAR_MINUTES * 60:
        raise ClientError(
            f"MINUTES is '{output.one_line(minutes)}'; use a number from 0 to {_YEAR_MINUTES:,}"
            " (366 days), such as 15 or 0.5, or a duration such as 90s, 15m or 2h.",
            USAGE,
        )
    return value


# ---- in words ----


def in_words(schedule: pb.Schedule) -> str:
    """ "once", "every 20m" or 'cron "0 17 * * FRI" Europe/Vienna'."""
    match schedule.WhichOneof("form"):
        case "every":
            return f"every {length(schedule.every)}"
        case "cron":
            return f"cron {_quoted(schedule.cron)} {_zone_of(schedule)}".rstrip()
    return "once"


def then(schedule: pb.Schedule) -> str:
    """What comes after the first time, as the end of a sentence; "" for nothing."""
    match schedule.WhichOneof("form"):
        case "every":
            return f", then every {length(schedule.every)}{_end_and_jitter(schedule)}"
        case "cron":
            zone = _zone_of(schedule)
            by = f", then by {_quoted(schedule.cron)}" + (f" ({zone})" if zone else "")
            return f"{by}{_end_and_jitter(schedule)}"
    return ""


def _end_and_jitter(schedule: pb.Schedule) -> str:
    said = ""
    if schedule.until:
        from orch_client.commands.times import in_both

        said = f", until {in_both(schedule, output.clock)}"
    return said + (f", jitter {length(schedule.jitter)}" if schedule.HasField("jitter") else "")


def lost(before: pb.Schedule, after: pb.Schedule) -> str:
    """What the schedule before had and this one has not, as the end of a sentence."""
    gone = ["the end"] if before.until and not after.until else []
    if before.HasField("jitter") and not after.HasField("jitter"):
        gone.append("the jitter")
    return f", without {' and '.join(gone)} it had" if gone else ""


def length(duration: Duration) -> str:
    """A duration as it would be typed, such as "20m"."""
    size = duration.seconds * 1_000_000 + duration.nanos // 1000
    for unit, of in _UNITS:
        if size and size % of == 0:
            return f"{size // of}{unit}"
    return f"{size / 1_000_000:.6f}".rstrip("0").rstrip(".") + "s"


def _quoted(cron: str) -> str:
    return f'"{output.one_line(cron)}"'


def _zone_of(schedule: pb.Schedule) -> str:
    return output.one_line(schedule.time_zone)
