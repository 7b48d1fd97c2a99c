"""How old something is whose time the wall clock told, which may have been set meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from orch_server.core.timeline import Timeline

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def _at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_without_a_change_a_time_is_as_old_as_the_wall_clock_says() -> None:
    line = Timeline()
    line.note(_at(0), 1000)
    assert line.monotonic(_at(-50), 1000) == 950
    assert line.monotonic(_at(20), 1030) == 1020
    assert line.monotonic(_at(99), 1030) == 1030, "what comes from the future is of now"


def test_a_clock_that_was_put_forward_makes_nothing_older() -> None:
    line = Timeline()
    line.note(_at(0), 1000)
    line.note(_at(3600 + 60), 1060)
    assert line.monotonic(_at(30), 1100) == 1030
    assert line.monotonic(_at(3600 + 70), 1100) == 1070


def test_a_clock_that_was_put_back_makes_nothing_younger() -> None:
    line = Timeline()
    line.note(_at(0), 1000)
    line.note(_at(60 - 3600), 1060)
    assert line.monotonic(_at(30), 1100) == 1030
    assert line.monotonic(_at(70 - 3600), 1100) == 1070


def test_what_was_stored_between_the_change_and_its_discovery_is_taken_to_be_of_the_discovery() -> (
    None
):
    line = Timeline()
    line.note(_at(0), 1000)
    line.note(_at(3600 + 60), 1060)
    assert line.monotonic(_at(3600 + 50), 1100) == 1060


@given(
    st.lists(
        st.tuples(st.floats(1, 1000), st.sampled_from([-7200.0, -3600.0, 0.0, 3600.0, 7200.0])),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_a_time_is_never_taken_for_one_after_now_or_far_from_what_it_was(
    day: list[tuple[float, float]], data: st.DataObject
) -> None:
    """The clock is put forward at random; each time that was stored is found again."""
    line, now, lead = Timeline(), 1000.0, 0.0
    line.note(_at(now), now)
    stored: list[tuple[float, datetime]] = []
    for pause, jump in day:
        stored.append((now, _at(now + lead)))
        now += pause
        lead += abs(jump)
        line.note(_at(now + lead), now)
    then, said = data.draw(st.sampled_from(stored))
    assert abs(line.monotonic(said, now) - then) < 0.01
