"""The pace of beats under load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orch_server.core.lease import LeaseTable
from orch_server.core.pace import BUSY, FREE, MOST, Pace, next_stretch

PACE = Pace(beat=5.0, lease=15.0, grace=0.75)


def test_a_busy_server_asks_for_beats_half_as_often_and_a_free_one_twice_as_often() -> None:
    assert next_stretch(1, 0.81) == 2
    assert next_stretch(8, 0.95) == 16
    assert next_stretch(MOST, 2.0) == MOST
    assert next_stretch(4, 0.5) == 4
    assert next_stretch(4, 0.29) == 2
    assert next_stretch(1, 0.0) == 1


@given(st.floats(0.001, 50.0), st.integers(0, 4))
def test_the_stretch_comes_to_rest_whatever_the_beats_cost(cost: float, power: int) -> None:
    stretch, seen = 2**power, []
    for _ in range(12):
        stretch = next_stretch(stretch, cost / stretch)
        seen.append(stretch)
    assert seen[-1] == seen[-2]
    busy = cost / seen[-1]
    assert busy <= BUSY or seen[-1] == MOST
    assert busy >= FREE or seen[-1] == 1


def test_the_lease_is_three_beats_at_every_stretch() -> None:
    for stretch in (1, 2, 4, 8, 16):
        pace = PACE.stretched(stretch)
        assert (pace.beat, pace.lease, pace.grace) == (5 * stretch, 15 * stretch, 0.75)


def test_when_the_pace_slows_down_every_lease_grows_at_once() -> None:
    table = LeaseTable(PACE)
    table.grant("a", 1, now=0)
    table.change_pace(PACE.stretched(2))
    assert table.expire(29.9) == []
    assert table.expire(30) == [("a", 1)]


def test_when_the_pace_speeds_up_a_lease_shrinks_only_with_its_renewal() -> None:
    table = LeaseTable(PACE)
    table.change_pace(PACE.stretched(4))
    table.grant("told", 1, now=0)
    table.grant("silent", 1, now=0)
    table.change_pace(PACE)
    table.renew("told", 1, now=20)
    assert table.expire(34.9) == []
    assert table.expire(35) == [("told", 1)]
    assert table.expire(60) == [("silent", 1)]


def test_a_break_that_may_be_our_own_fault_has_the_amnesty() -> None:
    table = LeaseTable(PACE)
    table.grant("a", 1, now=0)
    assert table.broke("a", 1, now=1, forgiven=True)
    assert table.expire(30.9) == []
    assert table.expire(31) == [("a", 1)]


def test_a_client_that_still_beats_slowly_is_given_the_lease_that_it_was_told() -> None:
    """The pace was halved since, and a frame that is no beat does not tell the client."""
    table = LeaseTable(PACE)
    table.grant("a", 1, now=0)
    table.renew("a", 1, now=1, told=60)
    assert table.expire(60.9) == []
    assert table.expire(61) == [("a", 1)]
