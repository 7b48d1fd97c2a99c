"""Which evidence tells an agent's state: the newest of each source, and the choice among them.

Pure. Times are monotonic seconds, so that a wall clock that is set changes no verdict. The rules
are told in docs/reference/agent-state.md and docs/decisions/0014-the-newer-evidence-counts.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from orch_server.core.agent_state import MAX_DETAIL, AgentState, EvidenceSource, Observation

_S = AgentState
#: A look that was made so soon after a hook, or after an end, may show what was before.
SETTLE = 1.0
#: A screen that claims to work and has not moved for so long hangs: every spinner counts seconds.
STILL = 120.0
#: Begins the detail of a limit that is over: the agent is idle then.
LIMIT_OVER = "limit over: "
#: What a client may tell by each source. UNKNOWN of a process: nothing is wrong there any more, or,
#: by the rule STARTED, that `run` has started it, and nobody can read its screen.
TELLS = {
    EvidenceSource.SCREEN: frozenset(_S) - {_S.SHELL, _S.DEAD, _S.HUNG},
    EvidenceSource.PROCESS: frozenset({_S.SHELL, _S.HUNG, _S.UNKNOWN}),
}
#: After these the agent is not there any more.
_OVER = frozenset({_S.SHELL, _S.DEAD})
#: An empty composer does not contradict these: it may stand below the message. Nor do they count
#: against a turn that ended well: then it is an answer that begins with the same words.
_FAILED = frozenset({_S.USAGE_LIMITED, _S.AUTH_FAILED})
#: In these states another line is another dialog, or another limit.
_TOLD_BY_LINE = frozenset({_S.WAITING_PERMISSION, _S.WAITING_ANSWER, _S.USAGE_LIMITED})
_START, _DONE = "SessionStart", "Stop"
STARTED = "started"


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that told a state: since when, `began`, and when it was last seen to, `seen`.
    `began_at` is for people; `reset_at` is the end of a usage limit, when it was said; `context` is
    that of the observation."""

    source: EvidenceSource
    state: AgentState
    rule: str
    detail: str
    began: float
    seen: float
    began_at: datetime
    reset_at: datetime | None = None
    context: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest of each source.

    `released`: the screen has said otherwise since the hook, which so does not count any more.
    `unread`: a screen, later than `screen`, that no rule knew, or a program that `run` has STARTED.
    `withdrawn`: the shell of `process` has something else in the foreground. `ended`: an exit that
    `run` saw, or the pane's end. `quiet`: for so long the screen had not moved when it was last
    seen. `forgotten`: a limit that was said up to then does not count any more.
    """

    hook: Sign | None = None
    released: bool = False
    screen: Sign | None = None
    unread: Sign | None = None
    process: Sign | None = None
    withdrawn: bool = False
    ended: Sign | None = None
    quiet: float = 0.0
    forgotten: float | None = None

    def all(self) -> list[Sign]:
        """The signs, the last seen first."""
        signs = (self.ended, self.process, self.hook, self.unread, self.screen)
        return sorted((s for s in signs if s is not None), key=lambda s: -s.seen)

    @property
    def by_process(self) -> Sign | None:
        """What a beat that read no screen shows again."""
        told = self.process or self.unread
        return told if told is not None and told.source is EvidenceSource.PROCESS else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sign that counts, None when nothing was seen, and the rule that chose it. `pending`: a
    mere look that shows the same again, or the passing of time, may change it."""

    sign: Sign | None
    rule: str
    pending: bool = False

    @property
    def state(self) -> AgentState:
        """The state that is shown."""
        return self.sign.state if self.sign is not None else _S.UNKNOWN


NOTHING = Verdict(None, "Nothing has told anything yet.")


# ---- what is seen ----


def same(old: Sign | None, new: Observation) -> bool:
    """Whether a look shows what an earlier one has shown, so that it goes on rather than begins."""
    if old is None or (old.source, old.state) != (new.source, new.state):
        return False
    if new.state not in _TOLD_BY_LINE:
        return True
    elsewhere = old.context != new.context and old.context != 0
    return (old.rule, old.detail) == (new.rule, new.detail) and not elsewhere


def after_hook(seen: Seen, hook: Sign) -> Seen:
    """A hook has told a state."""
    return _living(replace(seen, hook=hook, released=False))


