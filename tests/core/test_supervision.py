"""The rules of supervision: policies by phase and plan, and when an idle agent is nudged."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_server.core.session import Phase, Plan
from orch_server.core.supervision import (
    HOUR,
    REAL_WORK,
    Circumstances,
    Matter,
    NotSent,
    Nudged,
    NudgeReason,
    Policy,
    escalation_text,
    matter_text,
    next_level_at,
    nudge_due,
    nudge_text,
    policy,
    withheld,
)

ACTIVE = Policy(300, 300, 120, throttled=False)
QUIET = Circumstances(False, False, False, False, NudgeReason.IDLE)


@pytest.mark.parametrize(
    ("phase", "plan", "idle", "cooldown"),
    [
        (Phase.ACTIVE, Plan.UNSET, 5, 5),
        (Phase.REVIEW, Plan.PRO, 8, 7),
        (Phase.IDLE, Plan.MAX20, 12, 10),
        (Phase.ACTIVE, Plan.MAX5, 8, 10),
        (Phase.REVIEW, Plan.MAX5, 8, 10),
        (Phase.IDLE, Plan.MAX5, 12, 10),
    ],
)
def test_idleness_and_cooldown_follow_phase_and_plan(
    phase: Phase, plan: Plan, idle: int, cooldown: int
) -> None:
    found = policy(phase, plan, 0, 10)
    assert (found.idle_after, found.cooldown, found.throttled) == (60 * idle, 60 * cooldown, False)


@pytest.mark.parametrize(
    ("plan", "limited", "agents", "throttled", "cycle"),
    [
        (Plan.MAX5, 3, 10, False, 240),
        (Plan.MAX5, 4, 10, True, 240),
        (Plan.PRO, 5, 10, False, 120),
        (Plan.PRO, 6, 10, True, 180),
        (Plan.UNSET, 1, 1, True, 180),
        (Plan.UNSET, 0, 0, False, 120),
    ],
)
def test_a_session_is_throttled_when_too_many_of_its_agents_are_limited(
    plan: Plan, limited: int, agents: int, throttled: bool, cycle: float
) -> None:
    found = policy(Phase.ACTIVE, plan, limited, agents)
    assert (found.throttled, found.cycle) == (throttled, cycle)


def test_a_nudge_is_due_after_the_idle_time_and_after_the_cooldown() -> None:
    never = Nudged()
    assert nudge_due(1000, None, never, ACTIVE) == 1300
    nudged = never.after(1200, NudgeReason.IDLE)
    assert nudge_due(1000, None, nudged, ACTIVE) == 1500
    assert nudge_due(1000, None, nudged.without(1400), ACTIVE) == 1700
    assert nudge_due(1000, 1299, never, ACTIVE) == 1309, "it has moved less than 10 s before"


@pytest.mark.parametrize(
    ("around", "why"),
    [
        (Circumstances(True, True, True, True, NudgeReason.IDLE), NotSent.SUSPENDED),
        (Circumstances(False, True, True, True, NudgeReason.IDLE), NotSent.NO_CREDIT),
        (Circumstances(False, False, True, True, NudgeReason.IDLE), NotSent.NOT_WANTED),
        (QUIET, None),
    ],
)
def test_what_speaks_against_a_nudge_is_told_by_its_most_important_reason(
    around: Circumstances, why: NotSent | None
) -> None:
    assert withheld(0, Nudged(), 6, around, 300) is why


def test_nothing_is_sent_when_nothing_has_changed_since_the_last_nudge() -> None:
    nudged = Nudged().after(1000, NudgeReason.IDLE)
    answered, worked = 1000 + REAL_WORK, 1000 + REAL_WORK + 1
    assert withheld(answered, nudged, 6, QUIET, 2000) is NotSent.NOTHING_CHANGED
    assert withheld(worked, nudged, 6, QUIET, 2000) is None
    news = Circumstances(False, False, False, True, NudgeReason.IDLE)
    assert withheld(answered, nudged, 6, news, 2000) is None


def test_that_the_orchestrator_fell_silent_is_a_change_once() -> None:
    silent = Circumstances(False, False, False, False, NudgeReason.GO_ON)
    nudged = Nudged().after(1000, NudgeReason.IDLE)
    assert withheld(900, nudged, 6, silent, 2000) is None
    again = nudged.after(2000, NudgeReason.GO_ON)
    assert withheld(900, again, 6, silent, 3000) is NotSent.NOTHING_CHANGED


def test_the_budget_is_that_of_the_last_hour() -> None:
    nudged = Nudged()
    for at in (0.0, 600.0, 1200.0):
        nudged = nudged.after(at, NudgeReason.IDLE)
    news = Circumstances(False, False, False, True, NudgeReason.IDLE)
    assert withheld(0, nudged, 3, news, HOUR - 1) is NotSent.OVER_BUDGET
    assert withheld(0, nudged, 3, news, HOUR) is None
    assert withheld(0, nudged, 4, news, HOUR - 1) is None


@given(
    st.lists(st.tuples(st.floats(0, 900), st.booleans(), st.booleans()), max_size=60),
    st.integers(0, 8),
    st.sampled_from([policy(p, plan, 0, 1) for p in Phase for plan in Plan]),
)
def test_whatever_happens_no_agent_is_nudged_more_often_than_its_policy_allows(
    day: list[tuple[float, bool, bool]], budget: int, limits: Policy
) -> None:
    """An agent that at random works, gets news or does nothing, looked at at random times."""
    now, idle_since, nudged = 0.0, 0.0, Nudged()
    sent: list[float] = []
    for pause, works, news in day:
        now += pause
        if works:
            idle_since = now
            continue
        if nudge_due(idle_since, None, nudged, limits) > now:
            continue
        around = Circumstances(False, False, False, news, NudgeReason.IDLE)
        if withheld(idle_since, nudged, budget, around, now) is None:
            assert now - idle_since >= limits.idle_after
            sent.append(now)
            nudged = nudged.after(now, NudgeReason.IDLE)
        else:
            nudged = nudged.without(now)
    assert all(b - a >= limits.cooldown for a, b in pairwise(sent))
    assert all(sum(at - HOUR < t <= at for t in sent) <= budget for at in sent)


def test_the_levels_come_at_0_5_and_15_minutes_and_end_there() -> None:
    assert [next_level_at(100, level) for level in range(4)] == [100, 400, 1000, None]


def test_the_first_nudge_of_an_idleness_is_found() -> None:
    nudged = Nudged().after(100, NudgeReason.IDLE).after(500, NudgeReason.IDLE)
    assert nudged.first_since(50) == 100
    assert nudged.first_since(200) == 500
    assert nudged.first_since(501) is None


def test_the_texts_say_what_is_the_matter_and_what_to_do() -> None:
    idle = nudge_text(NudgeReason.IDLE, 301, "", "dev")
    assert idle.startswith("[nudge] You have been idle for 5 min.")
    go_on = nudge_text(NudgeReason.GO_ON, 301, "its client is lost", "dev")
    assert "silent (its client is lost)" in go_on
    said = matter_text("atlas:dev", Matter.HUNG, "it stands still.")
    assert said == "atlas:dev hangs: it stands still."
    assert matter_text("atlas:dev", Matter.DEAD, "").endswith("has died: no more is known.")
    assert escalation_text([said], 1).startswith("[escalation] Please see to it")
    assert escalation_text([said], 3).splitlines()[1] == said
