"""Pages of lists that are held in memory, and pages that are not larger than a message may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import Message

from orch_server.storage import lookup

T = TypeVar("T")
M = TypeVar("M", bound=Message)
#: A page ends early when its messages have more bytes than this; gRPC takes 4 MiB.
_PAGE_BYTES = 2 * 1024 * 1024


def cut(rows: Sequence[T], size: int, token: str) -> tuple[list[T], str]:
    """One page and the token for the next, as storage/lookup.py makes them."""
    offset, limit = lookup.window(size, token)
    return lookup.next_token(list(rows[offset : offset + limit + 1]), offset, limit)


def fitting(page: Sequence[M], token: str, next_token: str) -> tuple[list[M], str]:
    """As much of a page, which began at `token`, as a message may hold, at least one; and the token
    for the next."""
    room = _PAGE_BYTES
    for taken, message in enumerate(page):
        room -= message.ByteSize()
        if room < 0 and taken:
            offset, _ = lookup.window(0, token)
            return list(page[:taken]), lookup.token_of(offset + taken)
    return list(page), next_token
