"""Lines of styled text for a terminal, measured in its cells. Knows no terminal itself."""

from __future__ import annotations

import unicodedata
from typing import TypeAlias

#: Text in the style of STYLES with this name; "" for none.
Span: TypeAlias = tuple[str, str]
Line: TypeAlias = list[Span]

#: SGR parameters.
STYLES = {
    "title": "1",
    "good": "32",
    "calm": "36",
    "new": "34",
    "warn": "1;33",
    "limit": "1;35",
    "bad": "1;31",
    "quiet": "2",
}
GAP = "  "


def cut(lines: list[Line], width: int, height: int) -> list[Line]:
    """At most `height` lines, the last of which says when there are more."""
    if len(lines) <= max(height, 2):
        return lines
    kept = max(height, 2) - 1
    more = f"… {len(lines) - kept} more lines; all of it: orch-client status | less"
    return [*lines[:kept], clip([("warn", more)], width)]


def plain(line: Line) -> str:
    """The line without colours."""
    return "".join(text for _, text in line).rstrip()


def ansi(line: Line) -> str:
    """The line with colours."""
    return "".join(f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style else text for style, text in line)


def cells(text: str) -> int:
    """How many cells of a terminal the text takes, rather too many than too few."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def width_of(line: Line) -> int:
    """How many cells the line takes."""
    return sum(cells(text) for _, text in line)


def padded(span: Span, width: int) -> Span:
    """The span with spaces after it, up to so many cells."""
    style, text = span
    return style, text + " " * (width - cells(text))


def spaced(spans: list[Span], gap: str = GAP) -> Line:
    """The spans with gaps between them."""
    line: Line = spans[:1]
    for span in spans[1:]:
        line += [("", gap), span]
    return line


def clip(line: Line, width: int | None) -> Line:
    """The line cut to so many cells, with "…" at the end where it was."""
    if width is None or width_of(line) <= width:
        return line
    kept: Line = []
    left = width - 1
    for style, text in line:
        fits = _beginning(text, left)
        kept.append((style, fits))
        left -= cells(fits)
        if fits != text:
            break
    return [*kept, ("", "…")]


def flow(items: list[Line], width: int | None, gap: str = GAP) -> list[Line]:
    """The items one after the other, on as many lines as they need; later lines are indented."""
    lines: list[Line] = []
    used = 0
    for item in items:
        wide = width_of(item)
        if lines and (width is None or used + len(gap) + wide <= width):
            lines[-1] += [("", gap), *item]
            used += len(gap) + wide
        else:
            indent = "  " if lines else ""
            lines.append([("", indent), *item])
            used = len(indent) + wide
    return lines


def grid(items: list[Line], width: int | None) -> list[Line]:
    """The items in columns of one width, row by row."""
    if width is None or not items:
        return items
    column = min(width, max(map(width_of, items)))
    across = max(1, (width + len(GAP)) // (column + len(GAP)))
    rows = (items[start : start + across] for start in range(0, len(items), across))
    return [_row(row, column) for row in rows]


def _beginning(text: str, width: int) -> str:
    """As much of the text as fits."""
    if text.isascii():
        return text[:width]
    used = 0
    for place, character in enumerate(text):
        used += _cell(character)
        if used > width:
            return text[:place]
    return text


def _cell(character: str) -> int:
    if character == "\ufe0f":  # makes an emoji of what may have been narrow
        return 1
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _row(items: list[Line], column: int) -> Line:
    line: Line = []
    for item in items:
        line += [*item, ("", " " * (column - width_of(item)) + GAP)]
    return line[:-1]
