"""How often alerts are told, and how long a webhook is tried."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from orch_server.core import alert
from orch_server.core.alert import Alert, Severity

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_the_same_alert_is_told_once_in_a_quarter_of_an_hour() -> None:
    assert not alert.is_repeat(None, NOW)
    assert alert.is_repeat(NOW, NOW)
    assert alert.is_repeat(NOW - timedelta(minutes=14, seconds=59), NOW)
    assert not alert.is_repeat(NOW - timedelta(minutes=15), NOW)


def test_an_alert_from_the_future_since_the_clock_was_set_back_silences_nothing() -> None:
    assert not alert.is_repeat(NOW + timedelta(hours=1), NOW)


def test_the_thirty_first_within_ten_minutes_is_a_storm() -> None:
    assert not alert.is_storm(29)
    assert alert.is_storm(30)


def test_a_webhook_is_tried_six_times_ever_more_rarely() -> None:
    waits = [alert.retry_after(attempts) for attempts in range(1, 7)]
    assert [w and w.total_seconds() for w in waits] == [5, 30, 120, 600, 3600, None]


def test_the_line_of_an_alert_says_how_bad_what_and_about_whom() -> None:
    made = Alert(
        "1", Severity.WARNING, "deadlock", "atlas:dev", "atlas", "It is.", NOW, 0, None, ""
    )
    assert alert.line(made) == "warning deadlock atlas:dev: It is."
    assert alert.line(alert_without_subject()) == "critical partition: Half of them are gone."


def alert_without_subject() -> Alert:
    text = "Half of them are gone."
    return Alert("1", Severity.CRITICAL, "partition", "", "", text, NOW, 0, None, "")
