"""What must become of a task, by docs/reference/scheduling.md alone: a story in, its rows out.

Below: `wall.py` for times, `cases.py` for stories. Shares nothing with the server, on purpose.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import count

from tests.scheduling.cases import Case, Plan, Step
from tests.scheduling.wall import cron_times, resolve

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ZERO = timedelta(0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a story must leave behind."""

    rows: tuple[tuple[datetime, str, str], ...]  # nominal time (UTC), outcome, reason; in order
    state: str
    decided: dict[datetime, datetime]  # of the rows that are FIRED: nominal time, when it fired


def unending_times(plan: Plan, after: datetime) -> Iterator[datetime]:
    """Yield the nominal times of a plan that was made at `after`, its `until` left aside."""
    match plan.form, plan.value:
        case "delay", timedelta() as delay:
            yield after + delay
        case "at", str() as text:
            instant = resolve(text, plan.time_zone, after)
            if instant > after:
                yield instant
        case "every", timedelta() as every:
            yield from (after + number * every for number in count(1))
        case "cron", str() as text:
            yield from cron_times(text, plan.time_zone, after)


def last_time(plan: Plan, after: datetime) -> datetime | None:
    """Return the last moment at which a nominal time of the plan may be."""
    return resolve(plan.until, plan.time_zone, after) if plan.until else None


def nominal_times(plan: Plan, after: datetime) -> Iterator[datetime]:
    """Yield the nominal times (UTC) of a plan that was made at `after`, in order.

    All are strictly after `after`, but for a delay of 0, which is `after` itself.
    """
    last = last_time(plan, after)
    for nominal in unending_times(plan, after):
        if last is not None and nominal > last:
            return
        yield nominal


