"""The audit's chain: how a link is sealed, what is wrong with a log; docs/reference/audit.md.

Every link's hash is an HMAC over the hash before it and all that the link says, so that without the
key nobody can write, change or move one. The head says how far the log goes; it lies outside the
database, so that a cut tail shows too. The checkpoint stands for the links that were pruned.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

#: The first link of every log.
STARTED = "audit.started"


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the chain. `event` is the number of its event, 0 for none; `at` microseconds since
    1970; `facts` a JSON object. Number and hash come when it is put into the chain."""

    event: int
    at: int
    kind: str
    subject: str
    session: str = ""
    agent: str = ""
    actor: str = ""
    detail: str = ""
    facts: str = "{}"
    number: int = 0
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the chain: the number of a link and its hash."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """How far the log of a store goes, as it is kept outside of the database."""

    store: str
    at: Place
    mac: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last link that was pruned; `before` is the time in microseconds up to which."""

    at: Place
    before: int
    mac: str


def facts_text(facts: Mapping[str, str | int]) -> str:
    """The one JSON text of these facts."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Seal:
    """What only the server can make: the hashes of one store's chain. `store` is its generation."""

    key: bytes
    store: str

    @property
    def beginning(self) -> Place:
        """The place before the first link."""
        return Place(0, self._mac("beginning", self.store))

    def link(self, link: Link, after: Place) -> Link:
        """The link, put into the chain after this place."""
        numbered = replace(link, number=after.number + 1)
        return replace(numbered, hash=self.hash(numbered, after.hash))

    def hash(self, link: Link, previous: str) -> str:
        """The hash that this link must have after one with the previous hash."""
        said = (link.kind, link.subject, link.session, link.agent, link.actor, link.detail)
        return self._mac("link", previous, link.number, link.event, link.at, *said, link.facts)

    def head(self, at: Place) -> Head:
        """The head of a log that goes so far."""
        return Head(self.store, at, self._mac("head", self.store, at.number, at.hash))

    def checkpoint(self, at: Place, before: int) -> Checkpoint:
        """The checkpoint for the links up to this one."""
        return Checkpoint(
            at, before, self._mac("checkpoint", self.store, at.number, at.hash, before)
        )

    def made(self, given: Head | Checkpoint) -> bool:
        """Whether it was made with this key for this store, and says what it said then."""
        if isinstance(given, Head):
            own = self.head(given.at).mac if given.store == self.store else ""
        else:
            own = self.checkpoint(given.at, given.before).mac
        return bool(own) and hmac.compare_digest(own.encode(), given.mac.encode())

    def _mac(self, *parts: str | int) -> str:
        text = json.dumps(["orch.audit.1", *parts], separators=(",", ":"))
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()


class Walk:
    """Follows the links in the order of their numbers. `end` is how far it came; it keeps the
    hashes of the links whose numbers are `wanted`."""

    def __init__(self, seal: Seal, start: Place, wanted: Collection[int] = ()) -> None:
        self.end = start
        self.links = 0
        self._seal = seal
        self._start = start
        self._wanted = frozenset(wanted)
        self._seen = {start.number: start.hash}

    def take(self, link: Link, whole: bool = True) -> str:
        """Goes on to this link; says what is wrong with it, "" when nothing is. One that is not
        `whole` holds what no link can hold."""
        before, expected = self.end, self.end.number + 1
        self.links += 1
        if link.number < expected:
            return f"link {link.number} lies before the log's beginning: it was put in"
        self.end = Place(link.number, link.hash)
        if link.number in self._wanted:
            self._seen[link.number] = link.hash
        if link.number > expected:
            return f"{_several(expected, link.number - 1)} missing before link {link.number}"
        if not whole or link.hash != self._seal.hash(link, before.hash):
            return f"link {link.number} is not as the server wrote it: changed, put in or moved"
        return ""

    def fault(self, head: Head) -> str:
        """After the walk: how the log does not fit this head, "" when it does. The number of the
        head must be among those wanted."""
        if head.store != self._seal.store:
            return "it belongs to another database"
        if not self._seal.made(head):
            return "it was not written by this server, or was changed"
        at = head.at
        if at.number > self.end.number:
            return (
                f"the log ends with link {self.end.number}, but it counts {at.number}: the end of"
                " the log was cut off, or an older database was put in its place"
            )
        if at.number >= self._start.number and self._seen.get(at.number) != at.hash:
            return f"it names another link {at.number}: the log was written anew"
        return ""


def _several(first: int, last: int) -> str:
    return f"link {first} is" if first == last else f"links {first} to {last} are"
