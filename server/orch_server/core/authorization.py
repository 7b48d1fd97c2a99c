"""Authorizations: states, priorities, time-outs and who may decide. Silence is a no."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

from orch_server.core.errors import Conflict, NotAllowed


class AuthorizationState(StrEnum):
    """See authorization.proto."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


class Verdict(StrEnum):
    """What can happen to a pending authorization."""

    APPROVE = "APPROVE"
    DENY = "DENY"
    EXPIRE = "EXPIRE"
    CANCEL = "CANCEL"


class AuthorizationPriority(IntEnum):
    """Higher is decided first."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


TRANSITIONS: dict[tuple[AuthorizationState, Verdict], AuthorizationState] = {
    (AuthorizationState.PENDING, Verdict.APPROVE): AuthorizationState.APPROVED,
    (AuthorizationState.PENDING, Verdict.DENY): AuthorizationState.DENIED,
    (AuthorizationState.PENDING, Verdict.EXPIRE): AuthorizationState.EXPIRED,
    (AuthorizationState.PENDING, Verdict.CANCEL): AuthorizationState.CANCELLED,
}

TIMEOUTS = {
    AuthorizationPriority.HIGH: timedelta(minutes=5),
    AuthorizationPriority.MEDIUM: timedelta(minutes=15),
    AuthorizationPriority.LOW: timedelta(minutes=30),
}

_WORDS = (
    (AuthorizationPriority.HIGH, ("production", "deploy", "security", "emergency", "critical")),
    (AuthorizationPriority.MEDIUM, ("schema", "database", "infrastructure", "config")),
)


@dataclass(frozen=True, slots=True)
class Authorization:
    """A request for leave to act. `requester_pane` is the key of the pane that asked."""

    id: str
    agent_id: str
    session: str
    requester_role: str
    requester_pane: str
    approver_role: str
    action: str
    priority: AuthorizationPriority
    priority_derived: bool
    state: AuthorizationState
    created_at: datetime
    deadline_at: datetime
    resolved_at: datetime | None = None
    resolver: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decider:
    """Who wants to decide. The operator has no agent id; outside tmux he has no pane either."""

    name: str
    agent_id: str = ""
    pane: str = ""
    session: str = ""
    role: str = ""
    operator: bool = False


def derive_priority(action: str) -> AuthorizationPriority:
    """From the beginnings of the action's words ("deploying" counts as "deploy")."""
    words = re.findall(r"[a-z]+", action.lower())
    for priority, marks in _WORDS:
        if any(word.startswith(marks) for word in words):
            return priority
    return AuthorizationPriority.LOW


def resolve(state: AuthorizationState, verdict: Verdict, name: str) -> AuthorizationState:
    """The final state. Raises Conflict, naming the state, when it was decided before."""
    after = TRANSITIONS.get((state, verdict))
    if after is None:
        raise Conflict(
            f"Authorization {name} is already {state.lower()}; it cannot be changed any more.",
            state=state,
        )
    return after


def check_decider(asked: Authorization, decider: Decider, approver_roles: tuple[str, ...]) -> None:
    """Raises NotAllowed unless this one may approve or deny.

    Never the agent that asked nor anyone in the pane it asked from; else the operator, or an
    agent of the same session whose role the policy names.
    """
    if decider.agent_id == asked.agent_id or (
        decider.pane and decider.pane == asked.requester_pane
    ):
        raise NotAllowed(
            f"{decider.name} asked for authorization {asked.id} and cannot decide it; another"
            " approver must, or the operator from outside the agent's pane."
        )
    if decider.operator:
        return
    if decider.session != asked.session or decider.role not in approver_roles:
        raise NotAllowed(
            f"{decider.name} may not decide for session {asked.session}; these roles of that"
            f" session may: {', '.join(approver_roles)}."
        )


def check_canceller(asked: Authorization, decider: Decider) -> None:
    """Raises NotAllowed unless this is the requester or the operator."""
    if not decider.operator and decider.agent_id != asked.agent_id:
        raise NotAllowed(
            f"{decider.name} may not withdraw authorization {asked.id}; only"
            f" {asked.session}:{asked.requester_role} or the operator may."
        )


def decision_text(authorization: Authorization) -> str:
    """What is typed into the requester's pane: one line."""
    about = " ".join(authorization.action.split())
    if len(about) > 200:
        about = about[:199] + "…"
    by = f" by {authorization.resolver}" if authorization.resolver else ""
    why = " ".join(authorization.reason.split())
    tail = f" Reason: {why}" if why else ""
    state = authorization.state.lower()
    return f"Authorization {authorization.id} {state}{by}: {about}.{tail}"
