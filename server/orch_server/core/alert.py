"""Alerts: what a person should hear of, how often, and how long a webhook is tried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

#: One alert of a kind and subject is told within this time; the others are counted.
REPEAT = timedelta(minutes=15)
#: Alerts of all kinds that are told within a window; the others are only listed.
MOST = 30
WINDOW = timedelta(minutes=10)
STORM = "alert-storm"
#: The waits after the first, second, … attempt in vain to post an alert; then it is given up.
RETRIES = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
)


class Severity(StrEnum):
    """How bad a thing is; see supervision.proto."""

    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


@dataclass(frozen=True, slots=True)
class NewAlert:
    """An alert to be raised; see Alert in supervision.proto."""

    severity: Severity
    kind: str
    subject: str
    text: str
    session: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as stored; see Alert in supervision.proto. `webhook_at` is None until the webhook
    took it."""

    id: str
    severity: Severity
    kind: str
    subject: str
    session: str
    text: str
    created_at: datetime
    suppressed: int
    webhook_at: datetime | None
    webhook_error: str


def is_repeat(last: datetime | None, now: datetime) -> bool:
    """Whether an alert of the same kind and subject was told so lately that this one only counts.
    One from the future, since the clock was set back, does not keep another one from being told."""
    return last is not None and now - REPEAT < last <= now


def is_storm(raised_lately: int) -> bool:
    """Whether so many were raised within the window that one more is only listed."""
    return raised_lately >= MOST


def storm() -> NewAlert:
    """What is told instead of the alerts that are too many."""
    minutes = WINDOW // timedelta(minutes=1)
    return NewAlert(
        Severity.CRITICAL,
        STORM,
        "",
        f"More than {MOST} alerts within {minutes} min; the others are not told but listed:"
        " orch-client alerts.",
    )


def retry_after(attempts: int) -> timedelta | None:
    """How long to wait after so many attempts in vain (from 1); None: it is given up."""
    return RETRIES[attempts - 1] if attempts <= len(RETRIES) else None


def line(alert: Alert) -> str:
    """The alert on one line, as a terminal's status line shows it."""
    about = f" {alert.subject}" if alert.subject else ""
    return f"{alert.severity.lower()} {alert.kind}{about}: {alert.text}"
