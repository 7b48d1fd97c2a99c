"""Supervision: what agents do, announced operations, limited accounts, nudges, escalations,
dependencies, alerts."""

from typing import Any

_STATEMENTS = (
    "alter table agent add column credential text not null default ''",
    """create table agent_status (
        number integer not null primary key,
        agent_id text not null unique references agent (id),
        state text not null,
        changed_at bigint not null,
        source text not null,
        rule text not null,
        detail text not null,
        began_at bigint not null,
        observed_at bigint not null,
        reset_at bigint
    )""",
    """create table operation (
        number integer not null primary key,
        agent_id text not null unique references agent (id),
        reason text not null,
        began_at bigint not null,
        ends_at bigint not null
    )""",
    """create table credit_hold (
        number integer not null primary key,
        credential text not null unique,
        began_at bigint not null,
        ends_at bigint not null,
        reset_known integer not null,
        attempts integer not null,
        source text not null,
        detail text not null,
        manual integer not null,
        released_at bigint
    )""",
    """create table nudge (
        number integer not null primary key,
        id text not null unique,
        agent_id text not null references agent (id),
        reason text not null,
        delivery_id text not null,
        created_at bigint not null,
        false_alarm integer not null
    )""",
    "create index nudge_agent on nudge (agent_id, created_at)",
    """create table nudge_count (
        number integer not null primary key,
        hour bigint not null,
        agent_id text not null references agent (id),
        reason text not null,
        count integer not null,
        unique (agent_id, hour, reason)
    )""",
    """create table escalation (
        number integer not null primary key,
        id text not null unique,
        agent_id text not null references agent (id),
        matter text not null,
        level integer not null,
        created_at bigint not null,
        next_at bigint,
        ended_at bigint,
        detail text not null
    )""",
    """create unique index escalation_open on escalation (agent_id, matter)
        where ended_at is null""",
    """create table dependency (
        number integer not null primary key,
        id text not null unique,
        agent_id text not null references agent (id),
        holder_id text not null references agent (id),
        reason text not null,
        priority integer not null,
        created_at bigint not null,
        deadline_at bigint not null,
        ended_at bigint,
        outcome text not null,
        request_id text,
        unique (agent_id, request_id)
    )""",
    "create index dependency_open on dependency (deadline_at) where ended_at is null",
    """create table alert (
        number integer not null primary key,
        id text not null unique,
        severity text not null,
        kind text not null,
        subject text not null,
        session text not null,
        text text not null,
        created_at bigint not null,
        suppressed integer not null,
        webhook_at bigint,
        webhook_error text not null,
        webhook_attempts integer not null,
        webhook_next_at bigint
    )""",
    "create index alert_subject on alert (kind, subject, number)",
    "create index alert_time on alert (created_at, kind)",
    "create index alert_webhook on alert (webhook_next_at) where webhook_next_at is not null",
)


def up(migrator: Any, db: Any) -> None:
    for statement in _STATEMENTS:
        db.execute_sql(statement).fetchall()
