"""Messages: who sends what how, refusals with reasons, replies, and a full-text history."""

from typing import Any

_DAY = 86_400_000_000  # microseconds

_STATEMENTS = (
    "alter table agent add column do_not_disturb integer not null default 0",
    "alter table agent add column courier integer not null default 0",
    "alter table delivery add column sender text not null default ''",
    "alter table delivery add column header text not null default ''",
    "alter table delivery add column mode text not null default 'WAIT_IDLE'",
    "alter table delivery add column message_key text not null default ''",
    "alter table delivery add column reason text not null default ''",
    "alter table delivery add column attempts integer not null default 0",
    "alter table delivery add column retry_at bigint not null default 0",
    f"alter table delivery add column time_to_live bigint not null default {_DAY}",
    "alter table delivery add column reply_patience bigint not null default 0",
    "alter table delivery add column reply text not null default ''",
    "alter table delivery add column reply_at bigint",
    "alter table delivery add column reply_complete integer not null default 0",
    # not_before was also the back-off of refusals; it is only what the user asked for from now on
    """update delivery set retry_at = not_before, not_before = created_at,
        attempts = refusals + (sequence > 0 and state <> 'PENDING'),
        origin = replace(origin, ' ', ':')""",
    # SQLite does not see that "state = 'PENDING'" implies "state in (…)", so the first schema's
    # index was not used: each offer read the whole history
    "drop index delivery_open",
    """create index delivery_waiting on delivery (agent_id, priority desc, number)
        where state = 'PENDING'""",
    "create index delivery_out on delivery (agent_id, number) where state in ('OFFERED', 'PASTED')",
    """create index delivery_refused on delivery (agent_id)
        where state = 'PENDING' and retry_at > 0""",
    "create index delivery_dead on delivery (number) where state = 'DEAD'",
    "create index delivery_history on delivery (agent_id, number)",
    "create index delivery_message on delivery (message_key) where message_key <> ''",
    """create index delivery_replying on delivery (number)
        where reply_patience > 0 and reply_at is null""",
    """create index event_delivery on event (subject, number)
        where kind >= 'delivery.' and kind < 'delivery/'""",
    """create virtual table delivery_search using fts5
        (header, text, content = 'delivery', content_rowid = 'number')""",
    """create trigger delivery_added after insert on delivery begin
        insert into delivery_search (rowid, header, text)
            values (new.number, new.header, new.text);
    end""",
    """create trigger delivery_removed after delete on delivery begin
        insert into delivery_search (delivery_search, rowid, header, text)
            values ('delete', old.number, old.header, old.text);
    end""",
    """create trigger delivery_reworded after update of header, text on delivery begin
        insert into delivery_search (delivery_search, rowid, header, text)
            values ('delete', old.number, old.header, old.text);
        insert into delivery_search (rowid, header, text)
            values (new.number, new.header, new.text);
    end""",
    "insert into delivery_search (delivery_search) values ('rebuild')",
)


def up(migrator: Any, db: Any) -> None:
    for statement in _STATEMENTS:
        db.execute_sql(statement).fetchall()
