"""What clients asked for and what they heard, on one register a session, and its rules.

A register is a session's version and one text of it. Versions grow by one with each change, so each
operation whose outcome is known names the one version at which it can have happened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

#: A register's version and value.
State = tuple[int, str]
NEVER = float("inf")


class Kind(Enum):
    """What was asked for."""

    READ = "read"
    UPDATE = "update"


class Outcome(Enum):
    """What was heard. UNKNOWN: nothing; it may have happened then, later or never."""

    OK = "ok"
    MISMATCH = "mismatch"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. `invoked` and `returned` are moments of one clock that never goes back.

    `expected` is the version that an update asks for, 0 for any; `value` what it writes, or what a
    read saw; `version` the one that was heard: of the read, after the update, or the present one of
    a mismatch.
    """

    key: str
    kind: Kind
    invoked: float
    returned: float = NEVER
    outcome: Outcome = Outcome.UNKNOWN
    expected: int = 0
    value: str = ""
    version: int = 0

    def heard(
        self, returned: float, version: int, value: str = "", outcome: Outcome = Outcome.OK
    ) -> Operation:
        """The call with its answer."""
        seen = value if self.kind is Kind.READ else self.value
        return replace(self, returned=returned, version=version, value=seen, outcome=outcome)

    @property
    def at_version(self) -> int | None:
        """The version at which it must have happened; None when that is not known."""
        if self.outcome is Outcome.UNKNOWN:
            return self.expected or None
        changed = self.kind is Kind.UPDATE and self.outcome is Outcome.OK
        return self.version - 1 if changed else self.version

    def apply(self, state: State) -> State | None:
        """The register after it; None when it cannot have happened then."""
        version, value = state
        if self.at_version not in (None, version):
            return None
        if self.kind is Kind.READ:
            return state if self.value == value else None
        if self.outcome is Outcome.MISMATCH:
            return state if self.expected not in (0, version) else None
        return (version + 1, self.value) if self.expected in (0, version) else None
