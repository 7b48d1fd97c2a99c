"""Differences between the store and tmux: those that are there now; and what the synchroniser reads
and repairs in the store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from orch_server.core import session as rules
from orch_server.core import sync_advice as advice
from orch_server.core.agent import Agent
from orch_server.core.alert import NewAlert, Severity
from orch_server.core.errors import NotFound
from orch_server.core.session import AgentDetail, Completion, Session
from orch_server.core.sync import Mismatch, MismatchKind
from orch_server.core.sync_view import Key
from orch_server.core.text import printable
from orch_server.storage import firing, session_parts, sessions
from orch_server.storage.alerts import raise_alert
from orch_server.storage.columns import from_micros, micros
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction

#: Differences of which a person should hear; each is told once while it lasts.
_ALERTS = {MismatchKind.SESSION_GONE: "session-gone", MismatchKind.ORPHAN: "orphan"}
#: So many new ones are told one by one; of more, so many are named in one alert.
_EACH, _NAMED = 3, 10
NAME_ALERT = "session-name-missing"
#: Every table with a column of this meaning, but the history in event and audit.
SESSION_COLUMNS = (
    *("agent", "session_phase", "status_report", "role_dependency", "metric", "metric_agent"),
    *("mismatch", "authorization", "alert", "legacy_value"),
)
_KNOWN = "select kind, subject, tmux_socket, first_seen_at, told_at, session from mismatch"
_HEARD_OF = """select session from authorization union select session from alert
    union select session from legacy_value"""
_IMPORTED = """select i.subject, r.at from imported i join import_run r on r.id = i.run_id
    where i.record like 'session:%'"""
_PUT = """insert into mismatch
    (kind, subject, session, detail, first_seen_at, last_seen_at, told_at, tmux_socket)
    values (?, ?, ?, ?, ?, ?, ?, ?)
    on conflict (kind, subject, tmux_socket) do update set session = excluded.session,
    detail = excluded.detail, first_seen_at = excluded.first_seen_at,
    last_seen_at = excluded.last_seen_at, told_at = excluded.told_at"""
_RENAME_RECORDS = """update legacy_value set record = ?1 || substr(record, ?2 + 1)
    where substr(record, 1, ?2) = ?3 and (substr(?3, -1) = ':' or record = ?3)"""
_DELETE = "delete from mismatch where kind = ? and subject = ? and tmux_socket = ?"


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds that tmux may know better; `known` differences with since when, and
    `names` of sessions that it has heard of; `imported`: see StoreView."""

    sessions: dict[str, Session]
    details: dict[str, AgentDetail]
    known: dict[Key, datetime]
    names: tuple[str, ...]
    imported: dict[str, datetime]


def load(db: Database) -> Stored:
    """All of it, in one read."""
    found = {s.name: s for s in sessions.all_sessions(db)}
    heard = sorted(row[0] for row in db.execute_sql(_HEARD_OF).fetchall())
    known = db.execute_sql(_KNOWN).fetchall()
    return Stored(
        sessions=found,
        details=session_parts.details(db),
        known={(MismatchKind(k), s, at): from_micros(first) for k, s, at, first, *_ in known},
        names=tuple(name for name in heard if name and name not in found),
        imported={name: from_micros(at) for name, at in db.execute_sql(_IMPORTED).fetchall()},
    )


def record(tx: Transaction, found: Collection[Mismatch], silent: Collection[str]) -> None:
    """Writes what is there now, and what is over; tells what is new, once. Nothing that a `silent`
    socket has told is over."""
    known = {(MismatchKind(row[0]), *row[1:3]): row for row in tx.execute(_KNOWN)}
    there = {m.key: m for m in found}
    new = []
    for mismatch in there.values():
        if mismatch.repaired:
            _tell(tx, "mismatch.repaired", mismatch)
        elif _put(tx, mismatch, known[mismatch.key][4] if mismatch.key in known else None):
            new.append(mismatch)
    for kind, alert in _ALERTS.items():
        _alert(tx, alert, [mismatch for mismatch in new if mismatch.kind is kind])
    for key, (kind, subject, socket, _, told, session) in known.items():
        still = there.get(key)
        if still.repaired if still is not None else socket not in silent:
            tx.execute(_DELETE, key)
            if still is None and told is not None:
                tx.emit("mismatch.ended", subject, session=session, detail=kind)


