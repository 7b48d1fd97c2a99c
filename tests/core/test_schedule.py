"""What may be asked for as a schedule, and the times that follow from it."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_server.core import cron
from orch_server.core.errors import InvalidInput
from orch_server.core.schedule import (
    MAX_DELAY,
    Asked,
    Form,
    Schedule,
    check_catch_up,
    due,
    due_time,
    plan,
    upcoming,
)
from orch_server.core.wall import zone

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
VIENNA = "Europe/Vienna"


@pytest.mark.parametrize(
    "delay", [timedelta(0), timedelta(microseconds=1), timedelta(minutes=15), MAX_DELAY]
)
def test_a_sensible_delay_is_added_to_now(delay: timedelta) -> None:
    assert due_time(NOW, delay) == NOW + delay
    assert plan(Asked(delay=delay), NOW, "UTC") == Schedule(Form.ONCE, NOW + delay)


@pytest.mark.parametrize(
    "delay",
    [
        timedelta(microseconds=-1),
        timedelta(days=-1),
        MAX_DELAY + timedelta(microseconds=1),
        timedelta.max,
        timedelta.min,
    ],
)
def test_other_delays_are_refused(delay: timedelta) -> None:
    with pytest.raises(InvalidInput) as caught:
        due_time(NOW, delay)
    assert caught.value.field == "delay"
    assert "527,040 minutes (366 days)" in caught.value.message


@pytest.mark.parametrize(
    ("text", "tz", "expected"),
    [
        ("13:00", "UTC", "2026-11-21T13:00"),
        ("12:00", "UTC", "2026-11-22T12:00"),  # strictly after now
        ("9:00", "UTC", "2026-11-22T09:00"),
        ("12:00:30", "UTC", "2026-11-21T12:00:30"),
        ("13:30", VIENNA, "2026-11-21T12:30"),
        ("13:00", VIENNA, "2026-11-22T12:00"),
        ("2026-11-22T09:00", VIENNA, "2026-11-22T08:00"),
        ("2026-11-22 09:00:05", VIENNA, "2026-11-22T08:00:05"),
        ("2026-11-22T09:00Z", VIENNA, "2026-11-22T09:00"),
        ("2026-11-22T09:00+05:30", VIENNA, "2026-11-22T03:30"),
        ("2027-03-28T02:30", VIENNA, "2027-03-28T01:00"),  # in the gap: its end
        ("2027-10-31T02:30", VIENNA, "2027-10-31T00:30"),  # twice: the first
    ],
)
def test_a_time_is_meant_in_its_zone(text: str, tz: str, expected: str) -> None:
    found = plan(Asked(at=text, time_zone=tz), NOW, "Asia/Tokyo")
    assert found.first == datetime.fromisoformat(f"{expected}+00:00")
    assert (found.form, found.time_zone) == (Form.ONCE, tz)


def test_the_local_zone_counts_when_none_is_named() -> None:
    assert plan(Asked(at="09:00"), NOW, "Asia/Tokyo").first == NOW.replace(day=22, hour=0)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Asked(), "schedule"),
        (Asked(at="09:00", cron="* * * * *"), "schedule"),
        (Asked(at="25:00"), "schedule.at"),
        (Asked(at=""), "schedule.at"),
        (Asked(at="soon"), "schedule.at"),
        (Asked(at="2027-02-30T09:00"), "schedule.at"),
        (Asked(at="2026-11-21T11:59"), "schedule.at"),
        (Asked(at="2028-11-21T11:59"), "schedule.at"),
        (Asked(at="0001-01-01T00:00+14:00"), "schedule.at"),
        (Asked(at="9999-12-31T23:59-14:00"), "schedule.at"),
        (Asked(at="09:00", time_zone="Mars/Olympus"), "schedule.time_zone"),
        (Asked(at="09:00", time_zone="../../etc/passwd"), "schedule.time_zone"),
        (Asked(at="09:00", time_zone="x" * 5000), "schedule.time_zone"),
        (Asked(at="09:00", time_zone="a\0b"), "schedule.time_zone"),
        (Asked(at="09:00", jitter=HOUR), "schedule.jitter"),
        (Asked(delay=HOUR, until="18:00"), "schedule.until"),
        (Asked(delay=HOUR, time_zone="UTC"), "schedule.time_zone"),
        (Asked(every=timedelta(0)), "schedule.every"),
        (Asked(every=timedelta(milliseconds=1)), "schedule.every"),
        (Asked(every=-HOUR), "schedule.every"),
        (Asked(every=timedelta(days=367)), "schedule.every"),
        (Asked(every=HOUR, jitter=-HOUR), "schedule.jitter"),
        (Asked(every=HOUR, jitter=timedelta(days=2)), "schedule.jitter"),
        (Asked(every=HOUR, until="12:30"), "schedule.until"),
        (Asked(every=HOUR, until="never"), "schedule.until"),
        (Asked(cron="0 9 * * *", until="2026-11-21T15:00"), "schedule.until"),
        (Asked(cron="a b c d e f"), "schedule.cron"),
        (Asked(cron="* * * * * *"), "schedule.cron"),
        (Asked(cron="@never"), "schedule.cron"),
        (Asked(cron="@reboot"), "schedule.cron"),
        (Asked(cron="0 0 30 2 *"), "schedule.cron"),
        (Asked(cron="61 * * * *"), "schedule.cron"),
        (Asked(cron=""), "schedule.cron"),
        (Asked(cron="*" * 201), "schedule.cron"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_field(asked: Asked, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan(asked, NOW, "UTC")
    assert caught.value.field == field
    assert caught.value.message.count("\n") == 0


@given(st.text(max_size=40))
def test_any_text_is_a_cron_expression_or_is_refused(text: str) -> None:
    _check_or_refuse(text)


@given(st.lists(st.text("0123456789*/,-#LWMONJA?", min_size=1, max_size=8), min_size=5, max_size=5))
def test_what_looks_like_a_cron_expression_is_one_or_is_refused(fields: list[str]) -> None:
    _check_or_refuse(" ".join(fields))


def _check_or_refuse(expression: str) -> None:
    with contextlib.suppress(InvalidInput):
        cron.check(expression)
        assert cron.following(expression, UTC, NOW) is not None


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_is_refused(text: str) -> None:
    for asked in (Asked(at=text), Asked(every=HOUR, until=text), Asked(at="09:00", time_zone=text)):
        with contextlib.suppress(InvalidInput):
            assert plan(asked, NOW, "UTC").first > NOW


def test_an_interval_measures_time_that_passes() -> None:
    start = datetime(2026, 3, 27, 8, tzinfo=UTC)
    found = plan(Asked(every=timedelta(days=1), time_zone=VIENNA), start, "UTC")
    assert upcoming(found, 3) == [start + timedelta(days=n) for n in (1, 2, 3)]


def test_the_end_counts_itself() -> None:
    found = plan(Asked(every=HOUR, until="15:00"), NOW, "UTC")
    assert upcoming(found, 10) == [NOW + HOUR, NOW + 2 * HOUR, NOW + 3 * HOUR]


def test_jitter_is_the_same_each_time_and_never_reaches_the_next_one() -> None:
    often = plan(Asked(every=HOUR, jitter=timedelta(hours=20)), NOW, "UTC")
    nominals = upcoming(often, 200)
    dues = [due(often, "abc", nominal) for nominal in nominals]
    assert dues == [due(often, "abc", nominal) for nominal in nominals]
    assert dues != [due(often, "abd", nominal) for nominal in nominals]
    assert all(n <= d < n + HOUR for n, d in zip(nominals, dues, strict=True))
    assert all(a < b for a, b in pairwise(dues))
    assert len({d - n for n, d in zip(nominals, dues, strict=True)}) > 190


@pytest.mark.parametrize("window", [timedelta(seconds=9.9), timedelta(days=367), -HOUR])
def test_a_catch_up_window_has_its_limits(window: timedelta) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_catch_up(window)
    assert caught.value.field == "catch_up"


CLOCKS = [
    ("0 0 * * *", "America/Santiago", "2026-09-05T06:00", ["09-06T01:00", "09-07T00:00"]),
    ("30 2 * * *", VIENNA, "2026-03-28T12:00", ["03-29T03:00", "03-30T02:30"]),
    ("0,30 2 * * *", VIENNA, "2026-03-28T12:00", ["03-29T03:00", "03-30T02:00"]),
    ("30 2 * * *", VIENNA, "2026-10-24T12:00", ["10-25T02:30", "10-26T02:30"]),
    ("@hourly", VIENNA, "2026-10-24T23:30", ["10-25T02:00", "10-25T02:00", "10-25T03:00"]),
    ("*/30 2 * * *", VIENNA, "2026-03-28T12:00", ["03-30T02:00"]),
    ("*/15 1 * * *", "Australia/Lord_Howe", "2026-04-04T14:40", ["04-05T01:45", "04-05T01:30"]),
    ("*/10 2 * * *", "Australia/Lord_Howe", "2026-04-04T14:50", ["04-05T02:00", "04-05T02:10"]),
    ("0 12 * * *", "Pacific/Apia", "2011-12-30T01:00", ["12-31T00:00", "12-31T12:00"]),
    ("0 9 * * MON-FRI", "UTC", "2026-11-20T10:00", ["11-23T09:00"]),
    ("0 0 13 * FRI", "UTC", "2026-11-01T00:00", ["11-06T00:00", "11-13T00:00"]),
    ("0 0 L * *", "UTC", "2027-02-01T00:00", ["02-28T00:00", "03-31T00:00"]),
]


@pytest.mark.parametrize(("expression", "tz", "after", "expected"), CLOCKS)
def test_a_cron_expression_follows_the_wall_clock(
    expression: str, tz: str, after: str, expected: list[str]
) -> None:
    at: datetime | None = datetime.fromisoformat(f"{after}+00:00")
    shown = []
    for _ in expected:
        assert at is not None
        at = cron.following(expression, zone(tz), at)
        assert at is not None
        shown.append(at.astimezone(zone(tz)).strftime("%m-%dT%H:%M"))
    assert shown == expected


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("0 9 * * FRI-MON", "day of week 'FRI-MON'; use 0 to 7 or SUN to SAT"),
        ("61 * * * *", "minute '61'; use 0 to 59"),
        ("0 0 32 * *", "day of month '32'; use 1 to 31"),
        ("0 0 30 2 *", "never comes: none of its months has such a day"),
        ("0 0 31 4,6 *", "never comes"),
        ("0 0 * 13 *", "month '13'"),
    ],
)
def test_what_is_wrong_in_a_cron_expression_is_said(expression: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(said)):
        cron.check(expression)


@pytest.mark.parametrize(
    ("every", "said"),
    [
        (timedelta(days=400), "400 days"),
        (timedelta(days=-1), "-1 days"),
        (timedelta(milliseconds=1), "0.001 seconds"),
        (timedelta(0), "0 seconds"),
        (timedelta(hours=24 * 366 + 1), "8,785 hours"),
    ],
)
def test_lengths_are_said_as_people_say_them(every: timedelta, said: str) -> None:
    with pytest.raises(InvalidInput, match=f"An interval of {said} makes no sense"):
        plan(Asked(every=every), NOW, "UTC")


def test_times_are_said_in_their_zone() -> None:
    with pytest.raises(InvalidInput, match=r"2026-11-20 09:00:00-05:00 has passed"):
        plan(Asked(at="2026-11-20T09:00", time_zone="America/New_York"), NOW, "UTC")
    late = Asked(every=HOUR, until="13:30", time_zone=VIENNA)
    with pytest.raises(InvalidInput, match=r"2026-11-21 14:00:00\+01:00, after its end"):
        plan(late, NOW, "UTC")


def test_a_range_of_one_value_with_a_step_is_that_value() -> None:
    assert cron.following("20 5-5/3 * * *", UTC, NOW) == NOW.replace(day=22, hour=5, minute=20)