def due_time(plan: Plan, task_id: str, nominal: datetime, following: datetime | None) -> datetime:
    """Return when an occurrence is due; `following` is the next nominal time, `until` or not."""
    if not plan.jitter:
        return nominal
    span = plan.jitter if following is None else min(plan.jitter, following - nominal)
    text = f"{task_id}:{(nominal - EPOCH) // MICROSECOND}"
    part = int.from_bytes(blake2b(text.encode()).digest()[:8], "big")
    return nominal + MICROSECOND * (part * (span // MICROSECOND) >> 64)


class Agenda:
    """The occurrences of a plan that are still to be decided, in order, as (nominal, due)."""

    def __init__(self, plan: Plan, task_id: str, made_at: datetime) -> None:
        self._plan = plan
        self._task_id = task_id
        self._last = last_time(plan, made_at)
        self._times = unending_times(plan, made_at)
        self._drawn: list[datetime] = []

    def _nominal(self, index: int) -> datetime | None:
        while len(self._drawn) <= index:
            nominal = next(self._times, None)
            if nominal is None:
                return None
            self._drawn.append(nominal)
        return self._drawn[index]

    def peek(self, index: int) -> tuple[datetime, datetime] | None:
        """Return the occurrence that is `index` after the first, or None when there is none."""
        nominal = self._nominal(index)
        if nominal is None or (self._last is not None and nominal > self._last):
            return None
        following = self._nominal(index + 1) if self._plan.jitter else None
        return nominal, due_time(self._plan, self._task_id, nominal, following)

    def pop(self) -> None:
        """Strike the first occurrence out."""
        del self._drawn[0]


@dataclass(slots=True)
class Waiting:
    """Why the first occurrences, though due, are not decided yet. Forgotten when they are."""

    until: datetime | None = None  # rule 3: not looked at before then
    since: datetime | None = None  # rule 3: when the task was first put off, in this hold
    excused: list[tuple[datetime, datetime]] = field(default_factory=list)  # holds that are over
    paused: bool = False  # rule 2: a task that fires once waited

    def release(self, now: datetime) -> None:
        """The account was let go."""
        if self.since is not None:
            self.excused.append((self.since, now))
        self.since = self.until = None

    def late(self, due: datetime, now: datetime) -> timedelta:
        """Return how late an occurrence is by rule 4."""
        parts = (min(end, now) - max(start, due) for start, end in self.excused)
        return now - due - sum((max(part, ZERO) for part in parts), ZERO)


class Story:
    """One task, from its creation on; `now` is the last moment at which something happened."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.plan = case.plan
        self.agenda = Agenda(case.plan, case.task_id, case.created_at)
        self.waiting = Waiting()
        self.rows: dict[datetime, tuple[str, str]] = {}
        self.decided: dict[datetime, datetime] = {}
        self.over = ""  # the state in which the task ended
        self.words = {"up"}  # what is the case: up, paused, all paused, stuck
        self.hold: datetime | None = None  # until when the account is known to be limited
        self.pending = False  # the last delivery is still in the mailbox
        self.now = case.created_at - MICROSECOND

    @property
    def repeats(self) -> bool:
        return self.plan.form in ("every", "cron")

    def wakes_at(self) -> datetime | None:
        """Return when the server looks next by itself."""
        first = self.agenda.peek(0)
        if self.over or first is None or "up" not in self.words:
            return None
        wake = max(first[1], self.waiting.until or first[1])
        return wake if wake > self.now else None

    def look(self, now: datetime) -> None:
        """Decide what is due at `now`, in the order of the nominal times."""
        self.now = now
        if self.over or "up" not in self.words:
            return
        if self.waiting.until is not None and now < self.waiting.until:
            return
        while not self.over and (first := self.agenda.peek(0)) is not None:
            if first[1] > now:
                self.waiting = Waiting()
                return
            if first[0] not in self.rows and not self._decide(*first, now):
                return
            self.agenda.pop()
        self.over = self.over or "ENDED"

    def _decide(self, nominal: datetime, due: datetime, now: datetime) -> bool:
        """Apply rules 2 to 6 to one that is due; False when it stays undecided."""
        if self.words & {"paused", "all paused"}:
            if self.repeats:
                self._write(nominal, "SKIPPED", "PAUSED")
            self.waiting.paused = not self.repeats
            return self.repeats
        if self.hold is not None:
            self.waiting.until = self.hold
            self.waiting.since = self.waiting.since or now
            return False
        if self.waiting.late(due, now) > self.case.catch_up:
            self._write(nominal, "SKIPPED", "PAUSED" if self.waiting.paused else "MISSED")
            self.over = "" if self.repeats else "SKIPPED"
        elif reason := self._stood_for(now):
            self._write(nominal, "COALESCED", reason)
        else:
            self._fire(nominal, "", now)
        return True

    def _stood_for(self, now: datetime) -> str:
        """Return the reason of rule 5, empty when the first occurrence fires."""
        if self.case.missed == "ALL" or not self.repeats:
            return ""
        following = self.agenda.peek(1)
        if following is not None and following[1] <= now:
            return "USAGE_LIMITED" if self.waiting.excused else "MISSED"
        return "STILL_WAITING" if self.pending else ""

    def _write(self, nominal: datetime, outcome: str, reason: str) -> None:
        self.rows[nominal] = outcome, reason

    def _fire(self, nominal: datetime, reason: str, now: datetime) -> None:
        self._write(nominal, "FIRED", reason)
        self.decided[nominal] = now
        self.pending = "stuck" in self.words
        self.over = "" if self.repeats else "FIRED"

    def take(self, step: Step) -> None:
        """Let a step take effect, without the look that follows."""
        match step.word:
            case "up" | "stuck":
                self.words.add(step.word)
            case "down":
                self.words.discard("up")
            case "unstuck":
                self.words.discard("stuck")
                self.pending = False
            case "pause_all":
                self.words.add("all paused")
            case "resume_all":
                self.words.discard("all paused")
            case "hold":
                self.hold = step.until
            case "release":
                self.hold = None
                self.waiting.release(step.at)
            case _ if not self.over:
                self._command(step)

    def _command(self, step: Step) -> None:
        """Do what is done to the task itself; it is open."""
        match step.word:
            case "pause":
                self.words.add("paused")
            case "resume":
                self.words.discard("paused")
            case "cancel":
                self.over = "CANCELLED"
            case "run_now":
                first = self.agenda.peek(0)
                self._fire(step.at if self.repeats else first[0], "RUN_NOW", step.at)
            case "session_ends":
                self._write(self.agenda.peek(0)[0], "EXPIRED", "SESSION_ENDED")
                self.agenda.pop()
                while (put_off := self.agenda.peek(0)) is not None and put_off[1] <= step.at:
                    self._write(put_off[0], "EXPIRED", "SESSION_ENDED")
                    self.agenda.pop()
                self.over = "EXPIRED"
            case "reschedule":
                self.plan = step.plan
                self.agenda = Agenda(step.plan, self.case.task_id, step.at)
                self.waiting = Waiting()
            case other:
                raise ValueError(f"not a step: {other!r}")

    def until(self, moment: datetime) -> None:
        """Look at all that is due before `moment`."""
        while (wake := self.wakes_at()) is not None and wake < moment:
            self.look(wake)

    @property
    def state(self) -> str:
        return self.over or ("PAUSED" if "paused" in self.words else "PENDING")


def expected(case: Case) -> Verdict:
    """Tell a story to its end and say what must be there then."""
    story = Story(case)
    for step in case.steps:
        story.until(step.at)
        story.take(step)
        story.look(step.at)
    story.until(case.horizon)
    story.look(case.horizon)
    rows = tuple((nominal, *story.rows[nominal]) for nominal in sorted(story.rows))
    return Verdict(rows, story.state, story.decided)
