"""One record of the old system, field by field. A field of the wrong type costs that field alone:
it is read as if it was missing, and told."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any

from orch_server.core.errors import InvalidInput
from orch_server.core.legacy import Finding
from orch_server.core.legacy_json import kind
from orch_server.core.legacy_times import read_time
from orch_server.core.text import check_role, printable

_MAX_TEXT = 4096
_MAX_WINDOW = 1_000_000
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ALIASES = {"pm": "project_manager", "projectmanager": "project_manager"}


def read_role(value: object) -> str:
    """A role in our spelling: "Project Manager" and "pm" are project_manager.

    Raises InvalidInput for what is no role.
    """
    if not isinstance(value, str):
        raise InvalidInput("role", f"{kind(value)} is no role")
    role = check_role("role", value)
    return _ALIASES.get(role, role)


class Fields:
    """Reads the fields of `raw`; what is told goes to `findings`, under the name of `record`."""

    def __init__(
        self,
        record: str,
        raw: Mapping[str, Any],
        zone: tzinfo,
        findings: list[Finding],
        inside: str = "",
    ) -> None:
        self.record = record
        self.raw = raw
        self.zone = zone
        self._findings = findings
        self._inside = inside

    def tell(self, text: str) -> None:
        """Adds a finding to this record."""
        self._findings.append(Finding(self.record, text))

    def of(self, name: str, raw: Mapping[str, Any]) -> Fields:
        """The fields of the value of this name inside this record."""
        return Fields(self.record, raw, self.zone, self._findings, f"{self._at(name)}.")

    def _at(self, name: str) -> str:
        return f"{self._inside}{printable(name, 40)}"

    def text(self, name: str, limit: int = _MAX_TEXT) -> str:
        """Text; "" when it is missing, and when it is longer than `limit` characters. Control
        characters are left out."""
        value = self.raw.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._wrong(name, "text", value)
            return ""
        if len(value) > limit:
            self.tell(
                f"{self._at(name)} has {len(value):,} characters, more than {limit:,}; not read"
            )
            return ""
        cleaned, removed = _UNPRINTABLE.subn("", value)
        if removed:
            self.tell(f"{self._at(name)} holds control characters; read without them")
        return cleaned

    def whole(self, name: str, default: int | None, top: int = _MAX_WINDOW) -> int | None:
        """A whole number from 0 to `top`."""
        value = self.raw.get(name)
        if value is None:
            return default
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= top:
            self._wrong(name, f"a whole number from 0 to {top:,}", value)
            return default
        return value

    def flag(self, name: str) -> bool | None:
        """True or false, also as 1 or 0."""
        value = self.raw.get(name)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        self._wrong(name, "true or false", value)
        return None

    def time(self, name: str) -> datetime | None:
        """A moment, in UTC; see legacy_times."""
        try:
            return read_time(self.raw.get(name), self.zone)
        except ValueError as exc:
            self.tell(f"{self._at(name)}: {exc}")
            return None

    def word(self, name: str, words: Mapping[str, Any], default: Any) -> Any:
        """What one of these words stands for, in any case of letters."""
        value = self.raw.get(name)
        if value is None or value == "":
            return default
        found = words.get(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            self._wrong(name, f"one of {', '.join(words)}", value)
            return default
        return found

    def role(self, name: str) -> str:
        """A role in our spelling; "" when it is none."""
        try:
            return read_role(self.raw.get(name))
        except InvalidInput as exc:
            self.tell(f"{self._at(name)}: {exc.message}")
            return ""

    def table(self, name: str) -> Mapping[str, Any]:
        """An object; empty when it is missing."""
        value = self.raw.get(name)
        if value is None or isinstance(value, dict):
            return value or {}
        self._wrong(name, "an object", value)
        return {}

    def items(self, name: str) -> list[Any]:
        """A list; empty when it is missing."""
        value = self.raw.get(name)
        if value is None or isinstance(value, list):
            return value or []
        self._wrong(name, "a list", value)
        return []

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self.raw.get(name)
        if value is None:
            return None
        try:
            found = math.nan if isinstance(value, bool | str | list | dict) else float(value)
        except (OverflowError, TypeError):
            found = math.nan
        if math.isfinite(found):
            return found
        self._wrong(name, "a number", value)
        return None

    def _wrong(self, name: str, wanted: str, value: object) -> None:
        shown = f"'{printable(value, 40)}'" if isinstance(value, str) else _shown(value)
        self.tell(f"{self._at(name)} is {shown}, not {wanted}; read as if missing")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64):
        return str(value)
    return kind(value)
