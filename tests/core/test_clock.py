"""One contract, both clocks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from orch_server.core.clock import Clock, ManualClock, SystemClock
from tests.support import until

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


def _manual() -> tuple[Clock, Callable[[], None]]:
    clock = ManualClock(START)
    return clock, lambda: clock.advance(0.01)


def _system() -> tuple[Clock, Callable[[], None]]:
    clock = SystemClock()
    before = clock.monotonic()
    return clock, lambda: until(lambda: clock.monotonic() > before, "time to pass") and None


@pytest.fixture(params=[_manual, _system], ids=["manual", "system"])
def clock(request: pytest.FixtureRequest) -> tuple[Clock, Callable[[], None]]:
    """A clock, and what lets some time pass on it."""
    made: tuple[Clock, Callable[[], None]] = request.param()
    return made


def test_the_wall_clock_says_utc(clock: tuple[Clock, Callable[[], None]]) -> None:
    assert clock[0].now().tzinfo is UTC


def test_the_monotonic_clock_goes_forward_only(clock: tuple[Clock, Callable[[], None]]) -> None:
    port, pass_time = clock
    readings = []
    for _ in range(20):
        readings.append(port.monotonic())
        pass_time()
    assert readings == sorted(readings)
    assert port.monotonic() > readings[0]


def test_both_clocks_measure_the_same_time(clock: tuple[Clock, Callable[[], None]]) -> None:
    port, pass_time = clock
    wall, monotonic = port.now(), port.monotonic()
    pass_time()
    passed = timedelta(seconds=port.monotonic() - monotonic)
    assert abs((port.now() - wall) - passed) < timedelta(seconds=1)


def test_a_manual_clock_moves_only_when_told_to() -> None:
    clock = ManualClock(START, monotonic=7.0)
    assert (clock.now(), clock.monotonic()) == (START, 7.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (START + timedelta(seconds=2.5), 9.5)
