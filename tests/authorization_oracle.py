"""What docs/reference/authorization.md allows, said a second time, without the product's code.

It is given what callers asked and were answered, the log of events and the rows that are left, and
returns every fault it sees. Each check is one function over one request; the events' numbers are
the order in which things happened, the calls' times bound them from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

ENDS = ("approved", "denied", "expired", "cancelled")
SPENT = ("consumed", "lapsed")
VERDICTS = {"approve": "approved", "deny": "denied", "cancel": "cancelled"}
USES = ("consume", "check")
HUMAN = "human"


@dataclass(frozen=True)
class Kind:
    """A class of actions, as the policy of the stories has it."""

    name: str
    word: str
    approvers: tuple[str, ...]
    timeout: timedelta
    lapse: timedelta
    human: bool = False
    reason: bool = False


@dataclass(frozen=True)
class Rules:
    """The policy of the stories; the last class is for all other actions."""

    kinds: tuple[Kind, ...]
    escalation: tuple[str, ...]
    escalate_at: tuple[float, ...]

    def kind(self, words: str) -> Kind:
        """The class of these words."""
        return next((k for k in self.kinds if k.word and k.word in words), self.kinds[-1])

    def levels(self, asked: str, timeout: timedelta) -> list[tuple[str, timedelta]]:
        """Who is told when; one that was asked is left out, and those after it move up."""
        left = [role for role in self.escalation if role != asked]
        return [(role, timeout * self.escalate_at[n]) for n, role in enumerate(left)]


@dataclass(frozen=True)
class Who:
    """A caller: the operator, or an agent "session:role"; `pane` is where he sits, "" when that
    cannot be known; `place` where the agent lives, as an approval is bound to it, after so many
    `moves`."""

    name: str
    pane: str = ""
    place: str = ""
    moves: int = 0

    @property
    def is_operator(self) -> bool:
        """Whether it is no agent."""
        return self.name == "operator"

    @property
    def session(self) -> str:
        """The agent's session."""
        return self.name.partition(":")[0]

    @property
    def role(self) -> str:
        """The agent's role."""
        return self.name.partition(":")[2]


@dataclass
class Call:
    """A call: "request", "check", "approve", "deny", "cancel", "escalate" or "consume". `outcome`
    is "ok", "refused", or "unknown" when the server went away meanwhile; `before` and `after` are
    the last event that was known then, `begun` and `done` count the beginnings and ends of all
    calls. A blurred one was made while its caller moved."""

    kind: str
    who: Who
    started: datetime
    before: int
    subject: str = ""
    words: str = ""
    tool: str = ""
    cwd: str = ""
    asked: str = ""
    timeout: timedelta = timedelta(0)
    reason: bool = False
    passphrase: bool = False
    request_id: str = ""
    blurred: bool = False
    outcome: str = "unknown"
    said: str = ""
    ended: datetime | None = None
    after: int = 1 << 60
    begun: int = 0
    done: int = 1 << 60

    def during(self, event: Event) -> bool:
        """Whether the event may be what the call did."""
        return (
            self.before < event.number <= self.after
            and self.started <= event.at
            and (self.ended is None or event.at <= self.ended)
        )

    def __str__(self) -> str:
        more = {
            "id": self.subject,
            "words": self.words,
            "tool": self.tool,
            "cwd": self.cwd,
            "to": self.asked,
            "pane": self.who.pane,
            "place": self.who.place,
            "reason": self.reason,
            "passphrase": self.passphrase,
            "request_id": self.request_id,
            "blurred": self.blurred,
        }
        shown = " ".join(f"{name}={value}" for name, value in more.items() if value)
        ended = self.ended.strftime("%H:%M:%S.%f") if self.ended else "?"
        return (
            f"{self.started:%H:%M:%S.%f} to {ended}, events {self.before} to {self.after}:"
            f" {self.who.name} {self.kind} {shown} -> {self.outcome} {self.said}"
        )


@dataclass(frozen=True)
class Event:
    """A row of the log; `kind` without the noun."""

    number: int
    at: datetime
    kind: str
    subject: str
    actor: str
    detail: str


