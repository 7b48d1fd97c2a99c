"""Every field is accounted for: what the columns do not say as it was written is kept beside them.

A kept value holds as long as the columns say what they said when it was imported; when they have
changed since, they win. `proof` compares what an export says with what was read, field by field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orch_server.storage.exports import KeptOut

_MISSING = object()
_SHOWN = 3
_PLAIN = (str, int, type(None))  # of which equal ones are the same
_SORTED = json.JSONEncoder(sort_keys=True)
_AS_IT_IS = json.JSONEncoder()


@dataclass(frozen=True, slots=True)
class Proof:
    """What the comparison found: records and fields compared, and how many values were kept."""

    records: int
    fields: int
    kept: int


def said(value: Any) -> str:
    """A value as the text that is compared."""
    return _SORTED.encode(value)


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same, also in type."""
    if type(one) is not type(other):
        return False
    if isinstance(one, _PLAIN):
        return bool(one == other)
    return said(one) == said(other)


def stored_name(field: str) -> str:
    """A field's name as a text that any database takes; see `field_name`."""
    try:
        field.encode()
    except UnicodeEncodeError:
        return json.dumps(field)
    return json.dumps(field) if field.startswith('"') else field


def field_name(stored: str) -> str:
    """The field's own name."""
    return str(json.loads(stored)) if stored.startswith('"') else stored


def kept(record: str, raw: Mapping[str, Any], columns: Mapping[str, Any]) -> Iterator[KeptOut]:
    """What of a record is to be kept, given what the columns say of it."""
    for field, value in raw.items():
        read_as = columns.get(field, _MISSING)
        if read_as is _MISSING:
            yield KeptOut(record, stored_name(field), _AS_IT_IS.encode(value), None)
        elif not same(value, read_as):
            yield KeptOut(record, stored_name(field), _AS_IT_IS.encode(value), said(read_as))


def overlay(columns: Mapping[str, Any], values: Iterable[KeptOut]) -> dict[str, Any]:
    """What is exported of a record: the columns, and over them what was kept."""
    fields = dict(columns)
    for one in values:
        name = field_name(one.field)
        holds = (
            name not in columns if one.read_as is None else said(columns.get(name)) == one.read_as
        )
        if holds:
            fields[name] = json.loads(one.value)
    return fields


def differences(
    raw: Mapping[str, Mapping[str, Any]], exported: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The fields that an export would not give back as they were read, each as "record field"."""
    return [
        f"{record} {field}"
        for record, fields in raw.items()
        for field, value in fields.items()
        if not same(value, exported.get(record, {}).get(field, _MISSING))
    ]


def shown(found: list[str]) -> str:
    """The first of the differences, for a sentence."""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{', '.join(found[:_SHOWN])}{more}"
