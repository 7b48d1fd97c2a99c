"""Who may decide, how urgent a request is, and what the requester is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orch_server.core.authorization import (
    TIMEOUTS,
    Authorization,
    AuthorizationPriority,
    AuthorizationState,
    Decider,
    check_canceller,
    check_decider,
    decision_text,
    derive_priority,
)
from orch_server.core.errors import NotAllowed

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROLES = ("orchestrator", "project_manager")
LOW, MEDIUM, HIGH = AuthorizationPriority
ASKED = Authorization(
    id="3fa8",
    agent_id="dev",
    session="atlas",
    requester_role="developer",
    requester_pane="h|1.1|/s|%1",
    approver_role="orchestrator",
    action="Deploy",
    priority=HIGH,
    priority_derived=True,
    state=AuthorizationState.PENDING,
    created_at=NOW,
    deadline_at=NOW + timedelta(minutes=5),
)


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
def test_priority_is_derived_from_the_words(action: str, priority: AuthorizationPriority) -> None:
    assert derive_priority(action) is priority


def test_the_more_urgent_a_request_the_sooner_it_ends() -> None:
    assert [TIMEOUTS[p].total_seconds() / 60 for p in (HIGH, MEDIUM, LOW)] == [5, 15, 30]


@pytest.mark.parametrize(
    "decider",
    [
        Decider("operator", operator=True),
        Decider("operator", agent_id="shell", pane="h|1.1|/s|%9", operator=True),
        Decider("atlas:orchestrator", "orc", "h|1.1|/s|%2", "atlas", "orchestrator"),
        Decider("atlas:project_manager", "pm", "h|1.1|/s|%3", "atlas", "project_manager"),
        Decider("atlas:orchestrator", "", "", "atlas", "orchestrator"),
    ],
)
def test_the_operator_and_approvers_of_the_session_may_decide(decider: Decider) -> None:
    check_decider(ASKED, decider, ROLES)


@pytest.mark.parametrize(
    "decider",
    [
        Decider("atlas:developer", "dev", "h|1.1|/s|%1", "atlas", "developer"),
        Decider("the same agent as operator", "dev", "", operator=True),
        Decider("the same pane as operator", "", "h|1.1|/s|%1", operator=True),
        Decider("another role in the same pane", "o", "h|1.1|/s|%1", "atlas", "orchestrator"),
        Decider("the same agent elsewhere", "dev", "h|1.1|/s|%8", "atlas", "orchestrator"),
        Decider("another role", "tst", "h|1.1|/s|%4", "atlas", "tester"),
        Decider("another session", "oth", "h|1.1|/s|%5", "borealis", "orchestrator"),
        Decider("nobody"),
    ],
    ids=lambda decider: decider.name,
)
def test_the_requester_and_strangers_may_not_decide(decider: Decider) -> None:
    with pytest.raises(NotAllowed) as caught:
        check_decider(ASKED, decider, ROLES)
    assert decider.name in caught.value.message


def test_a_request_from_no_pane_is_not_confused_with_a_caller_in_no_pane() -> None:
    check_decider(replace(ASKED, requester_pane=""), Decider("operator", operator=True), ROLES)


def test_only_the_requester_and_the_operator_may_withdraw() -> None:
    check_canceller(ASKED, Decider("atlas:developer", "dev"))
    check_canceller(ASKED, Decider("operator", operator=True))
    with pytest.raises(NotAllowed, match="atlas:developer or the operator"):
        check_canceller(ASKED, Decider("atlas:orchestrator", "orc", "", "atlas", "orchestrator"))


def test_the_decision_is_one_line_whatever_was_asked() -> None:
    denied = replace(
        ASKED,
        action="Deploy\nto\n" + "x" * 300,
        state=AuthorizationState.DENIED,
        resolver="atlas:orchestrator",
        reason="no\nbackup",
    )
    text = decision_text(denied)
    assert text.startswith("Authorization 3fa8 denied by atlas:orchestrator: Deploy to xxx")
    assert text.endswith("….  Reason: no backup".replace("  ", " "))
    assert "\n" not in text
    assert len(text) < 300
