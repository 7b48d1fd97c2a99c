"""The audit in the store: the chain's end, which only the writing thread moves; its key and head in
files beside the database; what is pruned. core/audit.py says what holds, audit_check.py looks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from orch_server.core.audit import (
    STARTED,
    Checkpoint,
    Head,
    Link,
    Place,
    Seal,
    Walk,
    facts_text,
)
from orch_server.core.errors import StoreUnavailable
from orch_server.storage.columns import micros
from orch_server.storage.database import Database

if TYPE_CHECKING:
    from orch_server.storage.store import Transaction

logger = logging.getLogger(__name__)

BROKEN = "audit.broken"
PRUNED = "audit.pruned"
#: The fact that stands for an action's arguments, which may be long.
ARGUMENTS = "arguments_hash"

_TEXTS = ("kind", "subject", "session", "agent", "actor", "detail", "facts", "hash")
_COLUMNS = ("number", "event", "at", *_TEXTS)
_INSERT = f"insert into audit ({', '.join(_COLUMNS)}) values ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
# Cast, since what was put in may be of any type, or text that is no UTF-8.
_READ = f"""select number, {", ".join(f"cast({c} as blob)" for c in _COLUMNS[1:])},
    {" || ' ' || ".join(f"typeof({c})" for c in _COLUMNS)}
    from audit where number >= ? and number <= ? order by number"""  # noqa: S608 - constants
_WHOLE = " ".join(["integer"] * 3 + ["text"] * len(_TEXTS))
_LIVE = """select min(a.number) from authorization z join audit a on a.subject = z.id
    where z.state in ('PENDING', 'APPROVED')"""
_REQUESTS = """select max(z.number) from audit a join authorization z on z.id = a.subject
    where a.number between ? and ? and a.kind = 'authorization.requested'"""
_UNLINKED = """select cast(facts as blob) from audit where kind in (?, ?)
    order by number desc limit 1"""
_CHECKPOINT = """select cast(number as blob), cast(at as blob), cast(hash as blob),
    cast(mac as blob) from audit_checkpoint"""
_UNTOLD = """select 'link ' || number, cast(detail as blob) from audit a
    where kind = ? and not exists
    (select 1 from alert where kind = ? and subject = 'link ' || a.number) order by number"""
_NUMBER = re.compile(r"-?[0-9]{1,19}\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_MOST = 5_000
_HEAD_BYTES = 512
FIRST, LAST = -(2**63), 2**63 - 1


def arguments_hash(arguments: bytes) -> str:
    """What a link tells of an action's arguments."""
    return hashlib.sha256(arguments).hexdigest()


class Files:
    """The folder with the key and the head."""

    def __init__(self, database: Path) -> None:
        self.folder = database.parent / "audit"
        self._key = self.folder / "key"
        self._head = self.folder / "head"

    def key(self) -> bytes | None:
        """The key; None when there is none. Raises OSError when it cannot be read."""
        try:
            text = self._key.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        return bytes.fromhex(text) if _HEX.match(text) else None

    def make_folder(self) -> None:
        """Makes the folder, for this user alone. Raises OSError."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.folder.chmod(0o700)
        _sync(self.folder.parent)

    def put_key(self, key: bytes) -> None:
        """Writes a new key. What was no key is kept beside it. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._key.rename(self._key.with_name("key.damaged"))
        _put(self._key, key.hex())

    def head(self) -> Head | None:
        """The head; None when there is none, or nothing that could be one. Raises OSError."""
        return read_head(self._head)

    def put_head(self, head: Head) -> None:
        """Writes the head in the place of the one before. Raises OSError."""
        kept = {"store": head.store, "count": head.at.number, "hash": head.at.hash, "mac": head.mac}
        text = f"{json.dumps(kept)}\n".encode().rjust(_HEAD_BYTES)
        if not self._head.exists():
            _put(self._head, "")
        # In place, since a file that is made anew costs forty times as much. One sector of a disk
        # is written whole or not at all.
        with self._head.open("r+b", buffering=0) as file:
            file.write(text)
            os.fdatasync(file.fileno())


