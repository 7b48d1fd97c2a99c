"""What the old system's state files mean, and that nothing in them stops the reading."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_server.core.legacy import LegacySession
from orch_server.core.legacy_join import Hints, join
from orch_server.core.legacy_json import decode
from orch_server.core.legacy_parse import Parsed, StateFile, parse_session
from orch_server.core.session import Completion, Plan, ProjectSize
from tests.legacy.samples import agent_state, session_state, waiting_for

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2025, 9, 3, 12, 0, tzinfo=UTC)
NAME = "atlas-impl-2265b1f5"


def parsed(name: str = NAME, **changed: Any) -> Parsed:
    state = session_state(name, **changed)
    file = StateFile("atlas", "projects/atlas", state, "digest")
    return parse_session(file, name, False, BERLIN, NOW)


def session_of(**changed: Any) -> LegacySession:
    return parsed(**changed).session


def told(found: Parsed) -> str:
    return "\n".join(f"{finding.record}: {finding.text}" for finding in found.findings)


def test_a_whole_session_is_read_without_a_finding() -> None:
    found = parsed(
        status_reports={
            "tester": {"topic": "qa", "status": "OK", "details": "fine"}
            | {"timestamp": "2025-09-02T10:00:00"}
        },
        subscription_plan="max5",
        velocity_metrics={"idle_pct": 12.5, "commits_per_hour": 3},
        phase_durations={"0": 2.5},
    )
    session = found.session.session
    assert not found.findings
    assert not found.refused
    assert session.created_at == datetime(2025, 9, 1, 6, 0, 0, 408795, tzinfo=UTC)
    assert session.specification_path == "/home/dev/specs/atlas.md"
    assert (session.plan, session.project_size) == (Plan.MAX5, ProjectSize.MEDIUM)
    assert [phase.length for phase in found.session.phases] == [timedelta(hours=2.5), None]
    assert found.session.dependencies == (("tester", ("developer",)),)
    assert found.session.metrics == {"idle_pct": 12.5, "commits_per_hour": 3.0}
    assert found.session.reports[0].at == datetime(2025, 9, 2, 8, 0, tzinfo=UTC)
    assert [agent.role for agent in found.session.agents][:2] == ["orchestrator", "project_manager"]
    assert found.session.agents[3].detail.window_index == 3


def test_a_session_with_nothing_but_a_name_is_read() -> None:
    file = StateFile("x", "projects/x", {"session_name": NAME}, "digest")
    found = parse_session(file, NAME, False, BERLIN, NOW).session
    assert found.session.created_at == found.session.updated_at == NOW
    assert found.agents == found.phases == found.reports == ()


def test_every_field_stays_in_raw() -> None:
    state = session_state(NAME, not_known={"x": [1, 2]}, project_size=17)
    found = parse_session(StateFile("d", "projects/d", state, ""), NAME, False, BERLIN, NOW).session
    assert {**found.raw, "agents": {agent.key: agent.raw for agent in found.agents}} == state


@pytest.mark.parametrize("agents", [None, [], "none", 3], ids=repr)
def test_agents_that_are_no_object_stay_in_raw(agents: object) -> None:
    found = session_of(agents=agents)
    assert found.agents == ()
    assert found.raw["agents"] == agents


@pytest.mark.parametrize(
    ("changed", "field", "expected"),
    [
        ({"completion_status": " Pending"}, "completion", Completion.PENDING),
        ({"completion_status": None}, "completion", Completion.PENDING),
        ({"subscription_plan": "Max20"}, "plan", Plan.MAX20),
        ({"subscription_plan": ""}, "plan", Plan.UNSET),
        ({"project_size": "LARGE"}, "project_size", ProjectSize.LARGE),
        ({"orchestrator_window": "2"}, "orchestrator_window", 2),
        ({"orchestrator_window": 2.0}, "orchestrator_window", 2),
    ],
    ids=str,
)
def test_a_field_is_understood(changed: dict[str, Any], field: str, expected: object) -> None:
    found = parsed(**changed)
    assert getattr(found.session.session, field) == expected
    assert not found.findings


@pytest.mark.parametrize(
    ("field", "wrong", "expected", "said"),
    [
        ("completion_status", "abandoned", Completion.PENDING, "one of pending, completed"),
        ("subscription_plan", "free", Plan.UNSET, "one of pro, max5"),
        ("project_size", 3, ProjectSize.UNSET, "one of small"),
        ("project_name", 5, "", "project_name is 5, not text"),
        ("project_name", "a\x1b[31mb\x00", "a[31mb", "control characters"),
        ("project_path", "x" * 5000, "", "5,000 characters"),
        ("orchestrator_window", -1, 0, "a whole number"),
        ("orchestrator_window", True, 0, "is true, not a whole number"),
        ("orchestrator_window", 10**30, 0, "a number, not a whole number"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_field_with_a_fault_costs_that_field_alone(
    field: str, wrong: object, expected: object, said: str
) -> None:
    found = parsed(**{field: wrong})
    name = {"completion_status": "completion", "subscription_plan": "plan"}.get(field, field)
    assert getattr(found.session.session, name) == expected
    assert [finding.record for finding in found.findings] == [f"session:{NAME}"]
    assert said in told(found)


def test_an_ended_session_without_a_time_ended_when_it_was_updated() -> None:
    found = parsed(completion_status="failed", completion_time="at dawn")
    assert found.session.session.completed_at == found.session.session.updated_at
    assert "completion_time: 'at dawn' is no time" in told(found)


def test_roles_are_brought_to_one_spelling() -> None:
    found = session_of(
        agents={
            "pm": agent_state("pm", 1),
            "Lead Dev": agent_state("Lead Dev", 2),
            "tester": agent_state("x", 3) | {"role": None},
            "ops": {k: v for k, v in agent_state("ops", 4).items() if k != "role"},
        }
    )
    assert [a.role for a in found.agents] == ["project_manager", "lead_dev", "tester", "ops"]
    assert [a.key for a in found.agents] == ["pm", "Lead Dev", "tester", "ops"]


def test_an_agent_that_cannot_be_held_is_refused_and_the_session_kept() -> None:
    found = parsed(
        agents={
            "tester": agent_state("tester", 1),
            "entwickler?!": agent_state("entwickler?!", 2),
            "devops": "gone",
            "researcher": agent_state("researcher", 3) | {"role": 9},
            "Tester": agent_state("tester", 4),
        }
    )
    assert [agent.role for agent in found.session.agents] == ["tester"]
    assert [refused.where for refused in found.refused] == [
        f"agent:{NAME}:entwickler?!",
        f"agent:{NAME}:devops",
        f"agent:{NAME}:researcher",
        f"agent:{NAME}:Tester",
    ]


def test_of_two_agents_that_say_the_same_role_the_second_has_its_keys() -> None:
    found = session_of(
        agents={"developer": agent_state("developer", 1), "dev-2": agent_state("developer", 2)}
    )
    assert [agent.role for agent in found.agents] == ["developer", "dev-2"]


def test_an_agents_own_worktree_wins_over_the_sessions_list() -> None:
    found = session_of(
        agents={
            "tester": agent_state("tester", 1, worktree_path="/own"),
            "devops": agent_state("devops", 2, worktree_path=None),
        },
        worktrees={"tester": "/listed", "devops": "/listed", "gone": "/x"},
    )
    assert [agent.detail.worktree_path for agent in found.agents] == ["/own", "/listed"]


def test_what_an_agent_waits_for_is_read() -> None:
    found = session_of(agents={"tester": agent_state("tester", 1, waiting_for=waiting_for("PM"))})
    wait = found.agents[0].waiting
    assert wait is not None
    assert (wait.role, wait.timeout, wait.escalated) == (
        "project_manager",
        timedelta(minutes=15),
        False,
    )
    assert wait.since == datetime(2025, 9, 2, 7, 15, tzinfo=UTC)


def test_dependencies_of_another_type_are_told() -> None:
    found = parsed(dependencies={"tester": "developer", "devops": 7})
    assert found.session.dependencies == (("tester", ("developer",)),)
    assert "dependencies['tester'] is text, not a list; read as one role" in told(found)
    assert "dependencies['devops'] names no roles; kept as it is" in told(found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reason": "dependency"},
        {"role": None},
        {"request": ""},
        {"request": 5},
        {"role": "?"},
    ],
    ids=str,
)
def test_a_wait_that_is_no_request_is_told(wrong: dict[str, Any]) -> None:
    found = parsed(agents={"tester": agent_state("tester", 1, waiting_for=waiting_for(**wrong))})
    assert found.session.agents[0].waiting is None
    assert "nothing waits" in told(found)


@pytest.mark.parametrize("minutes", [0, -5, "soon", 10**9, True])
def test_a_wait_with_a_senseless_timeout_has_the_usual_one(minutes: object) -> None:
    wait = waiting_for(timeout_minutes=minutes, since="x")
    found = parsed(agents={"tester": agent_state("tester", 1, waiting_for=wait)})
    read = found.session.agents[0].waiting
    assert read is not None
    assert read.timeout == timedelta(minutes=15)
    assert read.since == found.session.session.updated_at
    assert "waiting_for.timeout_minutes is" in told(found)
    assert "waiting_for.since: 'x' is no time" in told(found)


def test_only_finite_numbers_are_metrics() -> None:
    found = parsed(
        velocity_metrics={"a": 1, "b": "NaN", "c": True, "d": 10**400, "e": None, "f": [1]}
    )
    assert found.session.metrics == {"a": 1.0}
    assert len(found.findings) == 4
    assert "velocity_metrics.b is 'NaN', not a number" in told(found)


def test_phases_that_cannot_be_held_are_told() -> None:
    found = parsed(
        phases_completed=["design", 3, "", "tests"],
        phase_durations={"0": -1, "3": 1.5, "9": 2, "x": 2},
    )
    assert [(p.name, p.length) for p in found.session.phases] == [
        ("design", None),
        ("tests", timedelta(hours=1.5)),
    ]
    assert len(found.findings) == 5


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["tester", "pm", "2025-09-02T08:00:00", "-1", "NaN", "a:b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "0", "tester", "since", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_STATE = st.dictionaries(st.sampled_from(sorted(session_state(NAME))), _ANYTHING)
_AGENT = st.dictionaries(st.sampled_from(sorted(agent_state("tester", 1))), _ANYTHING)


@settings(max_examples=50, deadline=None)
@given(changed=_STATE, agent=_AGENT)
def test_no_value_in_a_state_file_stops_the_reading(
    changed: dict[str, Any], agent: dict[str, Any]
) -> None:
    state = session_state(NAME) | {"agents": {"tester": agent_state("tester", 1) | agent}} | changed
    decoded = decode(json.dumps(state).encode())
    file = StateFile("dir", "projects/dir", decoded.value, "digest")
    for named in join([file], Hints({}, [], ()), BERLIN).named:
        session = parse_session(named.file, named.name, named.missing, BERLIN, NOW).session
        assert _all_text_can_be_stored(session)


def _all_text_can_be_stored(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.encode()) or value == ""
    if isinstance(value, tuple | list):
        return all(map(_all_text_can_be_stored, value))
    if is_dataclass(value):
        return all(_all_text_can_be_stored(getattr(value, f.name)) for f in fields(value))
    return True
