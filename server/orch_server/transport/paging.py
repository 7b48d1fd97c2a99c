"""Pages of lists that are held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from orch_server.storage import lookup

T = TypeVar("T")


def cut(rows: Sequence[T], size: int, token: str) -> tuple[list[T], str]:
    """One page and the token for the next, as storage/lookup.py makes them."""
    offset, limit = lookup.window(size, token)
    return lookup.next_token(list(rows[offset : offset + limit + 1]), offset, limit)
