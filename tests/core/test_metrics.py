"""What the figures are made of: by hand-computed examples, and that hours add up to days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_server.core.agent import Liveness
from orch_server.core.agent_state import AgentState
from orch_server.core.event import Event
from orch_server.core.metrics import Period
from orch_server.core.metrics_course import (
    STARTED,
    Course,
    Doing,
    Timed,
    started_after,
    with_stop,
)
from orch_server.core.metrics_figures import FIGURES, PERCENTILES, compose
from orch_server.core.metrics_parts import (
    ALIVE,
    ALL,
    COMMIT_TIME,
    COMMITS,
    DECIDED,
    IDLE,
    INTERACTIONS,
    PHASE_TIME,
    PHASES,
    SECONDS,
    BySession,
    Ended,
    Part,
    Span,
    add_work,
    floor,
    merge,
    nearest_rank,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ONE = NOON + timedelta(hours=1)
IDLER = Doing("atlas", "ALIVE", "IDLE")


def _at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


def _event(
    minute: float, kind: str, detail: str = "", agent: str = "a", session: str = "atlas"
) -> Event:
    return Event(1, _at(minute), kind, agent, session, agent, "", detail)


def _told(events: list[Event], agents: dict[str, Doing] | None = None) -> BySession:
    course = Course(NOON, agents or {})
    for event in events:
        for timed in with_stop(Timed(event)):
            course.take(timed)
    return course.close(ONE)


def _seconds(parts: BySession, session: str = "atlas") -> tuple[float, float]:
    """Idle and alive, in minutes."""
    its = parts.get(session, {})
    return its.get(IDLE, Part()).value / 60, its.get(ALIVE, Part()).value / 60


def _shown(parts: BySession, session: str = "atlas") -> dict[str, float | None]:
    return {one.name: one.value for one in compose([(NOON, parts.get(session, {}))], {})}


# ---- idle ----


@pytest.mark.parametrize(
    ("events", "idle", "alive"),
    [
        ([], 60, 60),
        ([_event(15, "agent.state", "WORKING SCREEN claude/spinner")], 15, 60),
        (
            [_event(15, "agent.state", "WORKING"), _event(45, "agent.state", "IDLE HOOK Stop")],
            30,
            60,
        ),
        ([_event(20, "agent.state", "UNKNOWN")], 20, 60),
        ([_event(20, "agent.state", "USAGE_LIMITED SCREEN x")], 20, 60),
        ([_event(20, "agent.state", "WAITING_PERMISSION HOOK x")], 20, 60),
        ([_event(20, "agent.state", "SHELL PROCESS exit")], 20, 20),
        ([_event(20, "agent.state", "DEAD"), _event(50, "agent.state", "STARTING")], 20, 30),
        ([_event(20, "agent.ended")], 20, 20),
        ([_event(20, "agent.lost"), _event(40, "agent.alive")], 40, 40),
        (
            [_event(20, "agent.lost"), _event(30, "agent.registered", "atlas:a epoch 2 ALIVE")],
            50,
            50,
        ),
        ([_event(20, "agent.suspect")], 60, 60),
        ([_event(20, "agent.unmanaged")], 60, 60),
        ([_event(20, "agent.registered", "a:b epoch 3 without a pane UNMANAGED")], 20, 20),
        ([_event(20, "agent.unknown"), _event(25, "agent.alive")], 55, 55),
        ([_event(20, "session.deleted", agent="atlas")], 20, 20),
    ],
)
def test_idle_time_is_the_time_in_idle_of_the_time_alive(
    events: list[Event], idle: float, alive: float
) -> None:
    parts = _told(events, {"a": IDLER})
    assert _seconds(parts) == pytest.approx((idle, alive))
    assert _seconds(parts, ALL) == pytest.approx((idle, alive))
    assert _shown(parts)["idle_percent"] == pytest.approx(100 * idle / alive)


def test_an_agent_that_came_in_mid_hour_counts_from_then_on() -> None:
    parts = _told(
        [_event(30, "agent.registered", "atlas:a epoch 1 ALIVE"), _event(45, "agent.state", "IDLE")]
    )
    assert _seconds(parts) == (15, 30)
    assert parts["atlas"][ALIVE].samples == 1


def test_nobody_alive_is_unknown_and_not_zero() -> None:
    gone = _told([], {"a": Doing("atlas", "LOST", "IDLE")})
    assert _seconds(gone) == (0, 0)
    assert all(value is None for value in _shown(gone).values())


def test_sessions_are_told_apart_and_add_up() -> None:
    parts = _told(
        [_event(30, "agent.state", "WORKING", agent="b", session="hermes")],
        {"a": IDLER, "b": Doing("hermes", "ALIVE", "IDLE"), "c": Doing("atlas", "ALIVE", "")},
    )
    assert _seconds(parts) == (60, 120)
    assert _seconds(parts, "hermes") == (30, 60)
    assert _seconds(parts, ALL) == (90, 180)
    assert parts[ALL][ALIVE].samples == 3


@pytest.mark.parametrize(
    ("detail", "idle"),
    [
        (started_after(_at(10)), 40),  # stood still from minute 10 to 30
        (started_after(_at(45)), 60),  # the clock was set back meanwhile: nothing was missed
        (started_after(_at(-90)), 30),  # it had stopped long before this hour
        ("a text from some other version", 60),
    ],
)
def test_while_the_server_was_down_nobody_was_idle_or_alive(detail: str, idle: float) -> None:
    assert _seconds(_told([_event(30, STARTED, detail)], {"a": IDLER})) == (idle, idle)


def test_what_agents_do_is_carried_into_the_next_hour() -> None:
    course = Course(NOON, {"a": IDLER})
    course.take(Timed(_event(50, "agent.state", "WORKING")))
    assert _seconds(course.close(ONE)) == (50, 60)
    course.take(Timed(_event(90, "agent.state", "IDLE")))
    assert _seconds(course.close(ONE + timedelta(hours=1))) == (30, 60)
    assert course.agents == {"a": IDLER}


def test_a_clock_that_is_set_back_counts_no_time_twice() -> None:
    events = [_event(40, "agent.state", "WORKING"), _event(10, "agent.state", "IDLE")]
    assert _seconds(_told(events, {"a": IDLER})) == (60, 60)
    events = [_event(40, "agent.state", "WORKING"), _event(-50, "delivery.confirmed", agent="d")]
    told = _told(events, {"a": IDLER})
    assert _seconds(told) == (40, 60)
    assert told["atlas"][INTERACTIONS].value == 1


# ---- the others ----


def test_a_text_counts_once_however_often_it_is_told() -> None:
    kinds = ("delivery.queued_by_agent", "delivery.confirmed", "delivery.confirmed")
    told = _told([_event(5, kind, agent="d1") for kind in kinds])
    assert told["atlas"][INTERACTIONS] == Part(1, 1)
    told = _told([_event(5, "delivery.expired", agent="d1"), _event(6, "delivery.unconfirmed")])
    assert told["atlas"][INTERACTIONS] == Part(1, 1)


def test_decisions_and_confirmations_are_measured() -> None:
    course = Course(NOON, {})
    for seconds in (60.0, 120.0, 600.0):
        course.take(Timed(_event(5, "authorization.approved"), seconds))
    course.take(Timed(_event(5, "authorization.denied"), 20.0))
    course.take(Timed(_event(5, "authorization.denied"), None))  # when it came is not known
    for number in range(100):
        course.take(Timed(_event(5, "delivery.confirmed", agent=str(number)), number / 100))
    shown = _shown(parts := course.close(ONE))
    assert parts["atlas"][DECIDED] == Part(800, 4)
    assert shown["authorization_seconds"] == 200
    assert parts["atlas"]["authorization_seconds_p95"] == Part(600, 4)
    assert parts["atlas"]["delivery_confirm_seconds"] == Part(0.49, 100)
    assert parts[ALL]["delivery_confirm_seconds_p99"] == Part(0.98, 100)
    assert "delivery_confirm_seconds" not in course.close(ONE).get("atlas", {})


def test_false_nudges_are_a_share_of_those_that_were_sent() -> None:
    events = [_event(n, "nudge.sent", agent=str(n)) for n in range(8)]
    assert _shown(_told(events))["false_nudge_percent"] == 0
    assert _shown(_told([*events, _event(9, "nudge.false")]))["false_nudge_percent"] == 12.5
    assert _shown(_told([_event(9, "nudge.false")]))["false_nudge_percent"] is None


def _work(
    spans: list[Span],
    phases: list[Ended] | None = None,
    commits: dict[str, dict[str, datetime]] | None = None,
) -> BySession:
    parts: BySession = {}
    add_work(parts, NOON, ONE, spans, phases or [], commits or {})
    return parts


def test_a_session_counts_from_its_creation_until_it_is_over() -> None:
    parts = _work(
        [
            Span("atlas", _at(15), None),
            Span("hermes", _at(-600), _at(30)),
            Span("old", _at(-600), _at(-5)),
            Span("new", _at(60), None),
        ]
    )
    assert parts["atlas"][SECONDS].value == 45 * 60
    assert parts["hermes"][SECONDS].value == 30 * 60
    assert parts[ALL][SECONDS].value == 60 * 60  # together they fill the hour, and not more
    assert set(parts) == {"atlas", "hermes", ALL}
    assert SECONDS not in _work([]).get(ALL, {})


def test_a_gap_between_sessions_is_not_counted() -> None:
    spans = [Span("a", _at(0), _at(10)), Span("b", _at(30), _at(40)), Span("c", _at(35), _at(38))]
    assert _work(spans)[ALL][SECONDS].value == 20 * 60


def test_a_commit_that_two_sessions_have_counts_once_for_all() -> None:
    spans = [Span("atlas", _at(-600), None), Span("hermes", _at(-600), None)]
    parts = _work(
        spans,
        commits={
            "atlas": {"1": _at(0), "2": _at(59.9), "3": _at(60), "4": _at(-0.1)},
            "hermes": {"2": _at(59.9), "5": _at(1)},
        },
    )
    assert parts["atlas"][COMMITS] == Part(2, 2)
    assert parts[ALL][COMMITS] == Part(3, 3)
    assert _shown(parts, ALL)["commits_per_hour"] == 3


def test_a_commit_from_outside_the_session_is_not_its_own() -> None:
    spans = [Span("atlas", _at(30), None), Span("hermes", _at(-600), _at(15))]
    made = {"1": _at(5), "2": _at(14), "3": _at(29), "4": _at(30), "5": _at(59)}
    parts = _work(spans, commits={"atlas": made, "hermes": made, "nowhere": made})
    assert (parts["atlas"][COMMITS].value, parts["atlas"][COMMIT_TIME].value) == (2, 1800)
    assert (parts["hermes"][COMMITS].value, parts["hermes"][COMMIT_TIME].value) == (2, 900)
    assert (parts[ALL][COMMITS].value, parts[ALL][COMMIT_TIME].value) == (4, 2700)
    assert _shown(parts)["commits_per_hour"] == 4


def test_no_readable_worktree_is_unknown_and_no_commit_is_zero() -> None:
    spans = [Span("atlas", _at(-600), None), Span("hermes", _at(-600), None)]
    parts = _work(spans, commits={"atlas": {}})
    assert _shown(parts)["commits_per_hour"] == 0
    assert _shown(parts, "hermes")["commits_per_hour"] is None
    assert parts[ALL][COMMIT_TIME].value == 3600


def test_phases_are_counted_when_they_end() -> None:
    spans = [Span("atlas", _at(-600), None)]
    phases = [
        Ended("atlas", _at(0), timedelta(hours=2)),
        Ended("atlas", _at(30), None),
        Ended("atlas", _at(59), timedelta(hours=5)),
        Ended("atlas", _at(60), timedelta(hours=9)),
    ]
    parts = _work(spans, phases)
    assert (parts["atlas"][PHASES].value, parts["atlas"][PHASE_TIME].samples) == (3, 2)
    shown = _shown(parts)
    assert (shown["phase_hours"], shown["phases_per_day"]) == (3.5, 72)
    assert (_shown(_work(spans))["phases_per_day"], _shown({})["phases_per_day"]) == (0, None)


# ---- steps and their sum ----


def test_a_figure_over_several_steps_is_no_mean_of_means() -> None:
    hours = [
        (NOON, {IDLE: Part(60, 1), ALIVE: Part(60, 1)}),
        (ONE, {IDLE: Part(0, 1), ALIVE: Part(540, 1)}),
    ]
    found = {one.name: one for one in compose(hours, None)}["idle_percent"]
    assert found.value == 10
    assert [point.value for point in found.points] == [100, 0]


def test_percentiles_of_steps_are_the_exact_ones_when_there_are_any() -> None:
    median, p99 = "delivery_confirm_seconds", "delivery_confirm_seconds_p99"
    hours = [
        (NOON, {median: Part(1, 3), p99: Part(2, 3)}),
        (ONE, {median: Part(5, 1), p99: Part(9, 1)}),
    ]
    about = {one.name: (one.value, one.samples) for one in compose(hours, None)}
    assert (about[median], about[p99]) == ((2, 4), (9, 4))
    exact = {one.name: one.value for one in compose(hours, {p99: Part(8.5, 4)})}
    assert (exact[median], exact[p99]) == (None, 8.5)


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 1), (50, 5), (51, 6), (95, 10), (99, 10), (100, 10)]
)
def test_the_nearest_rank_is_a_value_that_was_measured(percent: int, expected: int) -> None:
    assert nearest_rank(range(1, 11), percent) == expected
    assert nearest_rank([7.0], percent) == 7


def test_steps_begin_with_the_hour_and_the_day_in_utc() -> None:
    at = datetime(2026, 11, 21, 12, 59, 59, 999_999, UTC)
    assert floor(at, Period.HOUR) == NOON
    assert floor(at, Period.DAY) == datetime(2026, 11, 21, tzinfo=UTC)


def test_every_figure_has_a_name_of_its_own_and_percentiles_are_none_of_the_sums() -> None:
    assert len({one.name for one in FIGURES}) == len(FIGURES) == 10
    assert len(PERCENTILES) == 3


_KINDS = st.sampled_from(
    [
        *((f"agent.{one.lower()}", "") for one in Liveness),
        *(("agent.state", one) for one in AgentState),
        ("agent.registered", "atlas:a epoch 1 ALIVE"),
        ("delivery.confirmed", ""),
        ("nudge.sent", ""),
        ("session.deleted", ""),
        (STARTED, started_after(_at(30))),
    ]
)
_EVENTS = st.lists(
    st.tuples(st.integers(0, 24 * 60 - 1), _KINDS, st.sampled_from("abc")), max_size=40
)


@settings(deadline=None, max_examples=150)
@given(_EVENTS)
def test_hours_add_up_to_what_the_day_is_at_once(
    drawn: list[tuple[int, tuple[str, str], str]],
) -> None:
    drawn.sort(key=lambda one: one[0])
    events = [
        Timed(Event(n, _at(minute), kind, f"{agent}{n}", f"s{agent}", agent, "", detail))
        for n, (minute, (kind, detail), agent) in enumerate(drawn)
    ]
    timed = [one for event in events for one in with_stop(event)]
    whole, hourly = Course(NOON, {}), Course(NOON, {})
    for one in timed:
        whole.take(one)
    at_once = whole.close(NOON + timedelta(days=1))
    summed: BySession = {}
    hours = [NOON + timedelta(hours=n) for n in range(25)]
    for begins, ends in pairwise(hours):
        while timed and timed[0].event.at < ends:
            hourly.take(timed.pop(0))
        for session, parts in hourly.close(ends).items():
            merge(summed.setdefault(session, {}), parts)
        assert begins < ends
    assert whole.agents == hourly.agents
    for session, parts in at_once.items():
        for name, part in parts.items():
            assert summed[session][name].value == pytest.approx(part.value), (session, name)
