"""Looks at the audit of a database, beside a running server or without one: what does not hold?

Links are read one by one, in one read transaction. Heads are read before it begins, so that a log
that grows meanwhile is only ever ahead of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from pathlib import Path

import apsw
from peewee import PeeweeException

from orch_server.core.audit import Checkpoint, Fact, Head, Link, Seal, Told, Walk
from orch_server.core.errors import InvalidInput, NotFound, StartupError
from orch_server.core.text import printable
from orch_server.storage import database
from orch_server.storage.audit import (
    ARGUMENTS,
    BROKEN,
    Files,
    arguments_hash,
    links,
    read_checkpoint,
    read_head,
    unlinked,
)
from orch_server.storage.columns import from_micros

MOST = 20
#: The columns of an authorization that its links tell, and the facts that tell them.
_COLUMNS = (
    *("id", "state", "agent_id", "session", "requester_role", "requester_pane", "approver_role"),
    *("action", "tool", "arguments", "cwd", "digest", "priority", "priority_derived"),
    *("created_at", "deadline_at", "action_class", "approvers", "human", "reason_required"),
    *("lapse", "resolver", "reason", "proof", "resolved_at", "lapses_at", "closed_at"),
    "consume_request",
)
_RENAMED = {"approver_role": "asked", "arguments": ARGUMENTS}
_TOLD = {column: _RENAMED.get(column, column) for column in _COLUMNS}
_LEVEL = ("level", "receiver", "due_at", "told_at", "open", "passed_over")
#: A value as it is stored: a text as bytes, an integer, None for NULL, and else its SQL as str.
_Cell = bytes | int | str | None


def _cells(columns: Sequence[str]) -> str:
    """The columns as cells. Texts are cast, since what was put in may be no UTF-8."""
    return ", ".join(
        f"case typeof({c}) when 'text' then cast({c} as blob) when 'integer' then {c}"
        f" when 'null' then null else quote({c}) end"
        for c in columns
    )


_AUTHORIZATIONS = f"select number, {_cells(_COLUMNS)} from authorization order by number"  # noqa: S608
_LEVELS = f"""select {_cells(_LEVEL)} from authorization_level
    where authorization_id = ? order by level"""  # noqa: S608 - constants
_STRAY = """select count(*) from authorization_level l
    where not exists (select 1 from authorization z where z.id = l.authorization_id)"""
_TEXTS = ("kind", "session", "agent", "detail", "facts")
_OF_ONE = f"""select number, iif(typeof(at) = 'integer', at, 0),
    {", ".join(f"cast({column} as blob)" for column in _TEXTS)} from audit
    where subject = ? and kind >= 'authorization.' and kind < 'authorization/'
    order by number"""  # noqa: S608 - constants


@dataclass(slots=True)
class Report:
    """What was found: how many faults, some of them in words, and notes that are no faults. `first`
    and `last` are the times of the links."""

    links: int = 0
    first: datetime | None = None
    last: datetime | None = None
    faults: int = 0
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, finding: str, *, whole_log: bool = False) -> None:
        """Counts a fault. Those of the whole log come first, and the first ones keep words."""
        if finding:
            self.faults += 1
            place = 0 if whole_log else len(self.findings)
            self.findings.insert(place, printable(finding, 400))
            del self.findings[MOST:]


def verify(path: Path, copy: Path | None = None) -> Report:
    """Checks the audit of the database at this path, also against a copy of its head.

    Raises NotFound when there is no database, InvalidInput when the copy is no head, StartupError
    when a file cannot be read.
    """
    if not path.exists():
        raise NotFound(f"There is no database {path}; --home names another folder.")
    report = Report()
    try:
        files = Files(path)
        key, heads = files.key(), {"the head": files.head(), **_copied(copy)}
        if key is None:
            report.add("the key is missing, or damaged: nothing can be checked without it")
        elif heads["the head"] is None:
            report.add("the head is missing, or damaged: the end of the log may be cut off")
        db = database.reader(path)
        try:
            if key is None:
                deque(_count(db.connection(), report), maxlen=0)
            else:
                _verify(db.connection(), key, heads, report)
        finally:
            db.close()
    except OSError as exc:
        raise StartupError(f"The audit of {path} cannot be read ({exc}).") from exc
    except (apsw.Error, PeeweeException) as exc:
        report.add(f"the database does not hold an audit that can be read ({exc})")
    return report


def _copied(copy: Path | None) -> dict[str, Head | None]:
    if copy is None:
        return {}
    head = read_head(copy)
    if head is None:
        raise InvalidInput("head", f"{copy} holds no head of an audit; name a copy of one.")
    return {"the copy of the head": head}


def _verify(
    connection: apsw.Connection, key: bytes, heads: dict[str, Head | None], report: Report
) -> None:
    connection.execute("begin")
    damage = connection.execute("pragma integrity_check('audit')").get
    report.add(f"the table is damaged ({damage})" if damage != "ok" else "")
    generation = connection.execute("select cast(generation as blob) from store").get
    seal = Seal(key, str(generation or b"", "utf-8", "replace"))
    checkpoint = read_checkpoint(connection)
    if checkpoint is not None and not seal.made(checkpoint):
        said = "the checkpoint was not written by this server, or was changed"
        report.add(said, whole_log=True)
    given = {name: head for name, head in heads.items() if head is not None}
    start = checkpoint.at if checkpoint else seal.beginning
    walk = Walk(seal, start, {head.at.number for head in given.values()})
    _walk(connection, walk, report)
    if report.links == 0:
        report.add("the log is empty")
    for name, head in given.items():
        fault = walk.fault(head)
        report.add(f"{name}: {fault}" if fault else "", whole_log=True)
        report.notes += _notes(name, head, walk, checkpoint) if not fault else []
    _compare(connection, checkpoint, report)


def _count(connection: apsw.Connection, report: Report) -> Iterator[tuple[Link, bool]]:
    """The links, as `links` has them, and they are counted."""
    for link, whole in links(connection):
        report.links += 1
        if whole:
            report.last = _time(link) or report.last
            report.first = report.first or report.last
        yield link, whole


def _walk(connection: apsw.Connection, walk: Walk, report: Report) -> None:
    for link, whole in _count(connection, report):
        report.add(walk.take(link, whole))
        if link.kind == BROKEN:
            said = f"link {link.number}: at a start the server found this: {link.detail}"
            report.add(said, whole_log=True)


def _time(link: Link) -> datetime | None:
    try:
        return from_micros(link.at)
    except OverflowError:
        return None


def _notes(name: str, head: Head, walk: Walk, checkpoint: Checkpoint | None) -> Iterator[str]:
    """What may be so without any fault."""
    if checkpoint is not None and head.at.number < checkpoint.at.number:
        yield f"{name} is older than what was pruned, so that it says nothing of the log"
    elif head.at.number < walk.end.number and name == "the head":
        yield (
            f"the head counts {head.at.number} of {walk.end.number} links: the server writes at"
            " this moment, or ended before it wrote the head; its next link or start mends that"
        )


def _compare(connection: apsw.Connection, checkpoint: Checkpoint | None, report: Report) -> None:
    """Compares each authorization with what its links say. Those that were deleted are no fault."""
    excused = unlinked(connection)
    for number, *row in connection.execute(_AUTHORIZATIONS):
        held = dict(zip(_COLUMNS, row, strict=True))
        subject, state = _shown(held["id"]), _shown(held["state"])
        told, contradiction = _told(connection, subject)
        if told is None:
            if not _excused(number, state, excused, checkpoint):
                report.add(f"authorization {subject} has no link: it was put in")
            continue
        report.add(f"authorization {subject}: {contradiction}" if contradiction else "")
        for said in (*_changed(held, told), _changed_level(connection, subject, told)):
            report.add(f"authorization {subject} {said}" if said else "")
    stray = connection.execute(_STRAY).get
    report.add(f"levels of no authorization were put in: {stray}" if stray else "")


def _excused(number: int, state: str, most: int, checkpoint: Checkpoint | None) -> bool:
    """Whether an authorization may be without a link: one from before the log, or over since."""
    over = state not in ("PENDING", "APPROVED") or (state == "PENDING" and checkpoint is None)
    return 1 <= number <= most and over


def _told(connection: apsw.Connection, subject: str) -> tuple[Told | None, str]:
    """What the links of an authorization tell, None when it has no link; and the first of them
    that contradicts those before."""
    told, contradiction = None, ""
    for number, at, *texts in connection.execute(_OF_ONE, (subject,)):
        kind, session, agent, detail, facts = (str(t or b"", "utf-8", "replace") for t in texts)
        told = told or Told()
        link = Link(0, at, kind, subject, session, agent, "", detail, facts, number)
        found = told.take(link)
        contradiction = contradiction or found
    if told is not None:
        told.facts["id"] = subject
    return told, contradiction


def _changed(held: dict[str, _Cell], told: Told) -> Iterator[str]:
    """The columns of an authorization that hold something else than was told."""
    arguments = held["arguments"]
    if isinstance(arguments, bytes):
        held["arguments"] = arguments_hash(arguments).encode()
    for column, fact in _TOLD.items():
        if fact in told.facts and held[column] != (said := _stored(told.facts[fact])):
            yield f"says {column} {_quoted(held[column])}, but its links say {_quoted(said)}"


def _changed_level(connection: apsw.Connection, subject: str, told: Told) -> str:
    """The first level of an authorization that is not as it was told; "" when none is."""
    rows = told.rows()
    if rows is None:
        return ""
    held = connection.execute(_LEVELS, (subject,))
    for place, (row, cells) in enumerate(zip_longest(rows, held), 1):
        if cells is None:
            return f"has no level {place}: it was removed"
        if row is None:
            return f"has a level more than its {len(rows)}: it was put in"
        for column, cell, value in zip(_LEVEL, cells, row, strict=True):
            if cell != _stored(value):
                said = f"{_quoted(cell)}, but its links say {_quoted(_stored(value))}"
                return f"says {column} of its level {place} is {said}"
    return ""


def _stored(value: Fact) -> _Cell:
    """The value as a cell must hold it."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _shown(cell: _Cell) -> str:
    return str(cell, "utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _quoted(cell: _Cell) -> str:
    return "NULL" if cell is None else f"'{printable(_shown(cell))}'"
