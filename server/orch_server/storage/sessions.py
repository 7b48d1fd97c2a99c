"""Sessions in the store."""

from __future__ import annotations

from dataclasses import asdict

from orch_server.core.agent import HELD
from orch_server.core.errors import AlreadyExists, NotFound
from orch_server.core.session import Session
from orch_server.core.text import printable
from orch_server.storage import lookup
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import AgentRow, SessionRow

_OF_AGENTS = ("agent_status", "operation", "nudge", "nudge_count", "escalation", "dependency")


def find(db: Database, name: str) -> Session | None:
    """The session with this name, or None."""
    row = SessionRow.select().where(SessionRow.name == name).first(db)
    return None if row is None else Session(**row.fields())


def all_sessions(db: Database) -> list[Session]:
    """Every session."""
    return [Session(**row.fields()) for row in SessionRow.select().execute(db)]


def get(db: Database, name: str) -> Session:
    """The session with this name. Raises NotFound, naming those that exist."""
    session = find(db, name)
    if session is not None:
        return session
    names = [r[0] for r in SessionRow.select(SessionRow.name).limit(20).tuples().execute(db)]
    known = ", ".join(sorted(names)) or "none"
    raise NotFound(f"There is no session '{printable(name)}'; there are: {known}.")


def list_page(db: Database, size: int, token: str) -> tuple[list[Session], str]:
    """One page of sessions by name, and the token for the next."""
    query, offset, limit = lookup.page(SessionRow.select().order_by(SessionRow.name), size, token)
    rows = [Session(**row.fields()) for row in query.execute(db)]
    return lookup.next_token(rows, offset, limit)


def ensure(tx: Transaction, name: str, actor: str) -> None:
    """Makes a session with this name unless there is one."""
    if find(tx.db, name) is None:
        create(tx, Session(name=name, created_at=tx.now, updated_at=tx.now), actor)


def create(tx: Transaction, session: Session, actor: str) -> None:
    """Writes a new session. Raises AlreadyExists when the name is taken."""
    if find(tx.db, session.name) is not None:
        raise AlreadyExists(f"There is a session '{session.name}' already; update it instead.")
    SessionRow.insert(**asdict(session)).execute(tx.db)
    tx.emit("session.created", session.name, session=session.name, actor=actor)


def save(tx: Transaction, session: Session, actor: str, changed: tuple[str, ...]) -> None:
    """Writes a changed session."""
    fields = asdict(session)
    SessionRow.update(**fields).where(SessionRow.name == session.name).execute(tx.db)
    tx.emit(
        "session.updated",
        session.name,
        session=session.name,
        actor=actor,
        detail=", ".join(changed),
    )


def delete(tx: Transaction, name: str, actor: str) -> list[str]:
    """Deletes a session with all that belongs to it; returns the ids of its agents."""
    agents = [r[0] for r in tx.execute("select id from agent where session = ?", (name,))]
    mine = "agent_id in (select id from agent where session = ?)"
    tasks = f"select id from task where {mine}"  # noqa: S608 - a constant
    tx.execute(f"delete from occurrence where task_id in ({tasks})", (name,))  # noqa: S608
    tx.execute(f"delete from task where {mine}", (name,))  # noqa: S608
    tx.execute(f"delete from task_load where {mine}", (name,))  # noqa: S608
    for table in ("task", "occurrence"):  # tasks may have moved on to another session
        texts = f"select id from delivery where {mine}"  # noqa: S608
        forget = f"update {table} set delivery_id = null where delivery_id in ({texts})"  # noqa: S608
        tx.execute(forget, (name,))
    tx.execute(f"delete from delivery where {mine}", (name,))  # noqa: S608
    asked = f"select id from authorization where {mine}"  # noqa: S608
    levels = f"delete from authorization_level where authorization_id in ({asked})"  # noqa: S608
    tx.execute(levels, (name,))
    tx.execute(f"delete from authorization where {mine}", (name,))  # noqa: S608
    for table in _OF_AGENTS:
        tx.execute(f"delete from {table} where {mine}", (name,))  # noqa: S608
    holder = "holder_id in (select id from agent where session = ?)"
    tx.execute(f"delete from dependency where {holder}", (name,))  # noqa: S608
    tx.execute("delete from agent where session = ?", (name,))
    tx.execute("delete from session where name = ?", (name,))
    tx.emit("session.deleted", name, session=name, actor=actor)
    return agents


def living_agents(db: Database, name: str) -> list[str]:
    """The agents of the session whose clients are, or may be, there."""
    query = AgentRow.select(AgentRow.role).where(
        AgentRow.session == name, AgentRow.liveness.in_(list(HELD))
    )
    return sorted(f"{name}:{row[0]}" for row in query.tuples().execute(db))


def pending_work(db: Database, name: str) -> int:
    """How many pending tasks and authorizations the session's agents have. Texts that never found
    their pane do not count: they go with the session."""
    sql = """select
        (select count(*) from task t join agent a on a.id = t.agent_id
            where a.session = ?1 and t.state in ('PENDING', 'PAUSED'))
        + (select count(*) from authorization z where z.session = ?1 and z.state = 'PENDING')"""
    return int(db.execute_sql(sql, (name,)).fetchone()[0])