@dataclass
class Asked:
    """A request as it is left: its row, its levels, events, calls, texts and alerts."""

    id: str
    row: dict[str, Any]
    levels: list[dict[str, Any]]
    events: list[Event] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def origin(self) -> Call | None:
        """The call that made it; None when its answer was lost."""
        made = (c for c in self.calls if c.kind in ("request", "check") and c.outcome == "ok")
        return next((c for c in made if self.asking.number > c.before), None)

    @property
    def asking(self) -> Event:
        """The event of the request."""
        return self.events[0]

    @property
    def requester(self) -> str:
        """The agent that asked."""
        return f"{self.row['session']}:{self.row['requester_role']}"

    def first(self, *kinds: str) -> Event | None:
        """The first event of these kinds."""
        return next((e for e in self.events if e.kind in kinds), None)

    def calls_of(self, *kinds: str) -> list[Call]:
        """The calls of these kinds."""
        return [c for c in self.calls if c.kind in kinds]

    def story(self) -> str:
        """All that is known of it, in order, to be shown with a fault."""
        lines = [
            f"  {e.number}: {e.at:%H:%M:%S.%f} {e.kind} by {e.actor} {e.detail}"
            for e in self.events
        ]
        return "\n".join(
            [f"authorization {self.id} {self.row}", *lines, *(f"  {c}" for c in self.calls)]
        )


@dataclass(frozen=True)
class Move:
    """A pane took another role: what was open of one agent became another's, after the event
    `before` and not after the event `after`."""

    old: str
    new: str
    before: int
    after: int


@dataclass
class Log:
    """All that is looked at. `came` has for each agent's id the events with which it came (True) or
    ended; `names` its "session:role"; `closed` says that there is a passphrase."""

    rules: Rules
    requests: dict[str, Asked]
    calls: list[Call]
    came: dict[str, list[tuple[int, bool]]]
    names: dict[str, str]
    moves: list[Move]
    closed: bool
    end: datetime

    def agent(self, name: str, number: int) -> str:
        """The id of the agent of this name, if it was there before this event and had not ended."""
        for agent, given in self.names.items():
            past = [there for at, there in self.came.get(agent, []) if at < number]
            if given == name and past and past[-1]:
                return agent
        return ""


def faults(log: Log) -> list[str]:
    """Everything that is not as the rules say; each with the story of its request."""
    found = []
    for asked in log.requests.values():
        if not asked.events or asked.asking.kind != "requested":
            found.append(f"a row without its first event\n{asked.story()}")
            continue
        for check in _CHECKS:
            found.extend(f"{fault}\n{asked.story()}" for fault in check(log, asked))
    found.extend(_answers_kept(log))
    found.extend(_gate(log))
    return found


# ---- one request ----


def _states(log: Log, asked: Asked) -> Iterator[str]:
    """One end, one use; nothing after an end; and the row says the same."""
    ends = [e for e in asked.events if e.kind in ENDS]
    spent = [e for e in asked.events if e.kind in SPENT]
    if len([e for e in asked.events if e.kind == "requested"]) != 1:
        yield "requested more than once"
    if len(ends) > 1:
        yield f"decided {len(ends)} times"
    if len(spent) > 1:
        yield f"used up {len(spent)} times"
    if spent and (not ends or ends[0].kind != "approved" or ends[0].number > spent[0].number):
        yield f"{spent[0].kind} without an approval before"
    last = (spent or ends or [asked.asking])[-1].kind
    state = "PENDING" if last == "requested" else last.upper()
    if asked.row["state"] != state:
        yield f"the row says {asked.row['state']}, the events {state}"
    if ends and (asked.row["resolved_at"], asked.row["resolver"]) != (ends[0].at, ends[0].actor):
        yield "the row has another decision than the log"
    if any(e.kind not in ("requested", "escalated", *ENDS, *SPENT) for e in asked.events):
        yield "an unknown event"


