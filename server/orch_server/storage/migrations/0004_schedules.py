"""Schedules: tasks that repeat, what became of their occurrences, pauses, a count of open tasks."""

from typing import Any

from orch_server.core.task import note_key

_OF_ENDED = """state = 'PENDING' and agent_id in (select a.id from agent a
    join session s on s.name = a.session where s.completion <> 'PENDING')"""
_STATEMENTS = (
    "alter table task add column form text not null default 'ONCE'",
    "alter table task add column every bigint not null default 0",
    "alter table task add column cron text not null default ''",
    "alter table task add column time_zone text not null default ''",
    "alter table task add column jitter bigint not null default 0",
    "alter table task add column end_at bigint",
    "alter table task add column first_at bigint not null default 0",
    "alter table task add column next_at bigint",
    "alter table task add column look_at bigint not null default 0",
    "alter table task add column catch_up bigint not null default 3600000000",
    "alter table task add column missed text not null default 'ONE'",
    "alter table task add column mode text not null default 'WAIT_IDLE'",
    "alter table task add column version integer not null default 1",
    "alter table task add column note_key bigint not null default 0",
    "alter table task add column deferred_from bigint",
    "alter table task add column deferred_to bigint",
    "alter table task add column waited integer not null default 0",
    "alter table task add column paused_at bigint",
    "alter table task add column paused_by text not null default ''",
    "alter table task add column pause_note text not null default ''",
    "update task set first_at = due_at, look_at = due_at",
    "update task set next_at = due_at where state = 'PENDING'",
    "drop index task_due",
    """create index task_look on task (look_at, due_at, number)
        where state in ('PENDING', 'PAUSED')""",
    "create index task_same on task (agent_id, note_key, state, created_at)",
    """create index task_agent on task (agent_id, look_at)
        where state in ('PENDING', 'PAUSED')""",
    """create table occurrence (
        number integer not null primary key,
        task_id text not null references task (id),
        nominal_at bigint not null,
        outcome text not null,
        reason text not null,
        decided_at bigint not null,
        delivery_id text references delivery (id),
        request_id text,
        unique (task_id, nominal_at)
    )""",
    """create unique index occurrence_request on occurrence (task_id, request_id)
        where request_id is not null""",
    """insert into occurrence (task_id, nominal_at, outcome, reason, decided_at, delivery_id)
        select id, due_at, 'FIRED', '', fired_at, delivery_id from task where state = 'FIRED'""",
    f"""insert into occurrence (task_id, nominal_at, outcome, reason, decided_at)
        select id, due_at, 'EXPIRED', 'SESSION_ENDED', due_at from task
        where {_OF_ENDED}""",  # noqa: S608 - constants
    f"update task set state = 'EXPIRED', next_at = null where {_OF_ENDED}",  # noqa: S608
    """create table scheduler (
        only integer not null primary key check (only = 1),
        paused_at bigint,
        paused_by text not null,
        pause_note text not null
    )""",
    "insert into scheduler values (1, null, '', '')",
    """create table task_load (
        agent_id text not null primary key references agent (id),
        open_tasks integer not null
    ) without rowid""",
    """insert into task_load
        select agent_id, count(*) from task where state = 'PENDING' group by agent_id""",
    """create trigger task_opened after insert on task when new.state in ('PENDING', 'PAUSED')
    begin
        insert into task_load values (new.agent_id, 1)
            on conflict (agent_id) do update set open_tasks = open_tasks + 1;
    end""",
    """create trigger task_closed after update of state on task
        when old.state in ('PENDING', 'PAUSED') and new.state not in ('PENDING', 'PAUSED')
    begin
        update task_load set open_tasks = open_tasks - 1 where agent_id = old.agent_id;
    end""",
    """create trigger task_moved after update of agent_id on task
        when new.state in ('PENDING', 'PAUSED') and old.agent_id <> new.agent_id
    begin
        update task_load set open_tasks = open_tasks - 1 where agent_id = old.agent_id;
        insert into task_load values (new.agent_id, 1)
            on conflict (agent_id) do update set open_tasks = open_tasks + 1;
    end""",
    """create trigger task_deleted after delete on task when old.state in ('PENDING', 'PAUSED')
    begin
        update task_load set open_tasks = open_tasks - 1 where agent_id = old.agent_id;
    end""",
)


def up(migrator: Any, db: Any) -> None:
    for statement in _STATEMENTS:
        db.execute_sql(statement).fetchall()
    for number, note in db.execute_sql("select number, note from task").fetchall():
        key = (note_key(note), number)
        db.execute_sql("update task set note_key = ? where number = ?", key).fetchall()
