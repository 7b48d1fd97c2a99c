"""The policy of authorization: classes of actions, who decides them, who is told when nobody does,
and the rules of the gate. What it says of a request is written with the request
(docs/reference/authorization.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum, StrEnum

HUMAN = "human"
ROUTINE = "routine"
MIN_TIMEOUT, MAX_TIMEOUT = timedelta(seconds=1), timedelta(hours=24)


class AuthorizationPriority(IntEnum):
    """Higher is decided first."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


class Rule(StrEnum):
    """What the gate does with an action that a rule fits."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class ActionClass:
    """Actions that are decided alike. `words` are beginnings of words; `timeout` None: by the
    priority; `lapse` is how long an approval may be used."""

    name: str
    approvers: tuple[str, ...]
    lapse: timedelta
    words: tuple[str, ...] = ()
    priority: AuthorizationPriority = AuthorizationPriority.LOW
    human: bool = False
    reason_required: bool = False
    timeout: timedelta | None = None

    def has(self, action: str) -> bool:
        """Whether a word of the action begins with one of the words ("deploying", "deploy")."""
        return bool(self.words) and any(
            word.startswith(self.words) for word in re.findall(r"[a-z0-9]+", action.lower())
        )


@dataclass(frozen=True, slots=True)
class GateRule:
    """The first rule that fits a tool call decides. `action_class` "": by the words."""

    then: Rule
    tool: re.Pattern[str] | None = None
    input: re.Pattern[str] | None = None
    action_class: str = ""

    def fits(self, tool: str, text: str) -> bool:
        """Whether the rule is for this tool and what it is given."""
        return (self.tool is None or self.tool.fullmatch(tool) is not None) and (
            self.input is None or self.input.search(text) is not None
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate's rules say of an action."""

    then: Rule
    action_class: ActionClass


@dataclass(frozen=True, slots=True)
class Policy:
    """All of it. `escalate_at` are shares of the time to decide, ascending."""

    routine: ActionClass
    classes: tuple[ActionClass, ...]
    timeouts: Mapping[AuthorizationPriority, timedelta]
    escalation: tuple[str, ...] = ("orchestrator", HUMAN)
    escalate_at: tuple[float, ...] = (0.8, 0.9)
    gate: tuple[GateRule, ...] = ()
    gate_default: Rule = Rule.ALLOW
    _by_name: dict[str, ActionClass] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = {one.name: one for one in (*self.classes, self.routine)}
        object.__setattr__(self, "_by_name", names)

    def classify(self, action: str) -> ActionClass:
        """The class of an action, by its words."""
        return next((one for one in self.classes if one.has(action)), self.routine)

    def timeout(self, of: ActionClass, priority: AuthorizationPriority) -> timedelta:
        """How long there is to decide."""
        return of.timeout or self.timeouts[priority]

    def levels(self, asked: str, timeout: timedelta) -> list[tuple[str, timedelta]]:
        """Who is told when nobody decides, and how long after the request."""
        receivers = [one for one in self.escalation if one != asked]
        shares = (*self.escalate_at, *[self.escalate_at[-1]] * len(receivers))
        return [(one, timeout * share) for one, share in zip(receivers, shares, strict=False)]

    def judge(self, tool: str, arguments: str) -> Judgement:
        """What the gate does with a tool call; `arguments` is its input as JSON."""
        text = searched(arguments)
        rule = next((one for one in self.gate if one.fits(tool, text)), None)
        named = self._by_name.get(rule.action_class) if rule is not None else None
        return Judgement(
            self.gate_default if rule is None else rule.then, named or self.classify(text)
        )

    def deciding_roles(self) -> tuple[str, ...]:
        """Every role that may ever decide, the routine approvers first."""
        found = dict.fromkeys(self.routine.approvers)
        for one in self.classes:
            found.update(dict.fromkeys(one.approvers))
        found.update(dict.fromkeys(one for one in self.escalation if one != HUMAN))
        return tuple(found)


def searched(arguments: str) -> str:
    """The part of a tool's input that rules look at: its command, else its path, else all of it."""
    try:
        given = json.loads(arguments)
    except ValueError:
        return arguments
    if isinstance(given, dict):
        for key in ("command", "file_path", "notebook_path", "path"):
            if isinstance(given.get(key), str):
                return str(given[key])
    return arguments


DEFAULT_TIMEOUTS: Mapping[AuthorizationPriority, timedelta] = {
    AuthorizationPriority.HIGH: timedelta(minutes=5),
    AuthorizationPriority.MEDIUM: timedelta(minutes=15),
    AuthorizationPriority.LOW: timedelta(minutes=30),
}
DEFAULT_LAPSE = timedelta(minutes=15)
_CRITICAL = ("production", "deploy", "security", "emergency", "critical")
_SENSITIVE = ("schema", "database", "infrastructure", "config")
_READING = "Read|Glob|Grep|LS|NotebookRead|TodoWrite|Task|BashOutput|KillShell|ExitPlanMode"
_ALARMING = (
    rf"(?i)\.claude\b|settings(\.local)?\.json|orch-client\s+hooks|\b({'|'.join(_CRITICAL)})"
)


def default_classes(approvers: tuple[str, ...], lapse: timedelta) -> tuple[ActionClass, ...]:
    """The classes that hold when the policy has none of its own."""
    return (
        ActionClass(
            "critical", approvers, lapse, _CRITICAL, AuthorizationPriority.HIGH, human=True
        ),
        ActionClass("sensitive", approvers, lapse, _SENSITIVE, AuthorizationPriority.MEDIUM),
    )


DEFAULT_GATE = (
    GateRule(Rule.ALLOW, re.compile(_READING)),
    GateRule(Rule.ASK, re.compile("Edit|Write|MultiEdit|NotebookEdit"), re.compile(r"\.claude/")),
    GateRule(Rule.ASK, re.compile("Bash"), re.compile(_ALARMING)),
)


def default_policy(approvers: tuple[str, ...]) -> Policy:
    """The policy of a configuration that says nothing but who approves."""
    return Policy(
        routine=ActionClass(ROUTINE, approvers, DEFAULT_LAPSE),
        classes=default_classes(approvers, DEFAULT_LAPSE),
        timeouts=DEFAULT_TIMEOUTS,
        gate=DEFAULT_GATE,
    )