def _as_asked(log: Log, asked: Asked) -> Iterator[str]:
    """Deadline, levels and class are those of the policy at the time of the request."""
    call = asked.origin
    if call is None:
        return
    kind = log.rules.kind(call.words)
    at, row = asked.row["created_at"], asked.row
    timeout = call.timeout or kind.timeout
    if not call.started <= at <= (call.ended or at):
        yield "it was not created while it was asked for"
    if row["deadline_at"] != at + timeout:
        yield f"the deadline is not {timeout} after the request"
    if row["approvers"].split() != list(kind.approvers):
        yield "other approvers than the class has"
    planned = [
        (role, at + after) for role, after in log.rules.levels(row["approver_role"], timeout)
    ]
    if planned != [(one["receiver"], one["due_at"]) for one in asked.levels]:
        yield "other levels than the policy has"
    if asked.requester != call.who.name and not call.blurred:
        yield "it is in another agent's name"


def _in_time(log: Log, asked: Asked) -> Iterator[str]:
    """Decisions before the deadline, uses before the end of the approval, silence not before."""
    deadline, end = asked.row["deadline_at"], asked.first(*ENDS)
    if end is not None and end.kind in ("approved", "denied") and end.at >= deadline:
        yield f"{end.kind} at or after the deadline {deadline}"
    if end is not None and end.kind == "expired" and end.at < deadline:
        yield f"expired before its deadline {deadline}"
    for call in asked.calls_of("approve", "deny"):
        if call.outcome == "ok" and call.started >= deadline:
            yield f"a decision was taken that came at or after the deadline {deadline}: {call}"
    spent = asked.first(*SPENT)
    if spent is None or end is None:
        return
    lapse = end.at + _kind(log, asked).lapse
    if asked.row["lapses_at"] != lapse:
        yield f"the approval does not end at {lapse}"
    if spent.kind == "consumed" and spent.at >= lapse:
        yield f"used at or after its end {lapse}"
    if spent.kind == "lapsed" and spent.at < lapse:
        yield f"lapsed before its end {lapse}"


def _overdue(log: Log, asked: Asked) -> Iterator[str]:
    """At the end, when all that is due has been done, nothing overdue is left."""
    if asked.row["state"] == "PENDING" and asked.row["deadline_at"] <= log.end:
        yield "overdue, and never expired"
    if asked.row["state"] == "APPROVED" and asked.row["lapses_at"] <= log.end:
        yield "over, and never lapsed"
    untold = (one for one in asked.levels if one["told_at"] is None and one["due_at"] <= log.end)
    if asked.row["state"] == "PENDING" and any(untold):
        yield "a level was due, and never told"


def _decided_by_right(log: Log, asked: Asked) -> Iterator[str]:
    """Someone decided who was entitled at that moment, gave what was needed, and was answered."""
    event = asked.first("approved", "denied", "cancelled")
    if event is None:
        return
    verdicts = [verb for verb, kind in VERDICTS.items() if kind == event.kind]
    made = [c for c in asked.calls_of(*verdicts) if _named(c, event) and c.during(event)]
    may = [c for c in made if c.outcome != "refused"]
    if not made:
        yield f"{event.kind}, but nobody of that name called"
    elif not may:
        yield f"{event.kind}, but the call was refused"
    elif not any(c.blurred or not _why_not(log, asked, c, event) for c in may):
        yield f"{event.kind} by one who may not: {_why_not(log, asked, may[0], event)}"


def _why_not(log: Log, asked: Asked, call: Call, event: Event | None) -> str:
    """Why this call must not decide, seen just before this event (None: now); "" when it may."""
    who, row, kind = call.who, asked.row, _kind(log, asked)
    if call.kind == "cancel":
        return "" if who.is_operator or who.name in _perhaps(log, asked) else "not the requester"
    if who.name in _owners(log, asked):
        return "the requester himself"
    if who.pane and who.pane == row["requester_pane"]:
        return "in the pane that asked"
    told = _told(asked, event.number if event else call.before + 1)
    if not who.is_operator and (who.session, who.role in (*kind.approvers, *told)) != (
        row["session"],
        True,
    ):
        return "a role that is not entitled"
    if not call.reason and (call.kind == "deny" or kind.reason):
        return "no reason"
    human = who.is_operator or (kind.human and call.kind == "approve")
    return "no passphrase" if log.closed and human and not call.passphrase else ""


def _named(call: Call, event: Event) -> bool:
    """Whether the event is in the caller's name, which is not known while he moves."""
    return call.blurred or event.actor == call.who.name


