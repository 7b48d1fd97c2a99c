"""Reads an agent's screen by the rules of its kind: what it does, and what stands in its composer.

Only the bottom of the screen counts, never what has scrolled by. Dim text in the composer is a
placeholder, not a draft. What no rule knows is "unknown", which is a state of its own.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from orch_client.courier.kinds import Composer, Kind, Rule

IDLE, WORKING, STARTING, UNKNOWN = "idle", "working", "starting", "unknown"
LIMITED = "usage_limited"
#: In these states a dialog of the agent's own has the place of the composer.
ASKING = frozenset({"waiting_permission", "waiting_question"})
#: In these states no composer takes text, whatever looks like one.
_HIDING = ASKING | {UNKNOWN}
_ESCAPE = re.compile(r"\x1b(?:\[([0-9;:]*)([A-Za-z])|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")
_MENU_LINES = 8
_ENOUGH = 20  # letters of a text's end
_AROUND = 400  # letters of what was said up to a line
_PLENTY = 400  # signs of a text's end, none of which need be a letter: more than rulers have
_MARK = re.compile(r"^[^\w(\"'“]+")  # what stands before a line's words
_EXTENDED = ("38", "48", "58")
#: Red, green, yellow, blue, magenta, cyan, and the same bright.
_HUES = frozenset(str(base + hue) for base in (30, 90) for hue in range(1, 7))
_FIRST_SIGN = 0x100


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a screen; `bright` is the same with blanks for what is dim, `colours` has a sign
    for the colour of each of its characters: a blank for none and for greys."""

    text: str
    bright: str
    colours: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a screen shows: the state, the rule that told it, the composer's text ("" when it is
    empty, None when there is no composer), the words of the line that told it, "" when none did,
    and, of a usage limit, a number that stands for what was said up to that line, else 0."""

    state: str
    rule: str
    draft: str | None
    line: str = ""
    context: int = 0


@dataclass(frozen=True, slots=True)
class _Style:
    dim: bool = False
    inverse: bool = False
    colour: str = " "

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
    """What the screen says. One that is blank has not been drawn yet."""
    if not lines:
        return Reading(STARTING, "blank", None)
    draft = None if kind.composer is None else draft_in(kind.composer, lines)
    for rule in kind.rules:
        line = _match(rule, kind, lines)
        if line is not None:
            hidden = rule.state in _HIDING
            told = _telling(rule, lines) or line
            words = _MARK.sub("", told.text).rstrip()
            context = _context(kind, lines, line) if rule.state == LIMITED else 0
            return Reading(rule.state, rule.id, None if hidden else draft, words, context)
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


def menu_key(kind: Kind, lines: list[Line]) -> str:
    """The key that closes the menu where the composer should be; "" when there is none."""
    if kind.menu is None or kind.composer is None or composer_top(kind.composer, lines) is not None:
        return ""
    found = any(kind.menu.pattern.search(line.text) for line in _bottom(lines, _MENU_LINES))
    return kind.menu.key if found else ""


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
    if meant[:_ENOUGH] in whole or meant[-_ENOUGH:] in whole:
        return True
    signs = "".join(text[-2 * _PLENTY :].split())[-_PLENTY:]
    shown = "".join("".join(line.text.split()) for line in lines[:top])
    return len(signs) == _PLENTY and signs in shown


def same_draft(one: str | None, other: str | None) -> bool:
    """Whether two readings of a composer are the same but for where their lines are broken."""
    if one is None or other is None:
        return one is other
    return one.split() == other.split()


def essence(text: str) -> str:
    """What is left of a text however it is wrapped and drawn: its letters and digits."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if c.isalnum())


def _match(rule: Rule, kind: Kind, lines: list[Line]) -> Line | None:
    """The lowest line that the rule matches."""
    for line in reversed(list(_bottom(_place(rule, kind, lines), rule.lines))):
        quotes = rule.where != "last" and kind.skip is not None and kind.skip.match(line.text)
        if rule.quoted or not quotes:
            found = rule.pattern.search(line.text)
            if found and (not rule.coloured or _is_coloured(line, found) or _is_plain(lines)):
                return line
    return None


def _context(kind: Kind, lines: list[Line], told: Line) -> int:
    """Stands for what was said up to this line, however it is wrapped, and whatever is below it: a
    menu comes and goes, and nothing new was said."""
    top = None if kind.composer is None else composer_top(kind.composer, lines)
    said, end = essence("".join(line.text for line in lines[:top])), essence(told.text)
    upto = said.rfind(end) + len(end)
    return zlib.crc32(said[max(0, upto - _AROUND) : upto].encode())


