"""From a session_state.json to a session and its agents.

Everything but the session's name is optional; what cannot be held stays in `raw` and is told.
docs/howto/migrate.md has the table of the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any

from orch_server.core.errors import InvalidInput
from orch_server.core.legacy import (
    Finding,
    LegacyAgent,
    LegacySession,
    LegacyWait,
    Refused,
)
from orch_server.core.legacy_fields import Fields, read_role
from orch_server.core.session import (
    AgentDetail,
    CompletedPhase,
    Completion,
    Plan,
    ProjectSize,
    Session,
    StatusReport,
)
from orch_server.core.text import MAX_ACTION_BYTES, printable

_COMPLETIONS = {word.value.lower(): word for word in Completion}
_PLANS = {plan.value.lower(): plan for plan in Plan if plan}
_SIZES = {size.value.lower(): size for size in ProjectSize if size}
_LONGEST_PHASE = 24 * 366 * 10  # hours
_WAIT_MINUTES = 15
_LONGEST_WAIT = 7 * 24 * 60


@dataclass(frozen=True, slots=True)
class StateFile:
    """A session_state.json that was decoded. `where` is its directory, for a report."""

    directory: str
    where: str
    value: Mapping[str, Any]
    digest: str
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Parsed:
    """What came of a file: the session, and what is to be told."""

    session: LegacySession
    refused: list[Refused] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def parse_session(
    file: StateFile, name: str, name_missing: bool, zone: tzinfo, now: datetime
) -> Parsed:
    """Reads a file whose session has this name."""
    findings: list[Finding] = []
    refused: list[Refused] = []
    fields = Fields(f"session:{name}", file.value, zone, findings)
    for note in file.notes:
        fields.tell(note)
    session = _session(fields, name, name_missing, now)
    raw = dict(file.value)
    if isinstance(raw.get("agents"), dict):
        del raw["agents"]
    found = LegacySession(
        directory=file.directory,
        session=session,
        agents=_agents(fields, session, refused, findings),
        phases=_phases(fields),
        reports=_reports(fields, session.updated_at),
        dependencies=_dependencies(fields),
        metrics=_metrics(fields),
        raw=raw,
        digest=file.digest,
    )
    return Parsed(found, refused, findings)


def _session(fields: Fields, name: str, name_missing: bool, now: datetime) -> Session:
    created, updated = _times(fields, now)
    completion = fields.word("completion_status", _COMPLETIONS, Completion.PENDING)
    return Session(
        name=name,
        created_at=created,
        updated_at=updated,
        project_name=fields.text("project_name"),
        project_path=fields.text("project_path"),
        specification_path=fields.text("implementation_spec_path"),
        parent_branch=fields.text("parent_branch"),
        plan=fields.word("subscription_plan", _PLANS, Plan.UNSET),
        completion=completion,
        failure_reason=fields.text("failure_reason", MAX_ACTION_BYTES),
        project_size=fields.word("project_size", _SIZES, ProjectSize.UNSET),
        original_specification_path=fields.text("spec_path"),
        worktree_base_path=fields.text("worktree_base_path"),
        batch_id=fields.text("batch_id"),
        orchestrator_window=fields.whole("orchestrator_window", 0) or 0,
        completed_at=_completed_at(fields, completion, updated),
        name_missing=name_missing,
    )


def _times(fields: Fields, now: datetime) -> tuple[datetime, datetime]:
    """When it was created and last updated."""
    created, updated = fields.time("created_at"), fields.time("updated_at")
    if created is None:
        kept = "updated_at" if updated else "the time of this import"
        fields.tell(f"created_at is not known; {kept} is used")
    if updated is None:
        kept = "created_at" if created else "the time of this import"
        fields.tell(f"updated_at is not known; {kept} is used")
    return created or updated or now, updated or created or now


def _completed_at(fields: Fields, completion: Completion, updated: datetime) -> datetime | None:
    at = fields.time("completion_time")
    if completion is Completion.PENDING:
        if at is not None:
            fields.tell("has a completion_time though it is pending; the time is not used")
        return None
    if at is None:
        fields.tell("its completion_time is not known; updated_at is used")
    return at or updated


def _agents(
    fields: Fields, session: Session, refused: list[Refused], findings: list[Finding]
) -> tuple[LegacyAgent, ...]:
    found: dict[str, LegacyAgent] = {}
    worktrees = fields.table("worktrees")
    for key, raw in fields.table("agents").items():
        where = f"agent:{session.name}:{printable(key)}"
        if not isinstance(raw, dict):
            refused.append(Refused(where, "holds no object"))
            continue
        try:
            role = _role(key, raw, found)
        except InvalidInput as exc:
            refused.append(Refused(where, exc.message))
            continue
        agent = Fields(f"agent:{session.name}:{role}", raw, fields.zone, findings)
        found[role] = _agent(agent, key, role, worktrees, session.updated_at)
    return tuple(found.values())


def _role(key: str, raw: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    """The agent's role: what it says itself, else its key. Raises InvalidInput when it has none of
    its own."""
    said = raw.get("role")
    if said is None or said == "":
        said = key
    role = read_role(said)
    if role in taken:
        other = read_role(key)
        if other in taken:
            raise InvalidInput("role", f"another agent of the session has the role {role}")
        role = other
    return role


def _agent(
    fields: Fields, key: str, role: str, worktrees: Mapping[str, Any], updated: datetime
) -> LegacyAgent:
    detail = AgentDetail(
        version=1,
        window_index=fields.whole("window_index", None),
        window_name=fields.text("window_name"),
        briefed_at=fields.time("last_briefing_time"),
        worktree_path=fields.text("worktree_path") or _worktree(worktrees, key, role),
        branch=fields.text("current_branch"),
        commit_hash=fields.text("commit_hash"),
        imported_alive=fields.flag("is_alive"),
        imported_exhausted=fields.flag("is_exhausted"),
        imported_credit_reset=fields.text("credit_reset_time"),
    )
    return LegacyAgent(
        role=role,
        detail=detail,
        checked_in_at=fields.time("last_check_in_time"),
        waiting=_waiting(fields, updated),
        raw=fields.raw,
        key=key,
    )


def _worktree(worktrees: Mapping[str, Any], key: str, role: str) -> str:
    found = worktrees.get(key, worktrees.get(role))
    return found if isinstance(found, str) else ""


def _waiting(fields: Fields, updated: datetime) -> LegacyWait | None:
    if not fields.table("waiting_for"):
        return None
    wait = fields.of("waiting_for", fields.table("waiting_for"))
    reason = wait.text("reason") or "authorization"
    role, request = wait.role("role"), wait.text("request", MAX_ACTION_BYTES)
    if reason != "authorization" or not role or not request.strip():
        fields.tell(
            "waiting_for is no request for leave (role, request and the reason 'authorization');"
            " kept as it is, nothing waits"
        )
        return None
    since = wait.time("since")
    if since is None:
        wait.tell("waiting_for says not since when; the session's updated_at is used")
    minutes = wait.number("timeout_minutes")
    if minutes is not None and not 0 < minutes <= _LONGEST_WAIT:
        wait.tell(f"waiting_for.timeout_minutes is {minutes:g}; {_WAIT_MINUTES} are used")
        minutes = None
    return LegacyWait(
        role=role,
        request=request,
        request_id=wait.text("request_id"),
        since=since or updated,
        timeout=timedelta(minutes=minutes or _WAIT_MINUTES),
        escalated=bool(wait.flag("escalated")),
    )


def _phases(fields: Fields) -> tuple[CompletedPhase, ...]:
    """The phases, in their order; `phase_durations` has hours, by position from 0."""
    names = fields.items("phases_completed")
    durations = fields.of("phase_durations", fields.table("phase_durations"))
    found = []
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or len(name) > MAX_ACTION_BYTES:
            fields.tell(f"phases_completed[{position}] is no name of a phase; left out")
            continue
        found.append(CompletedPhase(name, None, None, _length(durations, str(position))))
    known = {str(position) for position in range(len(names))}
    for key in sorted(durations.raw.keys() - known):
        fields.tell(f"phase_durations['{printable(key, 40)}'] belongs to no completed phase")
    return tuple(found)


def _length(durations: Fields, position: str) -> timedelta | None:
    hours = durations.number(position)
    if hours is None:
        return None
    if not 0 <= hours <= _LONGEST_PHASE:
        durations.tell(f"phase_durations['{position}'] is {hours:g} hours; not used")
        return None
    return timedelta(hours=hours)


def _reports(fields: Fields, updated: datetime) -> tuple[StatusReport, ...]:
    found: dict[str, StatusReport] = {}
    for key, raw in fields.table("status_reports").items():
        role = _known_role(fields, "status_reports", key)
        if not role or role in found or not isinstance(raw, dict):
            fields.tell(f"status_reports['{printable(key, 40)}'] is no report; kept as it is")
            continue
        report = fields.of(f"status_reports.{role}", raw)
        at = report.time("timestamp")
        if at is None:
            report.tell(f"the report of {role} has no timestamp; updated_at is used")
        found[role] = StatusReport(
            role=role,
            topic=report.text("topic"),
            status=report.text("status"),
            detail=report.text("details", MAX_ACTION_BYTES),
            at=at or updated,
        )
    return tuple(found.values())


def _dependencies(fields: Fields) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, dict[str, None]] = {}
    for key, needs in fields.table("dependencies").items():
        role = _known_role(fields, "dependencies", key)
        others = [needs] if isinstance(needs, str) else needs
        if not role or not isinstance(others, list):
            fields.tell(f"dependencies['{printable(key, 40)}'] names no roles; kept as it is")
            continue
        if isinstance(needs, str):
            fields.tell(
                f"dependencies['{printable(key, 40)}'] is text, not a list; read as one role"
            )
        known = (_known_role(fields, "dependencies", other) for other in others)
        found.setdefault(role, {}).update({other: None for other in known if other})
    return tuple((role, tuple(needs)) for role, needs in found.items() if needs)


def _known_role(fields: Fields, name: str, value: object) -> str:
    return fields.of(name, {"role": value}).role("role")


def _metrics(fields: Fields) -> dict[str, float]:
    table = fields.of("velocity_metrics", fields.table("velocity_metrics"))
    found = {name: table.number(name) for name in table.raw}
    return {name: value for name, value in found.items() if value is not None}