def _one_answer(log: Log, asked: Asked) -> Iterator[str]:
    """Of all who decide or withdraw one is told yes, and what he was told is in the log."""
    said = [c for c in asked.calls_of(*VERDICTS) if c.outcome == "ok"]
    if len(said) > 1:
        yield f"{len(said)} callers were told that they had decided"
    for call in said:
        event = asked.first(VERDICTS[call.kind])
        if event is None or not call.during(event) or not _named(call, event):
            yield f"an acknowledged decision is not in the log: {call}"


def _not_refused_for_nothing(log: Log, asked: Asked) -> Iterator[str]:
    """Who was entitled, and came while all was as it must be, was not refused."""
    end = asked.first(*ENDS)
    if len(_perhaps(log, asked)) > 1:
        return
    for call in asked.calls_of("approve", "deny"):
        if not _was_refused(call) or (log.closed and call.passphrase):
            continue  # too many passphrases at once are refused, too
        was_open = call.ended is not None and call.ended < asked.row["deadline_at"]
        was_open = was_open and _came_later(asked, end, call, *VERDICTS)
        if was_open and not _why_not(log, asked, call, None):
            yield f"refused, though he may: {call}"
    if end is None or end.kind != "approved" or asked.origin is None or asked.origin.blurred:
        return
    spent, over = asked.first(*SPENT), end.at + _kind(log, asked).lapse
    for call in asked.calls_of("consume"):
        if not _was_refused(call) or _misfit(asked, call) or call.ended is None:
            continue
        fresh = end.number <= call.before and call.ended < over
        if fresh and _came_later(asked, spent, call, *USES):
            yield f"an unused approval could not be used: {call}"


def _came_later(asked: Asked, event: Event | None, call: Call, *kinds: str) -> bool:
    """Whether the event, if there is one at all, was surely done after the end of this call; that
    nobody called for it means that time did it, and then there are times to be looked at."""
    made = [c for c in asked.calls_of(*kinds) if event is not None and c.during(event)]
    return event is None or all(c.begun > call.done for c in made)


def _was_refused(call: Call) -> bool:
    return call.outcome == "refused" and not call.blurred


def _used_by_right(log: Log, asked: Asked) -> Iterator[str]:
    """Used once, by the agent that asked, where it asked, for what was approved."""
    used = [c for c in asked.calls_of(*USES) if c.outcome == "ok" and c.said != "PENDING"]
    used = [c for c in used if c.said != "DENIED"]
    event = asked.first("consumed")
    if used and event is None:
        yield f"an acknowledged use is not in the log: {used[0]}"
    ids = {c.request_id for c in used}
    if len(used) > 1 and (len(ids) > 1 or "" in ids):
        yield f"{len(used)} callers were told that they might act"
    for call in used:
        if not call.blurred and _misfit(asked, call):
            yield f"used for something else: {_misfit(asked, call)}: {call}"
    if event is None:
        return
    tried = [c for c in asked.calls if c.kind in USES and c.during(event)]
    lost = [c for c in log.calls if c.kind == "check" and c.outcome == "unknown"]
    tried += [c for c in lost if c.words == asked.row["arguments"] and c.during(event)]
    if not any(c.outcome != "refused" and (c.blurred or not _misfit(asked, c)) for c in tried):
        yield "used, but by no call that fits"


def _misfit(asked: Asked, call: Call) -> str:
    """How this use is not what was approved; "" when it is."""
    origin, row = asked.origin, asked.row
    if call.who.name != asked.requester:
        return "another agent"
    if (call.tool, call.cwd) != (row["tool"], row["cwd"]):
        return "another tool or folder"
    if call.words != row["arguments"] and not (call.kind == "consume" and not call.words):
        return "another action"
    if origin is not None and not origin.blurred and call.who.place != origin.who.place:
        return "another place"
    return ""


