"""Sessions in the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orch_server.core.agent import HELD
from orch_server.core.errors import AlreadyExists, NotFound
from orch_server.core.session import (
    Completion,
    Phase,
    Plan,
    ProjectSize,
    Session,
    check_version,
)
from orch_server.core.text import printable
from orch_server.storage import lookup
from orch_server.storage.columns import from_micros, micros
from orch_server.storage.database import Database
from orch_server.storage.session_tables import SessionRow
from orch_server.storage.store import Transaction
from orch_server.storage.tables import AgentRow

_OF_AGENTS = (
    *("agent_status", "operation", "nudge", "nudge_count", "escalation", "dependency"),
    "agent_detail",
)
_OF_SESSIONS = ("session_phase", "status_report", "role_dependency", "mismatch", "legacy_value")

#: In the order of _values.
_COLUMNS = (
    *("created_at", "updated_at", "version", "project_id", "specification_path", "parent_branch"),
    *("phase", "plan", "completion", "failure_reason", "project_size"),
    *("original_specification_path", "worktree_base_path", "batch_id", "orchestrator_window"),
    *("completed_at", "name_missing"),
)
#: Those of them that a Session has under the same name, as they are written.
_PLAIN = tuple(c for c in _COLUMNS if not c.endswith("_at") and c not in ("version", "project_id"))
_CHANGE = "update session set"
_ENDED = """completed_at = case when ? = 'PENDING' then null
    when completion = 'PENDING' then ? else completed_at end, """
_RETURNING = f"""returning name, {", ".join(_COLUMNS)},
    (select p.name from project p where p.id = session.project_id),
    (select p.path from project p where p.id = session.project_id)"""  # noqa: S608 - constants
_SELECT = f"""select s.name, {", ".join("s." + c for c in _COLUMNS)}, p.name, p.path
    from session s left join project p on p.id = s.project_id"""  # noqa: S608 - constants
_ONE = f"{_SELECT} where s.name = ?"
_INSERT = f"""insert into session (name, {", ".join(_COLUMNS)})
    values ({", ".join("?" * (len(_COLUMNS) + 1))})"""  # noqa: S608 - constants
_UPDATE = f"update session set {', '.join(f'{c} = ?' for c in _COLUMNS)} where name = ?"  # noqa: S608
_FORGET_PROJECTS = """delete from project
    where not exists (select 1 from session where project_id = project.id)"""
_FORGET_PROJECT = f"{_FORGET_PROJECTS} and id = ?"


def find(db: Database, name: str) -> Session | None:
    """The session with this name, or None."""
    rows = db.execute_sql(_ONE, (name,)).fetchall()
    return _session(rows[0]) if rows else None


def named(db: Database, name: str) -> list[Session]:
    """The session with this name, in a list; none when there is none."""
    found = find(db, name)
    return [] if found is None else [found]


def all_sessions(db: Database) -> list[Session]:
    """Every session, by name."""
    return [_session(row) for row in db.execute_sql(f"{_SELECT} order by s.name").fetchall()]


def get(db: Database, name: str) -> Session:
    """The session with this name. Raises NotFound, naming those that exist."""
    row = db.connection().execute(_ONE, (name,)).fetchone()  # peewee takes longer than the query
    if row is not None:
        return _session(row)
    names = [r[0] for r in SessionRow.select(SessionRow.name).limit(20).tuples().execute(db)]
    known = ", ".join(sorted(names)) or "none"
    raise NotFound(f"There is no session '{printable(name)}'; there are: {known}.")


def list_page(db: Database, size: int, token: str) -> tuple[list[Session], str]:
    """One page of sessions by name, and the token for the next."""
    offset, limit = lookup.window(size, token)
    sql = f"{_SELECT} order by s.name limit ? offset ?"
    rows = db.execute_sql(sql, (limit + 1, offset)).fetchall()
    return lookup.next_token([_session(row) for row in rows], offset, limit)


def ensure(tx: Transaction, name: str, actor: str) -> None:
    """Makes a session with this name unless there is one."""
    if find(tx.db, name) is None:
        create(tx, Session(name=name, created_at=tx.now, updated_at=tx.now), actor)


def create(tx: Transaction, session: Session, actor: str) -> None:
    """Writes a new session. Raises AlreadyExists when the name is taken."""
    if find(tx.db, session.name) is not None:
        raise AlreadyExists(f"There is a session '{session.name}' already; update it instead.")
    tx.execute(_INSERT, (session.name, *_values(tx, session)))
    tx.emit("session.created", session.name, session=session.name, actor=actor)


def change(
    tx: Transaction, name: str, changes: dict[str, object], expected: int, actor: str
) -> Session:
    """Changes the fields that `changes` names, by one statement, and returns the session as it then
    is. Raises NotFound and, when `expected` is not 0 and not the present version, VersionMismatch.

    An end that was not there before is at `tx.now`; a session that goes on has none.
    """
    values = {column: changes[column] for column in _PLAIN if column in changes}
    if "project_name" in changes or "project_path" in changes:
        values["project_id"] = _project(tx, replace(get(tx.db, name), **_named(changes)))
    now = micros(tx.now)
    sets, params = "".join([f"{column} = ?, " for column in values]), [*values.values()]
    if "completion" in values:
        sets += _ENDED
        params += [values["completion"], now]
    where = "name = ? and version = ?" if expected else "name = ?"
    sql = f"{_CHANGE} {sets} version = version + 1, updated_at = ? where {where} {_RETURNING}"
    params += [now, name, expected] if expected else [now, name]
    rows = tx.execute(sql, tuple(params))
    if not rows:
        check_version(get(tx.db, name), expected)
    if "project_id" in values:
        tx.execute(_FORGET_PROJECTS)
    _tell(tx, name, actor, tuple(changes))
    return _session(rows[0])


def save(tx: Transaction, session: Session, actor: str, changed: tuple[str, ...]) -> None:
    """Writes all fields of a session; `changed` names those that are new, for the event."""
    tx.execute(_UPDATE, (*_values(tx, session), session.name))
    tx.execute(_FORGET_PROJECTS)
    _tell(tx, session.name, actor, changed)


def _tell(tx: Transaction, name: str, actor: str, changed: tuple[str, ...]) -> None:
    tx.emit("session.updated", name, session=name, actor=actor, detail=", ".join(changed))


def delete(tx: Transaction, name: str, actor: str, detail: str = "") -> list[str]:
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
    for table in _OF_SESSIONS:
        tx.execute(f"delete from {table} where session = ?", (name,))  # noqa: S608
    project = tx.execute("select project_id from session where name = ?", (name,))
    tx.execute("delete from session where name = ?", (name,))
    if project:
        tx.execute(_FORGET_PROJECT, project[0])
    tx.emit("session.deleted", name, session=name, actor=actor, detail=detail)
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


def _session(row: tuple[Any, ...]) -> Session:
    (name, created, updated, version, _project, specification, branch, phase, plan) = row[:9]
    (completion, failure, size, original, base, batch, window, completed, missing) = row[9:18]
    return Session(
        name=name,
        created_at=from_micros(created),
        updated_at=from_micros(updated),
        version=version,
        project_name=row[18] or "",
        project_path=row[19] or "",
        specification_path=specification,
        parent_branch=branch,
        phase=Phase(phase),
        plan=Plan(plan),
        completion=Completion(completion),
        failure_reason=failure,
        project_size=ProjectSize(size),
        original_specification_path=original,
        worktree_base_path=base,
        batch_id=batch,
        orchestrator_window=window,
        completed_at=None if completed is None else from_micros(completed),
        name_missing=bool(missing),
    )


def _values(tx: Transaction, session: Session) -> tuple[Any, ...]:
    return (
        micros(session.created_at),
        micros(session.updated_at),
        session.version,
        _project(tx, session),
        session.specification_path,
        session.parent_branch,
        session.phase,
        session.plan,
        session.completion,
        session.failure_reason,
        session.project_size,
        session.original_specification_path,
        session.worktree_base_path,
        session.batch_id,
        session.orchestrator_window,
        None if session.completed_at is None else micros(session.completed_at),
        session.name_missing,
    )


def _named(changes: dict[str, object]) -> dict[str, Any]:
    return {k: v for k, v in changes.items() if k in ("project_name", "project_path")}


def _project(tx: Transaction, session: Session) -> str | None:
    """The id of the session's project, which is made when it is new; None for none."""
    name, path = session.project_name, session.project_path
    if not name and not path:
        return None
    rows = tx.execute("select id from project where path = ? and name = ?", (path, name))
    if rows:
        return str(rows[0][0])
    made = lookup.new_id()
    sql = "insert into project (id, name, path, created_at) values (?, ?, ?, ?)"
    tx.execute(sql, (made, name, path, micros(tx.now)))
    return made
