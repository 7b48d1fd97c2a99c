"""JSON as the old system may have left it: cut off, patched by hand, written by something else.

What it says is told apart from what had to be changed to read it; nothing here raises anything but
Unreadable.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orch_server.core.text import printable

_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DEPTH = 50


class Unreadable(Exception):
    """The text cannot be read; says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An object, and what is to be told of how it was read."""

    value: dict[str, Any]
    notes: tuple[str, ...] = ()


def decode(data: bytes) -> Decoded:
    """Reads a JSON object.

    Of a key that stands twice the last value counts, as it did for the old system. NaN and
    infinities, which are no JSON, become text; so do numbers too large for a float. Half characters
    (lone surrogates) become U+FFFD; keys that are the same then get numbers.

    Raises Unreadable.
    """
    if not data.strip():
        raise Unreadable(f"empty ({len(data)} bytes)")
    try:
        text = data.decode("utf-8-sig")
        reader = _Reader()
        value = reader.read(text)
        if not isinstance(value, dict):
            raise Unreadable(f"holds {kind(value)} instead of an object")
        value = reader.whole(value)
    except UnicodeDecodeError as exc:
        raise Unreadable(f"not UTF-8 (byte {exc.start})") from exc
    except RecursionError as exc:
        raise Unreadable("nested too deeply") from exc
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno}, column {exc.colno}"
        raise Unreadable(f"not whole JSON ({exc.msg}: {place})") from exc
    except ValueError as exc:  # an integer of thousands of digits
        raise Unreadable("holds a number of too many digits") from exc
    return Decoded(value, tuple(reader.notes))


def kind(value: object) -> str:
    """What kind of JSON value this is, for a sentence."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = ((str, "text"), (int | float, "a number"), (list, "a list"), (dict, "an object"))
    return next((name for types, name in names if isinstance(value, types)), "something else")


class _Reader:
    def __init__(self) -> None:
        self.notes: dict[str, None] = {}

    def read(self, text: str) -> Any:
        return json.loads(
            text,
            object_pairs_hook=self._object,
            parse_float=self._float,
            parse_constant=self._constant,
        )

    def whole(self, value: Any, depth: int = 0) -> Any:
        """The value without half characters."""
        if depth > _MAX_DEPTH:
            raise Unreadable(f"nested more than {_MAX_DEPTH} deep")
        if isinstance(value, str):
            return value if value.isascii() else self._text(value)
        if isinstance(value, dict):
            names = self._names(value)
            return {names.get(k, k): self.whole(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list):
            return [self.whole(item, depth + 1) for item in value]
        return value

    def _text(self, text: str) -> str:
        cleaned, found = _SURROGATE.subn("\N{REPLACEMENT CHARACTER}", text)
        if found:
            self._note("half a character (a lone surrogate) is read as U+FFFD")
        return cleaned

    def _names(self, keys: Iterable[str]) -> dict[str, str]:
        """Those keys that hold half characters, without them; each becomes a name of its own."""
        torn = [key for key in keys if not key.isascii() and _SURROGATE.search(key)]
        if not torn:
            return {}
        taken = set(keys)
        found: dict[str, str] = {}
        numbers: Counter[str] = Counter()
        for key in torn:
            name = cleaned = self._text(key)
            while name in taken:
                numbers[cleaned] += 1
                name = f"{cleaned}~{numbers[cleaned] + 1}"
            if name != cleaned:
                self._note(f"'{printable(cleaned)}' is there already; read as '{printable(name)}'")
            taken.add(name)
            found[key] = name
        return found

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = {sys.intern(key): value for key, value in pairs}
        if len(found) < len(pairs):
            times = Counter(key for key, _ in pairs)
            twice = next(key for key, count in times.items() if count > 1)
            self._note(f"'{printable(twice)}' stands there more than once; the last one counts")
        return found

    def _float(self, text: str) -> float | str:
        number = float(text)
        if math.isfinite(number):
            return number
        return self._constant(text)

    def _constant(self, text: str) -> str:
        self._note(f"{printable(text, 20)} is no number in JSON; kept as text")
        return text

    def _note(self, text: str) -> None:
        self.notes[text] = None
