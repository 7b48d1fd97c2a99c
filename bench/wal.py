"""Counts commits from outside: in SQLite's write-ahead log the last frame of each has a mark."""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER, _FRAME = 32, 24


def commits(path: Path) -> int:
    """How many commits the log holds since it was last begun anew."""
    data = path.read_bytes() if path.exists() else b""
    if len(data) < _HEADER:
        return 0
    page = struct.unpack_from(">I", data, 8)[0]
    salts = data[16:24]
    found = 0
    for start in range(_HEADER, len(data) - _FRAME - page + 1, _FRAME + page):
        if data[start + 8 : start + 16] != salts:
            break  # left over from before the log was begun anew
        found += struct.unpack_from(">I", data, start + 4)[0] > 0
    return found
