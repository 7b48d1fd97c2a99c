"""Examples computed by hand that pin the oracle itself."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from tests.scheduling.cases import Case, Plan, Step, generate
from tests.scheduling.oracle import due_time, expected, nominal_times

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
DAY = datetime(2026, 6, 1, tzinfo=UTC)
EVERY_HOUR = Plan("every", HOUR, "UTC")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def at(clock: str) -> datetime:
    """Return a time of the first of June 2026, from HH:MM."""
    return utc(f"2026-06-01T{clock}")


def times(plan: Plan, after: str, most: int) -> list[str]:
    """Return the first nominal times as MM-DD HH:MM in UTC."""
    found = islice(nominal_times(plan, utc(after)), most)
    return [f"{instant:%m-%d %H:%M}" for instant in found]


def story(*steps: Step, **changes: object) -> tuple[list[str], str]:
    """Tell a story that begins at midnight; return its rows, as `HOUR outcome reason`, and state.

    Unless it is changed: every hour, a catch-up window of an hour, ONE, to half past five.
    """
    case = Case("00000000beef", DAY, EVERY_HOUR, HOUR, "ONE", steps, at("05:30"))
    verdict = expected(replace(case, **changes))
    rows = [f"{row[0]:%-H:%M} {row[1]} {row[2]}".strip() for row in verdict.rows]
    return rows, verdict.state


def steps(text: str) -> tuple[Step, ...]:
    """Read steps from `HH:MM word [HH:MM]`, with commas between."""
    parts = [part.split() for part in text.split(",")]
    return tuple(Step(at(clock), word, *map(at, until)) for clock, word, *until in parts)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "found"),
    [
        # Vienna springs from 02:00 to 03:00 at 01:00 UTC.
        ("30 2 * * *", "Europe/Vienna", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:30"]),
        ("0,30 2,3 * * *", "Europe/Vienna", "2026-03-29T00:00", ["03-29 01:00", "03-29 01:30"]),
        ("*/30 2 * * *", "Europe/Vienna", "2026-03-28T12:00", ["03-30 00:00", "03-30 00:30"]),
        ("0-59/30 2 * * *", "Europe/Vienna", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00"]),
        # Vienna falls from 03:00 to 02:00 at 01:00 UTC.
        ("30 2 * * *", "Europe/Vienna", "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),
        ("30 2 * * *", "Europe/Vienna", "2026-10-25T00:40", ["10-26 01:30"]),
        ("30 */2 * * *", "Europe/Vienna", "2026-10-25T00:00", ["10-25 00:30", "10-25 01:30"]),
        ("@hourly", "Europe/Vienna", "2026-10-24T23:30", ["10-25 00:00", "10-25 01:00"]),
        ("0 0-23 * * *", "Europe/Vienna", "2026-10-24T23:30", ["10-25 00:00", "10-25 02:00"]),
        # Lord Howe springs from 02:00 to 02:30 at 15:30 UTC, falls from 02:00 to 01:30 at 15:00.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-03 15:30", "10-04 15:15"]),
        ("45 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-03 15:45", "10-04 15:45"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["04-04 14:45", "04-05 15:15"]),
        ("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:30", ["04-04 14:45", "04-04 15:15"]),
        # Santiago springs from midnight to 01:00 at 04:00 UTC; Sunday begins at 01:00.
        ("@daily", "America/Santiago", "2026-09-05T12:00", ["09-06 04:00", "09-07 03:00"]),
        ("30 0 * * SUN", "America/Santiago", "2026-09-05T12:00", ["09-06 04:00", "09-13 03:30"]),
        # Apia had no 30th of December 2011; it went from UTC-10 to UTC+14.
        ("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00", ["12-29 19:00", "12-30 10:00"]),
        ("0 9 31 12 *", "Pacific/Apia", "2011-12-29T12:00", ["12-30 19:00"]),
        # Days.
        ("0 9 13 * FRI", "UTC", "2026-03-01T00:00", ["03-06 09:00", "03-13 09:00", "03-20 09:00"]),
        ("0 9 */2 * MON", "UTC", "2026-03-01T00:00", ["03-09 09:00", "03-23 09:00"]),
        ("0 9 * * MON#2", "UTC", "2026-03-01T00:00", ["03-09 09:00", "04-13 09:00"]),
        ("0 9 * * 5L", "UTC", "2026-03-01T00:00", ["03-27 09:00", "04-24 09:00"]),
        ("0 9 LW * *", "UTC", "2026-01-01T00:00", ["01-30 09:00", "02-27 09:00"]),
        ("0 9 L feb *", "UTC", "2026-01-01T00:00", ["02-28 09:00", "02-28 09:00"]),
        ("0 0 * * 7", "UTC", "2026-03-01T00:00", ["03-08 00:00", "03-15 00:00"]),
    ],
)
def test_cron_follows_the_wall(expression: str, zone: str, after: str, found: list[str]) -> None:
    plan = Plan("cron", expression, zone)
    assert times(plan, after, max(2, len(found)))[: len(found)] == found


@pytest.mark.parametrize(
    ("text", "zone", "after", "found"),
    [
        ("02:30", "Europe/Vienna", "2026-03-28T12:00", ["03-29 01:00"]),
        ("02:30:30", "Europe/Vienna", "2026-03-29T01:00", ["03-30 00:30"]),
        ("02:30", "Europe/Vienna", "2026-10-24T12:00", ["10-25 00:30"]),
        ("02:30", "Europe/Vienna", "2026-10-25T00:40", ["10-26 01:30"]),
        ("2026-10-25T02:30", "Europe/Vienna", "2026-10-25T00:40", []),
        ("2026-10-25T02:30+01:00", "Europe/Vienna", "2026-10-25T00:40", ["10-25 01:30"]),
        ("00:15", "Asia/Beirut", "2026-03-28T12:00", ["03-28 22:00"]),
        ("2011-12-30T09:00", "Pacific/Apia", "2011-12-29T12:00", ["12-30 10:00"]),
        ("09:00", "UTC", "2026-03-28T09:00", ["03-29 09:00"]),
    ],
)
def test_at_is_the_next_time_on_the_wall(
    text: str, zone: str, after: str, found: list[str]
) -> None:
    assert times(Plan("at", text, zone), after, 2) == found


def test_every_day_moves_on_the_wall_when_summer_time_begins() -> None:
    plan = Plan("every", 24 * HOUR, "Europe/Vienna")
    assert times(plan, "2026-03-28T08:00", 2) == ["03-29 08:00", "03-30 08:00"]


def test_until_counts_when_it_is_met_exactly_and_is_read_on_the_wall() -> None:
    plan = Plan("every", HOUR, "Europe/Vienna", until="02:30")
    assert times(plan, "2026-03-28T23:00", 9) == ["03-29 00:00", "03-29 01:00"]


def test_jitter_is_a_part_of_the_smaller_of_its_length_and_the_distance() -> None:
    nominal = utc("2026-06-01T00:00")
    # BLAKE2b-512 of 00000000beef:1780272000000000 begins with the eight bytes of this number.
    fraction = 0xE9EB774C2CBE0DC0 / 2**64
    plan = Plan("every", HOUR, "UTC", jitter=2 * HOUR)
    late = due_time(plan, "00000000beef", nominal, nominal + HOUR) - nominal
    assert abs(late - fraction * HOUR) <= timedelta(microseconds=1)
    alone = due_time(plan, "00000000beef", nominal, None) - nominal
    assert abs(alone - fraction * 2 * HOUR) <= timedelta(microseconds=1)


FIVE = ["1:00 FIRED", "2:00 FIRED", "3:00 FIRED", "4:00 FIRED", "5:00 FIRED"]


@pytest.mark.parametrize(
    ("told", "middle"),
    [
        # After the outage 2:00 is later than the window, 3:00 stands for nothing but itself.
        ("01:10 down, 03:20 up", ["2:00 SKIPPED MISSED", "3:00 FIRED", "4:00 FIRED"]),
        ("01:10 down, 02:20 up", ["2:00 FIRED", "3:00 FIRED", "4:00 FIRED"]),
        ("01:10 pause, 03:20 resume", ["2:00 SKIPPED PAUSED", "3:00 SKIPPED PAUSED", "4:00 FIRED"]),
        ("01:10 pause_all, 02:20 resume_all", ["2:00 SKIPPED PAUSED", "3:00 FIRED", "4:00 FIRED"]),
        (
            "01:10 hold 04:30, 04:30 release",
            ["2:00 COALESCED USAGE_LIMITED", "3:00 COALESCED USAGE_LIMITED", "4:00 FIRED"],
        ),
        (
            "01:10 hold 03:10, 02:50 hold 03:40, 03:40 release",
            ["2:00 COALESCED USAGE_LIMITED", "3:00 FIRED", "4:00 FIRED"],
        ),
        ("01:10 hold 04:30, 02:30 release", ["2:00 FIRED", "3:00 FIRED", "4:00 FIRED"]),
        # What was put off is looked at when the hold ends, paused or not.
        (
            "01:10 hold 03:30, 02:10 pause, 02:20 resume, 03:30 release",
            ["2:00 COALESCED USAGE_LIMITED", "3:00 FIRED", "4:00 FIRED"],
        ),
        (
            "01:10 hold 03:30, 02:10 pause, 03:30 release, 03:40 resume",
            ["2:00 SKIPPED PAUSED", "3:00 SKIPPED PAUSED", "4:00 FIRED"],
        ),
        # Down from before it was due: 2:00 is put off at 2:40, so 40 minutes of it count as late.
        (
            "01:10 hold 03:30, 01:20 down, 02:40 up, 03:30 release",
            ["2:00 COALESCED USAGE_LIMITED", "3:00 FIRED", "4:00 FIRED"],
        ),
        (
            "01:10 hold 03:30, 01:20 down, 03:10 up, 03:30 release",
            ["2:00 SKIPPED MISSED", "3:00 FIRED", "4:00 FIRED"],
        ),
        (
            "01:10 stuck, 03:20 unstuck",
            ["2:00 FIRED", "3:00 COALESCED STILL_WAITING", "4:00 FIRED"],
        ),
    ],
)
def test_what_becomes_of_each_hour(told: str, middle: list[str]) -> None:
    assert story(*steps(told)) == ([FIVE[0], *middle, FIVE[4]], "PENDING")


def test_after_an_outage_the_latest_stands_for_those_within_the_window() -> None:
    quarters = Plan("every", 15 * MINUTE, "UTC", until="01:30")
    rows, state = story(*steps("00:10 down, 01:25 up"), plan=quarters)
    assert rows == [
        "0:15 SKIPPED MISSED",
        "0:30 COALESCED MISSED",
        "0:45 COALESCED MISSED",
        "1:00 COALESCED MISSED",
        "1:15 FIRED",
        "1:30 FIRED",
    ]
    assert state == "ENDED"


def test_with_all_each_within_the_window_fires_also_while_one_waits() -> None:
    told = steps("00:10 down, 02:00 up, 02:10 stuck")
    rows, _ = story(*told, missed="ALL", horizon=at("04:10"))
    assert rows == FIVE[:4]


def test_exactly_as_late_as_the_window_still_counts() -> None:
    rows, _ = story(*steps("00:10 down, 02:00 up"), horizon=at("02:30"))
    assert rows == ["1:00 COALESCED MISSED", "2:00 FIRED"]


@pytest.mark.parametrize(
    ("told", "row", "state"),
    [
        ("00:10 pause, 01:50 resume", "1:00 FIRED", "FIRED"),
        ("00:10 pause, 02:10 resume", "1:00 SKIPPED PAUSED", "SKIPPED"),
        ("00:10 down, 02:10 up", "1:00 SKIPPED MISSED", "SKIPPED"),
        ("00:10 hold 04:10, 04:10 release", "1:00 FIRED", "FIRED"),
        ("00:10 hold 04:10, 01:10 pause, 04:10 release, 04:50 resume", "1:00 FIRED", "FIRED"),
        ("00:10 pause, 02:10 run_now", "1:00 FIRED RUN_NOW", "FIRED"),
        ("00:10 run_now, 00:20 cancel", "1:00 FIRED RUN_NOW", "FIRED"),
        ("00:10 session_ends", "1:00 EXPIRED SESSION_ENDED", "EXPIRED"),
    ],
)
def test_a_task_that_fires_once_waits(told: str, row: str, state: str) -> None:
    assert story(*steps(told), plan=Plan("delay", HOUR, "UTC")) == ([row], state)


def test_what_is_done_to_a_repeating_task() -> None:
    rows, state = story(*steps("01:10 run_now, 02:10 pause, 02:20 run_now, 03:10 session_ends"))
    assert rows == [
        "1:00 FIRED",
        "1:10 FIRED RUN_NOW",
        "2:00 FIRED",
        "2:20 FIRED RUN_NOW",
        "3:00 SKIPPED PAUSED",
        "4:00 EXPIRED SESSION_ENDED",
    ]
    assert state == "EXPIRED"
    assert story(*steps("01:10 cancel, 01:20 run_now")) == (["1:00 FIRED"], "CANCELLED")


def test_another_schedule_counts_from_when_it_was_given() -> None:
    change = Step(at("01:10"), "reschedule", plan=Plan("delay", 2 * HOUR, "UTC"))
    assert story(change) == (["1:00 FIRED", "3:10 FIRED"], "FIRED")


def test_the_moment_of_firing_is_told() -> None:
    held = steps("00:10 hold 01:50, 01:50 release")
    case = Case("00000000beef", DAY, EVERY_HOUR, HOUR, "ONE", held, at("02:30"))
    assert expected(case).decided == {at("01:00"): at("01:50"), at("02:00"): at("02:00")}


def test_a_seed_is_always_the_same_case_and_its_steps_are_in_order() -> None:
    for seed in range(40):
        case = generate(seed)
        assert case == generate(seed)
        moments = [case.created_at, *(step.at for step in case.steps), case.horizon]
        assert moments == sorted(set(moments))
        assert len(case.steps) <= 6
