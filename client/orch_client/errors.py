"""What ends a command: one sentence on standard error, and an exit status from DESIGN's list."""

from __future__ import annotations

FAILED, USAGE, UNREACHABLE, MISSING, REFUSED, CONFLICT = 1, 2, 3, 4, 5, 6
DENIED, EXPIRED, CANCELLED, PENDING = 10, 11, 12, 13


class ClientError(Exception):
    """Ends the command with this message and exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
