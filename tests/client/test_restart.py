"""Whether an agent that has ended is started again, and when."""

from __future__ import annotations

import signal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orch_client.restart import LONGEST, MOST, WINDOW, End, History, after_crash


@pytest.mark.parametrize(
    ("status", "number", "crash", "shown"),
    [
        (0, 0, False, 0),
        (1, 0, True, 1),
        (2, 0, True, 2),
        (137, 0, True, 137),
        (255, 0, True, 255),
        (0, signal.SIGKILL, True, 137),
        (0, signal.SIGSEGV, True, 139),
        (0, signal.SIGINT, False, 130),
        (0, signal.SIGTERM, False, 143),
        (0, signal.SIGHUP, False, 129),
        (130, 0, False, 130),
        (143, 0, False, 143),
        (129, 0, False, 129),
    ],
)
def test_only_what_nobody_asked_for_is_a_crash(
    status: int, number: int, crash: bool, shown: int
) -> None:
    end = End(status, number)
    assert (end.is_crash, end.shown) == (crash, shown)


def pauses(lives: list[float]) -> list[float | None]:
    """What is decided after each of these lives, in seconds; the back-off passes between them."""
    history, now, found = History(), 1000.0, list[float | None]()
    for life in lives:
        began, now = now, now + life
        history, pause = after_crash(history, began, now)
        found.append(pause)
        if pause is None:
            break
        now += pause
    return found


def test_the_back_off_doubles_and_the_fifth_crash_within_ten_minutes_is_the_last() -> None:
    assert pauses([0.1] * 9) == [1, 2, 4, 8, None]


def test_the_back_off_ends_at_a_minute() -> None:
    """Lives that are too short to forget, and too long for the breaker."""
    assert pauses([200.0] * 9) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_five_minutes_of_life_are_forgiven() -> None:
    assert pauses([1.0, 1.0, 300.0, 1.0]) == [1, 2, 1, 2]
    assert pauses([1.0, 1.0, 299.0, 1.0]) == [1, 2, 4, 8]


def test_the_breaker_counts_the_last_ten_minutes_only() -> None:
    assert pauses([1.0, 1.0, 1.0, 1.0, WINDOW, 1.0, 1.0, 1.0]) == [1, 2, 4, 8, 1, 2, 4, 8]
    assert pauses([1.0, 1.0, 1.0, 1.0, 570.0]) == [1, 2, 4, 8, None]


@given(st.lists(st.floats(0, 5000, allow_nan=False), max_size=60))
@example([1747.9644115610947, 300.0])  # by the clock the second one is a little shorter
def test_whatever_the_lives_the_rules_hold(lives: list[float]) -> None:
    history, now, crashes = History(), 0.0, list[float]()
    for life in lives:
        began, now = now, now + life
        history, pause = after_crash(history, began, now)
        crashes.append(now)
        recent = [at for at in crashes if now - at < WINDOW]
        assert (pause is None) == (len(recent) >= MOST)
        if pause is None:
            return
        assert 1 <= pause <= LONGEST
        assert pause == 1 or now - began < 300
        now += pause
