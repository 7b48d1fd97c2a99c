"""Looks at the audit of a database, beside a running server or without one: what does not hold?

Links are read one by one, in one read transaction. Heads are read before it begins, so that a log
that grows meanwhile is only ever ahead of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import apsw
from peewee import PeeweeException

from orch_server.core.audit import Checkpoint, Head, Link, Seal, Walk
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
#: The columns of an authorization that its links tell, by the names of the facts.
_TOLD = {
    "state": "state",
    "resolver": "resolver",
    "proof": "proof",
    "digest": "digest",
    "asked": "approver_role",
    "approvers": "approvers",
    "action_class": "action_class",
    "human": "human",
    "deadline_at": "deadline_at",
    "lapses_at": "lapses_at",
    "action": "action",
    "tool": "tool",
    "cwd": "cwd",
    ARGUMENTS: "arguments",
}
_AUTHORIZATIONS = f"""select number, cast(id as blob),
    {", ".join(f"cast({column} as blob)" for column in _TOLD.values())}
    from authorization order by number"""  # noqa: S608 - constants
_OF_ONE = """select cast(kind as blob), cast(facts as blob) from audit
    where subject = ? and kind >= 'authorization.' and kind < 'authorization/'
    order by number desc"""


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
            return report
        if heads["the head"] is None:
            report.add("the head is missing, or damaged: the end of the log may be cut off")
        db = database.reader(path)
        try:
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


def _walk(connection: apsw.Connection, walk: Walk, report: Report) -> None:
    for link, whole in links(connection):
        report.add(walk.take(link, whole))
        report.links += 1
        if whole:
            report.last = _time(link) or report.last
            report.first = report.first or report.last
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
    for number, name, *values in connection.execute(_AUTHORIZATIONS):
        subject = str(name or b"", "utf-8", "replace")
        told = _told(connection, subject)
        if told is None:
            state = str(values[0] or b"", "utf-8", "replace")
            if not _excused(number, state, excused, checkpoint):
                report.add(f"authorization {subject} has no link: it was put in")
            continue
        for fact, value in zip(_TOLD, values, strict=True):
            said = told.get(fact)
            held = bytes(value or b"")
            if fact == ARGUMENTS:
                held = arguments_hash(held).encode()
            if said is not None and str(said).encode() != held:
                shown = str(held, "utf-8", "replace")
                report.add(
                    f"authorization {subject} says {_TOLD[fact]} '{printable(shown)}', but its"
                    f" links say '{printable(str(said))}'"
                )


def _excused(number: int, state: str, most: int, checkpoint: Checkpoint | None) -> bool:
    """Whether an authorization may be without a link: one from before the log, or over since."""
    over = state not in ("PENDING", "APPROVED") or (state == "PENDING" and checkpoint is None)
    return 1 <= number <= most and over


def _told(connection: apsw.Connection, subject: str) -> dict[str, str | int] | None:
    """The newest of each fact that the links of an authorization tell; None when it has no link."""
    told: dict[str, str | int] | None = None
    for kind, facts in connection.execute(_OF_ONE, (subject,)):
        told = told or {}
        if kind == b"authorization.requested":
            told = {"resolver": "", "proof": "", **told}
        try:
            told = {**json.loads(facts or b"{}"), **told}
        except (ValueError, TypeError, RecursionError):  # no link of ours; the walk found it
            continue
    return told