def rename_session(tx: Transaction, old: str, new: str) -> None:
    """Gives a session whose name was missing its name. Raises NotFound or a broken constraint, when
    the session or the name went to somebody else meanwhile."""
    session = sessions.get(tx.db, old)
    if not session.name_missing or session.ended:
        raise NotFound(f"Session {old} lacks no name any more.")
    tx.execute("pragma defer_foreign_keys = 1")
    tx.execute(
        "update session set name = ?, name_missing = 0, failure_reason = '', version = version + 1,"
        " updated_at = ? where name = ?",
        (new, micros(tx.now), old),
    )
    for table in SESSION_COLUMNS:
        sql = f"update or replace {table} set session = ? where session = ?"  # noqa: S608
        tx.execute(sql, (new, old))
    # The export finds values by the present name; what was imported keeps the name it was read by.
    for first, last in ((f"session:{old}", f"session:{new}"), (f"agent:{old}:", f"agent:{new}:")):
        tx.execute(_RENAME_RECORDS, (last, len(first), first))
    # Who watches sessions must hear that the old name is gone.
    tx.emit("session.renamed", old, session=old, detail=f"to '{new}'")
    tx.emit("session.renamed", new, session=new, detail=f"from '{old}'")


def fail_nameless(tx: Transaction, name: str, reason: str) -> None:
    """Gives up a session whose name is missing, with an alert; one that has changed stays."""
    old = sessions.get(tx.db, name)
    if not old.name_missing or old.ended:
        return
    paths = ("completion", "failure_reason")
    changes: dict[str, object] = {"completion": Completion.FAILED, "failure_reason": reason}
    sessions.save(tx, rules.update(old, changes, paths, 0, tx.now), "", paths)
    firing.expire_session(tx, name, "")
    text = f"Session {name} is marked failed: {reason}. {advice.look_again(name)}"
    raise_alert(tx, NewAlert(Severity.WARNING, NAME_ALERT, name, text, name))


def learn(tx: Transaction, agent: Agent, seen: Mapping[str, object]) -> None:
    """Writes what tmux and the files say of an agent: fields of AgentDetail with their values."""
    if tx.execute("select 1 from agent where id = ?", (agent.id,)):
        old = session_parts.detail(tx.db, agent.id)
        new = replace(old, version=old.version + 1, **seen)  # type: ignore[arg-type]
        session_parts.put_detail(tx, agent, new, "", tuple(seen))


def _put(tx: Transaction, mismatch: Mismatch, told: int | None) -> bool:
    """Writes it; returns whether it is told for the first time."""
    first = told is None and not mismatch.in_grace
    told = micros(tx.now) if first else told
    times = (micros(mismatch.since), micros(tx.now), told)
    what = (mismatch.session, mismatch.detail)
    tx.execute(_PUT, (mismatch.kind, mismatch.subject, *what, *times, mismatch.socket))
    if first:
        _tell(tx, "mismatch.found", mismatch)
    return first


def _alert(tx: Transaction, kind: str, new: list[Mismatch]) -> None:
    """An alert for each, or one for all when there are many, as after a reboot."""
    if len(new) > _EACH:
        named = ", ".join(printable(mismatch.subject) for mismatch in new[:_NAMED])
        more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
        text = f"{len(new)} at once: {named}{more}. What to do about each: orch-client sync"
        raise_alert(tx, NewAlert(Severity.WARNING, kind, f"{len(new)} sessions", text))
        return
    for one in new:
        text = f"{one.detail} {one.advice}"
        raise_alert(tx, NewAlert(Severity.WARNING, kind, one.subject, text, one.session))


def _tell(tx: Transaction, event: str, mismatch: Mismatch) -> None:
    detail = f"{mismatch.kind}: {mismatch.detail}"
    tx.emit(event, mismatch.subject, session=mismatch.session, detail=detail)
