"""Every error that a caller can cause or must hear of.

OrchError
├── InvalidInput            a value is wrong; names the field
├── Unidentified            the token is missing, wrong or over
├── NotAllowed              the caller may not do this
│   └── PassphraseRequired  the operator must prove himself
├── NotFound                nothing has this name
├── Ambiguous               more than one thing has this name
├── AlreadyExists           the name is taken
│   └── RepeatedNote        the same note, again and again
├── Conflict                the thing is not in a state that allows this
│   └── IllegalTransition   a state machine has no such step
├── LimitReached            there are as many as there may be
├── VersionMismatch         it was changed in between
├── StaleEpoch              a newer connection has taken over
├── Unavailable             cannot be done now; try again
│   ├── Draining            the server stops
│   └── StoreUnavailable    the database does not take writes
└── StartupError            the server cannot start (never sent over the wire)

The text of an error is one sentence: what is wrong, where, what to do. `reason` goes into
google.rpc.ErrorInfo; transport/errors.py maps each class to a status code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class OrchError(Exception):
    """Base of all errors; never raised itself."""

    reason: ClassVar[str] = "ORCH_ERROR"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata


class InvalidInput(OrchError):
    """A value is wrong. `field` is the name of the request's field."""

    reason = "INVALID_INPUT"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message, field=field)
        self.field = field


class Unidentified(OrchError):
    """The token is missing, wrong or over."""

    reason = "UNIDENTIFIED"


class NotAllowed(OrchError):
    """The caller may not do this."""

    reason = "NOT_ALLOWED"


class PassphraseRequired(NotAllowed):
    """The operator must prove himself with the passphrase."""

    reason = "PASSPHRASE_REQUIRED"


class NotFound(OrchError):
    """Nothing has this name."""

    reason = "NOT_FOUND"


class Ambiguous(OrchError):
    """More than one thing has this name."""

    reason = "AMBIGUOUS"


class AlreadyExists(OrchError):
    """The name is taken."""

    reason = "ALREADY_EXISTS"


class RepeatedNote(AlreadyExists):
    """The same note for the same agent, again and again; the metadata holds the earlier task."""

    reason = "REPEATED_NOTE"


class Conflict(OrchError):
    """The thing is not in a state that allows this."""

    reason = "CONFLICT"


class IllegalTransition(Conflict):
    """A state machine has no such step."""

    reason = "ILLEGAL_TRANSITION"

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(
            f"{machine} is {state.lower()}, so it cannot take '{event.lower()}'.",
            machine=machine,
            state=state,
            event=event,
        )


class LimitReached(OrchError):
    """There are as many as there may be."""

    reason = "LIMIT_REACHED"


class VersionMismatch(OrchError):
    """It was changed in between; the metadata holds the current version."""

    reason = "VERSION_MISMATCH"


class StaleEpoch(OrchError):
    """A newer connection has taken over."""

    reason = "STALE_EPOCH"


class Unavailable(OrchError):
    """Cannot be done now; try again."""

    reason = "UNAVAILABLE"


class Draining(Unavailable):
    """The server stops."""

    reason = "DRAINING"


class StoreUnavailable(Unavailable):
    """The database does not take writes."""

    reason = "STORE_UNAVAILABLE"


class StartupError(OrchError):
    """The server cannot start."""

    reason = "STARTUP"
