"""What the fake agent's screen looks like: the marks of Claude Code, drawn into as many rows as
there are. Standard library only, and nothing of the product."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

_DIM, _INVERSE, _PLAIN = "\x1b[2m", "\x1b[7m", "\x1b[0m"
_GREY, _RULE, _SPIN = "\x1b[38;5;246m", "\x1b[38;5;244m", "\x1b[38;5;174m"
_DIALOG = (
    " Bash command",
    "",
    "   touch the-file",
    "   Create the file",
    "",
    " Do you want to proceed?",
    " ❯ 1. Yes",
    "   2. Yes, and don't ask again for: touch *",
    "   3. No",
    "",
    " Esc to cancel · Tab to amend · ctrl+e to explain",
)
_OTHER_ROWS = 8  # what stands around a draft


@dataclass
class View:
    """What there is to draw. `draft` is what the composer shows; `spinner` "" when idle."""

    transcript: list[str] = field(default_factory=list)
    spinner: str = ""
    queue: list[str] = field(default_factory=list)
    draft: str = ""
    dialog: bool = False


def frame(view: View, width: int, height: int) -> str:
    """The escapes that draw the whole screen and leave the cursor where a person would type."""
    bottom, cursor = _dialog(width) if view.dialog else _composed(view, width, height)
    bottom = bottom[-height:]
    room = height - len(bottom)
    above = view.transcript[-room:] if room > 0 else []
    rows = [cut(row, width) for row in above] + bottom
    shown = "\r\n".join(f"{row}\x1b[K" for row in rows)
    x, y = cursor[0], len(rows) - 1 - cursor[1]
    return f"\x1b[H{shown}\x1b[J\x1b[{y + 1};{x + 1}H"


def wrap(text: str, width: int) -> list[str]:
    """The text in rows of at most `width` cells."""
    rows = []
    for line in text.split("\n"):
        row, cells = "", 0
        for char in line.expandtabs(4):
            size = _cells(char)
            if cells + size > width:
                rows.append(row)
                row, cells = "", 0
            row, cells = row + char, cells + size
        rows.append(row)
    return rows


def cut(text: str, width: int) -> str:
    """As much of one plain line as there is room for."""
    return wrap(text, width)[0] if text else ""


def _dialog(width: int) -> tuple[list[str], tuple[int, int]]:
    rows = ["\x1b[38;5;153m" + "─" * width + _PLAIN]
    rows += [cut(row, width) for row in _DIALOG]
    at = next(n for n, row in enumerate(_DIALOG) if "❯" in row)
    return rows, (1, len(_DIALOG) - 1 - at)


def _composed(view: View, width: int, height: int) -> tuple[list[str], tuple[int, int]]:
    """Spinner, queue, composer, footer; the cursor as (column, rows above the last)."""
    rows = [""]
    if view.spinner:
        rows += [_SPIN + cut(view.spinner, width) + _PLAIN, ""]
    for text in view.queue:
        lines = wrap(text, width - 4)[: max(1, height // 4)]
        rows += [("  ❯ " if n == 0 else "    ") + line for n, line in enumerate(lines)]
    draft = wrap(view.draft, width - 3)[-max(1, height - _OTHER_ROWS) :]
    rule = _RULE + "─" * width + _PLAIN
    rows.append(rule)
    mark = f"{_GREY}❯{_PLAIN}" if view.spinner else "❯"
    if not view.draft and view.queue:
        hint = "Press up to edit queued messages"
        rows.append(f"{mark}\xa0{_INVERSE}{hint[0]}{_PLAIN}{_DIM}{hint[1:]}{_PLAIN}")
        column = 2
    else:
        lines = [(f"{mark}\xa0" if n == 0 else "  ") + line for n, line in enumerate(draft)]
        rows += [*lines[:-1], f"{lines[-1]}{_INVERSE} {_PLAIN}"]
        column = 2 + sum(map(_cells, draft[-1]))
    hint = (
        "  esc to interrupt · ← for agents" if view.spinner else "  ? for shortcuts · ← for agents"
    )
    rows += [rule, "" if view.draft and not view.spinner else cut(hint, width)]
    return rows, (column, 2)


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
