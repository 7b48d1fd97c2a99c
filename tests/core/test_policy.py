"""Classes, levels and the rules of the gate."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from orch_server.core.policy import (
    HUMAN,
    ROUTINE,
    ActionClass,
    AuthorizationPriority,
    GateRule,
    Rule,
    default_policy,
    pattern,
    searched,
)

LOW, MEDIUM, HIGH = AuthorizationPriority
POLICY = default_policy(("orchestrator", "project_manager"))
QUARTER = timedelta(minutes=15)


@pytest.mark.parametrize(
    ("action", "priority"),
    [
        ("Deploy to production", HIGH),
        ("DEPLOYING now", HIGH),
        ("re-deploy", HIGH),
        ("a critical fix", HIGH),
        ("rotate security keys", HIGH),
        ("emergency: restart", HIGH),
        ("production-like data", HIGH),
        ("drop the schema", MEDIUM),
        ("databases", MEDIUM),
        ("change infrastructure", MEDIUM),
        ("edit configuration", MEDIUM),
        ("deploy the schema", HIGH),
        ("rename a variable", LOW),
        ("introduce reproduction steps", LOW),
        ("undeployed", LOW),
        ("1234 !?", LOW),
        ("äöü", LOW),
    ],
)
def test_class_and_priority_are_derived_from_the_words(
    action: str, priority: AuthorizationPriority
) -> None:
    of = POLICY.classify(action)
    assert of.priority is priority
    assert of.name == {HIGH: "critical", MEDIUM: "sensitive", LOW: ROUTINE}[priority]
    assert of.human == (priority is HIGH)


def test_the_more_urgent_a_request_the_sooner_it_ends() -> None:
    of = POLICY.routine
    assert [POLICY.timeout(of, p).total_seconds() / 60 for p in (HIGH, MEDIUM, LOW)] == [5, 15, 30]
    assert POLICY.timeout(replace(of, timeout=QUARTER), HIGH) == QUARTER


@pytest.mark.parametrize(
    ("escalation", "shares", "asked", "expected"),
    [
        (("orchestrator", HUMAN), (0.8, 0.9), "lead", [("orchestrator", 80), (HUMAN, 90)]),
        (("orchestrator", HUMAN), (0.8, 0.9), "orchestrator", [(HUMAN, 80)]),
        (("a", "b", HUMAN), (0.5,), "lead", [("a", 50), ("b", 50), (HUMAN, 50)]),
        (("a", "b"), (0.5, 0.6, 0.7), "b", [("a", 50)]),
        ((), (0.8,), "lead", []),
    ],
)
def test_who_was_asked_already_is_no_level_and_the_others_move_up(
    escalation: tuple[str, ...],
    shares: tuple[float, ...],
    asked: str,
    expected: list[tuple[str, int]],
) -> None:
    policy = replace(POLICY, escalation=escalation, escalate_at=shares)
    found = policy.levels(asked, timedelta(seconds=100))
    assert [(who, after.total_seconds()) for who, after in found] == expected


def test_whoever_may_ever_decide_is_named_once() -> None:
    release = ActionClass("release", ("lead", "orchestrator"), QUARTER, ("release",))
    policy = replace(POLICY, classes=(release,), escalation=("boss", HUMAN))
    assert policy.deciding_roles() == ("orchestrator", "project_manager", "lead", "boss")


@pytest.mark.parametrize(
    ("tool", "given", "then", "of"),
    [
        ("Read", {"file_path": "/x/.claude/settings.json"}, Rule.ALLOW, ROUTINE),
        ("Bash", {"command": "ls"}, Rule.ALLOW, ROUTINE),
        ("Bash", {"command": "./deploy.sh"}, Rule.ASK, "critical"),
        ("Bash", {"command": "ls", "description": "deploy"}, Rule.ALLOW, ROUTINE),
        ("Bash", {"command": "make prod_deploy"}, Rule.ASK, "critical"),
        ("Bash", {"command": "./undeploy.sh"}, Rule.ALLOW, ROUTINE),
        ("Write", {"command": "x", "file_path": ".claude/settings.json"}, Rule.ASK, ROUTINE),
        ("Bash", {"command": "orch-client hooks uninstall"}, Rule.ASK, ROUTINE),
        ("Bash", {"command": "rm .claude/settings.json"}, Rule.ASK, ROUTINE),
        ("Bash", {"command": "cd .claude; ls"}, Rule.ASK, ROUTINE),
        ("Bash", {"command": "echo {} > settings.local.json"}, Rule.ASK, ROUTINE),
        ("Write", {"file_path": ".claude/settings.local.json"}, Rule.ASK, ROUTINE),
        ("Write", {"file_path": "a.py", "content": "deploy"}, Rule.ALLOW, ROUTINE),
        ("mcp__x__y", {"a": 1}, Rule.ALLOW, ROUTINE),
    ],
)
def test_the_rules_that_hold_without_others(
    tool: str, given: dict[str, object], then: Rule, of: str
) -> None:
    judged = POLICY.judge(tool, json.dumps(given))
    assert judged.then is then
    assert judged.action_class.name == of


def test_the_first_rule_that_fits_decides() -> None:
    rules = (
        GateRule(Rule.DENY, pattern("Bash"), pattern("rm -rf")),
        GateRule(Rule.ASK, pattern("Bash"), action_class="critical"),
        GateRule(Rule.ALLOW, input=pattern("^/tmp/")),
    )
    policy = replace(POLICY, gate=rules, gate_default=Rule.DENY)
    assert policy.judge("Bash", '{"command": "rm -rf deploy"}').then is Rule.DENY
    asked = policy.judge("Bash", '{"command": "ls"}')
    assert (asked.then, asked.action_class.name) == (Rule.ASK, "critical")
    assert policy.judge("BashOutput", '{"command": "rm -rf"}').then is Rule.DENY
    assert policy.judge("Write", '{"file_path": "/tmp/x"}').then is Rule.ALLOW


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"path": "x", "command": "ls"}', "ls\nx"),
        ("[" * 100_000, "[" * 100_000),
        ('{"path": "x"}', "x"),
        ('{"command": 1}', '{"command": 1}'),
        ("[1]", "[1]"),
        ("no JSON", "no JSON"),
    ],
)
def test_what_rules_look_at(arguments: str, expected: str) -> None:
    assert searched(arguments) == expected


def test_no_text_makes_a_rule_slow() -> None:
    """With a backtracking engine these never end; the suite's time-out would say so."""
    cubic, exponential = pattern("git.*push.*--force"), pattern("(a+)+$")
    assert cubic.search("git push " * 200_000) is None
    assert exponential.search("a" * 200_000 + "!") is None


def test_a_class_of_ones_own_decides_what_the_built_in_rules_ask() -> None:
    mine = ActionClass("mine", ("lead",), QUARTER, ("ship",), human=True)
    policy = replace(POLICY, classes=(mine,))
    assert policy.judge("Bash", '{"command": "ship it"}').then is Rule.ASK
    assert policy.judge("Bash", '{"command": "deploy it"}').then is Rule.ALLOW


@pytest.mark.parametrize("text", ["(?=x)", "[", "a{1,100000}"])
def test_what_is_no_pattern_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        pattern(text)
