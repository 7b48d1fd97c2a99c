"""What the tables' columns hold, and a numbered row.

Times are integers in the store (microseconds since 1970, UTC) and datetimes outside of it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from peewee import AutoField, BigIntegerField, Model, TextField
from playhouse.fields import EnumFieldMixin

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """The time, with the zone UTC."""
    return _EPOCH + timedelta(microseconds=value)


def span(length: timedelta) -> int:
    """A length of time in microseconds."""
    return length // _MICROSECOND


def from_span(value: int) -> timedelta:
    """The length of time."""
    return value * _MICROSECOND


class TimeField(BigIntegerField):
    """A time, stored as microseconds since 1970."""

    def db_value(self, value: datetime | None) -> int | None:
        return None if value is None else micros(value)

    def python_value(self, value: int | None) -> datetime | None:
        return None if value is None else from_micros(value)


class SpanField(BigIntegerField):
    """A length of time, stored as microseconds."""

    def db_value(self, value: timedelta | None) -> int | None:
        return None if value is None else span(value)

    def python_value(self, value: int | None) -> timedelta | None:
        return None if value is None else from_span(value)


class WordField(EnumFieldMixin, TextField):  # type: ignore[misc]
    """A member of a StrEnum, stored as its word."""

    enum_value_type = str


class Row(Model):
    """A numbered row."""

    number = AutoField()

    def fields(self) -> dict[str, Any]:
        """The row without its number."""
        return {k: v for k, v in self.__data__.items() if k != "number"}
