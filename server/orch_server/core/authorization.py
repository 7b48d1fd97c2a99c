"""Authorizations: states, who may decide, what an approval covers. Silence is a no."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from orch_server.core.errors import Conflict, InvalidInput, NotAllowed
from orch_server.core.identity import Incarnation
from orch_server.core.policy import (
    HUMAN,
    MAX_TIMEOUT,
    MIN_TIMEOUT,
    ActionClass,
    AuthorizationPriority,
    Policy,
)
from orch_server.core.text import one_line

#: Pending requests that one agent may have.
MAX_PENDING = 100
_SHOWN = 200


class AuthorizationState(StrEnum):
    """See authorization.proto."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    CONSUMED = "CONSUMED"
    LAPSED = "LAPSED"


class Verdict(StrEnum):
    """What can happen to an authorization."""

    APPROVE = "APPROVE"
    DENY = "DENY"
    EXPIRE = "EXPIRE"
    CANCEL = "CANCEL"
    CONSUME = "CONSUME"
    LAPSE = "LAPSE"


class Proof(StrEnum):
    """How the one who decided was known; see DecisionProof. "" while nobody has."""

    NONE = ""
    ROLE = "ROLE"
    PASSPHRASE = "PASSPHRASE"  # noqa: S105 - a word
    OPEN_MODE = "OPEN_MODE"


TRANSITIONS: dict[tuple[AuthorizationState, Verdict], AuthorizationState] = {
    (AuthorizationState.PENDING, Verdict.APPROVE): AuthorizationState.APPROVED,
    (AuthorizationState.PENDING, Verdict.DENY): AuthorizationState.DENIED,
    (AuthorizationState.PENDING, Verdict.EXPIRE): AuthorizationState.EXPIRED,
    (AuthorizationState.PENDING, Verdict.CANCEL): AuthorizationState.CANCELLED,
    (AuthorizationState.APPROVED, Verdict.CONSUME): AuthorizationState.CONSUMED,
    (AuthorizationState.APPROVED, Verdict.LAPSE): AuthorizationState.LAPSED,
}


@dataclass(frozen=True, slots=True)
class Action:
    """What is to be done, to the letter. Without a tool, `arguments` are the words of a request."""

    tool: str
    arguments: str
    cwd: str


@dataclass(frozen=True, slots=True)
class Level:
    """Who is told when nobody has decided by then. `told_at` is None until it was told, or passed
    over since no agent had the role."""

    receiver: str
    due_at: datetime
    told_at: datetime | None = None
    passed_over: bool = False


@dataclass(frozen=True, slots=True)
class Authorization:
    """A request for leave to act, with the policy as it was. `requester_pane` is the key of the
    pane that asked; `action` the one-line form of `bound` that people read; `lapses_at` is None
    unless it was approved; `closed_at` is when an approval was used or lapsed."""

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
    action_class: str
    approvers: tuple[str, ...]
    human: bool
    reason_required: bool
    lapse: timedelta
    bound: Action
    digest: str
    levels: tuple[Level, ...] = ()
    resolved_at: datetime | None = None
    resolver: str = ""
    reason: str = ""
    proof: Proof = Proof.NONE
    lapses_at: datetime | None = None
    closed_at: datetime | None = None

    @property
    def requester(self) -> str:
        """The one who asked, as "session:role"."""
        return f"{self.session}:{self.requester_role}"


@dataclass(frozen=True, slots=True)
class Requester:
    """The agent that asks, and where it lives."""

    agent_id: str
    session: str
    role: str
    incarnation: Incarnation | None
    pane_pid: int


@dataclass(frozen=True, slots=True)
class Decider:
    """Who wants to decide. The operator has no agent id; outside tmux he has no pane either."""

    name: str
    agent_id: str = ""
    pane: str = ""
    session: str = ""
    role: str = ""
    operator: bool = False


