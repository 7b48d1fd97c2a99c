"""Structured logs: one line of key=value for each event, on standard error."""

from __future__ import annotations

import json
import logging
import sys

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "taskName"}


class LineFormatter(logging.Formatter):
    """time level event key=value …; values with blanks are quoted as in JSON, with
    printable characters as they are."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        parts = [self.formatTime(record), record.levelname.lower(), record.getMessage()]
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                parts.append(f"{key}={_quoted(value)}")
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: str) -> None:
    """Sends the logs of the whole process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("peewee").setLevel(logging.WARNING)
    logging.getLogger("libtmux").setLevel(logging.WARNING)


def _quoted(value: object) -> str:
    text = str(value)
    if text.isprintable() and " " not in text and text:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)
