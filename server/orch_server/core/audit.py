"""The audit's chain: how a link is sealed, what is wrong with a log; docs/reference/audit.md.

Every link's hash is an HMAC over the hash before it and all that the link says, so that without the
key nobody can write, change or move one. Told is what the links of one authorization say of it. The
head says how far the log goes; it lies outside the
database, so that a cut tail shows too. The checkpoint stands for the links that were pruned.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from orch_server.core.authorization import AuthorizationState as State

#: The value of a column; None is a NULL.
Fact = str | int | None
#: The first link of every log.
STARTED = "audit.started"
REQUESTED = "authorization.requested"
_ESCALATED = "authorization.escalated"
_DECIDED, _CLOSED = (
    tuple(f"authorization.{state.lower()}" for state in states)
    for states in (
        (State.APPROVED, State.DENIED, State.EXPIRED, State.CANCELLED),
        (State.CONSUMED, State.LAPSED),
    )
)
_OUTCOME = ("state", "resolver", "proof", "reason", "resolved_at", "lapses_at")
#: What a link of this kind may tell anew of an authorization; all else stays as it was told first.
_ANEW: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_DECIDED, _OUTCOME),
    **dict.fromkeys(_CLOSED, ("state", "closed_at", "consume_request")),
    "authorization.moved": ("agent_id",),
}
#: What is so until a link tells something else.
_UNDECIDED: dict[str, Fact] = {
    **{"resolver": "", "proof": "", "reason": "", "resolved_at": None, "lapses_at": None},
    **{"closed_at": None, "consume_request": None},
}
_LEVEL = re.compile(r"(\S+):([0-9]{1,19})")


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
class ToldLevel:
    """What was told of a level; the times in microseconds since 1970."""

    receiver: str
    due_at: int
    told_at: int | None = None
    passed_over: int = 0


def levels_fact(levels: Collection[ToldLevel]) -> str:
    """The fact that tells the levels of a request."""
    return " ".join(f"{level.receiver}:{level.due_at}" for level in levels)


def told_fact(levels: Collection[ToldLevel]) -> str:
    """The fact that tells which levels were told, and not passed over, by their numbers."""
    told = (n for n, at in enumerate(levels, 1) if at.told_at is not None and not at.passed_over)
    return " ".join(map(str, told))


class Told:
    """What the links of one authorization say of it, taken in their order. A fact that is missing,
    or levels that are None, were not told: those links are pruned, or from an older server."""

    def __init__(self) -> None:
        self.facts: dict[str, Fact] = {}
        self.levels: list[ToldLevel] | None = None

    def take(self, link: Link) -> str:
        """Takes one more link; says where it contradicts those before, "" when it does not. So a
        row that was changed is found also after the server has told it on."""
        facts = _facts(link.facts)
        if facts is None:
            return ""  # no link of ours; the walk finds it
        wrong = self._take_levels(link, facts)
        if link.kind in _CLOSED:  # not told by an older server
            self.facts.pop("consume_request", None)
        for name, value in {**facts, **_own(link, facts)}.items():
            if name in _ANEW.get(link.kind, ()):
                self.facts[name] = value
            elif self.facts.setdefault(name, value) != value:
                wrong.append(name)
        return f"link {link.number} tells another {', '.join(wrong)}" if wrong else ""

    def rows(self) -> list[tuple[Fact, ...]] | None:
        """What the table must hold of the levels: level, receiver, due_at, told_at, open,
        passed_over. None when they were not told."""
        if self.levels is None:
            return None
        pending = self.facts.get("state") == State.PENDING
        rows: list[tuple[Fact, ...]] = []
        for number, at in enumerate(self.levels, 1):
            is_open = int(pending and at.told_at is None)
            rows.append((number, at.receiver, at.due_at, at.told_at, is_open, at.passed_over))
        return rows

    def _take_levels(self, link: Link, facts: dict[str, Fact]) -> list[str]:
        """Takes the facts about levels out of these; returns the names of those that contradict
        the links before."""
        names = ("levels", "level", "passed_over", "told")
        levels, level, passed, told = (facts.pop(name, None) for name in names)
        wrong = []
        if link.kind == REQUESTED and isinstance(levels, str):
            self.levels = [ToldLevel(to, int(due)) for to, due in _LEVEL.findall(levels)]
        elif self.levels is not None:
            wrong += ["levels"] if levels not in (None, levels_fact(self.levels)) else []
            wrong += ["told levels"] if told not in (None, told_fact(self.levels)) else []
        known = self.levels or []
        if link.kind == _ESCALATED and isinstance(level, int) and 1 <= level <= len(known):
            over = passed if isinstance(passed, int) else 0
            known[level - 1] = replace(known[level - 1], told_at=link.at, passed_over=over)
        return wrong


def _own(link: Link, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """What a link tells of an authorization besides its facts."""
    own: dict[str, Fact] = {"agent_id": link.agent, "session": link.session}
    if link.kind == REQUESTED:
        own |= _UNDECIDED
    elif link.kind in _DECIDED:
        own |= {"reason": link.detail, "resolved_at": link.at, "lapses_at": facts.get("lapses_at")}
        own |= {"closed_at": None, "consume_request": None}
    elif link.kind in _CLOSED:
        own["closed_at"] = link.at
        if "consume_request" in facts:  # a fact is no NULL
            own["consume_request"] = facts["consume_request"] or None
    return own


def _facts(text: str) -> dict[str, Fact] | None:
    """The facts in this text; None when it cannot be what `facts_text` has made."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or {type(value) for value in found.values()} - {str, int}:
        return None
    return found


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
