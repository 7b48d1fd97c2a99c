"""Seeded interleavings of all that can happen to authorizations, through the real service and a
real store: many agents ask, and many callers decide, withdraw, escalate and use at the same time,
while the clock jumps to the edges of deadlines, levels and lapses, agents move to other panes, and
the server is started anew, with and without a warning.

What may come of it is said by tests/authorization_oracle.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from orch_server import wiring
from orch_server.core.authorization import Action, Verdict
from orch_server.core.clock import ManualClock
from orch_server.core.errors import OrchError, StoreUnavailable
from orch_server.core.event import Event as BusEvent
from orch_server.core.identity import Caller, Incarnation, InPane, Operator, TokenAgent
from orch_server.core.policy import ActionClass, AuthorizationPriority, GateRule, Policy, Rule
from orch_server.services.binding import Introduction
from orch_server.services.passphrase import Passphrase
from orch_server.storage.columns import from_micros
from tests.authorization_oracle import (
    Asked,
    Call,
    Event,
    Kind,
    Log,
    Move,
    Rules,
    Who,
    faults,
)
from tests.transport.harness import START, settings_for

SESSIONS = ("atlas", "boreal")
ASKING = ("developer", "tester", "writer", "analyst", "orchestrator", "project_manager")
ROLES = (*ASKING, "human")
PASSPHRASE = "correct horse"
TICK = timedelta(microseconds=1)
_PAIRS = 2
_RECENT = 40

RULES = Rules(
    kinds=(
        Kind(
            "release",
            "deploy",
            ("project_manager",),
            timedelta(seconds=12),
            timedelta(seconds=1.5),
            human=True,
            reason=True,
        ),
        Kind("narrow", "schema", ("project_manager",), timedelta(seconds=9), timedelta(seconds=1)),
        Kind(
            "routine",
            "",
            ("orchestrator", "project_manager"),
            timedelta(seconds=20),
            timedelta(seconds=2),
        ),
    ),
    escalation=("orchestrator", "reviewer", "human"),
    escalate_at=(0.5, 0.75, 0.9),
)


def policy(rules: Rules = RULES) -> Policy:
    """The same policy as the server has it."""
    *some, routine = (
        ActionClass(
            kind.name,
            kind.approvers,
            kind.lapse,
            (kind.word,) if kind.word else (),
            AuthorizationPriority.MEDIUM,
            kind.human,
            kind.reason,
            kind.timeout,
        )
        for kind in rules.kinds
    )
    return Policy(
        routine=routine,
        classes=tuple(some),
        timeouts={priority: routine.timeout or timedelta(1) for priority in AuthorizationPriority},
        escalation=rules.escalation,
        escalate_at=rules.escalate_at,
        gate=(
            GateRule(Rule.ALLOW, re.compile("Read")),
            GateRule(Rule.DENY, re.compile("Forbidden")),
            GateRule(Rule.ASK, re.compile("Bash")),
        ),
    )


@dataclass
class Tally:
    """What was tried, and what came of it: each call's kind with its outcome, each event's kind."""

    interleavings: int = 0
    restarts: int = 0
    requests: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    @property
    def accepted(self) -> int:
        """Calls that were answered with a yes."""
        return sum(n for name, n in self.calls.items() if name.endswith(" ok"))

    @property
    def refused(self) -> int:
        """Calls that were refused."""
        return sum(n for name, n in self.calls.items() if name.endswith(" refused"))


@dataclass
class _Life:
    """One run of the server. After a crash its answers reach nobody."""

    core: Any
    folder: Path
    number: int
    crashed: bool = False
    calls: set[asyncio.Task[Any]] = field(default_factory=set)
    watch: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


@dataclass
class _Home:
    """Where an agent lives, as the stories know it: "" nowhere, None when that is not known."""

    pane: Incarnation | None = None
    pid: int = 0
    moving: int = 0
    moves: int = 0
    known: bool = True

    @property
    def place(self) -> str:
        """What an approval is bound to."""
        return f"{self.pane.key()}#{self.pid}" if self.pane is not None else ""


class World:
    """One server that is started again and again, its agents and all that they were told."""

    def __init__(self, folder: Path, seed: str, closed: bool) -> None:
        self.tally = Tally()
        self.calls: list[Call] = []
        self.clock = ManualClock(START)
        self.random = random.Random(seed)
        self.recent: list[Call] = []
        self.approved: set[str] = set()
        self.last: dict[str, datetime] = {}  # when each request, or its approval, ends
        self._moves: list[Move] = []
        self._homes = {f"{s}:{r}": _Home() for s in SESSIONS for r in ROLES}
        self._homes["boreal:reviewer"] = _Home()  # in the other session there is none
        self._edges: list[datetime] = []
        self._folder = folder
        self._closed = closed
        self._seen = 0
        self._up = asyncio.Event()
        self._life: _Life | None = None
        self._restarting = False
        self._fresh = 0
        self._order = itertools.count()
        self._taken: set[Incarnation] = set()  # panes into which somebody moves

    @property
    def names(self) -> list[str]:
        """All agents."""
        return list(self._homes)

    # ---- the server ----

    async def start(self) -> None:
        """The first start; all agents come, then perhaps somebody sets a passphrase."""
        first = self._folder / "life0"
        await asyncio.to_thread(partial(first.mkdir, parents=True))
        await self._begin(first, 0)
        for number, name in enumerate(self._homes):
            if number % 4:  # one in four has no pane at first
                await self.move(name, Incarnation("elsewhere", "/t", 1, 1, f"%{number}"), 100)
        if self._closed:
            assert self._life is not None
            Passphrase(self._life.folder / "passphrase").set(PASSPHRASE)

    async def _begin(self, folder: Path, number: int) -> None:
        core = await wiring.wire(settings_for(folder, policy=policy()), self.clock)
        life = _Life(core, folder, number)
        rows = await core.store.read(_last_event)
        self._seen = rows

        def note(event: BusEvent) -> bool:
            if not life.crashed:
                self._seen = max(self._seen, event.number)
            return False

        life.watch.enter_context(core.bus.subscribe(note))
        await core.authorization.run_due()  # as wiring.recover does before the first call
        await core.heartbeat.restore()
        for name in [name for name, home in self._homes.items() if not home.known]:
            await self._bring_back(core, name)
        self._life = life
        self._up.set()

    async def _bring_back(self, core: Any, name: str) -> None:
        """An agent of which nobody knows where it lived comes from a pane that nobody ever had."""
        self._fresh += 1
        pane = Incarnation("elsewhere", "/fresh", 1, 1, f"%{self._fresh}")
        await core.heartbeat.connect(Operator(), _intro(name, pane, 100), _nothing, _ignore)
        home = self._homes[name]
        home.pane, home.pid, home.known = pane, 100, True

    async def restart(self, crash: bool) -> None:
        """The server ends, told or not, and is started again on what is on the disk."""
        if self._restarting or self._life is None:
            return
        self._restarting, life = True, self._life
        self._up.clear()
        self.tally.restarts += 1
        folder = life.folder
        if crash:
            folder = self._folder / f"life{life.number + 1}"
            await life.core.store.write(lambda tx: self._pull_the_plug(life, folder))
        await life.core.store.close()
        await asyncio.gather(*life.calls, return_exceptions=True)
        if crash:
            shutil.rmtree(life.folder)
        await self._begin(folder, life.number + 1)
        self._restarting = False

    def _pull_the_plug(self, life: _Life, folder: Path) -> None:
        """Copies what is on the disk now; runs on the writing thread, so between two commits. It
        may be run again, when another unit failed beside it."""
        if not life.crashed:
            life.crashed = True
            copy_disk(life.folder, folder)

    async def end(self) -> Log:
        """The last of what is due is done; returns all that is known."""
        await self._up.wait()
        assert self._life is not None
        core = self._life.core
        await core.authorization.run_due()
        log: Log = await core.store.read(self._log)
        await core.store.close()
        return log

    # ---- calls ----

    async def call(self, call: Call, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        """Makes a call on the server that is up; notes what came of it, None when it is refused."""
        await self._up.wait()
        assert self._life is not None
        life, home = self._life, self._homes.get(call.who.name)
        call.started, call.before, call.begun = self.clock.now(), self._seen, next(self._order)
        if call.kind != "due":
            self.calls.append(call)
        task = asyncio.ensure_future(ask(life.core.authorization))
        life.calls.add(task)
        try:
            answer = await task
        except OrchError as exc:
            answer = None
            lost = isinstance(exc, StoreUnavailable) or life.crashed
            call.outcome = "unknown" if lost else "refused"
            call.said = f"{type(exc).__name__}: {exc.message}"
        except RuntimeError:  # the reading threads of a server that ends
            answer = None
        else:
            call.outcome = "unknown" if life.crashed else "ok"
        finally:
            life.calls.discard(task)
        call.blurred = home is not None and home.moves != call.who.moves
        if call.outcome != "unknown":
            call.ended, call.after, call.done = self.clock.now(), self._seen, next(self._order)
        self.tally.calls[f"{call.kind} {call.outcome}"] += 1
        return answer if call.outcome == "ok" else None

    def who(self, name: str, how: str) -> tuple[Who, Caller]:
        """A caller: this agent in its pane or by a token, the operator, or somebody in a pane."""
        if name == "operator":
            return Who(name), Operator()
        session, _, role = name.partition(":")
        home = self._homes[name]
        moves = -1 if home.moving or not home.known else home.moves
        if how == "pane" and home.pane is not None and home.known:
            return Who(name, home.pane.key(), home.place, moves), InPane(home.pane)
        return Who(name, "", home.place, moves), TokenAgent(session, role)

    def stranger(self, pane: str) -> tuple[Who, Caller] | None:
        """Somebody in this pane, when it is no agent's any more."""
        if not pane or any(h.pane and h.pane.key() == pane for h in self._homes.values()):
            return None
        if any(h.moving or not h.known for h in self._homes.values()):
            return None
        host, server, socket, number = pane.split("|")
        pid, started = map(int, server.split("."))
        return Who("operator", pane), InPane(Incarnation(host, socket, pid, started, number))

    async def move(self, name: str, pane: Incarnation, pid: int) -> None:
        """The agent's client comes from this pane, whoever had it."""
        if not self._up.is_set() or self._life is None:
            return
        life, home = self._life, self._homes[name]
        holder = next((n for n, h in self._homes.items() if h.pane == pane and n != name), "")
        moved = [home, *([self._homes[holder]] if holder else [])]
        if pane in self._taken or any(one.moving for one in moved):
            return
        before = self._seen
        for one in moved:
            one.moving, one.moves = one.moving + 1, one.moves + 1
        task = asyncio.ensure_future(
            life.core.heartbeat.connect(Operator(), _intro(name, pane, pid), _nothing, _ignore)
        )
        life.calls.add(task)
        self._taken.add(pane)
        try:
            await task
            known = not life.crashed
        except StoreUnavailable:
            known = False
        except OrchError:
            known = not life.crashed
            return
        finally:
            life.calls.discard(task)
            self._taken.discard(pane)
            for one in moved:
                one.moving -= 1
        if holder:
            after = self._seen if known else 1 << 60
            self._moves.append(Move(holder, name, before, after))
            self._homes[holder].pane = None
        home.pane, home.pid = pane, pid
        for one in moved:
            one.known = known

    # ---- time ----

    def expect(self, *edges: datetime) -> None:
        """The clock will be led to these times."""
        for at in edges:
            heapq.heappush(self._edges, at)

    def to_the_edge(self, at: datetime | None = None) -> None:
        """Just before, at, or just after this time; the next that is known when none is given."""
        while at is None and self._edges:
            first = self._edges[0]
            at = None if first < self.clock.now() else first
            if at is None or self.random.random() < 0.5:
                heapq.heappop(self._edges)
        if at is not None:
            target = at + self.random.choice((-TICK, timedelta(0), TICK))
            if target > self.clock.now():
                self.clock.advance((target - self.clock.now()) / timedelta(seconds=1))

    # ---- what is left ----

    def _log(self, db: Any) -> Log:
        """Reads the rows, by their names alone."""
        asked = {
            row["id"]: Asked(row["id"], row, [])
            for row in _rows(db, "select * from authorization", "_at")
        }
        for level in _rows(db, "select * from authorization_level order by level", "_at"):
            asked[level["authorization_id"]].levels.append(level)
        events = "select number, at, kind, subject, actor, detail from event order by number"
        came: dict[str, list[tuple[int, bool]]] = {}
        sql = """select number, agent, detail from event
            where kind = 'agent.registered' order by number"""
        for number, agent, detail in db.execute_sql(sql).fetchall():
            came.setdefault(agent, []).append((number, not detail.endswith(" ENDED")))
        for row in _rows(db, events, "at"):
            noun, _, kind = row.pop("kind").partition(".")
            if noun == "authorization" and row["subject"] in asked:
                asked[row["subject"]].events.append(Event(kind=kind, **row))
                self.tally.events[kind] += 1
        texts = """select e.agent as agent_id, d.text, d.origin from event e
            join delivery d on d.id = e.subject where e.kind = 'delivery.created'"""
        for row in _rows(db, texts):
            asked[row["origin"].partition(":")[2]].texts.append(row)
        alerts = "select subject, suppressed from alert where kind = 'authorization'"
        for row in _rows(db, alerts):
            asked[row["subject"]].alerts.append(row)
        for call in self.calls:
            if call.subject in asked:
                asked[call.subject].calls.append(call)
        names = _rows(db, "select id, session, role from agent")
        self.tally.requests = len(asked)
        return Log(
            RULES,
            asked,
            self.calls,
            came,
            {row["id"]: f"{row['session']}:{row['role']}" for row in names},
            self._moves,
            self._closed,
            self.clock.now(),
        )


