"""What an agent does, and what hooks and exits tell of it; core/fusion.py chooses among it all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class AgentState(StrEnum):
    """See agent.proto."""

    UNKNOWN = "UNKNOWN"
    STARTING = "STARTING"
    WORKING = "WORKING"
    IDLE = "IDLE"
    WAITING_PERMISSION = "WAITING_PERMISSION"
    WAITING_ANSWER = "WAITING_ANSWER"
    USAGE_LIMITED = "USAGE_LIMITED"
    AUTH_FAILED = "AUTH_FAILED"
    SHELL = "SHELL"
    DEAD = "DEAD"
    HUNG = "HUNG"


class EvidenceSource(StrEnum):
    """What told an agent's state; see agent.proto. UNSET: nothing did."""

    UNSET = ""
    HOOK = "HOOK"
    SCREEN = "SCREEN"
    PROCESS = "PROCESS"
    ACTIVITY = "ACTIVITY"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that told an agent's state. `began_at`: since when it tells this; `observed_at`:
    when it was last seen to; `reset_at`: the end of a usage limit, when it was said."""

    source: EvidenceSource
    state: AgentState
    rule: str
    detail: str
    began_at: datetime
    observed_at: datetime
    reset_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The state of an agent as it is shown, and what told it."""

    state: AgentState
    changed_at: datetime
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """A long operation that an agent has announced."""

    reason: str
    began_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """What a client saw of the agent in its pane; see heartbeat.proto."""

    source: EvidenceSource
    state: AgentState
    rule: str
    detail: str
    context: int = 0


@dataclass(frozen=True, slots=True)
class HookReport:
    """What an agent's own hook saw; see ReportHookEventRequest."""

    event: str
    agent_session_id: str = ""
    detail: str = ""
    message: str = ""
    continues: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """How an agent that `orch-client run` started has ended; see AgentExit."""

    status: int
    signal: int
    restart_after: timedelta | None
    gave_up: bool
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an agent is shown as it is; see heartbeat.proto."""

    evidence: tuple[Evidence, ...]
    state_rule: str
    liveness_rule: str
    supervision: tuple[str, ...]
    would_change: tuple[str, ...]


#: Characters of what was seen, and of a rule's name, that are kept.
MAX_DETAIL = 200
MAX_RULE = 60

_S = AgentState
#: Event of a hook: the state that it tells. What is not here tells none, or depends on its detail.
_HOOKS = {"UserPromptSubmit": _S.WORKING, "Stop": _S.IDLE, "SessionStart": _S.IDLE}
_NOTIFICATIONS = {
    "permission_prompt": _S.WAITING_PERMISSION,
    "elicitation_dialog": _S.WAITING_ANSWER,
    "idle_prompt": _S.IDLE,
}
_FAILURES = {
    "rate_limit": _S.USAGE_LIMITED,
    "billing_error": _S.USAGE_LIMITED,
    "authentication_failed": _S.AUTH_FAILED,
    "oauth_org_not_allowed": _S.AUTH_FAILED,
}
_QUESTION = "AskUserQuestion"
#: What a notification says less exactly than what is known.
_SAYS_LESS = frozenset(
    {
        ("permission_prompt", _S.WAITING_ANSWER),
        ("idle_prompt", _S.USAGE_LIMITED),
        ("idle_prompt", _S.AUTH_FAILED),
    }
)
_NO_LIMIT = "not your usage limit"
#: SIGHUP, SIGINT, SIGTERM, and the statuses of programs that say so themselves: no crash.
_BY_A_PERSON = frozenset({1, 2, 15})
_NO_CRASH = frozenset({0, 129, 130, 143})
_GOES_ON = frozenset({"clear", "resume", "compact"})


def told_by_hook(report: HookReport, before: AgentState) -> AgentState | None:
    """The state that a hook tells; None when it tells none. `before` is the state so far.

    Claude Code notifies of a question as of a permission, and says that it waits after a limit too.
    """
    if report.event == "Stop" and report.continues:
        return _S.WORKING
    if report.event == "SessionStart" and report.detail == "compact":
        return None
    if report.event == "PermissionRequest":
        asks = report.detail == _QUESTION
        return _S.WAITING_ANSWER if asks else _S.WAITING_PERMISSION
    if report.event == "Notification":
        told = _NOTIFICATIONS.get(report.detail)
        return None if (report.detail, before) in _SAYS_LESS else told
    if report.event == "StopFailure":
        if _NO_LIMIT in report.message:
            return _S.IDLE
        return _FAILURES.get(report.detail, _S.IDLE)
    if report.event == "SessionEnd":
        return None if report.detail in _GOES_ON else _S.SHELL
    return _HOOKS.get(report.event)


def told_by_exit(ended: Exit) -> tuple[AgentState, str]:
    """The state after an exit that `run` saw, and what to say of it."""
    if ended.signal:
        how = f"killed by signal {ended.signal}"
    else:
        how = f"exited with status {ended.status}"
    if ended.restart_after is not None:
        return _S.STARTING, f"{how}; started again in {ended.restart_after.total_seconds():g} s"
    if ended.gave_up:
        how += "; given up after too many crashes"
    clean = ended.signal in _BY_A_PERSON or (not ended.signal and ended.status in _NO_CRASH)
    return (_S.SHELL if clean or ended.wanted else _S.DEAD), how
