"""The policy of authorization as config.toml has it; docs/reference/authorization.md describes it.
Each error names the key, the value and the cure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from orch_server.core.errors import InvalidInput, StartupError
from orch_server.core.policy import (
    DEFAULT_GATE,
    DEFAULT_LAPSE,
    DEFAULT_TIMEOUTS,
    HUMAN,
    MAX_TIMEOUT,
    MIN_TIMEOUT,
    ROUTINE,
    ActionClass,
    AuthorizationPriority,
    GateRule,
    Pattern,
    Policy,
    Rule,
    default_classes,
    pattern,
)
from orch_server.core.text import check_role, printable

_KEYS = (
    "timeouts",
    "lapse",
    "escalation",
    "escalate_at",
    "classes",
    "gate",
    "gate_default",
)
_CLASS_KEYS = (
    "name",
    "words",
    "priority",
    "human",
    "approvers",
    "reason_required",
    "timeout",
    "lapse",
)
_GATE_KEYS = ("tool", "input", "then", "class")
_PRIORITIES = {one.name.lower(): one for one in AuthorizationPriority}
_UNITS = {"s": 1, "m": 60, "h": 3600}
_LENGTH = re.compile(r"(\d{1,6})([smh])\Z")
_WORD = re.compile(r"[a-z0-9]+\Z")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")

T = TypeVar("T")


def policy(given: object, approvers: tuple[str, ...]) -> Policy:
    """The policy that the table [authorization] says; `approvers` decide where it names none.

    Raises StartupError.
    """
    table = _table("authorization", given, _KEYS)
    lapse = _length("authorization.lapse", table.get("lapse"), DEFAULT_LAPSE)
    classes = default_classes(approvers, lapse)
    if "classes" in table:
        classes = tuple(_each("authorization.classes", table["classes"], approvers, lapse))
    names = [one.name for one in classes]
    for name in names:
        if names.count(name) > 1:
            raise StartupError(f"authorization.classes has two classes '{name}'; rename one.")
    routine = next((one for one in classes if one.name == ROUTINE), None)
    gate: tuple[GateRule, ...] = DEFAULT_GATE
    if "gate" in table:
        gate = tuple(_gate(table["gate"], {*names, ROUTINE}))
    return Policy(
        routine=routine or ActionClass(ROUTINE, approvers, lapse),
        classes=tuple(one for one in classes if one is not routine),
        timeouts=_timeouts(table.get("timeouts", {})),
        escalation=_escalation(table.get("escalation", ["orchestrator", HUMAN])),
        escalate_at=_shares(table.get("escalate_at", [0.8, 0.9])),
        gate=gate,
        gate_default=_choice(
            "authorization.gate_default", table.get("gate_default", "allow"), _rules()
        ),
    )


def _each(
    key: str, given: object, approvers: tuple[str, ...], lapse: timedelta
) -> Iterable[ActionClass]:
    for number, one in enumerate(_list(key, given), 1):
        at = f"{key}[{number}]"
        table = _table(at, one, _CLASS_KEYS)
        name = table.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            raise StartupError(f"{at}.name {_is(name)}; use 1 to 40 of a-z, 0-9, '_' and '-'.")
        words = _list(f"{at}.words", table.get("words", []))
        fit = all(isinstance(w, str) and _WORD.match(w) for w in words)
        if not fit or (name != ROUTINE and not words):
            raise StartupError(
                f"{at}.words is {words!r}; list the beginnings of the words that make an action one"
                ' of this class, in small letters, such as ["deploy"].'
            )
        timeout = table.get("timeout")
        yield ActionClass(
            name=name,
            approvers=_roles(f"{at}.approvers", table.get("approvers"), approvers),
            lapse=_length(f"{at}.lapse", table.get("lapse"), lapse),
            words=tuple(words),
            priority=_choice(f"{at}.priority", table.get("priority", "low"), _PRIORITIES),
            human=_flag(f"{at}.human", table.get("human", False)),
            reason_required=_flag(f"{at}.reason_required", table.get("reason_required", False)),
            timeout=None if timeout is None else _length(f"{at}.timeout", timeout, MIN_TIMEOUT),
        )


def _gate(given: object, classes: set[str]) -> Iterable[GateRule]:
    for number, one in enumerate(_list("authorization.gate", given), 1):
        at = f"authorization.gate[{number}]"
        table = _table(at, one, _GATE_KEYS)
        named = table.get("class", "")
        if not isinstance(named, str) or ("class" in table and named not in classes):
            raise StartupError(f"{at}.class is {named!r}; there are: {', '.join(sorted(classes))}.")
        then = _choice(f"{at}.then", table.get("then"), _rules())
        if named and then is not Rule.ASK:
            raise StartupError(f"{at} has a class, but then is '{then}'; a class goes with 'ask'.")
        yield GateRule(
            then=then,
            tool=_pattern(f"{at}.tool", table.get("tool")),
            input=_pattern(f"{at}.input", table.get("input")),
            action_class=named,
        )


def _timeouts(given: object) -> Mapping[AuthorizationPriority, timedelta]:
    table = _table("authorization.timeouts", given, tuple(_PRIORITIES))
    return {
        priority: _length(
            f"authorization.timeouts.{name}", table.get(name), DEFAULT_TIMEOUTS[priority]
        )
        for name, priority in _PRIORITIES.items()
    }


def _escalation(given: object) -> tuple[str, ...]:
    key = "authorization.escalation"
    levels = _list(key, given)
    checked = tuple(one if one == HUMAN else _role(key, one) for one in levels)
    if len(set(checked)) != len(checked):
        raise StartupError(f"{key} names a level twice; each is told once.")
    return checked


def _shares(given: object) -> tuple[float, ...]:
    shares = _list("authorization.escalate_at", given)
    fit = all(
        isinstance(one, int | float) and not isinstance(one, bool) and 0 < one < 1 for one in shares
    )
    if not shares or not fit or list(shares) != sorted(shares):
        raise StartupError(
            f"authorization.escalate_at is {given!r}; list shares of the time-out between 0 and 1,"
            " ascending, such as [0.8, 0.9]."
        )
    return tuple(float(one) for one in shares)


def _roles(key: str, given: object, default: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return default
    roles = tuple(_role(key, one) for one in _list(key, given))
    if not roles:
        raise StartupError(f'{key} is empty; list roles, such as ["orchestrator"].')
    return roles


def _role(key: str, given: object) -> str:
    if not isinstance(given, str):
        raise StartupError(f"{key} has {given!r}; use the name of a role.")
    try:
        role = check_role(key, given)
    except InvalidInput as exc:
        raise StartupError(f"{key}: {exc.message}") from exc
    if role == HUMAN:
        raise StartupError(f"{key} names 'human', which is no role but the last level.")
    return role


def _length(key: str, given: object, default: timedelta) -> timedelta:
    if given is None:
        return default
    match = _LENGTH.match(given) if isinstance(given, str) else None
    length = timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else timedelta(0)
    if not MIN_TIMEOUT <= length <= MAX_TIMEOUT:
        raise StartupError(f'{key} is {given!r}; use 1 s to 24 h, such as "90s", "5m" or "1h".')
    return length


def _pattern(key: str, given: object) -> Pattern | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise StartupError(f"{key} is {given!r}; use a regular expression.")
    try:
        return pattern(given)
    except ValueError as exc:
        raise StartupError(
            f"{key} is '{printable(given)}', which is no regular expression of RE2 ({exc})."
        ) from exc


def _choice(key: str, given: object, words: Mapping[str, T]) -> T:
    if isinstance(given, str) and given in words:
        return words[given]
    raise StartupError(f"{key} {_is(given)}; use one of: {', '.join(words)}.")


def _is(given: object) -> str:
    return "is missing" if given is None else f"is {given!r}"


def _flag(key: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise StartupError(f"{key} is {given!r}; use true or false.")
    return given


def _list(key: str, given: object) -> list[Any]:
    if not isinstance(given, list):
        raise StartupError(f"{key} is {given!r}; use a list.")
    return given


def _table(key: str, given: object, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise StartupError(f"{key} is {given!r}; use a table.")
    unknown = sorted(set(given) - set(keys))
    if unknown:
        raise StartupError(
            f"{key} has an unknown key '{printable(unknown[0])}'; known are: {', '.join(keys)}."
        )
    return given


def _rules() -> dict[str, Rule]:
    return {one.value: one for one in Rule}
