"""Supervision: when an idle agent is nudged, and when a matter is taken to the next level.

Pure. Times are monotonic seconds, so that a wall clock that is set changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from orch_server.core.session import Phase, Plan

MINUTE = 60.0
HOUR = 3600.0
#: An agent that moved so short a while ago is not idle; to nudge it then was wrong.
ACTIVE_WITHIN = 10.0
#: A turn that ends later than so long after a nudge is more than an answer to it.
REAL_WORK = 90.0
#: Not more than one text of supervision to one agent within this time: each costs tokens.
SPACING = MINUTE
#: When a matter is taken to each of its levels, counted from its beginning.
LADDER = (0.0, 5 * MINUTE, 15 * MINUTE)
#: So many matters are named in one text; and more alerts of a session at once are one.
NAMED, ALERTS = 10, 3
#: A lost client is no matter before this.
LOST_FOR = 2 * MINUTE


class NudgeReason(StrEnum):
    """Why an agent was nudged; see supervision.proto."""

    IDLE = "IDLE"
    GO_ON = "GO_ON"


class NotSent(StrEnum):
    """Why a nudge that was due was not sent; see NudgeCounts in supervision.proto."""

    NOTHING_CHANGED = "NOTHING_CHANGED"
    OVER_BUDGET = "OVER_BUDGET"
    NOT_WANTED = "NOT_WANTED"
    NO_CREDIT = "NO_CREDIT"
    SUSPENDED = "SUSPENDED"


class Matter(StrEnum):
    """Why an agent needs help; see supervision.proto."""

    DEAD = "DEAD"
    HUNG = "HUNG"
    UNANSWERED = "UNANSWERED"
    UNRESPONSIVE = "UNRESPONSIVE"
    LOST = "LOST"
    AUTH_FAILED = "AUTH_FAILED"


@dataclass(frozen=True, slots=True)
class Policy:
    """How long an agent of a session may be idle, the time between two nudges, and, when the
    session is throttled, between two texts of supervision to it; seconds."""

    idle_after: float
    cooldown: float
    cycle: float
    throttled: bool


#: Minutes by phase: (idle, cooldown). Specification 000, "adaptive intervals".
_BY_PHASE = {Phase.ACTIVE: (5, 5), Phase.REVIEW: (8, 7), Phase.IDLE: (12, 10)}
_CYCLE, _CYCLE_THROTTLED, _CYCLE_MAX5 = 120.0, 180.0, 240.0


def policy(phase: Phase, plan: Plan, limited: int, agents: int) -> Policy:
    """The policy of a session, so many of whose agents are usage-limited.

    Plan MAX5 allows more idleness, and is throttled from 30 % limited agents on, others from 50 %.
    """
    idle, cooldown = _BY_PHASE[phase]
    share = limited / agents if agents else 0.0
    if plan is Plan.MAX5:
        idle, cooldown = max(idle, 8), max(cooldown, 10)
        return Policy(idle * MINUTE, cooldown * MINUTE, _CYCLE_MAX5, share > 0.3)
    throttled = share > 0.5
    cycle = _CYCLE_THROTTLED if throttled else _CYCLE
    return Policy(idle * MINUTE, cooldown * MINUTE, cycle, throttled)


@dataclass(frozen=True, slots=True)
class Nudged:
    """The memory of the nudges of one agent: the times within the last hour and of the last one,
    its reason, and when one was last due and not sent."""

    sent: tuple[float, ...] = ()
    reason: NudgeReason = NudgeReason.IDLE
    withheld: float | None = None

    @property
    def last(self) -> float | None:
        """When the last one was sent."""
        return self.sent[-1] if self.sent else None

    def first_since(self, at: float) -> float | None:
        """When the first one was sent since then, as far as is remembered."""
        return next((t for t in self.sent if t >= at), None)

    def after(self, at: float, reason: NudgeReason) -> Nudged:
        """The memory after one more was sent."""
        recent = tuple(t for t in self.sent if t > at - HOUR)
        return Nudged((*recent, at), reason)

    def without(self, at: float) -> Nudged:
        """The memory after one was due and not sent."""
        return replace(self, withheld=at)


def nudge_due(idle_since: float, activity: float | None, nudged: Nudged, policy: Policy) -> float:
    """When the next nudge of an idle agent is due."""
    last = max((t for t in (nudged.last, nudged.withheld) if t is not None), default=None)
    due = idle_since + policy.idle_after
    if last is not None:
        due = max(due, last + policy.cooldown)
    return due if activity is None else max(due, activity + ACTIVE_WITHIN)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What speaks against a nudge that is due. `unwanted`: do-not-disturb, an operation, something
    it waits for, a note that is due soon, or text on its way. `news`: since the last nudge a text
    reached it, or the phase or plan of its session changed; or that nudge never reached it.
    `reason` is that of the nudge."""

    suspended: bool
    no_credit: bool
    unwanted: bool
    news: bool
    reason: NudgeReason


