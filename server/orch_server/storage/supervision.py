"""Nudges and escalations in the store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from peewee import fn

from orch_server.core.delivery import NewDelivery, Priority
from orch_server.core.supervision import Escalation, NotSent, Nudge, NudgeCounts
from orch_server.storage import deliveries, lookup
from orch_server.storage.columns import from_micros, micros
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import EscalationRow, NudgeRow

SENDER = "supervisor"
_NUDGE_LIVES = timedelta(seconds=60)
#: After that it has been told at the next level, and may be over.
_ESCALATION_LIVES = timedelta(minutes=10)
_HOUR = _SOON = timedelta(hours=1)
_JUST_THERE = timedelta(minutes=1)
_EVER = datetime(1971, 1, 1, tzinfo=UTC)
_REACHED = ("CONFIRMED", "QUEUED_BY_AGENT", "UNCONFIRMED")
_OPEN = ("PENDING", "OFFERED", "PASTED")
#: What speaks against waking an agent: text on its way or just there, or a note that is due soon.
_EXPECTED = f"""select
    exists (select 1 from delivery indexed by delivery_waiting
        where agent_id = ?1 and state = 'PENDING' and not_before <= ?2)
    or exists (select 1 from delivery indexed by delivery_out
        where agent_id = ?1 and state in ('OFFERED', 'PASTED'))
    or exists (select 1 from delivery indexed by delivery_history
        where agent_id = ?1 and state in {_REACHED} and updated_at > ?3 and updated_at <= ?4)
    or exists (select 1 from task indexed by task_agent
        where agent_id = ?1 and look_at <= ?2 and state in ('PENDING', 'PAUSED')
        and state = 'PENDING')
    """  # noqa: S608 - constants
# Numbers of offers grow over the whole store, whatever the clock is set to.
_SINCE = f"""select exists (select 1 from delivery indexed by delivery_history
    where agent_id = ? and sequence > ? and sender <> '{SENDER}'
    and state in {_REACHED})"""  # noqa: S608 - constants
_LAST_TEXT = """select created_at from delivery indexed by delivery_history
    where agent_id = ? and sender = ? order by number desc limit 1"""
#: The last texts of supervision; among as many of the newest rows as may be from the last minutes.
_SPOKEN = f"""select agent_id, max(created_at) from delivery
    where number > (select coalesce(max(number), 0) from delivery) - 20000
    and sender = '{SENDER}' and created_at > ? and created_at <= ?
    group by agent_id"""  # noqa: S608 - a constant
_COUNT = """insert into nudge_count (hour, agent_id, reason, count) values (?, ?, ?, ?)
    on conflict (agent_id, hour, reason) do update set count = count + excluded.count"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a text: whether it reached its pane, or may have, the number of its last
    offer, and what was seen."""

    reached: bool
    sequence: int
    detail: str


def last_nudges(db: Database, since: datetime) -> list[Nudge]:
    """The nudges since then and the last one of each agent, the oldest first."""
    last = NudgeRow.select(fn.MAX(NudgeRow.number)).group_by(NudgeRow.agent_id)
    wanted = (NudgeRow.created_at > since) | NudgeRow.number.in_(last)
    query = NudgeRow.select().where(wanted).order_by(NudgeRow.number)
    return [Nudge(**row.fields()) for row in query.execute(db)]


def open_escalations(db: Database) -> list[Escalation]:
    """The matters that are not over."""
    query = EscalationRow.select().where(EscalationRow.ended_at.is_null())
    return [Escalation(**row.fields()) for row in query.execute(db)]


def is_expected(db: Database, agent_id: str, now: datetime) -> bool:
    """Whether text is on its way to the agent or has just reached it, or a note is due soon."""
    times = (micros(now + _SOON), micros(now - _JUST_THERE), micros(now))
    return bool(db.execute_sql(_EXPECTED, (agent_id, *times)).fetchone()[0])


def reached_since(db: Database, agent_id: str, sequence: int) -> bool:
    """Whether a text of somebody else reached the agent after the offer with this number."""
    return bool(db.execute_sql(_SINCE, (agent_id, sequence)).fetchone()[0])


def outcome(db: Database, delivery_id: str) -> Outcome | None:
    """What became of a text; None while it is open, or when it is not known any more."""
    sql = "select state, sequence, detail from delivery where id = ?"
    row = db.execute_sql(sql, (delivery_id,)).fetchone()
    if row is None or row[0] in _OPEN:
        return None
    return Outcome(row[0] in _REACHED, row[1], row[2])


def last_text(db: Database, agent_id: str, sender: str) -> datetime | None:
    """When this sender last sent the agent a text; None when never."""
    row = db.execute_sql(_LAST_TEXT, (agent_id, sender)).fetchone()
    return None if row is None else from_micros(row[0])


def spoken(db: Database, since: datetime, now: datetime) -> dict[str, datetime]:
    """When each agent last got a text of supervision since then."""
    rows = db.execute_sql(_SPOKEN, (micros(since), micros(now))).fetchall()
    return {agent_id: from_micros(at) for agent_id, at in rows}


def nudge(tx: Transaction, new: Nudge, session: str, text: str) -> None:
    """Writes a nudge and its delivery."""
    deliveries.enqueue(
        tx,
        NewDelivery(
            agent_id=new.agent_id,
            text=text,
            origin=f"nudge:{new.id}",
            dedupe_key=f"nudge:{new.id}",
            priority=Priority.NORMAL,
            created_at=tx.now,
            id=new.delivery_id,
            sender=SENDER,
            time_to_live=_NUDGE_LIVES,
        ),
    )
    tx.execute(
        "insert into nudge (id, agent_id, reason, delivery_id, created_at, false_alarm)"
        " values (?, ?, ?, ?, ?, 0)",
        (new.id, new.agent_id, new.reason, new.delivery_id, micros(new.created_at)),
    )
    tx.emit("nudge.sent", new.id, session=session, agent=new.agent_id, detail=new.reason)


def mark_false(tx: Transaction, nudge_id: str, session: str, agent_id: str) -> None:
    """Writes that the agent had been active when it was nudged."""
    tx.execute("update nudge set false_alarm = 1 where id = ?", (nudge_id,))
    tx.emit("nudge.false", nudge_id, session=session, agent=agent_id)


def count(tx: Transaction, counts: dict[tuple[datetime, str, NotSent], int]) -> None:
    """Adds to how often a nudge was due and not sent; by hour, agent and reason."""
    for (hour, agent_id, reason), number in counts.items():
        known = tx.execute("select 1 from agent where id = ?", (agent_id,))
        if known:  # its session may have been deleted meanwhile
            tx.execute(_COUNT, (micros(hour), agent_id, reason, number))


def counts(db: Database, agent_id: str, since: datetime | None) -> NudgeCounts:
    """The counts of one agent, or of all with "", since then; to the hour."""
    since = since or _EVER
    where = "(?1 = '' or agent_id = ?1)"
    sent = db.execute_sql(
        "select count(*), coalesce(sum(false_alarm), 0) from nudge"  # noqa: S608 - constants
        f" where {where} and created_at >= ?2",
        (agent_id, micros(since)),
    ).fetchone()
    rows = db.execute_sql(
        f"select reason, sum(count) from nudge_count where {where}"  # noqa: S608
        " and hour > ?2 group by reason",
        (agent_id, micros(since - _HOUR)),
    ).fetchall()
    return NudgeCounts(sent[0], sent[1], {NotSent(reason): number for reason, number in rows})


def list_nudges(
    db: Database, agent_id: str, since: datetime | None, size: int, token: str
) -> tuple[list[Nudge], str]:
    """One page, the newest first, and the token for the next."""
    query = NudgeRow.select().order_by(NudgeRow.number.desc())
    if agent_id:
        query = query.where(NudgeRow.agent_id == agent_id)
    if since is not None:
        query = query.where(NudgeRow.created_at >= since)
    paged, offset, limit = lookup.page(query, size, token)
    rows = [Nudge(**row.fields()) for row in paged.execute(db)]
    return lookup.next_token(rows, offset, limit)


def list_escalations(
    db: Database, agent_ids: list[str] | None, open_only: bool, size: int, token: str
) -> tuple[list[Escalation], str]:
    """One page, the newest first, and the token for the next; None: of all agents."""
    query = EscalationRow.select().order_by(EscalationRow.number.desc())
    if agent_ids is not None:
        query = query.where(EscalationRow.agent_id.in_(agent_ids))
    if open_only:
        query = query.where(EscalationRow.ended_at.is_null())
    paged, offset, limit = lookup.page(query, size, token)
    rows = [Escalation(**row.fields()) for row in paged.execute(db)]
    return lookup.next_token(rows, offset, limit)


def save_escalation(tx: Transaction, one: Escalation, session: str, step: str) -> None:
    """Writes a matter that begins, reached another level or is over."""
    fields: dict[str, Any] = {
        "level": one.level,
        "next_at": one.next_at,
        "ended_at": one.ended_at,
        "detail": one.detail,
    }
    (
        EscalationRow.insert(
            id=one.id,
            agent_id=one.agent_id,
            matter=one.matter,
            created_at=one.created_at,
            **fields,
        )
        .on_conflict(conflict_target=[EscalationRow.id], update=fields)
        .execute(tx.db)
    )
    tx.emit(
        f"escalation.{step}",
        one.id,
        session=session,
        agent=one.agent_id,
        detail=f"{one.matter} level {one.level}: {one.detail}",
    )


def send(tx: Transaction, agent_id: str, escalation_id: str, level: int, text: str) -> None:
    """Puts the text of an escalation into the mailbox; one a receiver, level and matter."""
    deliveries.enqueue(
        tx,
        NewDelivery(
            agent_id=agent_id,
            text=text,
            origin=f"escalation:{escalation_id}",
            dedupe_key=f"escalation:{escalation_id}:{level}:{agent_id}",
            priority=Priority.HIGH,
            created_at=tx.now,
            sender=SENDER,
            time_to_live=_ESCALATION_LIVES,
        ),
    )