def _levels(log: Log, asked: Asked) -> Iterator[str]:
    """Each level once, in order, while the request waits, when it is due or somebody asked."""
    end, told = asked.first(*ENDS), [e for e in asked.events if e.kind == "escalated"]
    names = [e.detail.partition(":")[0] for e in told]
    planned = [one["receiver"] for one in asked.levels]
    if names != planned[: len(names)]:
        yield f"the levels {planned} were told as {names}"
        return
    passed: Event | None = None
    known = len(_perhaps(log, asked)) == 1
    at_once = not _first_asked(log, asked)
    if known and at_once and planned and (not told or told[0].at != asked.asking.at):
        yield "nobody could be asked, and the next level was not told at once"
    for event, level in zip(told, asked.levels, strict=False):
        if level["told_at"] != event.at:
            yield f"the level {level['receiver']} was told at another time than the row says"
        if (end is not None and event.number > end.number) or event.at >= asked.row["deadline_at"]:
            yield f"the level {level['receiver']} was told after the end"
        follows = passed is not None and passed.actor == event.actor and passed.at == event.at
        calls = [c for c in asked.calls_of("escalate") if _named(c, event)]
        calls = [c for c in calls if c.outcome != "refused" and c.during(event)]
        follows = follows or (at_once and event is told[0]) or not known
        if event.actor == "" and event.at < level["due_at"] and not follows:
            yield f"the level {level['receiver']} was told before it was due"
        if event.actor != "" and not calls:
            yield f"the level {level['receiver']} was told, but nobody had asked for it"
        yield from _passed_over(log, asked, event, level["receiver"])
        passed = None if event.detail.endswith(": told") else event


def _passed_over(log: Log, asked: Asked, event: Event, role: str) -> Iterator[str]:
    """Only a role that nobody has, but for the requester, is passed over."""
    agent = log.agent(f"{asked.row['session']}:{role}", event.number)
    there = role == HUMAN or (agent != "" and log.names[agent] not in _owners(log, asked))
    if event.detail.endswith(": told") != there and len(_perhaps(log, asked)) == 1:
        yield f"the level {role} was {event.detail!r}, but it is {'' if there else 'not '}there"


def _first_asked(log: Log, asked: Asked) -> bool:
    """Whether an agent other than the requester had the role that was asked first."""
    first = log.agent(f"{asked.row['session']}:{asked.row['approver_role']}", asked.asking.number)
    return first != "" and log.names[first] != asked.requester


def _texts(log: Log, asked: Asked) -> Iterator[str]:
    """One text for the decision, one for each that was asked, one alert for a human, no other."""
    end = asked.first(*ENDS)
    words = [f"Authorization {asked.id} {kind}" for kind in ENDS]
    decided = [t for t in asked.texts if t["text"].startswith(tuple(words))]
    wanted = 0 if end is None or end.kind == "cancelled" else 1
    if len(decided) != wanted:
        yield f"{len(decided)} texts tell of the decision, not {wanted}"
    for text in decided:
        if end is not None and not text["text"].startswith(f"Authorization {asked.id} {end.kind}"):
            yield "a text tells of another decision"
        if log.names[text["agent_id"]] not in _perhaps(log, asked):
            yield "another agent was told of the decision"
    told = {*_told(asked, 1 << 60)}
    if _first_asked(log, asked):
        told.add(asked.row["approver_role"])
    questions = [t for t in asked.texts if t not in decided]
    receivers = sorted(log.names[t["agent_id"]].partition(":")[2] for t in questions)
    if receivers != sorted(told):
        yield f"{receivers} were asked, and not {sorted(told)}"
    if any(log.names[t["agent_id"]].partition(":")[0] != asked.row["session"] for t in asked.texts):
        yield "another session has a text"
    human = [e for e in asked.events if e.kind == "escalated" and e.detail.startswith(f"{HUMAN}:")]
    if len(asked.alerts) != len(human) or any(a["suppressed"] for a in asked.alerts):
        yield f"{len(asked.alerts)} alerts for {len(human)} levels"


_CHECKS = (
    _states,
    _as_asked,
    _in_time,
    _overdue,
    _decided_by_right,
    _one_answer,
    _not_refused_for_nothing,
    _used_by_right,
    _levels,
    _texts,
)


def _kind(log: Log, asked: Asked) -> Kind:
    return log.rules.kind(asked.row["arguments"])


def _owners(log: Log, asked: Asked) -> set[str]:
    """Who asked, and whose request it is now that his pane has another role."""
    return {asked.requester, log.names[asked.row["agent_id"]]}