def after_look(seen: Seen, look: Sign, quiet: float | None) -> Seen:
    """A client has looked and sees `look`; `quiet` is None when it cannot tell that."""
    if look.source is EvidenceSource.PROCESS:
        return _living(_after_process(seen, look))
    if look.state is _S.UNKNOWN:
        return _living(replace(seen, unread=look, process=None, withdrawn=False))
    released = seen.released or _contradicted(seen.hook, seen.screen, look, quiet or 0.0)
    after = replace(seen, screen=look, unread=None, process=None, withdrawn=False)
    return _living(replace(after, released=released, quiet=quiet or 0.0))


def looked_again(seen: Seen, now: float, quiet: float | None) -> Seen:
    """A client has looked, and sees what it told last. No `quiet`: no screen was read."""
    if seen.process is not None:
        if quiet is not None or seen.withdrawn:
            return seen
        return _living(_after_process(seen, replace(seen.process, seen=now)))
    if seen.unread is not None and (quiet is not None or seen.by_process is not None):
        return _living(replace(seen, unread=replace(seen.unread, seen=now)))
    if seen.screen is None or quiet is None:
        return seen
    screen = replace(seen.screen, seen=now)
    released = seen.released or _contradicted(seen.hook, screen, screen, quiet)
    return _living(replace(seen, screen=screen, released=released, quiet=quiet))


def after_end(seen: Seen, end: Sign) -> Seen:
    """The agent has exited, or its pane has ended: what was seen before is void. A crash that was
    seen is not made less by the end of the pane that follows it."""
    crashed = seen.ended is not None and seen.ended.state is _S.DEAD
    return seen if crashed and end.rule == "pane" else Seen(ended=end)


def _after_process(seen: Seen, look: Sign) -> Seen:
    """What was seen before it left its pane to a shell is void, but for a hook just now."""
    if look.state is _S.UNKNOWN and look.rule == STARTED:
        return replace(seen, unread=look, process=None, withdrawn=False, ended=None)
    if look.state is _S.UNKNOWN:
        stopped = seen.process is not None and seen.process.state is _S.HUNG
        return replace(seen, process=None) if stopped else replace(seen, withdrawn=True)
    if look.state is _S.HUNG:
        return replace(seen, process=look, withdrawn=False)
    old = seen.hook is not None and seen.hook.seen < look.seen - SETTLE
    released = seen.released or old
    after = replace(seen, process=look, withdrawn=False, screen=None, unread=None)
    return replace(after, released=released)


def _living(seen: Seen) -> Seen:
    """Forgets an end after which life was seen: a conversation that began, or anything later than
    what may have been on its way."""
    end, hook = seen.ended, seen.hook
    if end is None:
        return seen
    settled = end.began + SETTLE
    if hook is not None and hook.state not in _OVER:
        started = hook.rule == _START and hook.began > end.began
        if started or hook.began >= settled:
            return replace(seen, ended=None)
    looks = (seen.screen, seen.unread, seen.process)
    alive = any(s is not None and s.state not in _OVER and s.seen >= settled for s in looks)
    return replace(seen, ended=None) if alive else seen


def _contradicted(hook: Sign | None, before: Sign | None, look: Sign, quiet: float) -> bool:
    """Whether a reading of the screen shows that what a hook told is over."""
    shown = _S.HUNG if _is_still(look, quiet) else look.state
    if hook is None or shown is hook.state or look.seen < hook.seen + SETTLE:
        return False
    if shown is _S.IDLE and hook.state in _FAILED:
        return before is not None and before.state is hook.state and before.seen >= hook.began
    return not (shown in _FAILED and hook.rule == _DONE)


# ---- what counts ----


def fuse(seen: Seen, now: datetime) -> Verdict:
    """Chooses among what was seen: the order of these tests is the rule. `now` is the wall clock's,
    since the end of a limit is."""
    if seen.ended is not None:
        return Verdict(seen.ended, "Its end was seen, and no life of it since.", pending=True)
    hook = None if seen.released else _unlimited(seen.hook, seen, now)
    if seen.process is not None and not _outdates(hook, seen.process):
        return Verdict(seen.process, "What its processes show counts before hooks and screen.")
    if hook is not None:
        return _by_hook(hook, seen)
    screen = _unlimited(seen.screen, seen, now)
    if screen is None:
        return _by_nothing(seen)
    if _is_still(screen, seen.quiet):
        return Verdict(_still(screen, seen.quiet), "A screen that works and stands still hangs.")
    pending = screen.state is _S.USAGE_LIMITED
    if seen.hook is None:
        return Verdict(screen, "No hook has told anything, so its screen counts.", pending)
    return Verdict(screen, "Its screen has said otherwise since the last hook.", pending)


