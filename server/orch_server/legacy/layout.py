"""What our columns say, in the old system's fields: the way back, before what was kept comes in.

A record's fields are in the order in which the old system wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta, tzinfo
from typing import Any

from orch_server.core.delivery import DeliveryState, Priority
from orch_server.core.errors import InvalidInput
from orch_server.core.session import ProjectSize, Session
from orch_server.core.wall import zone as named_zone
from orch_server.storage.columns import from_span
from orch_server.storage.exports import (
    AgentOut,
    MessageOut,
    Snapshot,
    TaskOut,
    WaitOut,
    local_text,
)

Fields = dict[str, Any]

_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_THERE = ("ALIVE", "SUSPECT", "UNKNOWN", "UNMANAGED")
_STATES = {
    DeliveryState.CONFIRMED: "delivered",
    DeliveryState.QUEUED_BY_AGENT: "delivered",
    DeliveryState.UNCONFIRMED: "pulled",
}
_HIGH = 50

#: The fields that the old system had, by the kind of record; others are unknown to us.
KNOWN_FIELDS: dict[str, frozenset[str]] = {
    "session": frozenset(
        [
            "session_name",
            "project_path",
            "project_name",
            "implementation_spec_path",
            "created_at",
            "updated_at",
            "orchestrator_window",
            "project_size",
            "parent_branch",
            "completion_status",
            "completion_time",
            "failure_reason",
            "phases_completed",
            "spec_path",
            "dependencies",
            "worktree_base_path",
            "status_reports",
            "batch_id",
            "worktrees",
            "subscription_plan",
            "phase_durations",
            "velocity_metrics",
        ]
    ),
    "agent": frozenset(
        [
            "role",
            "window_index",
            "window_name",
            "worktree_path",
            "last_briefing_time",
            "last_check_in_time",
            "is_alive",
            "is_exhausted",
            "credit_reset_time",
            "current_branch",
            "commit_hash",
            "waiting_for",
        ]
    ),
    "task": frozenset(
        [
            "id",
            "session_name",
            "agent_role",
            "window_index",
            "next_run",
            "interval_minutes",
            "note",
            "last_run",
            "created_at",
            "retry_count",
            "max_retries",
        ]
    ),
    "message": frozenset(
        [
            "id",
            "agent_id",
            "agent_session",
            "message",
            "priority",
            "sequence_number",
            "dependency_id",
            "project_name",
            "status",
            "enqueued_at",
            "pulled_at",
            "delivered_at",
            "delivery_method",
            "fifo_scope",
        ]
    ),
}


@dataclass(slots=True)
class Layout:
    """Records with their fields, and which agents belong to which session, in order."""

    fields: dict[str, Fields] = field(default_factory=dict)
    agents: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def priority_of(old: int) -> Priority:
    """Ours, for a priority from 0 to 100."""
    return Priority.HIGH if old >= _HIGH else Priority.NORMAL


def layout(store: Snapshot, here: tzinfo) -> Layout:
    """All records that the store has, with what its columns say. Times are local: of the zone in
    which their session was imported, else of this one."""
    made = Layout()
    owners: dict[str, AgentOut] = {}
    zones = {name: _zone(name, here) for name in set(store.zones.values())}
    for session in store.sessions:
        agents = store.agents.get(session.name, [])
        zone = zones.get(store.zones.get(session.name, ""), here)
        made.fields[f"session:{session.name}"] = _session(session, agents, store, zone)
        members = made.agents.setdefault(session.name, [])
        for agent in agents:
            owners[agent.id] = agent
            record = f"agent:{session.name}:{agent.role}"
            made.fields[record] = _agent(agent, store.waits.get(agent.id), zone)
            members.append((agent.role, record))
    for task in store.tasks:
        record = task.record or f"task:ours:{task.id}"
        made.fields[record] = _task(task, owners[task.agent_id])
        made.tasks.append(record)
    for message in store.messages:
        record = message.record or f"message:ours:{message.id}"
        made.fields[record] = _message(message, owners[message.agent_id])
        made.messages.append(record)
    return made


def _zone(name: str, otherwise: tzinfo) -> tzinfo:
    try:
        return named_zone(name)
    except InvalidInput:  # no longer known to this machine
        return otherwise


def _session(session: Session, agents: list[AgentOut], store: Snapshot, zone: tzinfo) -> Fields:
    name = session.name
    needs: dict[str, list[str]] = {}
    for role, need in store.needs.get(name, []):
        needs.setdefault(role, []).append(need)
    return {
        "session_name": None if session.name_missing else name,
        "project_path": session.project_path,
        "project_name": session.project_name,
        "implementation_spec_path": session.specification_path,
        "created_at": local_text(session.created_at, zone),
        "updated_at": local_text(session.updated_at, zone),
        "orchestrator_window": session.orchestrator_window,
        "project_size": (session.project_size or ProjectSize.MEDIUM).lower(),
        "parent_branch": session.parent_branch or None,
        "completion_status": session.completion.lower(),
        "completion_time": local_text(session.completed_at, zone),
        "failure_reason": session.failure_reason or None,
        "phases_completed": [phase.name for phase in store.phases.get(name, [])],
        "spec_path": session.original_specification_path or None,
        "dependencies": needs,
        "worktree_base_path": session.worktree_base_path or None,
        "status_reports": dict(_reports(name, store, zone)),
        "batch_id": session.batch_id or None,
        "worktrees": {a.role: a.worktree_path for a in agents if a.worktree_path},
        **_optional(session, store),
    }


def _reports(name: str, store: Snapshot, zone: tzinfo) -> Iterator[tuple[str, Fields]]:
    for report in store.reports.get(name, []):
        yield (
            report.role,
            {
                "topic": report.topic,
                "status": report.status,
                "details": report.detail,
                "timestamp": local_text(report.at, zone),
            },
        )


def _optional(session: Session, store: Snapshot) -> Fields:
    """What only some of the old files have."""
    found: Fields = {}
    if session.plan:
        found["subscription_plan"] = session.plan.lower()
    lengths = {
        str(phase.position): from_span(phase.length) / _HOUR
        for phase in store.phases.get(session.name, [])
        if phase.length is not None
    }
    if lengths:
        found["phase_durations"] = lengths
    if store.metrics.get(session.name):
        found["velocity_metrics"] = dict(store.metrics[session.name])
    return found


def _agent(agent: AgentOut, wait: WaitOut | None, zone: tzinfo) -> Fields:
    old = agent.epoch == 0  # no client of ours was heard yet
    limited = agent.state == "USAGE_LIMITED"
    alive = bool(agent.alive) if old and agent.alive is not None else agent.liveness in _THERE
    spent = bool(agent.exhausted) if old and agent.exhausted is not None else limited
    reset = agent.credit_reset if old else local_text(agent.reset_at if limited else None, zone)
    return {
        "role": agent.role,
        "window_index": agent.window_index,
        "window_name": agent.window_name or agent.role.title(),
        "worktree_path": agent.worktree_path or "",
        "last_briefing_time": local_text(agent.briefed_at, zone),
        "last_check_in_time": local_text(agent.checked_in_at, zone),
        "is_alive": alive,
        "is_exhausted": spent,
        "credit_reset_time": reset or None,
        "current_branch": agent.branch or None,
        "commit_hash": agent.commit_hash or None,
        "waiting_for": None if wait is None else _wait(wait, zone),
    }


def _wait(wait: WaitOut, zone: tzinfo) -> Fields:
    minutes = from_span(wait.deadline_at - wait.created_at) / _MINUTE
    return {
        "role": wait.approver_role,
        "reason": "authorization",
        "request": wait.action,
        "since": local_text(wait.created_at, zone),
        "request_id": (wait.request_id or wait.id).removeprefix(f"{wait.agent_id}:"),
        "timeout_minutes": _number(minutes),
    }


def _task(task: TaskOut, agent: AgentOut) -> Fields:
    return {
        "id": None,
        "session_name": agent.session,
        "agent_role": agent.role,
        "window_index": agent.window_index or 0,
        "next_run": _epoch(task.next_at),
        "interval_minutes": _number(from_span(task.every) / _MINUTE),
        "note": task.note,
        "last_run": _epoch(task.fired_at),
        "created_at": _epoch(task.created_at),
        "retry_count": -1 if task.state == "PAUSED" else 0,
        "max_retries": 3,
    }


def _message(message: MessageOut, agent: AgentOut) -> Fields:
    window = agent.role if agent.window_index is None else agent.window_index
    status = _STATES.get(DeliveryState(message.state), "pending")
    return {
        "id": None,
        "agent_id": f"{agent.session}:{window}",
        "message": message.text,
        "priority": 100 if message.priority >= Priority.HIGH else 0,
        "sequence_number": None,
        "dependency_id": None,
        "project_name": None,
        "status": status,
        "enqueued_at": _epoch(message.created_at),
        "pulled_at": None,
        "delivered_at": _epoch(message.updated_at) if status == "delivered" else None,
        "delivery_method": "queued",
        "fifo_scope": "agent",
    }


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _epoch(at: int | None) -> float | None:
    return None if at is None else at / 1_000_000
