"""Authorization: what the policy said, what an approval covers, levels; the audit."""

from typing import Any

_STATEMENTS = (
    "alter table authorization add column action_class text not null default 'routine'",
    "alter table authorization add column approvers text not null default ''",
    "alter table authorization add column human integer not null default 0",
    "alter table authorization add column reason_required integer not null default 0",
    "alter table authorization add column lapse bigint not null default 900000000",
    "alter table authorization add column tool text not null default ''",
    "alter table authorization add column arguments text not null default ''",
    "alter table authorization add column cwd text not null default ''",
    "alter table authorization add column digest text not null default ''",
    "alter table authorization add column proof text not null default ''",
    "alter table authorization add column lapses_at bigint",
    "alter table authorization add column closed_at bigint",
    "alter table authorization add column consume_request text",
    "update authorization set approvers = approver_role",
    # What was approved before approvals ended is over.
    "update authorization set lapses_at = resolved_at where state = 'APPROVED'",
    "create index authorization_lapsing on authorization (lapses_at) where state = 'APPROVED'",
    """create index authorization_digest on authorization (digest, state, number)
        where state in ('PENDING', 'APPROVED', 'DENIED')""",
    """create unique index authorization_consumed on authorization (agent_id, consume_request)
        where consume_request is not null""",
    "create index authorization_asked on authorization (created_at)",
    "create index authorization_waiting on authorization (agent_id) where state = 'PENDING'",
    """create table authorization_level (
        number integer not null primary key,
        authorization_id text not null references authorization (id),
        level integer not null,
        receiver text not null,
        due_at bigint not null,
        told_at bigint,
        open integer not null default 1,
        passed_over integer not null default 0,
        unique (authorization_id, level)
    )""",
    "create index authorization_level_due on authorization_level (due_at) where open = 1",
    """create table audit (
        number integer not null primary key,
        event integer not null,
        at bigint not null,
        kind text not null,
        subject text not null,
        session text not null,
        agent text not null,
        actor text not null,
        detail text not null,
        facts text not null,
        hash text not null
    )""",
    "create index audit_subject on audit (subject, number)",
    """create table audit_checkpoint (
        only integer not null primary key check (only = 1),
        number integer not null,
        at bigint not null,
        hash text not null,
        mac text not null
    )""",
)


def up(migrator: Any, db: Any) -> None:
    for statement in _STATEMENTS:
        db.execute_sql(statement).fetchall()
