"""Sessions and what is known of their agents: the fields, which of them may be changed, and what a
phase, a report and a dependency between roles may be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from orch_server.core.errors import AlreadyExists, InvalidInput, LimitReached, VersionMismatch
from orch_server.core.text import check_role, clean_text, printable

MAX_PHASES = 1000
MAX_PHASE_NAME = 100
MAX_WORD = 64
MAX_NEEDS = 1000
MAX_REQUEST_ID = 200

#: Which roles need the work of which others, as (role, what it needs).
Dependencies = tuple[tuple[str, tuple[str, ...]], ...]


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


class ProjectSize(StrEnum):
    """How large its project is thought to be; UNSET when nobody said."""

    UNSET = ""
    SMALL = "SMALL"
    MEDIUM = "MEDIUM"
    LARGE = "LARGE"


@dataclass(frozen=True, slots=True)
class CompletedPhase:
    """A phase of the work that is over. The times are None when the old system did not keep them;
    `length` may be known without them."""

    name: str
    began_at: datetime | None
    ended_at: datetime | None
    length: timedelta | None


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What a role last reported."""

    role: str
    topic: str
    status: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class AgentDetail:
    """What is known of an agent beside its client. `version` grows with each change; 0: nothing is
    known. `worktree_learned`: from the pane, and not by anybody's word. The `imported_…` are the
    old system's last word, None or "" when there is none."""

    version: int = 0
    window_index: int | None = None
    window_name: str = ""
    briefed_at: datetime | None = None
    worktree_path: str = ""
    worktree_learned: bool = False
    branch: str = ""
    commit_hash: str = ""
    imported_alive: bool | None = None
    imported_exhausted: bool | None = None
    imported_credit_reset: str = ""


NO_DETAIL = AgentDetail()


@dataclass(frozen=True, slots=True)
class Project:
    """A directory that sessions work on, under one name, with the names of those sessions."""

    id: str
    name: str
    path: str
    created_at: datetime
    sessions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """The state of one session; `version` grows with each change.

    `name_missing`: the name of its tmux session is not known, and `name` is only a label.
    """

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
    project_size: ProjectSize = ProjectSize.UNSET
    original_specification_path: str = ""
    worktree_base_path: str = ""
    batch_id: str = ""
    orchestrator_window: int = 0
    completed_at: datetime | None = None
    name_missing: bool = False

    @property
    def ended(self) -> bool:
        """Whether its work is over, so that nothing is scheduled for it any more."""
        return self.completion is not Completion.PENDING


#: The name in a mask of each field that may be changed. All but the dependencies are a Session's.
MUTABLE = (
    "project_name",
    "project_path",
    "specification_path",
    "parent_branch",
    "phase",
    "plan",
    "completion",
    "failure_reason",
    "project_size",
    "original_specification_path",
    "worktree_base_path",
    "batch_id",
    "orchestrator_window",
    "role_dependencies",
)
_OF_SESSION = frozenset(MUTABLE) - {"role_dependencies"}

#: The same of an agent, and what AgentDetail calls it.
DETAILS = {
    "window_index": "window_index",
    "window_name": "window_name",
    "last_briefing_time": "briefed_at",
    "worktree_path": "worktree_path",
    "branch": "branch",
    "commit_hash": "commit_hash",
}


def update(
    old: Session, changes: dict[str, object], paths: tuple[str, ...], expected: int, now: datetime
) -> Session:
    """The session after the change of the fields in `paths` to the values in `changes`.

    Raises InvalidInput for a path that is not mutable or for none at all, and VersionMismatch
    when `expected` is not 0 and not the present version.
    """
    check_paths(paths, MUTABLE)
    check_version(old, expected)
    chosen = {path: changes[path] for path in paths if path in _OF_SESSION}
    new = replace(old, **chosen, version=old.version + 1, updated_at=now)  # type: ignore[arg-type]
    if new.ended == old.ended:
        return new
    return replace(new, completed_at=now if new.ended else None)