class _Story:
    """What happens around the requests of one agent, one after the other."""

    def __init__(self, world: World, name: str, seed: str) -> None:
        self._world = world
        self._name = name
        self._random = random.Random(seed)
        self._own: Call | None = None
        self._pane = ""  # where it sat when it asked
        self._number = 0

    async def interleave(self) -> None:
        """A request, then some steps, two of them at the same time again and again."""
        await self._ask()
        for _ in range(_PAIRS):
            both = [self._step(), self._step()]
            if self._random.random() < 0.6:
                await asyncio.gather(*both)
            else:
                for one in both:
                    await one
        self._world.tally.interleavings += 1

    async def _step(self) -> None:
        steps: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (10, self._approve),
            (4, self._deny),
            (2, self._cancel),
            (3, self._escalate),
            (9, self._consume),
            (4, self._check),
            (1, self._ask),
            (8, self._time),
            (4, self._last_moment),
            (4, self._due),
            (1, self._moves),
        ]
        weights, all_steps = zip(*steps, strict=True)
        await self._random.choices(all_steps, weights)[0]()

    # ---- who and what ----

    def _subject(self) -> Call | None:
        """The request it is about: mostly the own."""
        recent = self._world.recent
        if self._own is not None and (self._chance(0.8) or not recent):
            return self._own
        return self._random.choice(recent) if recent else None

    def _someone(self, asked: Call) -> tuple[Who, Caller]:
        """Who decides or withdraws: mostly one who might."""
        session = asked.who.session
        names = ["operator", *(n for n in self._world.names if n.startswith(session))]
        far = next(s for s in SESSIONS if s != session)
        names += [f"{far}:project_manager", f"{far}:orchestrator", asked.who.name]
        likely = [f"{session}:project_manager", f"{session}:orchestrator", "operator"]
        if self._chance(0.1):
            found = self._world.stranger(asked.who.pane)
            if found is not None:
                return found
        name = self._random.choice(likely if self._chance(0.65) else names)
        return self._world.who(name, "pane" if self._chance(0.6) else "token")

    def _new(self, kind: str, who: Who, **more: Any) -> Call:
        return Call(kind, who, self._world.clock.now(), 0, **more)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    # ---- steps ----

    async def _ask(self) -> None:
        """A request in words, or at the gate; perhaps the same once more."""
        if self._chance(0.3):
            await self._check()
            return
        self._number += 1
        who, caller = self._world.who(self._name, "pane" if self._chance(0.7) else "token")
        word = self._random.choice(("deploy", "schema", "build", "test", "tidy"))
        seconds = self._random.choice((0, 1, 2, 3, 5, 8, 13))
        words = f"{word} {self._name} {self._number}"
        asked = self._random.choice(("", *RULES.kind(words).approvers))
        call = self._new(
            "request",
            who,
            words=words,
            cwd=self._random.choice(("", "/a", "/b")),
            asked=asked,
            timeout=timedelta(seconds=seconds),
            request_id=f"{self._name}.{self._number}" if self._chance(0.5) else "",
        )
        await self._send(call, caller)
        if call.request_id and self._chance(0.2):
            again = self._new("request", who)
            await self._send(_same(call, again), caller)

    async def _send(self, call: Call, caller: Caller) -> None:
        made = await self._world.call(
            call,
            lambda service: service.request(
                caller,
                call.words,
                None,
                call.asked,
                call.request_id,
                call.timeout,
                call.cwd,
            ),
        )
        if made is not None:
            call.said = made.state
            self._asked(call, made.id, call.timeout)

    def _asked(self, call: Call, subject: str, timeout: timedelta) -> None:
        call.subject = subject
        length = timeout or RULES.kind(call.words).timeout
        at = call.ended or call.started
        self._world.last[subject] = at + length
        self._world.expect(at + length, *(at + length * s for s in RULES.escalate_at))
        self._own = call
        recent = self._world.recent
        recent.append(call)
        del recent[:-_RECENT]

    async def _approve(self) -> None:
        await self._decide(Verdict.APPROVE, "approve", 0.6)

    async def _deny(self) -> None:
        await self._decide(Verdict.DENY, "deny", 0.85)

    async def _decide(
        self, verdict: Verdict, kind: str, reasoned: float, rightly: bool = False
    ) -> None:
        asked = self._own if rightly else self._subject()
        if asked is None:
            return
        who, caller = self._someone(asked)
        if rightly:
            who, caller = self._world.who(f"{asked.who.session}:project_manager", "token")
        call = self._new(kind, who, subject=asked.subject, reason=self._chance(reasoned))
        call.passphrase = self._chance(0.03)
        made = await self._world.call(
            call,
            lambda service: service.decide(
                caller,
                asked.subject,
                verdict,
                "because" if call.reason else "",
                PASSPHRASE if call.passphrase else "",
            ),
        )
        if made is not None:
            call.said = made.state
            if verdict is Verdict.APPROVE:
                self._world.last[asked.subject] = made.lapses_at
                self._world.approved.add(asked.subject)
                self._world.expect(made.lapses_at)

    async def _cancel(self) -> None:
        asked = self._subject()
        if asked is None or self._chance(0.5):
            return
        who, caller = self._someone(asked)
        if self._chance(0.5):
            who, caller = self._world.who(asked.who.name, "pane")
        call = self._new("cancel", who, subject=asked.subject)
        made = await self._world.call(call, lambda service: service.cancel(caller, asked.subject))
        call.said = made.state if made is not None else call.said

    async def _escalate(self) -> None:
        asked = self._subject()
        if asked is None:
            return
        who, caller = self._someone(asked)
        call = self._new("escalate", who, subject=asked.subject)
        await self._world.call(call, lambda service: service.escalate(caller, asked.subject))

    async def _consume(self, rightly: bool = False) -> None:
        """Uses an approval: rightly, or with a mistake; perhaps twice at once."""
        asked = self._own if rightly else self._subject()
        if asked is None:
            return
        name = asked.who.name if rightly or self._chance(0.9) else f"{asked.who.session}:tester"
        who, caller = self._world.who(name, "pane" if self._chance(0.7) else "token")
        call = self._new(
            "consume",
            who,
            subject=asked.subject,
            tool=asked.tool if rightly or self._chance(0.97) else "Bash",
            words=asked.words if self._chance(0.5) or asked.tool else "",
            cwd=asked.cwd if rightly or self._chance(0.9) else "/elsewhere",
            request_id=self._random.choice(("", f"use.{asked.subject}", f"use.{self._salt()}")),
        )
        if call.tool and not asked.tool:
            call.words = asked.words
        calls = [call]
        if self._chance(0.4):
            twin = _same(call, self._new("consume", who))
            twin.request_id = call.request_id if self._chance(0.5) else f"use.{self._salt()}"
            calls.append(twin)
        await asyncio.gather(*(self._use(one, caller) for one in calls))

    async def _use(self, call: Call, caller: Caller) -> None:
        action = Action(call.tool, call.words, call.cwd)
        made = await self._world.call(
            call,
            lambda service: service.consume(caller, call.subject, action, call.request_id),
        )
        call.said = made.state if made is not None else call.said

    async def _check(self) -> None:
        """The gate is asked about one of a few actions, so that the same comes again."""
        who, caller = self._world.who(self._name, "pane" if self._chance(0.8) else "token")
        word = self._random.choice(("deploy", "schema", "build"))
        command = f"{word} {self._number // 3}"
        call = self._new(
            "check",
            who,
            tool=self._random.choices(("Bash", "Read", "Forbidden"), (20, 1, 1))[0],
            words=json.dumps({"command": command}),
            cwd=self._random.choice(("", "/a")),
            request_id="" if self._chance(0.5) else f"gate.{self._salt()}",
        )
        await self._through_the_gate(call, caller)
        if self._chance(0.2):
            await self._through_the_gate(_same(call, self._new("check", who)), caller)

    async def _through_the_gate(self, call: Call, caller: Caller) -> None:
        action = Action(call.tool, call.words, call.cwd)
        checked = await self._world.call(
            call, lambda service: service.check_action(caller, action, call.request_id)
        )
        if checked is not None:
            call.said = checked.verdict
            if checked.authorization is not None:
                self._asked(call, checked.authorization.id, timedelta(0))

    async def _time(self) -> None:
        """To the edge of whatever comes next, or a little further."""
        if self._chance(0.85):
            self._world.to_the_edge()
        else:
            self._world.clock.advance(self._random.choice((0.0, 0.001, 0.1)))

    async def _last_moment(self) -> None:
        """A decision or a use at the very end of its time."""
        if self._own is None:
            return
        last = self._world.last[self._own.subject]
        if last - self._world.clock.now() < timedelta(seconds=4):  # the others have a life, too
            self._world.to_the_edge(last)
        approved = self._own.subject in self._world.approved
        late: list[Callable[[], Awaitable[None]]] = [
            partial(self._decide, Verdict.APPROVE, "approve", 1.0, True),
            partial(self._decide, Verdict.DENY, "deny", 1.0, True),
        ]
        if approved:
            late = [partial(self._consume, True)]
        await asyncio.gather(
            self._random.choice(late)(), *([self._due()] if self._chance(0.2) else [])
        )

    async def _due(self) -> None:
        """What the loop does."""
        nobody = self._new("due", Who("operator"))
        await self._world.call(nobody, lambda service: service.run_due())

    async def _moves(self) -> None:
        """An agent's pane is started anew, or another one, or takes another role."""
        session = self._name.partition(":")[0]
        names = [n for n in self._world.names if n.startswith(session)]
        name = self._random.choice(names) if self._chance(0.5) else self._name
        number, life = self._random.randrange(8), self._random.randrange(1, 4)
        pane = Incarnation("elsewhere", f"/{session}", life, 1, f"%{number}")
        await self._world.move(name, pane, self._random.choice((100, 200)))

    def _salt(self) -> str:
        return f"{self._name}.{self._random.randrange(10**9)}"


