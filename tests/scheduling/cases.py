"""Stories for the scheduler: what a case is, and a seeded generator of them.

Above: the oracle and the tests that compare it with a server. Below: `wall.py`.
Instants are aware and in UTC. What is planned has even microseconds, a step has odd ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from random import Random

from tests.scheduling.draws import PLACES, expression
from tests.scheduling.wall import cron_times, resolve, shown

MOST = 40  # occurrences in a story, about
MOST_STEPS = 6
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
LONGEST = 20 * HOUR  # episode
SPANS = (3 * HOUR, 8 * HOUR, 24 * HOUR, 30 * HOUR, 48 * HOUR, 72 * HOUR)
CATCH_UPS = tuple(timedelta(seconds=s) for s in (10, 300, 1800, 3600, 3600, 14400, 43200, 86400))
JITTERS = tuple(timedelta(seconds=s) for s in (0.000001, 30, 120, 600, 3600, 86400))


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule as the API takes it."""

    form: str  # "delay", "at", "every" or "cron"
    value: str | timedelta  # a timedelta for "delay" and "every"
    time_zone: str  # IANA, never empty
    jitter: timedelta = timedelta(0)
    until: str = ""  # the forms of "at"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens.

    The words: down, up, pause, resume, pause_all, resume_all, hold, release, stuck, unstuck,
    run_now, cancel, session_ends, reschedule. A task that is over does not heed those that are
    done to it (the last four, pause and resume).
    """

    at: datetime
    word: str
    until: datetime | None = None  # of a hold: until when the account is known to be limited
    plan: Plan | None = None  # of a reschedule


@dataclass(frozen=True, slots=True)
class Case:
    """One task and what happens to it.

    The server is up but between "down" and "up", where no other step is. While it is up it looks at
    the task when it is due, after each step in the same instant, and at `horizon`. A delivery that
    is made between "stuck" and "unstuck" stays pending until the latter; others are taken at once.
    """

    task_id: str  # 12 hex digits
    created_at: datetime
    plan: Plan
    catch_up: timedelta
    missed: str  # "ONE" or "ALL"
    steps: tuple[Step, ...]  # by time, all after `created_at`, all at different times
    horizon: datetime  # the server is up then and looks a last time


def _some(random: Random, low: timedelta, high: timedelta) -> timedelta:
    """Draw a length in whole seconds, the short ones as often as the long ones."""
    return timedelta(seconds=round(low / SECOND * (high / low) ** random.random()))


class Story:
    """Draws the parts of one case."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.zone, moment = random.choice(PLACES)
        self.moment = datetime.fromisoformat(moment).replace(tzinfo=UTC)
        span = random.choice(SPANS)
        start = self.moment - random.uniform(0.05, 0.9) * span
        micro = random.choice((0, 2 * random.randrange(500_000)))
        self.created_at = start.replace(microsecond=micro)
        self.horizon = self.created_at + span
        self.steps: list[Step] = []

    def instant(self, after: datetime) -> datetime:
        """Draw an instant until the horizon, often near the shift; microsecond 4n + 1."""
        drawn = after + self.random.random() * (self.horizon - after)
        if self.random.random() < 0.3:
            near = self.moment + self.random.uniform(-1.5, 1.5) * HOUR
            drawn = near if after < near < self.horizon else drawn
        return drawn.replace(microsecond=4 * self.random.randrange(250_000) + 1)

    # plans

    def plan(self, made_at: datetime) -> Plan:
        """Draw a plan that fires, usually until the horizon and not too often."""
        draws = (self._delay, self._at, self._every, self._cron)
        draw: Callable[[datetime], Plan] = self.random.choices(draws, (5, 9, 43, 43))[0]
        while True:
            plan = self._with_until(draw(made_at), made_at)
            times = list(islice(self._until_horizon(plan, made_at), MOST + 1))
            seldom = len(times) < 3 and draw == self._cron and self.random.random() < 0.85
            if not seldom and len(times) <= MOST and self._fires(plan, made_at):
                return plan

    def _times(self, plan: Plan, made_at: datetime) -> Iterator[datetime]:
        if isinstance(plan.value, timedelta):
            steps = 1 if plan.form == "delay" else MOST + 2
            return (made_at + (number + 1) * plan.value for number in range(steps))
        if plan.form == "cron":
            return cron_times(plan.value, plan.time_zone, made_at)
        instant = resolve(plan.value, plan.time_zone, made_at)
        return iter([instant] if instant > made_at else [])

    def _until_horizon(self, plan: Plan, made_at: datetime) -> Iterator[datetime]:
        last = resolve(plan.until, plan.time_zone, made_at) if plan.until else self.horizon
        return takewhile(min(last, self.horizon).__ge__, self._times(plan, made_at))

    def _fires(self, plan: Plan, made_at: datetime) -> bool:
        first = next(self._times(plan, made_at), None)
        if first is None or not plan.until:
            return first is not None
        return made_at < (last := resolve(plan.until, plan.time_zone, made_at)) and first <= last

    def _delay(self, made_at: datetime) -> Plan:
        length = _some(self.random, MINUTE, 1.2 * (self.horizon - made_at) + 2 * MINUTE)
        return Plan("delay", length * (self.random.random() < 0.95), self.zone)

    def _at(self, made_at: datetime) -> Plan:
        return Plan("at", self._time(self.instant(made_at)), self.zone)

    def _time(self, instant: datetime) -> str:
        """Write a time in one of its forms; now and then one that the wall passes over."""
        wall = shown(self.zone, instant)
        if abs(instant - self.moment) < 2 * HOUR and self.random.random() < 0.5:
            wall = shown(self.zone, self.moment - HOUR) + self.random.randrange(150) * MINUTE
        text = wall.isoformat(timespec=self.random.choice(("minutes", "seconds")))
        utc = instant.replace(tzinfo=None).isoformat(timespec="seconds")
        away = (instant + 5.5 * HOUR).replace(tzinfo=None).isoformat(timespec="seconds")
        forms = (text[11:], text, utc + "Z", away + "+05:30")
        return self.random.choices(forms, (5, 4, 1, 1))[0]

    def _every(self, made_at: datetime) -> Plan:
        left = self.horizon - made_at
        shortest = max(left / (MOST - 10), MINUTE)
        return self._jittered("every", _some(self.random, shortest, max(left / 3, 2 * shortest)))

    def _cron(self, made_at: datetime) -> Plan:
        return self._jittered("cron", expression(self.random, shown(self.zone, self.moment)))

    def _jittered(self, form: str, value: str | timedelta) -> Plan:
        jitter = self.random.random() < 0.36
        length = self.random.choice(JITTERS) if jitter else timedelta(0)
        return Plan(form, value, self.zone, length)

    def _with_until(self, plan: Plan, made_at: datetime) -> Plan:
        """Give a third of the repeating plans an end, often exactly at an occurrence."""
        if plan.form in ("delay", "at") or self.random.random() > 0.36:
            return plan
        until = self._time(self.instant(made_at + (self.horizon - made_at) / 3))
        times = list(islice(self._until_horizon(plan, made_at), MOST))
        if times and self.random.random() < 0.5:
            last = self.random.choice(times[len(times) // 3 :])
            until = self._time(last) if last.microsecond == 0 else until
        return Plan(plan.form, plan.value, plan.time_zone, plan.jitter, until)

    # steps

    def draw_steps(self, first: datetime) -> None:
        """Draw up to six steps; `first` is the first nominal time."""
        outages = self.random.choices((0, 1, 2), (5, 4, 1))[0]
        kinds = self.random.choices((0, 1, 2), (3, 4, 3))[0]
        for _ in range(outages):
            self._episode(first, "down", "up")
        for kind in self.random.sample(("pause", "pause_all", "hold", "stuck"), kinds):
            getattr(self, f"_{kind}")(first)
        if self.random.random() < 0.2:
            self._once(self.instant(self.created_at))
        self.steps.sort(key=_at)

    def _is_up(self, instant: datetime) -> bool:
        words = [step.word for step in sorted(self.steps, key=_at) if step.at <= instant]
        return not words or [word for word in words if word in ("up", "down")][-1:] != ["down"]

    def _span(self, first: datetime) -> tuple[datetime, datetime]:
        """Draw when an episode begins and ends, often around the first occurrence."""
        while True:
            length = _some(self.random, 5 * MINUTE, min(LONGEST, self.horizon - self.created_at))
            start = self.instant(self.created_at)
            if first < self.horizon and self.random.random() < 0.5:
                start = first - self.random.random() * length
            start = start.replace(microsecond=4 * self.random.randrange(250_000) + 1)
            end = (start + length).replace(microsecond=4 * self.random.randrange(250_000) + 1)
            if self.created_at < start < end < self.horizon:
                return start, end

    def _episode(self, first: datetime, begin: str, end: str) -> None:
        """Add a pair of steps where there is room for it; an outage has no step within."""
        begins, ends = self._span(first)
        within = [step for step in self.steps if begins <= step.at <= ends]
        if begin == "down" and (within or not self._is_up(begins)):
            return
        if self._is_up(begins) and self._is_up(ends):
            soon = self.horizon - begins < LONGEST  # a delivery that waits for a day expires
            for_good = begin != "down" and soon and self.random.random() < 0.15
            self._add(Step(begins, begin), *([] if for_good else [Step(ends, end)]))

    def _pause(self, first: datetime) -> None:
        self._episode(first, "pause", "resume")

    def _pause_all(self, first: datetime) -> None:
        self._episode(first, "pause_all", "resume_all")

    def _stuck(self, first: datetime) -> None:
        self._episode(first, "stuck", "unstuck")

    def _hold(self, first: datetime) -> None:
        """Add a hold: let go at the time that was told, or earlier, or told a later time first."""
        begins, ends = self._span(first)
        if not (self._is_up(begins) and self._is_up(ends)):
            return
        told = ends
        kind = self.random.choices(("as told", "early", "extended", "open"), (4, 3, 3, 1))[0]
        if kind in ("early", "open"):
            told = ends + _some(self.random, MINUTE, 5 * HOUR)
        if kind == "open":
            told += self.horizon - self.created_at
        held = [Step(begins, "hold", until=told)]
        middle, told_first = sorted(self._between(begins, ends) for _ in range(2))
        if kind == "extended" and self._is_up(middle) and begins < middle < told_first < ends:
            held = [Step(begins, "hold", until=told_first), Step(middle, "hold", until=ends)]
        self._add(*held, *([] if kind == "open" else [Step(ends, "release")]))

    def _add(self, *steps: Step) -> None:
        """Add steps that belong together, when not too many were drawn before."""
        if len(self.steps) + len(steps) <= MOST_STEPS:
            self.steps += steps

    def _between(self, start: datetime, end: datetime) -> datetime:
        drawn = start + self.random.random() * (end - start)
        return drawn.replace(microsecond=4 * self.random.randrange(250_000) + 1)

    def _once(self, at: datetime) -> None:
        """Add one of the rare steps."""
        words = ("run_now", "cancel", "session_ends", "reschedule")
        word = self.random.choices(words, (3, 2, 2, 3))[0]
        at += 2 * timedelta(microseconds=1)  # microsecond 4n + 3: what it plans meets no step
        if self._is_up(at):
            plan = self.plan(at) if word == "reschedule" else None
            self._add(Step(at, word, plan=plan))


def _at(step: Step) -> datetime:
    return step.at


def generate(seed: int) -> Case:
    """Return the case of a seed: always the same one."""
    random = Random(seed)
    story = Story(random)
    plan = story.plan(story.created_at)
    story.draw_steps(next(story._times(plan, story.created_at)))
    return Case(
        task_id=f"{random.getrandbits(48):012x}",
        created_at=story.created_at,
        plan=plan,
        catch_up=random.choice(CATCH_UPS),
        missed=random.choices(("ONE", "ALL"), (3, 1))[0],
        steps=tuple(story.steps),
        horizon=story.horizon,
    )