def read_head(path: Path) -> Head | None:
    """What this file says as a head; None when there is none, or nothing that could be one."""
    try:
        kept = json.loads(path.read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or set(kept) != {"store", "count", "hash", "mac"}:
        return None
    count, texts = kept["count"], (kept["hash"], kept["mac"])
    if type(count) is not int or not all(isinstance(t, str) and _HEX.match(t) for t in texts):
        return None
    return Head(str(kept["store"]), Place(count, kept["hash"]), kept["mac"])


@dataclass(frozen=True, slots=True)
class Broken:
    """What was wrong with a log when it was opened: what its head said, and where it ended."""

    found: str
    head: Place
    end: Place


class Chain:
    """The end of the chain. Used by the writing thread alone."""

    def __init__(self, files: Files, seal: Seal, end: Place) -> None:
        self.seal = seal
        self.end = end
        self._files = files
        self._behind = True  # the head has still to be written

    def store(self, tx: Transaction) -> Place:
        """Writes the transaction's links; returns the end of the chain once it is committed.

        Raises StoreUnavailable when the table refuses one.
        """
        end, rows = self.end, []
        for link in tx.links:
            sealed = self.seal.link(link, end)
            rows.append(tuple(getattr(sealed, column) for column in _COLUMNS))
            end = Place(sealed.number, sealed.hash)
        try:
            tx.db.connection().executemany(_INSERT, rows).fetchall()
        except apsw.ConstraintError as exc:
            logger.exception("audit link not written")
            raise StoreUnavailable(
                f"The audit took no link ({exc}), so nothing was changed; see the server's log."
            ) from exc
        return end

    def committed(self, end: Place) -> None:
        """The links up to here are on disk: the head follows."""
        self.end = end
        self._behind = True
        self.catch_up()

    def catch_up(self) -> None:
        """Writes the head unless it is written. What cannot be written is tried with the next."""
        if not self._behind:
            return
        try:
            self._files.put_head(self.seal.head(self.end))
        except OSError as exc:  # the links are committed all the same
            logger.error("audit head not written", extra={"error": str(exc)})  # noqa: TRY400
        else:
            self._behind = False


def open_chain(db: Database, path: Path, store: str) -> tuple[Chain, Broken | None]:
    """The chain where it goes on, and what is wrong with it.

    `store` is the store's generation. Raises OSError.
    """
    files, connection = Files(path), db.connection()
    files.make_folder()
    checkpoint = read_checkpoint(connection)
    key, faults = files.key(), []
    if key is None:
        key = secrets.token_bytes(32)
        links_there = connection.execute("select exists (select 1 from audit)").get
        if links_there or checkpoint or _counts(files.head()):
            faults.append("the key is gone; a new one was made")
        else:  # a new log: its head comes first, so that nobody makes another new one of this
            files.put_head(Seal(key, store).head(Seal(key, store).beginning))
        files.put_key(key)
    seal = Seal(key, store)
    if checkpoint is not None and not seal.made(checkpoint):
        faults.append("the checkpoint is not the server's")
    start = checkpoint.at if checkpoint else seal.beginning
    head, end = files.head(), _end(connection, start)
    misfit = _misfit(connection, seal, start, head)
    found = "; ".join([*faults, *([misfit] if misfit else [])])
    broken = Broken(found, head.at if head else Place(0, ""), end)
    return Chain(files, seal, end), broken if found else None


def _counts(head: Head | None) -> bool:
    return head is not None and head.at.number > 0


def tell_start(tx: Transaction, chain: Chain, broken: Broken | None) -> None:
    """Writes the first link of a log, and what was found when the store was opened."""
    if chain.end.number == 0:  # no event: nothing has changed yet
        known = tx.execute("select coalesce(max(number), 0) from authorization")[0][0]
        facts = facts_text({"requests": known})
        tx.links.append(Link(0, micros(tx.now), STARTED, "audit", facts=facts))
    if broken is not None:
        logger.error("audit broken", extra={"found": broken.found})
        tx.audit(
            BROKEN,
            "audit",
            detail=broken.found,
            head_count=broken.head.number,
            head_hash=broken.head.hash,
            links=broken.end.number,
            hash=broken.end.hash,
        )


def prune(tx: Transaction, seal: Seal, before: datetime) -> int:
    """Removes links from before this time, the oldest first, and signs a checkpoint for them;
    returns how many, at most some thousands.

    It stops at the first link of an authorization that is not over, and at one that is not as it
    was written: what is wrong stays to be seen.
    """
    connection = tx.db.connection()
    checkpoint = read_checkpoint(connection)
    if checkpoint is not None and not seal.made(checkpoint):
        return 0
    start = cut = checkpoint.at if checkpoint else seal.beginning
    live = connection.execute(_LIVE).get
    walk = Walk(seal, start)
    for link, whole in links(connection, FIRST, LAST if live is None else live - 1):
        if link.at >= micros(before) or walk.links == _MOST or walk.take(link, whole):
            break
        cut = walk.end
    if cut == start:
        return 0
    known = connection.execute(_REQUESTS, (start.number + 1, cut.number)).get or 0
    requests = max(known, unlinked(connection))
    tx.execute("delete from audit where number <= ?", (cut.number,))
    made = seal.checkpoint(cut, micros(before))
    tx.execute(
        "insert or replace into audit_checkpoint (only, number, at, hash, mac)"
        " values (1, ?, ?, ?, ?)",
        (cut.number, made.before, cut.hash, made.mac),
    )
    said = f"links {start.number + 1} to {cut.number}"
    tx.audit(
        PRUNED, "audit", detail=said, first=start.number + 1, last=cut.number, requests=requests
    )
    return cut.number - start.number


def untold(db: Database, alert: str) -> list[tuple[str, str]]:
    """What was found at starts and raised no alert of this kind yet: subject and words of each."""
    rows = db.execute_sql(_UNTOLD, (BROKEN, alert)).fetchall()
    return [(str(subject), str(found or b"", "utf-8", "replace")) for subject, found in rows]


def unlinked(connection: apsw.Connection) -> int:
    """Up to which number rows of `authorization` may be without a link: they are from before the
    log, or their links were pruned."""
    facts = connection.execute(_UNLINKED, (STARTED, PRUNED)).get
    try:
        number = json.loads(bytes(facts or b"{}"))["requests"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return number if isinstance(number, int) else 0


def links(
    connection: apsw.Connection, first: int = FIRST, last: int = LAST
) -> Iterator[tuple[Link, bool]]:
    """The links in the order of their numbers, and whether each is whole: of the right types."""
    for number, *values, types in connection.execute(_READ, (first, last)):
        texts = [str(value or b"", "utf-8", "replace") for value in values]
        whole = types == _WHOLE and all(
            text.encode() == (value or b"") for text, value in zip(texts, values, strict=True)
        )
        event, at = (int(texts[0]), int(texts[1])) if whole else (0, 0)
        kind, subject, session, agent, actor, detail, facts, own = texts[2:]
        said = (kind, subject, session, agent, actor, detail, facts)
        yield Link(event, at, *said, number, own), whole


def read_checkpoint(connection: apsw.Connection) -> Checkpoint | None:
    """The checkpoint; None when nothing was pruned."""
    row = connection.execute(_CHECKPOINT).fetchone()
    if row is None:
        return None
    number, before, own, mac = (str(value or b"", "utf-8", "replace") for value in row)
    numbers = [int(text) if _NUMBER.match(text) else 0 for text in (number, before)]
    return Checkpoint(Place(numbers[0], own), numbers[1], mac)


def _end(connection: apsw.Connection, start: Place) -> Place:
    """The last link's place; `start` when there is none after it."""
    last = connection.execute("select max(number) from audit").get
    return start if last is None or last <= start.number else _place(connection, last, start)


def _place(connection: apsw.Connection, number: int, start: Place) -> Place:
    """The place of the link with this number; `start` when there is none."""
    found = (Place(link.number, link.hash) for link, _ in links(connection, number, number))
    return next(found, start)


def _misfit(connection: apsw.Connection, seal: Seal, start: Place, head: Head | None) -> str:
    """How the log does not fit its head, looking at the links from the head on; "": it does."""
    if head is None:
        return "the head is missing, or damaged"
    known = min(head.at.number, _end(connection, start).number)
    place = start if known <= start.number else _place(connection, known, start)
    walk = Walk(seal, place, (head.at.number,))
    wrong = ""
    for link, whole in links(connection, place.number + 1):
        found = walk.take(link, whole)
        wrong = wrong or found
    fault = walk.fault(head)
    return f"the head: {fault}" if fault else wrong


def _put(path: Path, text: str) -> None:
    """Puts a private file into the place of the one before, at once and for good."""
    new = path.with_name(f"{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """What was renamed in the folder is on disk."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
