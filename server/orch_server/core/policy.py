"""The policy of authorization: classes of actions, who decides them, who is told when nobody does,
and the rules of the gate. What it says of a request is written with the request
(docs/reference/authorization.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum, StrEnum
from functools import cache
from typing import Any, Protocol, cast

import re2

HUMAN = "human"
ROUTINE = "routine"
MIN_TIMEOUT, MAX_TIMEOUT = timedelta(seconds=1), timedelta(hours=24)


class AuthorizationPriority(IntEnum):
    """Higher is decided first."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


class Pattern(Protocol):
    """A regular expression of RE2, whose time grows with the text alone: what an agent sends cannot
    make it slow, as it can Python's own."""

    pattern: str

    def fullmatch(self, text: str) -> Any:
        """None unless all of the text fits."""

    def search(self, text: str) -> Any:
        """None unless some of the text fits."""


@cache
def pattern(text: str) -> Pattern:
    """The regular expression; "." also stands for a line break. Raises ValueError, saying why."""
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = True
    try:
        return cast("Pattern", re2.compile(text, options))
    except re2.error as exc:
        (why,) = exc.args
        raise ValueError(why.decode() if isinstance(why, bytes) else str(why)) from exc


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
        return bool(self.words) and _beginnings(self.words).search(action) is not None


@dataclass(frozen=True, slots=True)
class GateRule:
    """The first rule that fits a tool call decides. `action_class` "": by the words. With `human`
    only what, by its words, a human must approve."""

    then: Rule
    tool: Pattern | None = None
    input: Pattern | None = None
    action_class: str = ""
    human: bool = False

    def fits(self, tool: str, text: str, by_words: ActionClass) -> bool:
        """Whether the rule is for this tool and what it is given, which is of this class."""
        return (
            (self.tool is None or self.tool.fullmatch(tool) is not None)
            and (self.input is None or self.input.search(text) is not None)
            and (by_words.human or not self.human)
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
        by_words = self.classify(text)
        rule = next((one for one in self.gate if one.fits(tool, text, by_words)), None)
        named = self._by_name.get(rule.action_class) if rule is not None else None
        return Judgement(self.gate_default if rule is None else rule.then, named or by_words)

    def deciding_roles(self) -> tuple[str, ...]:
        """Every role that may ever decide, the routine approvers first."""
        found = dict.fromkeys(self.routine.approvers)
        for one in self.classes:
            found.update(dict.fromkeys(one.approvers))
        found.update(dict.fromkeys(one for one in self.escalation if one != HUMAN))
        return tuple(found)


def searched(arguments: str) -> str:
    """The part of a tool's input that rules look at: its command and its paths, line by line, since
    any of them may be what counts; else all of it."""
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    if not isinstance(given, dict):
        return arguments
    found = [given[key] for key in _SEARCHED if isinstance(given.get(key), str)]
    return "\n".join(found) if found else arguments


@cache
def _beginnings(words: tuple[str, ...]) -> Pattern:
    """Finds a word that begins with one of these."""
    return pattern(f"(?i)(?:^|[^a-z0-9])(?:{'|'.join(words)})")


DEFAULT_TIMEOUTS: Mapping[AuthorizationPriority, timedelta] = {
    AuthorizationPriority.HIGH: timedelta(minutes=5),
    AuthorizationPriority.MEDIUM: timedelta(minutes=15),
    AuthorizationPriority.LOW: timedelta(minutes=30),
}
DEFAULT_LAPSE = timedelta(minutes=15)
_SEARCHED = ("command", "file_path", "notebook_path", "path")
_CRITICAL = ("production", "deploy", "security", "emergency", "critical")
_SENSITIVE = ("schema", "database", "infrastructure", "config")
_READING = "Read|Glob|Grep|LS|NotebookRead|TodoWrite|Task|BashOutput|KillShell|ExitPlanMode"
_WRITING = "Edit|Write|MultiEdit|NotebookEdit"
_OWN_SETTINGS = r"(?i)\.claude\b|settings(\.local)?\.json|orch-client\s+hooks"


def default_classes(approvers: tuple[str, ...], lapse: timedelta) -> tuple[ActionClass, ...]:
    """The classes that hold when the policy has none of its own."""
    return (
        ActionClass(
            "critical", approvers, lapse, _CRITICAL, AuthorizationPriority.HIGH, human=True
        ),
        ActionClass("sensitive", approvers, lapse, _SENSITIVE, AuthorizationPriority.MEDIUM),
    )


DEFAULT_GATE = (
    GateRule(Rule.ALLOW, pattern(_READING)),
    GateRule(Rule.ASK, pattern(_WRITING), pattern(r"(?i)\.claude\b")),
    GateRule(Rule.ASK, pattern("Bash"), pattern(_OWN_SETTINGS)),
    GateRule(Rule.ASK, pattern("Bash"), human=True),
)


def default_policy(approvers: tuple[str, ...]) -> Policy:
    """The policy of a configuration that says nothing but who approves."""
    return Policy(
        routine=ActionClass(ROUTINE, approvers, DEFAULT_LAPSE),
        classes=default_classes(approvers, DEFAULT_LAPSE),
        timeouts=DEFAULT_TIMEOUTS,
        gate=DEFAULT_GATE,
    )