def update_detail(
    old: AgentDetail, wanted: AgentDetail, paths: tuple[str, ...], address: str
) -> AgentDetail:
    """What is known of an agent after the change of the fields in `paths` to those of `wanted`,
    whose version is the one that is meant, 0 for any. Raises InvalidInput and VersionMismatch."""
    check_paths(paths, tuple(DETAILS))
    if wanted.version not in (0, old.version):
        raise _mismatch(f"The state of {address}", old.version, wanted.version)
    if "window_index" in paths and (wanted.window_index or 0) < 0:
        raise InvalidInput("agent.window_index", "A window's index is not below 0.")
    chosen = {DETAILS[path]: getattr(wanted, DETAILS[path]) for path in paths}
    if "worktree_path" in paths:
        chosen["worktree_learned"] = False
    return replace(old, **chosen, version=old.version + 1)


def check_paths(paths: tuple[str, ...], mutable: tuple[str, ...]) -> None:
    """Raises InvalidInput for an empty mask and for one that names what cannot be changed."""
    known = f"name one or more of: {', '.join(mutable)}."
    if not paths:
        raise InvalidInput("update_mask", f"The update mask is empty; {known}")
    for path in paths:
        if path not in mutable:
            raise InvalidInput("update_mask", f"'{printable(path)}' cannot be changed; {known}")


def check_version(session: Session, expected: int) -> None:
    """Raises VersionMismatch, with the present version, unless `expected` is 0 or equal to it."""
    if expected not in (0, session.version):
        raise _mismatch(f"Session {session.name}", session.version, expected)


def check_line(field: str, text: str, most: int) -> str:
    """The text without blanks around it: one line of at most `most` characters. Raises
    InvalidInput."""
    line = clean_text(field, text)[0].strip()
    if "\n" in line:
        raise InvalidInput(field, f"'{printable(line)}' has a line break; use one line.")
    if len(line) > most:
        raise InvalidInput(
            field, f"'{printable(line)}' is too long; use one line of at most {most} characters."
        )
    return line


def check_request_id(given: str) -> None:
    """Raises InvalidInput for one that is too long."""
    if len(given) > MAX_REQUEST_ID:
        raise InvalidInput(
            "request_id", f"The request id has more than {MAX_REQUEST_ID} characters."
        )


def check_dependencies(given: Dependencies) -> Dependencies:
    """The dependencies with the roles in their one spelling, each role once. Cycles are allowed:
    what they mean is for people. Raises InvalidInput."""
    field = "session.role_dependencies"
    found: dict[str, dict[str, None]] = {}
    for name, needs in given:
        role = check_role(field, name)
        if not needs:
            raise InvalidInput(
                field, f"The role '{role}' needs nobody; name whom, or leave it out."
            )
        found.setdefault(role, {}).update({check_role(field, need): None for need in needs})
        if role in found[role]:
            raise InvalidInput(field, f"The role '{role}' cannot need itself; leave that out.")
    if sum(map(len, found.values())) > MAX_NEEDS:
        raise InvalidInput(field, f"There are more than {MAX_NEEDS:,} dependencies; name fewer.")
    return tuple((role, tuple(needs)) for role, needs in found.items())


def complete(
    session: Session, done: tuple[CompletedPhase, ...], name: str, now: datetime
) -> CompletedPhase:
    """The phase that is over now, after those of `done`: it began when the last of them ended, the
    first one with the session. Nobody knows when it began when nobody knows that end. Raises
    AlreadyExists and LimitReached."""
    for known in done:
        if known.name == name:
            when = f" at {known.ended_at:%Y-%m-%d %H:%M:%S} UTC" if known.ended_at else ""
            raise AlreadyExists(
                f"The phase '{printable(name)}' of session {session.name} was completed{when};"
                " give this one another name."
            )
    if len(done) >= MAX_PHASES:
        raise LimitReached(f"Session {session.name} has {MAX_PHASES:,} phases; it takes no more.")
    began = done[-1].ended_at if done else session.created_at
    if began is None:
        return CompletedPhase(name, None, now, None)
    began = min(began, now)
    return CompletedPhase(name, began, now, now - began)


def _mismatch(what: str, version: int, expected: int) -> VersionMismatch:
    return VersionMismatch(
        f"{what} has version {version}, not {expected}; read it again and repeat the change.",
        current_version=str(version),
    )
