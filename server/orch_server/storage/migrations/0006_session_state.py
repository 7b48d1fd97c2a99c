"""Session state: projects, phases, reports, worktrees, metrics; the import of the old system."""

from typing import Any

_TABLES = (
    """create table project (
        number integer not null primary key,
        id text not null unique,
        name text not null,
        path text not null,
        created_at bigint not null,
        unique (path, name)
    )""",
    """insert into project (id, name, path, created_at)
        select lower(hex(randomblob(6))), project_name, project_path, min(created_at) from session
        where project_name <> '' or project_path <> '' group by project_name, project_path""",
    "alter table session add column project_id text references project (id)",
    """update session set project_id = (select p.id from project p
        where p.name = project_name and p.path = project_path)""",
    "alter table session drop column project_name",
    "alter table session drop column project_path",
    "alter table session add column project_size text not null default ''",
    "alter table session add column original_specification_path text not null default ''",
    "alter table session add column worktree_base_path text not null default ''",
    "alter table session add column batch_id text not null default ''",
    "alter table session add column orchestrator_window integer not null default 0",
    "alter table session add column completed_at bigint",
    "alter table session add column name_missing integer not null default 0",
    "update session set completed_at = updated_at where completion <> 'PENDING'",
    "create index session_project on session (project_id)",
    "create index session_ended on session (completed_at) where completed_at is not null",
    # Else each delivery that is removed would read all tasks and occurrences for its foreign keys.
    "create index task_delivery on task (delivery_id) where delivery_id is not null",
    "create index occurrence_delivery on occurrence (delivery_id) where delivery_id is not null",
    """create table agent_detail (
        number integer not null primary key,
        agent_id text not null unique references agent (id),
        version integer not null default 1,
        updated_at bigint not null,
        window_index integer,
        window_name text not null default '',
        briefed_at bigint,
        worktree_path text not null default '',
        branch text not null default '',
        commit_hash text not null default '',
        imported_alive integer,
        imported_exhausted integer,
        imported_credit_reset text not null default '',
        worktree_learned integer not null default 0
    )""",
    """create table session_phase (
        number integer not null primary key,
        session text not null references session (name),
        position integer not null,
        name text not null,
        began_at bigint,
        ended_at bigint,
        length bigint,
        request_id text unique,
        unique (session, position)
    )""",
    "create index session_phase_ended on session_phase (ended_at)",
    """create table status_report (
        number integer not null primary key,
        session text not null references session (name),
        role text not null,
        topic text not null,
        status text not null,
        detail text not null,
        at bigint not null,
        unique (session, role)
    )""",
    """create table role_dependency (
        number integer not null primary key,
        session text not null references session (name),
        role text not null,
        needs text not null,
        unique (session, role, needs)
    )""",
    """create table metric (
        number integer not null primary key,
        period text not null,
        begins_at bigint not null,
        session text not null,
        name text not null,
        value float not null,
        samples integer not null,
        unique (period, begins_at, session, name)
    )""",
    """create table metric_agent (
        number integer not null primary key,
        agent_id text not null unique,
        session text not null,
        liveness text not null,
        state text not null
    )""",
    """create table mismatch (
        number integer not null primary key,
        kind text not null,
        subject text not null,
        session text not null,
        detail text not null,
        first_seen_at bigint not null,
        last_seen_at bigint not null,
        told_at bigint,
        tmux_socket text not null,
        unique (kind, subject, tmux_socket)
    )""",
    """create table import_run (
        number integer not null primary key,
        id text not null unique,
        at bigint not null,
        source text not null,
        backup text not null,
        zone text not null,
        spread_at bigint
    )""",
    """create table imported (
        number integer not null primary key,
        run_id text not null references import_run (id),
        record text not null unique,
        subject text not null,
        digest text not null
    )""",
    """create table legacy_value (
        number integer not null primary key,
        session text not null,
        record text not null,
        field text not null,
        value text not null,
        read_as text,
        unique (record, field)
    )""",
    "create index legacy_value_session on legacy_value (session)",
)


def up(migrator: Any, db: Any) -> None:
    for statement in _TABLES:
        db.execute_sql(statement).fetchall()
