"""Sessions: their fields, and which of them may be changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from orch_server.core.errors import InvalidInput, VersionMismatch


class Phase(StrEnum):
    """What a session is doing."""

    ACTIVE = "ACTIVE"
    REVIEW = "REVIEW"
    IDLE = "IDLE"


class Plan(StrEnum):
    """The subscription it runs under; UNSET when not known."""

    UNSET = ""
    PRO = "PRO"
    MAX5 = "MAX5"
    MAX20 = "MAX20"
    CONSOLE = "CONSOLE"


class Completion(StrEnum):
    """Whether the work is done."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Session:
    """The state of one session; `version` grows with each change."""

    name: str
    created_at: datetime
    updated_at: datetime
    version: int = 1
    project_name: str = ""
    project_path: str = ""
    specification_path: str = ""
    parent_branch: str = ""
    phase: Phase = Phase.ACTIVE
    plan: Plan = Plan.UNSET
    completion: Completion = Completion.PENDING
    failure_reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether its work is over, so that nothing is scheduled for it any more."""
        return self.completion is not Completion.PENDING


MUTABLE = (
    "project_name",
    "project_path",
    "specification_path",
    "parent_branch",
    "phase",
    "plan",
    "completion",
    "failure_reason",
)


def update(
    old: Session, changes: dict[str, object], paths: tuple[str, ...], expected: int, now: datetime
) -> Session:
    """The session after the change of the fields in `paths` to the values in `changes`.

    Raises InvalidInput for a path that is not mutable or for none at all, and VersionMismatch
    when `expected` is not 0 and not the present version.
    """
    if not paths:
        raise InvalidInput(
            "update_mask", f"The update mask is empty; name one or more of: {', '.join(MUTABLE)}."
        )
    for path in paths:
        if path not in MUTABLE:
            raise InvalidInput(
                "update_mask",
                f"'{path}' cannot be changed; name one or more of: {', '.join(MUTABLE)}.",
            )
    check_version(old, expected)
    chosen = {path: changes[path] for path in paths}
    return replace(old, **chosen, version=old.version + 1, updated_at=now)  # type: ignore[arg-type]


def check_version(session: Session, expected: int) -> None:
    """Raises VersionMismatch, with the present version, unless `expected` is 0 or equal to it."""
    if expected not in (0, session.version):
        raise VersionMismatch(
            f"Session {session.name} has version {session.version}, not {expected}; read it again"
            " and repeat the change.",
            current_version=str(session.version),
        )