def _perhaps(log: Log, asked: Asked) -> set[str]:
    """Whose request it may have been at any time."""
    found, end = _owners(log, asked), asked.first(*ENDS)
    for move in log.moves:
        late = end is not None and move.before >= end.number
        if move.old in found and move.after >= asked.asking.number and not late:
            found.add(move.new)
    return found


def _told(asked: Asked, number: int) -> list[str]:
    """The roles that were told as a level before this event; a human has no role."""
    told = [e for e in asked.events if e.kind == "escalated" and e.number < number]
    names = (e.detail.partition(":") for e in told)
    return [role for role, _, outcome in names if outcome == " told" and role != HUMAN]


# ---- all of them ----


def _answers_kept(log: Log) -> Iterator[str]:
    """What was acknowledged is there: over restarts, too."""
    for call in log.calls:
        if call.outcome == "ok" and call.subject and call.subject not in log.requests:
            yield f"an acknowledged request is lost: {call}"
        elif call.kind == "request" and call.outcome == "ok" and not call.blurred:
            asked = log.requests[call.subject]
            if (asked.requester, asked.row["arguments"]) != (call.who.name, call.words):
                yield f"answered with another request: {call}\n{asked.story()}"


def _gate(log: Log) -> Iterator[str]:
    """The gate: what a rule decides, what an approval or a denial of the very same decides."""
    by_key: dict[tuple[str, ...], list[Asked]] = {}
    for asked in log.requests.values():
        call = asked.origin
        if asked.row["tool"] and call is not None and not call.blurred:
            by_key.setdefault((call.who.name, call.who.place, call.words, call.cwd), []).append(
                asked
            )
    for same in by_key.values():
        for asked in same:
            yield from (f"{fault}\n{asked.story()}" for fault in _asked_anew(log, asked, same))
    for call in log.calls:
        if call.kind == "check" and call.outcome == "ok":
            story = log.requests[call.subject].story() if call.subject in log.requests else ""
            yield from (f"{fault}: {call}\n{story}" for fault in _verdict(log, call))


def _asked_anew(log: Log, asked: Asked, same: list[Asked]) -> Iterator[str]:
    """Nobody is asked again while the very same waits, is approved and unused, or was denied."""
    number, at = asked.asking.number, asked.asking.at
    for other in same:
        if other is asked or other.asking.number > number:
            continue
        past = [e for e in other.events if e.number < number and e.kind != "escalated"]
        last, lapse = past[-1], _kind(log, other).lapse
        if last.kind == "requested" and at < other.row["deadline_at"]:
            yield f"asked though {other.id} waits"
        if last.kind in ("approved", "denied") and at < last.at + lapse:
            yield f"asked though {other.id} was {last.kind} and is not over"


def _verdict(log: Log, call: Call) -> Iterator[str]:
    """The answer of the gate to one call."""
    rule = {"Read": "ALLOWED", "Forbidden": "DENIED"}.get(call.tool)
    if rule is not None or not call.subject:
        if (rule, bool(call.subject)) != (call.said, False):
            yield "not what the policy's rule says"
        return
    asked = log.requests.get(call.subject)
    if asked is None:
        return
    if not call.blurred and _misfit(asked, call):
        yield f"about something else: {_misfit(asked, call)}"
    used = asked.first("consumed")
    if call.said == "DENIED" and used is not None:
        # The same call once more, long after it was answered.
        if call.ended is not None and call.ended < used.at + _kind(log, asked).lapse:
            yield "DENIED, but it was allowed a moment ago"
        return
    wanted = {"ALLOWED": "consumed", "DENIED": "denied", "PENDING": "requested"}[call.said]
    event, end = asked.first(wanted), asked.first(*ENDS)
    if event is None or event.number > call.after:
        yield f"{call.said}, but it was not {wanted}"
    elif call.said == "DENIED" and call.started >= event.at + _kind(log, asked).lapse:
        yield "the denial is over"
    elif call.said == "PENDING" and (
        call.started >= asked.row["deadline_at"] or (end is not None and end.number <= call.before)
    ):
        yield "it does not wait any more"
