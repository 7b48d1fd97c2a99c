"""The first schema."""

from typing import Any

_TABLES = (
    """create table store (
        only integer primary key check (only = 1),
        generation text not null,
        token_key text not null,
        offer_sequence integer not null
    )""",
    """create table event (
        number integer primary key autoincrement,
        at bigint not null,
        kind text not null,
        subject text not null,
        session text not null,
        agent text not null,
        actor text not null,
        detail text not null
    )""",
    """create table session (
        number integer not null primary key,
        name text not null unique,
        created_at bigint not null,
        updated_at bigint not null,
        version integer not null,
        project_name text not null,
        project_path text not null,
        specification_path text not null,
        parent_branch text not null,
        phase text not null,
        plan text not null,
        completion text not null,
        failure_reason text not null
    )""",
    """create table agent (
        number integer not null primary key,
        id text not null unique,
        session text not null references session (name),
        role text not null,
        kind text not null,
        host text not null,
        tmux_socket text not null,
        tmux_server_pid integer not null,
        tmux_server_started integer not null,
        pane text not null,
        pane_pid integer not null,
        epoch integer not null,
        liveness text not null,
        liveness_changed_at bigint not null,
        last_check_in_at bigint,
        client_version text not null,
        created_at bigint not null,
        unique (session, role)
    )""",
    """create table delivery (
        number integer not null primary key,
        id text not null unique,
        agent_id text not null references agent (id),
        text text not null,
        origin text not null,
        dedupe_key text not null unique,
        priority integer not null,
        state text not null,
        detail text not null,
        sequence integer not null,
        offer_epoch integer not null,
        offered_to text not null,
        refusals integer not null,
        not_before bigint not null,
        expires_at bigint not null,
        created_at bigint not null,
        updated_at bigint not null
    )""",
    """create index delivery_open on delivery (agent_id, priority desc, number)
        where state in ('PENDING', 'OFFERED', 'PASTED')""",
    """create table task (
        number integer not null primary key,
        id text not null unique,
        agent_id text not null references agent (id),
        note text not null,
        due_at bigint not null,
        state text not null,
        creator text not null,
        created_at bigint not null,
        fired_at bigint,
        delivery_id text references delivery (id),
        request_id text unique
    )""",
    "create index task_due on task (due_at, number) where state = 'PENDING'",
    "create index task_listed on task (due_at, number)",
    """create table authorization (
        number integer not null primary key,
        id text not null unique,
        agent_id text not null references agent (id),
        session text not null,
        requester_role text not null,
        requester_pane text not null,
        approver_role text not null,
        action text not null,
        priority integer not null,
        priority_derived integer not null,
        state text not null,
        created_at bigint not null,
        deadline_at bigint not null,
        resolved_at bigint,
        resolver text not null,
        reason text not null,
        request_id text unique
    )""",
    "create index authorization_open on authorization (deadline_at) where state = 'PENDING'",
    "create index authorization_listed on authorization (priority desc, deadline_at, number)",
)


def up(migrator: Any, db: Any) -> None:
    for statement in _TABLES:
        db.execute_sql(statement)
