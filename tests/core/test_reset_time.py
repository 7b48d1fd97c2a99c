"""What agent CLIs say of the end of a limit, read as a time or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_server.core.reset_time import reset_time

NOW = datetime(2026, 11, 21, 18, 0, tzinfo=UTC)  # a Saturday
BERLIN = ZoneInfo("Europe/Berlin")
LOS_ANGELES = ZoneInfo("America/Los_Angeles")
CODEX = (
    "You’ve hit your usage limit. Upgrade to Pro (https://openai.com/chatgpt/pricing), visit"
    " https://chatgpt.com/codex/settings/usage to purchase more credits or try again at Nov 22nd,"
    " 2026 5:41 AM."
)


def _utc(day: int, hour: int, minute: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You've hit your session limit · resets 7pm (America/Los_Angeles)", _utc(22, 3)),
        ("You've hit your session limit · resets 11:27am (UTC)", _utc(22, 11, 27)),
        ("5-hour limit reached ∙ resets 5:30am", _utc(22, 4, 30)),
        ("limit reached ∙ resets at 19:30", _utc(21, 18, 30)),
        ("You've hit your weekly limit · resets Nov 23 at 4pm", _utc(23, 15)),
        ("resets Nov 23, 3:05pm (UTC)", _utc(23, 15, 5)),
        (CODEX, _utc(22, 4, 41)),
        ("resets Dec 1", _utc(30, 23)),
        ("Please try again in 2 hours", _utc(21, 20)),
        ("try again in 1 day 3 hours 5 minutes.", _utc(22, 21, 5)),
        ("try again in 2 hours and 30 minutes", _utc(21, 20, 30)),
        ("resets in 3h 20m", _utc(21, 21, 20)),
        ("or try again at Nov 24th, 2026 3:05 PM.", _utc(24, 14, 5)),
        ("You've hit your usage limit. Upgrade to Pro or try again at 8:31 PM.", _utc(21, 19, 31)),
        ("Claude AI usage limit reached|1795300000", _utc(21, 22, 26) + timedelta(seconds=40)),
        ("resets Mon 9am", _utc(23, 8)),
        ("resets Saturday at 5pm", _utc(28, 16)),
        ("resets Sat 11pm", _utc(21, 22)),
        ("try again tomorrow at 9am", _utc(22, 8)),
        ("resets 12am", _utc(21, 23)),
        ("resets 12pm", _utc(22, 11)),
        ("resets 7pm EST", _utc(22, 0)),
    ],
)
def test_the_words_of_the_agents_are_understood(text: str, expected: datetime) -> None:
    assert reset_time(text, NOW, BERLIN) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Request rejected (429) · This request would exceed your account's rate limit.",
        "Please try again later.",
        "It was used at 3pm.",
        "resets soon (probably)",
        "resets 7pm (Mars/Olympus_Mons)",
        "resets 7pm PST",
        "resets 13pm",
        "resets 25:30",
        "resets 7:75pm",
        "resets Feb 30 at 1pm",
        "resets Nov 20 at 4pm",  # over, and a year is too far
        "resets Nov 23 2027 at 4pm",
        "try again in 99999999999999999999 days",
        "try again in 40 days",
        "try again in 0 minutes",
        "Claude AI usage limit reached|1700000000",
        "limit reached|99999999999999",
    ],
)
def test_what_is_not_sure_is_no_time(text: str) -> None:
    assert reset_time(text, NOW, BERLIN) is None


def test_a_time_that_has_only_just_passed_is_not_taken_for_tomorrows() -> None:
    said = "resets 7pm"
    at_seven = _utc(21, 18)
    assert reset_time(said, at_seven - timedelta(seconds=1), BERLIN) == at_seven
    assert reset_time(said, at_seven, BERLIN) is None
    assert reset_time(said, at_seven + timedelta(minutes=9), BERLIN) is None
    later = at_seven + timedelta(minutes=11)
    assert reset_time(said, later, BERLIN) == at_seven + timedelta(days=1)


def test_the_night_in_which_summer_time_begins_has_no_half_past_two() -> None:
    before = datetime(2026, 3, 28, 23, tzinfo=UTC)
    found = reset_time("resets 2:30am", before, BERLIN)
    assert found is not None
    assert found.astimezone(BERLIN).strftime("%d %H:%M") == "29 03:30"


def test_the_night_in_which_summer_time_ends_has_two_half_past_twos() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 2:30 summer time
    assert reset_time("resets 2:30am", first - timedelta(minutes=1), BERLIN) == first
    between = first + timedelta(minutes=30)
    assert reset_time("resets 2:30am", between, BERLIN) == first + timedelta(hours=1)


nows = st.integers(0, 4 * 365 * 24 * 3600).map(lambda n: NOW + timedelta(seconds=n))
zones = st.sampled_from([UTC, BERLIN, LOS_ANGELES, ZoneInfo("Australia/Lord_Howe")])


@given(nows, zones, st.integers(0, 23), st.integers(0, 59), st.sampled_from(["12", "24", "named"]))
def test_a_time_of_day_is_the_next_moment_at_which_clocks_show_it(
    now: datetime, zone: ZoneInfo, hour: int, minute: int, form: str
) -> None:
    noon = "am" if hour < 12 else "pm"
    twelve = f"resets {hour % 12 or 12}:{minute:02}{noon}"
    text = {"12": twelve, "24": f"resets {hour}:{minute:02}", "named": f"{twelve} ({zone})"}[form]
    found = reset_time(text, now, LOS_ANGELES if form == "named" else zone)
    if found is None:  # it has just passed
        local = now.astimezone(zone)
        passed = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
        ago = (local.replace(tzinfo=None) - passed.replace(tzinfo=None)) % timedelta(days=1)
        assert ago < timedelta(minutes=10) + timedelta(hours=1)  # a clock that was set
        return
    assert now < found <= now + timedelta(hours=25)
    shown = found.astimezone(zone)
    if (shown.hour, shown.minute) != (hour, minute):  # left out by summer time
        assert shown.utcoffset() != (shown - timedelta(hours=3)).utcoffset()


@given(st.text(max_size=300), nows, zones)
def test_whatever_is_said_the_answer_lies_ahead_or_there_is_none(
    text: str, now: datetime, zone: ZoneInfo
) -> None:
    for said in (text, f"resets {text}", f"try again in {text}", f"limit reached|{text}"):
        found = reset_time(said, now, zone)
        assert found is None or (now < found <= now + timedelta(days=31) and found.tzinfo is UTC)


_WORDS = """resets at in 7pm 13:30 Nov 23 Feb 30 9999 Mon 3h 20m (UTC) (America/New_York) tomorrow 0
    , (../../etc/passwd) |1795300000"""
pieces = st.sampled_from(_WORDS.split())


@given(st.lists(pieces, max_size=12), nows, zones)
def test_any_jumble_of_its_own_words_is_survived(
    parts: list[str], now: datetime, zone: ZoneInfo
) -> None:
    found = reset_time("limit reached resets " + " ".join(parts), now, zone)
    assert found is None or now < found <= now + timedelta(days=31)
