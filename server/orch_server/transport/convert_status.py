"""What one screen shows, as the API's message: of sessions and agents only what is shown, so that
thousands of agents fit into one answer."""

from __future__ import annotations

from orch.v1 import agent_pb2
from orch.v1 import session_state_pb2 as pb
from orch_server import __version__
from orch_server.core.agent import AgentView
from orch_server.core.agent_state import Evidence, Operation
from orch_server.core.text import one_line
from orch_server.services.session_state import SessionView
from orch_server.services.status import StatusView
from orch_server.transport import convert, convert_session

_MAX_TEXT = 100


def status(view: StatusView) -> pb.GetStatusResponse:
    """The whole answer. It takes some 15 us an agent: call it in a thread."""
    counts = view.counts
    return pb.GetStatusResponse(
        sessions=[_session(one) for one in view.sessions],
        time=convert.timestamp(view.time),
        server_version=__version__,
        open_mode=view.open_mode,
        pending_authorizations=counts.pending_authorizations,
        pending_for_human=counts.pending_for_human,
        recent_alerts=counts.recent_alerts,
        mismatches=counts.mismatches,
        ended_sessions=view.ended_sessions,
        scheduler_paused=counts.scheduler_paused,
        event_number=view.event,
    )


def _session(view: SessionView) -> pb.Session:
    known = view.session
    assert known is not None
    return pb.Session(
        name=known.name,
        project_name=one_line(known.project_name, _MAX_TEXT),
        phase=pb.Phase.Value(f"PHASE_{known.phase}"),
        plan=pb.Plan.Value(f"PLAN_{known.plan or 'UNSPECIFIED'}"),
        completion=pb.Completion.Value(f"COMPLETION_{known.completion}"),
        failure_reason=one_line(known.failure_reason, _MAX_TEXT),
        version=known.version,
        create_time=convert.timestamp(known.created_at),
        completion_time=convert.timestamp(known.completed_at),
        completed_phases=[convert_session.phase(one) for one in view.phases],
        status_reports=[convert_session.report(one) for one in view.reports],
        name_missing=known.name_missing,
        agents=[_agent(one) for one in view.agents],
    )


def _agent(view: AgentView) -> agent_pb2.Agent:
    known, told = view.agent, view.status
    return agent_pb2.Agent(
        id=known.id,
        role=known.role,
        kind=known.kind,
        liveness=agent_pb2.Liveness.Value(f"LIVENESS_{known.liveness}"),
        liveness_change_time=convert.timestamp(known.liveness_changed_at),
        waiting_for=convert.waiting_for(view.waiting),
        do_not_disturb=known.do_not_disturb,
        state=agent_pb2.AgentState.Value(f"AGENT_STATE_{told.state if told else 'UNKNOWN'}"),
        state_change_time=convert.timestamp(told.changed_at) if told else None,
        evidence=_evidence(told.evidence) if told else None,
        operation=_operation(view.operation),
        hold_end_time=convert.timestamp(view.held_until),
    )


def _evidence(told: Evidence | None) -> agent_pb2.Evidence | None:
    if told is None:
        return None
    return agent_pb2.Evidence(
        source=agent_pb2.EvidenceSource.Value(f"EVIDENCE_SOURCE_{told.source or 'UNSPECIFIED'}"),
        observe_time=convert.timestamp(told.observed_at),
    )


def _operation(announced: Operation | None) -> agent_pb2.Operation | None:
    if announced is None:
        return None
    return agent_pb2.Operation(
        reason=one_line(announced.reason, _MAX_TEXT), end_time=convert.timestamp(announced.ends_at)
    )