def _same(call: Call, again: Call) -> Call:
    """The same call once more."""
    for name in ("subject", "words", "tool", "cwd", "asked", "timeout", "request_id"):
        setattr(again, name, getattr(call, name))
    if again.kind != "consume":
        again.subject = ""
    return again


async def run(
    folder: Path, seed: int, interleavings: int, every: int = 400
) -> tuple[Tally, list[str]]:
    """Runs so many, with a restart after so many each; returns what was tried and every fault."""
    world = World(folder, f"{seed}", closed=seed % 3 == 0)
    await world.start()
    names = [f"{session}:{role}" for session in SESSIONS for role in ASKING]
    each = -(-interleavings // len(names))

    async def tell(name: str) -> None:
        story = _Story(world, name, f"{seed}.{name}")
        for _ in range(each):
            await story.interleave()
            if world.tally.interleavings >= every * (world.tally.restarts + 1):
                await world.restart(crash=world.random.random() < 0.6)

    await asyncio.gather(*(tell(name) for name in names))
    log = await world.end()
    return world.tally, faults(log)


def copy_disk(old: Path, new: Path) -> None:
    """What a machine finds that lost its power: every file as it is now."""
    new.mkdir()
    for path in old.iterdir():
        if path.is_dir():
            shutil.copytree(path, new / path.name)
        elif not path.name.endswith("-shm"):
            shutil.copy2(path, new / path.name)


def _intro(name: str, pane: Incarnation, pid: int) -> Introduction:
    """What the agent's client says; who may approve, says the passphrase, too."""
    session, _, role = name.partition(":")
    return Introduction(pane, pid, session, role, "claude", "0", True, PASSPHRASE)


async def _nothing(given: object) -> None:
    """Takes what the server says to a client."""


def _ignore(error: object) -> None:
    """Takes why the server closes a connection."""


def _last_event(db: Any) -> int:
    return int(db.execute_sql("select coalesce(max(number), 0) from event").fetchone()[0])


def _rows(db: Any, sql: str, times: str = "") -> list[dict[str, Any]]:
    """Rows as dicts; the columns with such an end are times."""
    cursor, found = db.execute_sql(sql), []
    for row in cursor:
        made = {
            column[0]: value for column, value in zip(cursor.getdescription(), row, strict=True)
        }
        for name, value in made.items():
            if times and name.endswith(times) and value is not None:
                made[name] = from_micros(value)
        found.append(made)
    return found
