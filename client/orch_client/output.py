"""What people read: tables, times, and JSON as the API returns it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp


def print_json(message: Message) -> None:
    """One message, in protobuf's JSON form with the field names of the .proto files."""
    print(_json(message))


def print_json_list(messages: Iterable[Message]) -> None:
    """An array of messages."""
    print("[" + ",\n".join(_json(message) for message in messages) + "]")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Rows under a head, in columns; `empty` when there are none."""
    if not rows:
        print(empty)
        return
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join(cells).rstrip())


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Name and value, a line each; fields without a value are left out."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name.ljust(width)}  {value}")


def word(enum_name: str, prefix: str) -> str:
    """A value of the API's enum as people write it."""
    return enum_name.removeprefix(prefix).lower().replace("_", "-")


def one_line(text: str, limit: int = 60) -> str:
    """Text of others on one line, without control characters."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    flat = " ".join(flat.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def plain(text: str) -> str:
    """Text of others over several lines, without control characters but newline and tab."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def to_the_millisecond(at: Timestamp) -> str:
    """A time as local time, such as "2026-11-20 12:00:01.250"."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at.seconds))
    return f"{shown}.{at.nanos // 1_000_000:03d}"


def moment(at: Timestamp) -> str:
    """A time as local time, and how far it is from now; "" when not set."""
    if not at.seconds:
        return ""
    now = time.time()  # noqa: TID251 - only shown to people
    return f"{clock(at)} ({apart(at.seconds + at.nanos / 1e9 - now)})"


def clock(at: Timestamp) -> str:
    """A time as local time, with its date when that is not today; "" when not set."""
    if not at.seconds:
        return ""
    local = time.localtime(at.seconds)
    same_day = time.localtime()[:3] == local[:3]
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", local)


def time_of_day() -> str:
    """Now, such as "12:00:01"."""
    return time.strftime("%H:%M:%S")


def apart(seconds: float) -> str:
    """ "in 5m" or "12s ago"."""
    size = abs(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if size >= 2 * length:
            text = f"{size / length:.0f}{unit}"
            break
    else:
        text = f"{size:.0f}s"
    return f"in {text}" if seconds > 0 else f"{text} ago"


def _json(message: Message) -> str:
    from google.protobuf import json_format

    return json_format.MessageToJson(message, preserving_proto_field_name=True)
