"""What several commands read alike: texts and durations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_YEAR_SECONDS = 366 * 86400
#: The longest that a message can hold, 10,000 years.
_LONGEST_SECONDS = 315_576_000_000
_MAX_TEXT_BYTES = 256 * 1024
#: More is not read: the server takes less, and says so itself up to here.
_MAX_INPUT_BYTES = 1024 * 1024


def read_text(given: str | None, what: str, most: int = _MAX_TEXT_BYTES) -> str:
    """The text as given, or standard input for None. Raises ClientError when it is empty, far too
    large or no UTF-8; `what` names it, `most` is how many bytes the server takes."""
    text = _standard_input(what, most) if given is None else given
    if not text.strip():
        raise ClientError(f"the {what} is empty; give it some text.", USAGE)
    return text


def _standard_input(what: str, most: int) -> str:
    data = sys.stdin.buffer.read(_MAX_INPUT_BYTES + 1)
    if len(data) > _MAX_INPUT_BYTES:
        raise ClientError(
            f"the {what} from standard input has more than {_MAX_INPUT_BYTES:,} bytes, but at most"
            f" {most:,} are allowed.",
            USAGE,
        )
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise ClientError(
            f"the {what} from standard input is not valid UTF-8 at byte offset {exc.start}.", USAGE
        ) from exc


def parse_duration(text: str) -> float:
    """ "90s", "5m", "1h", "1d" or bare minutes, in seconds. Raises ClientError."""
    seconds = seconds_of(text)
    if not 0 < seconds <= _YEAR_SECONDS:
        raise ClientError(
            f"'{output.one_line(text)}' is no duration; use 90s, 15m, 2h or 1d.", USAGE
        )
    return seconds


def length_given(text: str | None, flag: str) -> float | None:
    """A duration that the server judges, from 0 on, in seconds; None for none. Raises ClientError
    that names the flag when it is no duration at all."""
    if text is None:
        return None
    seconds = seconds_of(text)
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise ClientError(
            f"{flag} is '{output.one_line(text)}'; use a duration such as 90s, 15m, 2h or 1d.",
            USAGE,
        )
    return seconds


def seconds_of(text: str) -> float:
    """A duration or bare minutes, in seconds; -1 for what is neither."""
    number, unit = (text[:-1], text[-1]) if text and text[-1] in _UNITS else (text, "m")
    try:
        return float(number) * _UNITS[unit]
    except ValueError:
        return -1.0


def as_duration(seconds: float) -> Duration:
    """Seconds as the API has them, exact to the microsecond."""
    from google.protobuf.duration_pb2 import Duration

    whole, part = divmod(round(seconds * 1_000_000), 1_000_000)
    return Duration(seconds=whole, nanos=part * 1000)
