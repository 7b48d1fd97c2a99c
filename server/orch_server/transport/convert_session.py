"""Between the API's messages of session state and the objects of the core."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from orch.v1 import agent_pb2
from orch.v1 import session_state_pb2 as pb
from orch_server.core.cleanup import Cleaned
from orch_server.core.session import (
    MUTABLE,
    AgentDetail,
    CompletedPhase,
    Completion,
    Dependencies,
    Phase,
    Plan,
    Project,
    ProjectSize,
    Session,
    StatusReport,
)
from orch_server.core.sync import Mismatch
from orch_server.services.session_state import SessionView
from orch_server.transport import convert

_PHASES = {one: pb.Phase.Value(f"PHASE_{one}") for one in Phase}
_PLANS = {one: pb.Plan.Value(f"PLAN_{one or 'UNSPECIFIED'}") for one in Plan}
_COMPLETIONS = {one: pb.Completion.Value(f"COMPLETION_{one}") for one in Completion}
_SIZES = {one: pb.ProjectSize.Value(f"PROJECT_SIZE_{one or 'UNSPECIFIED'}") for one in ProjectSize}


def session(view: SessionView) -> pb.Session:
    """A session for the API; only its name when it was deleted."""
    known = view.session
    if known is None:
        return pb.Session(name=view.name)
    return pb.Session(
        name=known.name,
        project_name=known.project_name,
        project_path=known.project_path,
        specification_path=known.specification_path,
        parent_branch=known.parent_branch,
        phase=_PHASES[known.phase],
        plan=_PLANS[known.plan],
        completion=_COMPLETIONS[known.completion],
        failure_reason=known.failure_reason,
        version=known.version,
        create_time=convert.timestamp(known.created_at),
        update_time=convert.timestamp(known.updated_at),
        agents=[convert.agent(a) for a in view.agents],
        project_size=_SIZES[known.project_size],
        original_specification_path=known.original_specification_path,
        worktree_base_path=known.worktree_base_path,
        batch_id=known.batch_id,
        orchestrator_window=known.orchestrator_window,
        completion_time=convert.timestamp(known.completed_at),
        completed_phases=[phase(one) for one in view.phases],
        role_dependencies=[
            pb.RoleDependency(role=role, needs=needs) for role, needs in view.dependencies
        ],
        status_reports=[report(one) for one in view.reports],
        name_missing=known.name_missing,
        imported_metrics=view.imported_metrics,
    )


def to_session(given: pb.Session, now: datetime) -> Session:
    """A session from a request; fields that are not set have their defaults."""
    fields = changes(given, tuple(_CHANGES))
    del fields["role_dependencies"]
    return Session(given.name, now, now, **fields)  # type: ignore[arg-type]


def to_dependencies(given: pb.Session) -> Dependencies:
    """Which roles need whom, as the request has it."""
    return tuple((one.role, tuple(one.needs)) for one in given.role_dependencies)


def changes(given: pb.Session, paths: tuple[str, ...]) -> dict[str, object]:
    """The fields of a request that a mask names; what cannot be changed is left out."""
    return {path: _CHANGES[path](given) for path in paths if path in _CHANGES}


def _text(path: str) -> Callable[[pb.Session], object]:
    return operator.attrgetter(path)


def _enum(
    path: str, enum: Any, values: Mapping[Any, int], default: StrEnum
) -> Callable[[pb.Session], object]:
    """Reads a word; a dictionary is much faster than the names of the API's enum."""
    members = {value: member for member, value in values.items()} | {0: default}

    def read(given: pb.Session) -> object:
        value = getattr(given, path)
        known = members.get(value)
        if known is None:
            prefix = f"{path.upper()}_"
            return convert.word(enum, prefix, value, type(default), f"session.{path}")
        return known

    return read


_CHANGES: dict[str, Callable[[pb.Session], object]] = {
    **{path: _text(path) for path in MUTABLE},
    "phase": _enum("phase", pb.Phase, _PHASES, Phase.ACTIVE),
    "plan": _enum("plan", pb.Plan, _PLANS, Plan.UNSET),
    "completion": _enum("completion", pb.Completion, _COMPLETIONS, Completion.PENDING),
    "project_size": _enum("project_size", pb.ProjectSize, _SIZES, ProjectSize.UNSET),
    "role_dependencies": to_dependencies,
}


def phase(known: CompletedPhase) -> pb.CompletedPhase:
    """A completed phase for the API."""
    return pb.CompletedPhase(
        name=known.name,
        begin_time=convert.timestamp(known.began_at),
        end_time=convert.timestamp(known.ended_at),
        length=None if known.length is None else convert.duration(known.length),
    )


def report(known: StatusReport) -> pb.StatusReport:
    """A report for the API."""
    return pb.StatusReport(
        role=known.role,
        topic=known.topic,
        status=known.status,
        details=known.detail,
        report_time=convert.timestamp(known.at),
    )


def project(known: Project) -> pb.Project:
    """A project for the API."""
    return pb.Project(
        id=known.id,
        name=known.name,
        path=known.path,
        create_time=convert.timestamp(known.created_at),
        sessions=known.sessions,
    )


def to_detail(given: agent_pb2.Agent) -> AgentDetail:
    """What a request says of an agent; its version is the one that is meant, 0 for any."""
    return AgentDetail(
        version=given.detail_version,
        window_index=given.window_index if given.HasField("window_index") else None,
        window_name=given.window_name,
        briefed_at=convert.to_datetime("agent.last_briefing_time", given.last_briefing_time)
        if given.HasField("last_briefing_time")
        else None,
        worktree_path=given.worktree_path,
        branch=given.branch,
        commit_hash=given.commit_hash,
    )


def mismatch(found: Mismatch) -> pb.Mismatch:
    """A difference between store and tmux, for the API."""
    return pb.Mismatch(
        kind=pb.MismatchKind.Value(f"MISMATCH_KIND_{found.kind}"),
        subject=found.subject,
        session=found.session,
        detail=found.detail,
        begin_time=convert.timestamp(found.since),
        safe=found.safe,
        repaired=found.repaired,
        advice=found.advice,
    )


def cleaned(found: Cleaned) -> pb.CleanedSession:
    """A session that is removed, or would be, for the API."""
    return pb.CleanedSession(
        name=found.name,
        completion_time=convert.timestamp(found.completed_at),
        agents=found.agents,
        tasks=found.tasks,
        deliveries=found.deliveries,
        kept_because=found.kept_because,
    )
