"""Finding a row by its id or an unambiguous prefix, and pages of a list."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from typing import Any, TypeVar

from peewee import Model, ModelSelect

from orch_server.core.errors import Ambiguous, InvalidInput, NotFound
from orch_server.core.text import printable
from orch_server.storage.database import Database

M = TypeVar("M", bound=Model)
T = TypeVar("T")

_ID = re.compile(r"[0-9a-f]{1,12}\Z")
MAX_PAGE = 1000
_MAX_OFFSET = 2**62
DEFAULT_PAGE = 100


def new_id() -> str:
    """A new id: 12 random hex digits."""
    return secrets.token_hex(6)


def full_id(db: Database, model: Any, noun: str, given: str) -> str:
    """The whole id for an id or prefix. Raises NotFound or Ambiguous, with a hint."""
    found: list[str] = []
    if _ID.match(given):  # "g" comes after every hex digit; LIKE would read the whole table
        sql = f"select id from {model._meta.table_name} where id >= ? and id < ? limit 6"  # noqa: S608
        found = [row[0] for row in db.execute_sql(sql, (given, given + "g")).fetchall()]
    if len(found) == 1 or given in found:
        return given if given in found else found[0]
    if not found:
        raise NotFound(f"There is no {noun} '{printable(given)}'; list them to see what there is.")
    raise Ambiguous(f"'{given}' is the beginning of several: {', '.join(found)}; give more digits.")


def page(query: ModelSelect[M], size: int, token: str) -> tuple[ModelSelect[M], int, int]:
    """The query for one page, its offset and its size. One row more tells whether there is more."""
    offset, limit = window(size, token)
    return query.limit(limit + 1).offset(offset), offset, limit


def window(size: int, token: str) -> tuple[int, int]:
    """Offset and size of a page. Raises InvalidInput."""
    if size < 0:
        raise InvalidInput("page_size", f"A page of {size} entries makes no sense; use 1 to 1000.")
    return _offset(token), min(size or DEFAULT_PAGE, MAX_PAGE)


def next_token(rows: list[T], offset: int, limit: int) -> tuple[list[T], str]:
    """Cuts the extra row off and returns the token for the next page, "" at the end."""
    if len(rows) <= limit:
        return rows, ""
    return rows[:limit], token_of(offset + limit)


def token_of(position: int) -> str:
    """The token that `window` reads back as this position."""
    return base64.urlsafe_b64encode(str(position).encode()).decode()


def token_at(*place: int) -> str:
    """The token that `place_of` reads back as this place in an ordered list."""
    return base64.urlsafe_b64encode(",".join(map(str, place)).encode()).decode()


def place_of(token: str) -> tuple[int, int]:
    """After which place, by its two numbers, a page begins. Raises InvalidInput."""
    if not token:
        return -(2**62), -1
    try:
        first, second = base64.urlsafe_b64decode(token.encode("ascii", "strict")).split(b",")
        place = int(first), int(second)
    except (ValueError, binascii.Error):
        place = (2**63, 0)
    if not all(-(2**62) <= number < 2**62 for number in place):
        raise InvalidInput(
            "page_token", "The page token is not one of ours; begin again without one."
        )
    return place


def _offset(token: str) -> int:
    if not token:
        return 0
    try:
        offset = int(base64.urlsafe_b64decode(token.encode("ascii", "strict")))
    except (ValueError, binascii.Error):
        offset = -1
    if not 0 <= offset <= _MAX_OFFSET:
        raise InvalidInput(
            "page_token", "The page token is not one of ours; begin again without one."
        )
    return offset
