"""What a recorder's pane was given to read."""

from __future__ import annotations

from pathlib import Path

from tests.support import until


def arrived(record: Path, text: bytes) -> bytes:
    """What was typed by the time that as much has come as this text has. A text is confirmed when
    tmux has taken it; the terminal hands it on afterwards, a long one in many pieces."""
    until(lambda: len(record.read_bytes()) >= len(text), f"{len(text)} bytes in {record}")
    return record.read_bytes()