def digest(action: Action, requester: Requester) -> str:
    """What an approval covers: SHA-256, in hex, of the action and of who takes it where."""
    at = requester.incarnation
    covered = [
        action.tool,
        action.arguments,
        action.cwd,
        requester.session,
        requester.role,
        at.key() if at is not None else "",
        requester.pane_pid,
    ]
    return hashlib.sha256(json.dumps(["orch.approval.1", *covered]).encode()).hexdigest()


def check_timeout(timeout: timedelta) -> timedelta | None:
    """The time that a request gives for its decision; None for 0. Raises InvalidInput."""
    if timeout == timedelta(0):
        return None
    if not MIN_TIMEOUT <= timeout <= MAX_TIMEOUT:
        raise InvalidInput("timeout", "The deadline is out of range; use 1 s to 24 h.")
    return timeout


def ask(
    name: str,
    requester: Requester,
    action: str,
    bound: Action,
    asked_role: str,
    of: ActionClass,
    priority: AuthorizationPriority | None,
    timeout: timedelta | None,
    policy: Policy,
    now: datetime,
) -> Authorization:
    """A new request, with what the policy says of it now."""
    chosen = priority or of.priority
    length = timeout or policy.timeout(of, chosen)
    return Authorization(
        id=name,
        agent_id=requester.agent_id,
        session=requester.session,
        requester_role=requester.role,
        requester_pane=requester.incarnation.key() if requester.incarnation else "",
        approver_role=asked_role,
        action=action,
        priority=chosen,
        priority_derived=priority is None,
        state=AuthorizationState.PENDING,
        created_at=now,
        deadline_at=now + length,
        action_class=of.name,
        approvers=of.approvers,
        human=of.human,
        reason_required=of.reason_required,
        lapse=of.lapse,
        bound=bound,
        digest=digest(bound, requester),
        levels=tuple(
            Level(receiver, now + after) for receiver, after in policy.levels(asked_role, length)
        ),
    )


def resolve(asked: Authorization, verdict: Verdict, now: datetime) -> AuthorizationState:
    """The state after this. Raises Conflict, naming the state, when the table has no such step, or
    when it comes too late: a decision at the deadline, the use of an approval at its end."""
    state = asked.state
    if verdict in (Verdict.APPROVE, Verdict.DENY) and now >= asked.deadline_at:
        state = AuthorizationState.EXPIRED if state is AuthorizationState.PENDING else state
    late = asked.lapses_at is not None and now >= asked.lapses_at
    if verdict is Verdict.CONSUME and late and state is AuthorizationState.APPROVED:
        state = AuthorizationState.LAPSED
    after = TRANSITIONS.get((state, verdict))
    if after is None:
        raise Conflict(_why_not(asked.id, state, verdict), state=state)
    return after


def _why_not(name: str, state: AuthorizationState, verdict: Verdict) -> str:
    if state is AuthorizationState.PENDING:
        return f"Authorization {name} is still pending; nothing was approved that could be used."
    if verdict is Verdict.CONSUME:
        return f"Authorization {name} is {state.lower()}; it allows nothing, ask anew."
    return f"Authorization {name} is already {state.lower()}; it cannot be changed any more."


def check_decider(asked: Authorization, decider: Decider) -> None:
    """Raises NotAllowed unless this one may approve or deny.

    Never the agent that asked, nor anyone in the pane it asked from or under the role it had
    then; else the operator, or an agent of the same session whose role the policy names or that
    was told as a level.
    """
    same_role = (decider.session, decider.role) == (asked.session, asked.requester_role)
    same_pane = bool(decider.pane) and decider.pane == asked.requester_pane
    if decider.agent_id == asked.agent_id or same_role or same_pane:
        who = "This pane" if decider.operator else decider.name
        raise NotAllowed(
            f"{who} asked for authorization {asked.id} and cannot decide it; another"
            " approver must, or the operator from outside the agent's pane."
        )
    if decider.operator:
        return
    may = deciding_roles(asked)
    if decider.session != asked.session or decider.role not in may:
        raise NotAllowed(
            f"{decider.name} may not decide for session {asked.session}; these roles of that"
            f" session may: {', '.join(may)}."
        )


