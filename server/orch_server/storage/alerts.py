"""Alerts in the store. `raise_alert` belongs into the transaction of what the alert is about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orch_server.core import alert as rules
from orch_server.core.alert import Alert, NewAlert
from orch_server.core.text import one_line
from orch_server.storage import lookup
from orch_server.storage.columns import from_micros, micros
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import AlertRow

RAISED = "alert.raised"
_MAX_TEXT = 1000
_LAST = """select id, created_at from alert where kind = ? and subject = ?
    order by number desc limit 1"""
_LATELY = "select count(*) from alert where kind <> ? and created_at > ? and created_at <= ?"
# A clock that was set back must not put an attempt off for longer than the longest wait.
_DUE = """select id, webhook_attempts from alert where webhook_next_at is not null
    and (webhook_next_at <= ? or webhook_next_at > ?) order by number limit ?"""


@dataclass(frozen=True, slots=True)
class Posting:
    """An alert to be posted; `attempts` counts those in vain."""

    alert: Alert
    attempts: int


def raise_alert(tx: Transaction, new: NewAlert) -> None:
    """Raises an alert: writes it and emits "alert.raised", by which it is told.

    One of the same kind and subject within a quarter of an hour is only counted. When very many
    come, the others are written without being told, and one alert says so.
    """
    subject = one_line(new.subject, 200)
    if _counted(tx, new.kind, subject):
        return
    since = micros(tx.now - rules.WINDOW)
    raised = tx.execute(_LATELY, (rules.STORM, since, micros(tx.now)))[0][0]
    told = new.kind == rules.STORM or not rules.is_storm(raised)
    _insert(tx, new, subject, told)
    if not told:
        raise_alert(tx, rules.storm())


def get(db: Database, alert_id: str) -> Alert | None:
    """The alert with this whole id."""
    row = AlertRow.select().where(AlertRow.id == alert_id).first(db)
    return None if row is None else _alert(row)


def list_page(db: Database, session: str, size: int, token: str) -> tuple[list[Alert], str]:
    """One page, the newest first, and the token for the next."""
    query = AlertRow.select().order_by(AlertRow.number.desc())
    if session:
        query = query.where(AlertRow.session == session)
    paged, offset, limit = lookup.page(query, size, token)
    rows = [_alert(row) for row in paged.execute(db)]
    return lookup.next_token(rows, offset, limit)


def due(db: Database, now: datetime, most: int) -> list[Posting]:
    """What is to be posted now, the oldest first."""
    late = now + max(rules.RETRIES) + timedelta(minutes=1)
    rows = db.execute_sql(_DUE, (micros(now), micros(late), most)).fetchall()
    found = ((get(db, alert_id), attempts) for alert_id, attempts in rows)
    return [Posting(alert, attempts) for alert, attempts in found if alert is not None]


def next_attempt(db: Database) -> datetime | None:
    """When the next attempt is due; None when nothing is to be posted."""
    sql = "select min(webhook_next_at) from alert where webhook_next_at is not null"
    row = db.execute_sql(sql).fetchone()
    return None if row[0] is None else from_micros(row[0])


def posted(tx: Transaction, alert_id: str) -> None:
    """The webhook took it."""
    tx.execute(
        "update alert set webhook_at = ?, webhook_error = '', webhook_next_at = null where id = ?",
        (micros(tx.now), alert_id),
    )


def not_posted(tx: Transaction, alert_id: str, attempts: int, error: str) -> bool:
    """The webhook did not take it, so many times by now; returns whether it is tried again."""
    wait = rules.retry_after(attempts)
    tx.execute(
        "update alert set webhook_error = ?, webhook_attempts = ?, webhook_next_at = ?"
        " where id = ?",
        (error, attempts, None if wait is None else micros(tx.now + wait), alert_id),
    )
    return wait is not None


def forget_webhook(tx: Transaction) -> None:
    """There is no webhook: nothing is to be posted, also not to one that comes later."""
    tx.execute("update alert set webhook_next_at = null where webhook_next_at is not null")


def _counted(tx: Transaction, kind: str, subject: str) -> bool:
    """Whether it is a repeat, which is then counted with the one that was told."""
    rows = tx.execute(_LAST, (kind, subject))
    if not rows or not rules.is_repeat(from_micros(rows[0][1]), tx.now):
        return False
    tx.execute("update alert set suppressed = suppressed + 1 where id = ?", (rows[0][0],))
    return True


def _insert(tx: Transaction, new: NewAlert, subject: str, told: bool) -> None:
    alert_id = lookup.new_id()
    AlertRow.insert(
        id=alert_id,
        severity=new.severity,
        kind=new.kind,
        subject=subject,
        session=new.session,
        text=one_line(new.text, _MAX_TEXT),
        created_at=tx.now,
        suppressed=0,
        webhook_at=None,
        webhook_error="",
        webhook_attempts=0,
        webhook_next_at=tx.now if told else None,
    ).execute(tx.db)
    if told:
        tx.emit(RAISED, alert_id, session=new.session, detail=f"{new.kind} {subject}".strip())


def _alert(row: AlertRow) -> Alert:
    fields: dict[str, Any] = row.fields()
    del fields["webhook_attempts"], fields["webhook_next_at"]
    return Alert(**fields)