def withheld(
    idle_since: float, nudged: Nudged, budget: int, around: Circumstances, now: float
) -> NotSent | None:
    """Why a nudge that is due is not sent; None when it is."""
    if around.suspended:
        return NotSent.SUSPENDED
    if around.no_credit:
        return NotSent.NO_CREDIT
    if around.unwanted:
        return NotSent.NOT_WANTED
    if sum(1 for t in nudged.sent if t > now - HOUR) >= budget:
        return NotSent.OVER_BUDGET
    return None if _changed(idle_since, nudged, around) else NotSent.NOTHING_CHANGED


def _changed(idle_since: float, nudged: Nudged, around: Circumstances) -> bool:
    """Whether something has changed since the last nudge: real work, news, or that the
    orchestrator fell silent."""
    if nudged.last is None or around.news:
        return True
    if around.reason is NudgeReason.GO_ON and nudged.reason is not NudgeReason.GO_ON:
        return True
    return idle_since > nudged.last + REAL_WORK


@dataclass(frozen=True, slots=True)
class Escalation:
    """A matter and how far it was taken; see Escalation in supervision.proto."""

    id: str
    agent_id: str
    matter: Matter
    level: int
    created_at: datetime
    next_at: datetime | None
    ended_at: datetime | None
    detail: str


@dataclass(frozen=True, slots=True)
class Present:
    """A matter as it is now. `began` is monotonic and may lie ahead: it is none before then.
    `undecided`: just now nobody can tell whether it goes on, so nothing is done about it."""

    began: float
    detail: str
    undecided: bool = False


@dataclass(frozen=True, slots=True)
class Nudge:
    """A text that woke an idle agent; see supervision.proto."""

    id: str
    agent_id: str
    reason: NudgeReason
    delivery_id: str
    created_at: datetime
    false_alarm: bool


@dataclass(frozen=True, slots=True)
class NudgeCounts:
    """How many were sent, were false, and were not sent for each reason."""

    sent: int
    false_alarms: int
    not_sent: dict[NotSent, int]


def next_level_at(began: float, level: int) -> float | None:
    """When the level after this one is told; None after the last."""
    return began + LADDER[level] if level < len(LADDER) else None


_TEXTS = {
    NudgeReason.IDLE: (
        "[nudge] You have been idle for {minutes} min. If work of yours is left, go on with it. If"
        " you wait for somebody, say so: orch-client waiting add TARGET REASON. If all is done,"
        " report it: orch-client send {manager} TEXT."
    ),
    NudgeReason.GO_ON: (
        "[nudge] You have been idle for {minutes} min, and your orchestrator is silent ({why}). Do"
        " not wait for it: go on with your work by your own judgement."
    ),
}


def nudge_text(reason: NudgeReason, idle: float, why: str, role: str) -> str:
    """What an idle agent of this role is told."""
    manager = "orchestrator" if role == "project_manager" else "project_manager"
    return _TEXTS[reason].format(minutes=int(idle // MINUTE), why=why, manager=manager)


_SAID = {
    Matter.DEAD: "has died",
    Matter.HUNG: "hangs",
    Matter.UNANSWERED: "waits in a dialog that nobody answers",
    Matter.UNRESPONSIVE: "was nudged and does not move",
    Matter.LOST: "has lost its client",
    Matter.AUTH_FAILED: "is not let in by its provider",
}


def matter_text(address: str, matter: Matter, detail: str) -> str:
    """One matter as a sentence."""
    return f"{address} {_SAID[matter]}: {detail.rstrip('.') or 'no more is known'}."


def escalation_text(matters: list[str], level: int) -> str:
    """What one receiver is told of all that is due for him; not every one of very many."""
    head = "[escalation]" if level == 1 else f"[escalation, level {level}]"
    lines = [f"{head} Please see to it; 'orch-client why AGENT' tells more.", *matters[:NAMED]]
    if len(matters) > NAMED:
        lines.append(f"And {len(matters) - NAMED} more: orch-client escalations.")
    return "\n".join(lines)


def summary(session: str, matters: list[str]) -> str:
    """Many matters of a session that were told in vain, in a few sentences."""
    return (
        f"{len(matters)} matters of session {session} were told in vain: orch-client escalations."
        f" The first: {matters[0]}"
    )
