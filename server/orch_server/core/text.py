"""What text may be: the rules for notes, actions, names and roles."""

from __future__ import annotations

import re

from orch_server.core.errors import InvalidInput

MAX_TEXT_BYTES = 256 * 1024
MAX_ACTION_BYTES = 16 * 1024
MAX_REPLY_BYTES = 64 * 1024
MAX_NAME_LENGTH = 200

# Control characters but newline and tab: C0, DEL and C1. ESC would let text end a bracketed paste.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ROLE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")


def clean_text(field: str, text: str, max_bytes: int = MAX_TEXT_BYTES) -> tuple[str, int]:
    """Returns the text as it will be delivered, and how many control characters were removed.

    CR LF becomes LF, and so does a lone CR. Raises InvalidInput when nothing printable is left or
    the text is larger than `max_bytes` of UTF-8.
    """
    size = len(text.encode())
    if size > max_bytes:
        raise InvalidInput(
            field,
            f"The {field} has {size:,} bytes, but at most {max_bytes:,} are allowed; shorten it or"
            " put it in a file and send the file's name.",
        )
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    cleaned, removed = _CONTROL.subn("", unified)
    if not cleaned.strip():
        raise InvalidInput(
            field, f"The {field} is empty; give it at least one printable character."
        )
    return cleaned, removed


def clean_reply(text: str) -> str:
    """What a screen said, without control characters, cut to the first 64 KiB of UTF-8."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    cut = _CONTROL.sub("", unified).encode()[:MAX_REPLY_BYTES]
    return cut.decode(errors="ignore")


def check_role(field: str, role: str) -> str:
    """Returns the role in its one spelling: lower case, blanks as underscores."""
    spelled = role.strip().lower().replace(" ", "_")
    if not _ROLE.match(spelled):
        raise InvalidInput(
            field,
            f"'{printable(role)}' is no role; use 1 to 64 of a-z, 0-9, '_' and '-', beginning with"
            " a letter or digit.",
        )
    return spelled


def check_name(field: str, name: str) -> str:
    """Checks the name of a session: what tmux allows, without control characters."""
    if (
        not name
        or len(name) > MAX_NAME_LENGTH
        or _CONTROL.search(name)
        or re.search(r"[:\n\t]", name)
    ):
        raise InvalidInput(
            field,
            f"'{printable(name)}' is no session name; use 1 to {MAX_NAME_LENGTH} characters without"
            " ':' and without control characters.",
        )
    return name


def printable(text: str, limit: int = 80) -> str:
    """The text shortened and made safe for one line of an error or a log."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def one_line(text: str, limit: int = 60) -> str:
    """The text on one line, for a table or an event."""
    return printable(" ".join(text.split()), limit)