def _by_hook(hook: Sign, seen: Seen) -> Verdict:
    """A screen that shows the same confirms it."""
    rule = "Its last hook counts until its screen says otherwise."
    screen, limited = seen.screen, hook.state is _S.USAGE_LIMITED
    if seen.process is not None:
        return Verdict(hook, rule, pending=True)
    if screen is None or screen.state is not hook.state:
        looked = screen is not None and seen.unread is None
        return Verdict(hook, rule, pending=looked or limited)
    return Verdict(replace(hook, seen=max(hook.seen, screen.seen)), rule, pending=limited)


def _by_nothing(seen: Seen) -> Verdict:
    if seen.unread is not None:
        return Verdict(seen.unread, "It runs, but no rule knows its screen.")
    return NOTHING


def _outdates(hook: Sign | None, process: Sign) -> bool:
    """Whether a hook is newer than what its processes show: it proves that the agent is there. A
    look just after its start may show the shell that was there before."""
    if hook is None or hook.state in _OVER:
        return False
    settle = SETTLE if hook.rule == _START else 0.0
    return hook.seen > process.seen - settle


def _unlimited(told: Sign | None, seen: Seen, now: datetime) -> Sign | None:
    """A limit whose time is over, or that was lifted, leaves an idle agent."""
    if told is None or told.state is not _S.USAGE_LIMITED:
        return told
    lifted = seen.forgotten is not None and told.began <= seen.forgotten
    if not lifted and (told.reset_at is None or told.reset_at > now):
        return told
    return replace(told, state=_S.IDLE, detail=f"{LIMIT_OVER}{told.detail}", reset_at=None)


def _is_still(screen: Sign, quiet: float) -> bool:
    return screen.state is _S.WORKING and quiet >= STILL


def _still(screen: Sign, quiet: float) -> Sign:
    return replace(
        screen,
        source=EvidenceSource.ACTIVITY,
        state=_S.HUNG,
        rule="still",
        detail=f"it claims to work ({screen.rule}), and its screen has not moved for"
        f" {int(quiet)} s"[:MAX_DETAIL],
    )


# ---- after a restart ----


def restored(told: Sign | None, now: float) -> Seen:
    """What is known from the one sign that counted before the server was started anew."""
    if told is None:
        return Seen()
    if told.state is _S.IDLE and told.detail.startswith(LIMIT_OVER):
        detail = told.detail.removeprefix(LIMIT_OVER)
        limit = replace(told, state=_S.USAGE_LIMITED, detail=detail)
        return replace(restored(limit, now), forgotten=now)
    if told.source is EvidenceSource.HOOK:
        return Seen(hook=told)
    if told.state is _S.UNKNOWN:
        return Seen(unread=told)
    if told.source is EvidenceSource.PROCESS:
        known = told.state is _S.HUNG or told.rule == "foreground"
        return Seen(process=told) if known else Seen(ended=told)
    if told.source is EvidenceSource.ACTIVITY:
        works = replace(told, source=EvidenceSource.SCREEN, state=_S.WORKING)
        return Seen(screen=works, quiet=STILL)
    return Seen(screen=told)


#: What would change a state, in a sentence.
WOULD_CHANGE = {
    _S.UNKNOWN: "A hook of the agent, or a client in its pane that reads its screen, would tell.",
    _S.STARTING: "A composer on its screen, or its hook SessionStart, makes it idle.",
    _S.WORKING: "The end of its turn (hook Stop, or an empty composer) makes it idle; a screen that"
    " does not move for 120 s makes it hung.",
    _S.IDLE: "A prompt (hook UserPromptSubmit, or a spinner on its screen) makes it working.",
    _S.WAITING_PERMISSION: "An answer to its dialog, seen on the screen or by its next hook.",
    _S.WAITING_ANSWER: "An answer to its question, seen on the screen or by its next hook.",
    _S.USAGE_LIMITED: "A turn of it, its reset time, or 'orch-client credit release'.",
    _S.AUTH_FAILED: "A turn of it, after a person has logged it in.",
    _S.SHELL: "An agent that is started in its pane.",
    _S.DEAD: "An agent that is started in its place.",
    _S.HUNG: "A movement on its screen, a process that goes on, or a hook of it.",
}
