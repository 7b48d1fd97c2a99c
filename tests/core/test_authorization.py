"""Who may decide, what an approval covers, what comes too late, and what the requester is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_server.core.authorization import (
    Action,
    Authorization,
    AuthorizationState,
    Decider,
    Level,
    Requester,
    Verdict,
    ask,
    asked_text,
    check_consumer,
    check_decider,
    check_involved,
    check_reason,
    check_timeout,
    decision_text,
    digest,
    needs_passphrase,
    resolve,
)
from orch_server.core.errors import Conflict, InvalidInput, NotAllowed
from orch_server.core.identity import Incarnation
from orch_server.core.policy import AuthorizationPriority
from tests.core.asked import ASKED, BOUND, DEVELOPER, NOW, PANE, POLICY

A = AuthorizationState
KEY = PANE.key()
APPROVED = replace(ASKED, state=A.APPROVED, lapses_at=NOW + timedelta(minutes=15))


def test_what_the_policy_says_is_written_with_the_request() -> None:
    assert ASKED.action_class == "critical"
    assert ASKED.priority is AuthorizationPriority.HIGH
    assert ASKED.priority_derived
    assert ASKED.approvers == ("orchestrator", "project_manager")
    assert ASKED.human
    assert not ASKED.reason_required
    assert ASKED.deadline_at == NOW + timedelta(minutes=5)
    assert ASKED.lapse == timedelta(minutes=15)
    # who asks the orchestrator has a human told at 80 %
    assert ASKED.levels == (Level("human", NOW + timedelta(minutes=4)),)
    assert ASKED.requester_pane == KEY


def _asked(role: str, priority: AuthorizationPriority | None, minutes: int) -> Authorization:
    return ask(
        "1",
        DEVELOPER,
        "Deploy",
        BOUND,
        role,
        POLICY.classify("Deploy"),
        priority,
        timedelta(minutes=minutes) if minutes else None,
        POLICY,
        NOW,
    )


def test_priority_and_deadline_may_be_given_and_the_class_stays() -> None:
    low = _asked("project_manager", AuthorizationPriority.LOW, 0)
    assert low.deadline_at - NOW == timedelta(minutes=30)
    assert low.human
    assert not low.priority_derived
    assert [(one.receiver, one.due_at - NOW) for one in low.levels] == [
        ("orchestrator", timedelta(minutes=24)),
        ("human", timedelta(minutes=27)),
    ]
    assert _asked("orchestrator", None, 10).deadline_at - NOW == timedelta(minutes=10)


@pytest.mark.parametrize("seconds", [-1, 0.999, 24 * 3600 + 1])
def test_a_deadline_out_of_range_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_timeout(timedelta(seconds=seconds))
    assert caught.value.field == "timeout"


def test_no_deadline_is_the_policys() -> None:
    assert check_timeout(timedelta(0)) is None
    assert check_timeout(timedelta(seconds=1)) == timedelta(seconds=1)


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
    check_decider(ASKED, decider)


@pytest.mark.parametrize(
    "decider",
    [
        Decider("atlas:developer", "dev", KEY, "atlas", "developer"),
        Decider("the same agent as operator", "dev", "", operator=True),
        Decider("the same pane as operator", "", KEY, operator=True),
        Decider("another role in the same pane", "o", KEY, "atlas", "orchestrator"),
        Decider("the same agent elsewhere", "dev", "h|1.1|/s|%8", "atlas", "orchestrator"),
        Decider("the role that asked", "new", "h|1.1|/s|%6", "atlas", "developer"),
        Decider("another role", "tst", "h|1.1|/s|%4", "atlas", "tester"),
        Decider("another session", "oth", "h|1.1|/s|%5", "borealis", "orchestrator"),
        Decider("nobody"),
    ],
    ids=lambda decider: decider.name,
)
def test_the_requester_and_strangers_may_not_decide(decider: Decider) -> None:
    with pytest.raises(NotAllowed) as caught:
        check_decider(ASKED, decider)
    assert ("This pane" if decider.operator else decider.name) in caught.value.message


def test_a_role_that_was_told_as_a_level_may_decide_from_then_on() -> None:
    level = Level("lead", NOW)
    lead = Decider("atlas:lead", "l", "h|1.1|/s|%7", "atlas", "lead")
    with pytest.raises(NotAllowed):
        check_decider(replace(ASKED, levels=(level,)), lead)
    check_decider(replace(ASKED, levels=(replace(level, told_at=NOW),)), lead)


def test_a_request_from_no_pane_is_not_confused_with_a_caller_in_no_pane() -> None:
    check_decider(replace(ASKED, requester_pane=""), Decider("operator", operator=True))


def test_a_human_must_approve_what_the_policy_says_and_a_role_may_deny_it() -> None:
    role = Decider("atlas:orchestrator", "orc", "", "atlas", "orchestrator")
    operator = Decider("operator", operator=True)
    routine = replace(ASKED, human=False)
    assert needs_passphrase(ASKED, Verdict.APPROVE, role)
    assert not needs_passphrase(ASKED, Verdict.DENY, role)
    assert not needs_passphrase(routine, Verdict.APPROVE, role)
    assert needs_passphrase(routine, Verdict.APPROVE, operator)
    assert needs_passphrase(routine, Verdict.DENY, operator)


def test_only_the_requester_and_the_operator_may_withdraw() -> None:
    approver = Decider("atlas:orchestrator", "orc", "", "atlas", "orchestrator")
    for decider in (Decider("atlas:developer", "dev"), Decider("operator", operator=True)):
        check_involved(ASKED, decider, "withdraw", deciders=False)
        check_involved(ASKED, decider, "escalate", deciders=True)
    check_involved(ASKED, approver, "escalate", deciders=True)
    with pytest.raises(NotAllowed, match="atlas:developer or the operator"):
        check_involved(ASKED, approver, "withdraw", deciders=False)
    with pytest.raises(NotAllowed, match="an approver of its session or the operator"):
        check_involved(ASKED, Decider("atlas:tester", "t"), "escalate", deciders=True)


def test_a_denial_needs_a_reason_and_an_approval_where_the_class_says_so() -> None:
    with pytest.raises(InvalidInput):
        check_reason(Verdict.DENY, " ")
    check_reason(Verdict.DENY, "no", ASKED)
    check_reason(Verdict.APPROVE, "", ASKED)
    strict = replace(ASKED, reason_required=True)
    with pytest.raises(InvalidInput, match="critical"):
        check_reason(Verdict.APPROVE, "", strict)
    check_reason(Verdict.APPROVE, "tested", strict)


@pytest.mark.parametrize("verdict", [Verdict.APPROVE, Verdict.DENY])
def test_a_decision_at_the_deadline_comes_too_late(verdict: Verdict) -> None:
    resolve(ASKED, verdict, ASKED.deadline_at - timedelta(microseconds=1))
    with pytest.raises(Conflict) as caught:
        resolve(ASKED, verdict, ASKED.deadline_at)
    assert caught.value.metadata["state"] == A.EXPIRED


def test_an_approval_cannot_be_used_at_its_end() -> None:
    assert APPROVED.lapses_at is not None
    just_before = APPROVED.lapses_at - timedelta(microseconds=1)
    assert resolve(APPROVED, Verdict.CONSUME, just_before) is A.CONSUMED
    with pytest.raises(Conflict) as caught:
        resolve(APPROVED, Verdict.CONSUME, APPROVED.lapses_at)
    assert caught.value.metadata["state"] == A.LAPSED


_TEXT = st.text(max_size=20)
_ACTIONS = st.builds(Action, _TEXT, _TEXT, _TEXT)
_PANES = st.none() | st.builds(
    Incarnation, _TEXT, _TEXT, st.integers(0, 9), st.integers(0, 9), _TEXT
)
_PLACES = st.builds(Requester, st.just("dev"), _TEXT, _TEXT, _PANES, st.integers(0, 9))


@given(_ACTIONS, _PLACES, _ACTIONS, _PLACES)
def test_an_approval_covers_one_action_in_one_place(
    action: Action, place: Requester, other: Action, elsewhere: Requester
) -> None:
    same = (action, place) == (other, elsewhere)
    assert (digest(action, place) == digest(other, elsewhere)) == same
    assert digest(action, place) == digest(replace(action), replace(place))


@given(_ACTIONS, st.data())
def test_one_changed_character_is_another_action(action: Action, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(["tool", "arguments", "cwd"]))
    text = getattr(action, field)
    at = data.draw(st.integers(0, len(text)))
    put = data.draw(st.characters(codec="utf-8"))
    changed = replace(action, **{field: text[:at] + put + text[at:]})
    assert digest(changed, DEVELOPER) != digest(action, DEVELOPER)


@pytest.mark.parametrize(
    ("consumer", "action"),
    [
        (replace(DEVELOPER, agent_id="other"), BOUND),
        (replace(DEVELOPER, pane_pid=4243), BOUND),
        (replace(DEVELOPER, incarnation=replace(PANE, pane="%2")), BOUND),
        (replace(DEVELOPER, incarnation=replace(PANE, started=2)), BOUND),
        (DEVELOPER, replace(BOUND, cwd="/srv")),
        (DEVELOPER, replace(BOUND, arguments="Deploy ")),
        (DEVELOPER, replace(BOUND, tool="Bash")),
    ],
)
def test_an_approval_is_of_no_use_to_others_or_elsewhere(
    consumer: Requester, action: Action
) -> None:
    check_consumer(APPROVED, DEVELOPER, BOUND)
    with pytest.raises(NotAllowed, match="3fa8"):
        check_consumer(APPROVED, consumer, action)


def test_the_decision_is_one_line_whatever_was_asked() -> None:
    denied = replace(
        ASKED,
        action="Deploy\nto\n" + "x" * 300,
        state=A.DENIED,
        resolver="atlas:orchestrator",
        reason="no\nbackup",
    )
    text = decision_text(denied)
    assert text.startswith("Authorization 3fa8 denied by atlas:orchestrator: Deploy to xxx")
    assert text.endswith("…. Reason: no backup.")
    assert "\n" not in text
    assert len(text) < 300


def test_an_approval_says_what_it_is_good_for() -> None:
    text = decision_text(replace(APPROVED, resolver="operator"))
    assert text == (
        "Authorization 3fa8 approved by operator: Deploy. It covers this once, within 15 min:"
        " orch-client consume 3fa8."
    )
    assert decision_text(replace(APPROVED, state=A.CONSUMED, resolver="operator")) == (
        "Authorization 3fa8 approved by operator: Deploy. It was used by the command that waited"
        " for it."
    )
    by_gate = replace(APPROVED, bound=replace(BOUND, tool="Bash"), reason="ok.")
    assert decision_text(replace(by_gate, lapse=timedelta(seconds=90))) == (
        "Authorization 3fa8 approved: Deploy. Reason: ok. It covers this once, within 90 s; do the"
        " same again."
    )


def test_the_question_says_all_that_is_needed_to_answer_it() -> None:
    asked, late = replace(ASKED, action="Deploy\n\x1b[31mnow"), NOW + timedelta(seconds=250)
    assert asked_text(asked, NOW) == (
        "Authorization 3fa8: atlas:developer asks (high, 5 min): Deploy ?[31mnow. A human must"
        " approve it - answer with: orch-client approve 3fa8 | orch-client deny 3fa8 --reason WHY"
    )
    assert asked_text(asked, late, level="(escalated to you)").startswith(
        "Authorization 3fa8 (escalated to you): atlas:developer asks (high, 50 s): Deploy"
    )
