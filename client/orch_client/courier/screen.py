"""Reads an agent's screen by the rules of its kind: what it does, and what stands in its composer.

Only the bottom of the screen counts, never what has scrolled by. Dim text in the composer is a
placeholder, not a draft. What no rule knows is "unknown", which is a state of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from orch_client.courier.kinds import Composer, Kind, Rule

IDLE, WORKING, UNKNOWN = "idle", "working", "unknown"
#: In these states no composer takes text, whatever looks like one.
_HIDING = frozenset({"waiting_permission", "waiting_question", UNKNOWN})
_ESCAPE = re.compile(r"\x1b(?:\[([0-9;:]*)([A-Za-z])|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")
_ENOUGH = 20  # letters of a text's end
_EXTENDED = ("38", "48", "58")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a screen; `bright` is the same with blanks for what is dim."""

    text: str
    bright: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a screen shows: the state, the rule that told it, and the composer's text ("" when it is
    empty, None when there is no composer)."""

    state: str
    rule: str
    draft: str | None


@dataclass(frozen=True, slots=True)
class _Style:
    dim: bool = False
    inverse: bool = False

    @property
    def mark(self) -> str:
        return "d" if self.dim else "i" if self.inverse else " "


def parse(captured: str) -> list[Line]:
    """The lines of `capture-pane -p -e`, without colours and without blank lines at the end."""
    lines = []
    style = _Style()
    for raw in captured.split("\n"):
        line, style = _parse_line(raw, style)
        lines.append(line)
    while lines and not lines[-1].text.strip():
        lines.pop()
    return lines


def read(kind: Kind, lines: list[Line]) -> Reading:
    """What the screen says."""
    draft = None if kind.composer is None else draft_in(kind.composer, lines)
    for rule in kind.rules:
        if _matches(rule, kind, lines):
            hidden = rule.state in _HIDING
            return Reading(rule.state, rule.id, None if hidden else draft)
    if draft is None:
        return Reading(UNKNOWN, "", None)
    return Reading(IDLE, "composer", draft)


def draft_in(composer: Composer, lines: list[Line]) -> str | None:
    """The text in the composer; None when there is none on the screen."""
    top = composer_top(composer, lines)
    if top is None:
        return None
    bottom = _composer_end(composer, lines, top)
    match = composer.first.match(lines[top].text)
    assert match is not None
    start = match.start(1)
    rows = [_bright(composer, lines[top], start)]
    rows += [_bright(composer, line, 0) for line in lines[top + 1 : bottom]]
    while rows and not rows[-1].strip():
        rows.pop()
    return _dedented(rows, start)


def composer_top(composer: Composer, lines: list[Line]) -> int | None:
    """The index of the composer's first line: the lowest that can be it."""
    for at in range(len(lines) - 1, -1, -1):
        if composer.first.match(lines[at].text) and (
            composer.above is None or (at > 0 and composer.above.match(lines[at - 1].text))
        ):
            return at
    return None


def landed(kind: Kind, draft: str | None, text: str) -> bool:
    """Whether the composer's draft is this text, or so much of its end as the composer shows: one
    that is too small for a text shows where the cursor is."""
    if not draft or kind.composer is None:
        return False
    seen, meant = essence(draft), essence(text)
    if not meant:  # signs and pictures, which terminals draw as they like
        return not seen
    if seen == meant or (len(seen) >= _ENOUGH and meant.endswith(seen)):
        return True
    collapsed = kind.composer.collapsed
    return (
        collapsed is not None
        and collapsed.search(draft) is not None
        and essence(collapsed.sub("", draft)) in meant
    )


def echoed(kind: Kind, lines: list[Line], text: str) -> bool:
    """Whether the text, or its beginning or end, stands above the composer. One without letters
    and digits cannot be told from others, and passes."""
    meant = essence(text)
    top = None if kind.composer is None else composer_top(kind.composer, lines)
    above = [essence(line.text) for line in lines[:top]]
    if len(meant) < _ENOUGH:
        rows = [essence(row) for row in text.split("\n")]
        return not meant or any(row and row in above for row in rows)
    whole = "".join(above)
    return meant[:_ENOUGH] in whole or meant[-_ENOUGH:] in whole


def same_draft(one: str | None, other: str | None) -> bool:
    """Whether two readings of a composer are the same but for where their lines are broken."""
    if one is None or other is None:
        return one is other
    return one.split() == other.split()


def essence(text: str) -> str:
    """What is left of a text however it is wrapped and drawn: its letters and digits."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if c.isalnum())


def _matches(rule: Rule, kind: Kind, lines: list[Line]) -> bool:
    if rule.where != "screen" and kind.composer is not None:
        top = composer_top(kind.composer, lines)
        if rule.where == "instead" and top is not None:
            return False
        if rule.where == "below" and top is not None:
            lines = lines[_composer_end(kind.composer, lines, top) :]
    return any(
        rule.pattern.search(line.text)
        for line in _bottom(lines, rule.lines)
        if rule.quoted or kind.skip is None or not kind.skip.match(line.text)
    )


def _bottom(lines: list[Line], count: int) -> Iterator[Line]:
    """The last lines that hold something."""
    held = [line for line in lines if line.text.strip()]
    yield from held[-count:]


def _composer_end(composer: Composer, lines: list[Line], top: int) -> int:
    if composer.end is not None:
        for at in range(top + 1, len(lines)):
            if composer.end.match(lines[at].text):
                return at
        return len(lines)
    blank = [at for at in range(top + 1, len(lines)) if not lines[at].text.strip()]
    return blank[-1] if blank else len(lines)


def _bright(composer: Composer, line: Line, start: int) -> str:
    text = line.bright[start:]
    if composer.placeholder is not None and composer.placeholder.match(text.strip()):
        return ""
    return text


def _dedented(rows: list[str], indent: int) -> str:
    """The rows without the composer's margin and without blanks at their ends."""
    first, rest = rows[:1], rows[1:]
    cut = [row[indent:] if not row[:indent].strip() else row.lstrip() for row in rest]
    return "\n".join(row.rstrip() for row in first + cut)


def _parse_line(raw: str, style: _Style) -> tuple[Line, _Style]:
    text, marks, at = "", "", 0
    for match in _ESCAPE.finditer(raw):
        part = raw[at : match.start()]
        text, marks = text + part, marks + style.mark * len(part)
        if match[2] == "m":
            style = _style_after(match[1], style)
        at = match.end()
    part = raw[at:]
    text, marks = text + part, marks + style.mark * len(part)
    # The cursor's cell is drawn inverse; the first letter of a placeholder may lie under it.
    marks = re.sub("i+(?=d)", lambda run: "d" * len(run[0]), marks)
    bright = "".join(" " if mark == "d" else c for c, mark in zip(text, marks, strict=True))
    return Line(_plain(text), _plain(bright)), style


def _plain(text: str) -> str:
    return text.replace("\xa0", " ").rstrip()


def _style_after(codes: str, style: _Style) -> _Style:
    numbers = codes.split(";") if codes else ["0"]
    dim, inverse, skip = style.dim, style.inverse, 0
    for at, code in enumerate(numbers):
        if skip:
            skip -= 1
        elif code in _EXTENDED:  # 38;5;N or 38;2;R;G;B
            skip = 2 if numbers[at + 1 : at + 2] == ["5"] else 4
        elif code in ("", "0"):
            dim = inverse = False
        elif code in ("2", "22"):
            dim = code == "2"
        elif code in ("7", "27"):
            inverse = code == "7"
    return _Style(dim, inverse)