def deciding_roles(asked: Authorization) -> tuple[str, ...]:
    """The roles that may decide this request now. A human is no role: anyone could take one of that
    name."""
    told = (
        level.receiver
        for level in asked.levels
        if level.told_at is not None and not level.passed_over and level.receiver != HUMAN
    )
    return tuple(dict.fromkeys((*asked.approvers, *told)))


def needs_passphrase(asked: Authorization, verdict: Verdict, decider: Decider) -> bool:
    """Whether a human must prove himself for this, when there is a passphrase."""
    return decider.operator or (asked.human and verdict is Verdict.APPROVE)


def check_reason(verdict: Verdict, reason: str, asked: Authorization | None = None) -> None:
    """Raises InvalidInput when a reason is missing that is needed: for every denial, and for an
    approval where the request says so."""
    if reason.strip():
        return
    if verdict is Verdict.DENY:
        raise InvalidInput("reason", "A denial needs a reason; give it with --reason.")
    if asked is not None and asked.reason_required:
        raise InvalidInput(
            "reason",
            f"An approval of the class {asked.action_class} needs a reason; give it with --reason.",
        )


def check_involved(asked: Authorization, decider: Decider, doing: str, *, deciders: bool) -> None:
    """Raises NotAllowed unless this is the requester, the operator or, with `deciders`, one who may
    decide."""
    if decider.operator or decider.agent_id == asked.agent_id:
        return
    if deciders and decider.session == asked.session and decider.role in deciding_roles(asked):
        return
    others = ", an approver of its session" if deciders else ""
    raise NotAllowed(
        f"{decider.name} may not {doing} authorization {asked.id}; only"
        f" {asked.requester}{others} or the operator may."
    )


def check_consumer(asked: Authorization, consumer: Requester, action: Action) -> None:
    """Raises NotAllowed unless this agent, where it lives now, was allowed this action."""
    if consumer.agent_id != asked.agent_id:
        raise NotAllowed(
            f"Authorization {asked.id} is {asked.requester}'s; only that agent can use it."
        )
    if digest(action, consumer) != asked.digest:
        folder = one_line(asked.bound.cwd, 200) if action.cwd != asked.bound.cwd else ""
        where = f" (it is for the folder {folder})" if folder else ""
        raise NotAllowed(
            f"Authorization {asked.id} covers another action, or the same one elsewhere{where}: an"
            " approval holds for one tool, its exact arguments, one folder and one pane. Ask anew."
        )


def asked_text(asked: Authorization, now: datetime, *, level: str = "") -> str:
    """What is typed into the pane of the one who is asked: one line. `level` says why it comes to
    him."""
    why = f" {level}" if level else ""
    human = ". A human must approve it" if asked.human else ""
    return (
        f"Authorization {asked.id}{why}: {asked.requester} asks"
        f" ({asked.priority.name.lower()}, {left(asked.deadline_at - now)}):"
        f" {one_line(asked.action, 300)}{human}"
        f" - answer with: orch-client approve {asked.id} | orch-client deny {asked.id}"
        " --reason WHY"
    )


def left(span: timedelta) -> str:
    """How much time there is, in words: seconds below two minutes, else minutes."""
    seconds = max(0, round(span.total_seconds()))
    return f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} min"


def decision_text(authorization: Authorization) -> str:
    """What is typed into the requester's pane: one line."""
    about = one_line(authorization.action, _SHOWN)
    by = f" by {authorization.resolver}" if authorization.resolver else ""
    why = " ".join(authorization.reason.split())
    stop = "" if why.endswith((".", "!", "?")) else "."
    tail = f" Reason: {why}{stop}" if why else ""
    word = authorization.state.lower()
    if authorization.state is AuthorizationState.CONSUMED:
        word, tail = "approved", f"{tail} It was used by the command that waited for it."
    elif authorization.state is AuthorizationState.APPROVED:
        tail += f" It covers this once, within {left(authorization.lapse)}"
        use = f": orch-client consume {authorization.id}"
        tail += "; do the same again." if authorization.bound.tool else f"{use}."
    return f"Authorization {authorization.id} {word}{by}: {about}.{tail}"