def _telling(rule: Rule, lines: list[Line]) -> Line | None:
    """The line that says more to people than the one that was found."""
    if rule.tells is None:
        return None
    return next((line for line in reversed(lines) if rule.tells.search(line.text)), None)


def _place(rule: Rule, kind: Kind, lines: list[Line]) -> list[Line]:
    """The lines at which the rule looks."""
    top = None if kind.composer is None else composer_top(kind.composer, lines)
    if rule.where == "last":
        return _last_block(kind, lines[:top])
    if top is None or kind.composer is None:
        return lines
    if rule.where == "instead":
        return []
    return lines[_composer_end(kind.composer, lines, top) :] if rule.where == "below" else lines


def _last_block(kind: Kind, lines: list[Line]) -> list[Line]:
    """The first paragraph of the last thing said, as one line; none when nothing was said. A hint
    below it, in another colour, is not part of it."""
    assert kind.block is not None
    starts = [at for at, line in enumerate(lines) if kind.block.match(line.text)]
    if not starts:
        return []
    joined = lines[starts[-1]]
    for line in lines[starts[-1] + 1 :]:
        text = line.text.strip()
        if not text:
            break
        margin = line.text.index(text)
        if line.colours[margin] != joined.colours[len(joined.text) - 1]:
            break
        colours = f"{joined.colours[: len(joined.text)]} {line.colours[margin:]}"
        joined = Line(f"{joined.text} {text}", f"{joined.bright} {line.bright.strip()}", colours)
    return [joined]


def _is_plain(lines: list[Line]) -> bool:
    """Whether the program was told to paint nothing at all (NO_COLOR)."""
    return not any(line.colours.strip() for line in lines)


def _is_coloured(line: Line, found: re.Match[str]) -> bool:
    """Whether what was found is all of one colour."""
    start, end = found.span()
    pairs = zip(line.text[start:end], line.colours[start:end], strict=True)
    seen = {colour for c, colour in pairs if not c.isspace()}
    return len(seen) == 1 and " " not in seen


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
    text, marks, colours, at = "", "", "", 0
    for match in _ESCAPE.finditer(raw):
        part = raw[at : match.start()]
        text, marks = text + part, marks + style.mark * len(part)
        colours += style.colour * len(part)
        if match[2] == "m":
            style = _style_after(match[1], style)
        at = match.end()
    part = raw[at:]
    text, marks, colours = (
        text + part,
        marks + style.mark * len(part),
        colours + style.colour * len(part),
    )
    # The cursor's cell is drawn inverse; the first letter of a placeholder may lie under it.
    marks = re.sub("i+(?=d)", lambda run: "d" * len(run[0]), marks)
    bright = "".join(" " if mark == "d" else c for c, mark in zip(text, marks, strict=True))
    return Line(_plain(text), _plain(bright), colours), style


def _plain(text: str) -> str:
    return text.replace("\xa0", " ").rstrip()


def _style_after(codes: str, style: _Style) -> _Style:
    numbers = codes.split(";") if codes else ["0"]
    dim, inverse, colour, skip = style.dim, style.inverse, style.colour, 0
    for at, code in enumerate(numbers):
        if skip:
            skip -= 1
        elif code in _EXTENDED:  # 38;5;N or 38;2;R;G;B
            skip = 2 if numbers[at + 1 : at + 2] == ["5"] else 4
            if code == "38":
                colour = _extended_colour(numbers[at + 2 : at + 1 + skip])
        elif code in ("", "0"):
            dim, inverse, colour = False, False, " "
        elif code in ("2", "22"):
            dim = code == "2"
        elif code in ("7", "27"):
            inverse = code == "7"
        elif code == "39":
            colour = " "
        elif code in _HUES:
            colour = chr(_FIRST_SIGN + int(code) % 10)
    return _Style(dim, inverse, colour)


def _extended_colour(numbers: list[str]) -> str:
    """A sign for one of 256 colours, or for red, green and blue; a blank for a grey."""
    given = [min(int(number), 255) if number.isdecimal() else 0 for number in numbers]
    if len(given) == 1:
        (index,) = given
        if index < 16:
            return chr(_FIRST_SIGN + index % 8) if f"{30 + index % 8}" in _HUES else " "
        cube = [(index - 16) // 36, (index - 16) // 6 % 6, (index - 16) % 6]
        given = [part * 51 for part in cube] if index < 232 else []
    if len(set(given)) < 2:
        return " "
    red, green, blue = (part >> 4 for part in given)
    return chr(_FIRST_SIGN + 8 + (red << 8 | green << 4 | blue))
