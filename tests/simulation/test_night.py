"""A night of twenty agents, minute by minute, on the real server with a clock of the test's.

Everything that the supervision says and does in it is in a table below, which was worked out from
docs/reference/supervision.md; there is nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from orch.v1 import (
    heartbeat_pb2,
    messaging_pb2,
    scheduler_pb2,
    supervision_pb2,
    supervision_pb2_grpc,
)
from orch.v1 import session_state_pb2 as state_pb2
from orch_server.core.clock import ManualClock
from orch_server.core.pace import Pace
from tests.simulation.agents import Sim
from tests.transport.harness import PATIENCE, START, Serving, serving, settles

NIGHT = 480
PACE = Pace(beat=60, lease=180, grace=0.75)
#: The minutes of the faults.
CRASH, LIMIT, PARTITION, BACK, RESTART = 100, 200, 300, 303, 400


def _works(minutes: int) -> Callable[[str], int | None]:
    return lambda text: minutes


def _team() -> list[Sim]:
    """The agents; see the table for what becomes of each."""
    busy = [(0, "WORKING")]
    return [
        Sim("atlas", "orchestrator", "%1", busy),
        Sim("atlas", "project_manager", "%2", busy),
        Sim("atlas", "worker", "%3", [(0, "WORKING"), (10, "IDLE")], _works(90)),
        Sim("atlas", "done", "%4", [(0, "WORKING"), (20, "IDLE")], _works(1)),
        Sim("atlas", "waiter", "%5", [(0, "IDLE")], _works(1)),
        Sim("atlas", "migrator", "%6", [(0, "IDLE")], _works(NIGHT)),
        Sim("atlas", "quiet", "%7", [(0, "IDLE")], _works(1)),
        Sim("atlas", "asker", "%8", [*busy, (30, "WAITING_PERMISSION"), (120, "WORKING")]),
        Sim("atlas", "stuck", "%9", [*busy, (60, "still"), (90, "WORKING")]),
        Sim("atlas", "crasher", "%10", busy),
        Sim("borealis", "project_manager", "%11", busy),
        Sim("borealis", "deaf", "%12", [*busy, (5, "IDLE")]),
        Sim("borealis", "noted", "%13", [(0, "IDLE")], lambda t: 1 if "nudge" in t else 10),
        Sim("cirrus", "limited", "%14", [*busy, (LIMIT, "USAGE_LIMITED")], _works(NIGHT), "two"),
        Sim("cirrus", "held", "%15", [*busy, (210, "IDLE")], _works(NIGHT), "two"),
        Sim("cirrus", "busy", "%16", busy, credential="two"),
        Sim("delphi", "developer", "%17", [(0, "IDLE")], _works(1)),
        Sim("epsilon", "orchestrator", "%18", busy),
        Sim("epsilon", "developer", "%19", [*busy, (28, "IDLE"), (296, "IDLE")], _works(NIGHT)),
        Sim("epsilon", "tester", "%20", busy),
    ]


#: Minute, receiver, beginning of the text. An agent of an active session is nudged after 5 idle
#: minutes, of one in review after 8; a matter is told at 0, 5 and 15 minutes.
TEXTS = [
    # it stays idle after its nudge: a matter after the cooldown of 7; its manager is all there is
    (13, "borealis:deaf", "[nudge] You have been idle for 8 min. If"),
    (20, "borealis:project_manager", "[escalation] borealis:deaf was nudged"),
    (25, "borealis:project_manager", "[escalation, level 2] borealis:deaf was nudged"),
    (35, "borealis:project_manager", "[escalation, level 3] borealis:deaf was nudged"),
    # it works for 90 minutes after each nudge; at 300 it is lost with others, and back at 303
    (15, "atlas:worker", "[nudge] You have been idle for 5 min. If"),
    (110, "atlas:worker", "[nudge] You have been idle for 5 min. If"),
    (205, "atlas:worker", "[nudge] You have been idle for 5 min. If"),
    (303, "atlas:worker", "[nudge] You have been idle for 8 min. If"),
    (398, "atlas:worker", "[nudge] You have been idle for 5 min. If"),
    # it has nothing to do: once, and never again, not even after the server's restart
    (25, "atlas:done", "[nudge] You have been idle for 5 min. If"),
    # its operation is over after two hours; it goes on for the rest of the night
    (120, "atlas:migrator", "[nudge] You have been idle for 120 min. If"),
    # its dialog opened at 30: nobody answers within 5 minutes; answered at 120
    (35, "atlas:project_manager", "[escalation] atlas:asker waits in a dialog"),
    (40, "atlas:orchestrator", "[escalation, level 2] atlas:asker waits in a dialog"),
    (50, "atlas:orchestrator", "[escalation, level 3] atlas:asker waits in a dialog"),
    (50, "atlas:project_manager", "[escalation, level 3] atlas:asker waits in a dialog"),
    # its screen stands still from 60 on: two minutes, then it hangs; it moves at 90
    (62, "atlas:project_manager", "[escalation] atlas:stuck hangs"),
    (67, "atlas:orchestrator", "[escalation, level 2] atlas:stuck hangs"),
    (77, "atlas:orchestrator", "[escalation, level 3] atlas:stuck hangs"),
    (77, "atlas:project_manager", "[escalation, level 3] atlas:stuck hangs"),
    # it crashes at 100
    (100, "atlas:project_manager", "[escalation] atlas:crasher has died"),
    (105, "atlas:orchestrator", "[escalation, level 2] atlas:crasher has died"),
    (115, "atlas:orchestrator", "[escalation, level 3] atlas:crasher has died"),
    (115, "atlas:project_manager", "[escalation, level 3] atlas:crasher has died"),
    # it waits for its own note, which is due at 50, and works on it for 10 minutes
    (50, "borealis:noted", "look at the build"),
    (68, "borealis:noted", "[nudge] You have been idle for 8 min. If"),
    # what is sent to it while its account is limited comes after the reset at 320
    (320, "cirrus:held", "[message"),
    (325, "cirrus:limited", "[nudge] You have been idle for 5 min. If"),
    # its orchestrator is lost at 30; at 301, among many losses, nobody is nudged
    (
        33,
        "epsilon:developer",
        "[nudge] You have been idle for 5 min, and your orchestrator is silent",
    ),
    (306, "epsilon:developer", "[nudge] You have been idle for 10 min, and your orchestrator is"),
]
#: The two agents of an account that is let go follow each other by five seconds.
LATE = {
    (321, "cirrus:held"): "[message",
    (326, "cirrus:limited"): "[nudge] You have been idle for 6 min. If",
}

ALERTS = [
    (35, "escalation", "borealis:deaf"),
    (48, "escalation", "epsilon:orchestrator"),  # lost at 31, a matter at 33, nobody to tell
    (50, "escalation", "atlas:asker"),
    (77, "escalation", "atlas:stuck"),
    (100, "agent-crashed", "atlas:crasher"),
    (115, "escalation", "atlas:crasher"),
    (200, "usage-limited", "two"),
    (300, "partition", "server"),
]


class Night:
    """The server and its agents, over a restart."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clock = ManualClock(START)
        self.team = _team()
        self.minute = 0

    def sim(self, address: str) -> Sim:
        return next(sim for sim in self.team if sim.address == address)

    async def until(self, at: Serving, end: int) -> None:
        """Lives every minute up to this one."""
        while self.minute < end:
            await self._happens(at)
            await asyncio.gather(*(sim.lives(self.minute) for sim in self.team))
            for _ in range(3):  # what one brings about may be due at once for another
                await at.core.scheduler.fire_due()
                await at.core.credit.run_due()
                await at.core.waiting.check()
                await at.core.heartbeat.expire()
                await at.core.supervisor.run_due()
                await self._delivered(at)
            await asyncio.gather(*(sim.beat() for sim in self.team if sim.stream))
            self.minute += 1
            self.clock.advance(60)

    async def _delivered(self, at: Serving) -> None:
        """Waits until every text that can reach its agent has."""
        held = {f"{s.session}:{s.role}" for s in self.team if s.stream is None} | {"atlas:quiet"}
        async with asyncio.timeout(PATIENCE):
            while True:
                views = await at.core.state.agents()
                waits = {v.agent.id for v in views if v.held_until or v.agent.address in held}
                open_for = await at.core.store.read(_open_for)
                if not open_for - waits:
                    return
                await asyncio.sleep(0.001)

    async def _happens(self, at: Serving) -> None:
        """The faults and the orders of the night."""
        if self.minute == 0:
            await self._evening(at)
        elif self.minute == CRASH:
            await self.sim("atlas:crasher").exits(1)
        elif self.minute == 30:
            await self._breaks(at, ["epsilon:orchestrator"])
        elif self.minute == LIMIT:
            self.sim("cirrus:limited").detail = "You've hit your limit · resets 5:20pm (UTC)"
        elif self.minute == 215:
            request = messaging_pb2.SendMessageRequest(targets=["cirrus:held"], text="the build?")
            await at.messaging.SendMessage(request)
        elif self.minute == PARTITION:
            await self._breaks(at, [s.address for s in self.team[:12] if s.stream])
        elif self.minute == BACK:
            for sim in self.team[:12]:
                if sim.address != "atlas:crasher":
                    await sim.connect(at)

    async def _evening(self, at: Serving) -> None:
        for sim in self.team:
            await sim.connect(at)
        for session, phase in (("borealis", state_pb2.PHASE_REVIEW),):
            wanted = state_pb2.Session(name=session, phase=phase)
            await self._update(at, wanted, "phase")
        over = state_pb2.Session(name="delphi", completion=state_pb2.COMPLETION_COMPLETED)
        await self._update(at, over, "completion")
        await at.messaging.SetDoNotDisturb(
            messaging_pb2.SetDoNotDisturbRequest(target="atlas:quiet", enabled=True)
        )
        await at.state.AddDependency(
            state_pb2.AddDependencyRequest(
                target="atlas:done", reason="the schema", timeout=_span(timedelta(hours=23))
            ),
            metadata=at.token("atlas", "waiter"),
        )
        await at.heartbeat.ExtendOperation(
            heartbeat_pb2.ExtendOperationRequest(
                duration=_span(timedelta(hours=2)), reason="running migrations"
            ),
            metadata=at.token("atlas", "migrator"),
        )
        await at.scheduler.CreateTask(
            scheduler_pb2.CreateTaskRequest(
                note="look at the build",
                target="borealis:noted",
                delay=_span(timedelta(minutes=50)),
            )
        )

    async def _update(self, at: Serving, wanted: state_pb2.Session, path: str) -> None:
        request = state_pb2.UpdateSessionRequest(
            session=wanted, update_mask=FieldMask(paths=[path])
        )
        await at.state.UpdateSession(request)

    async def _breaks(self, at: Serving, addresses: list[str]) -> None:
        for address in addresses:
            agent = await at.agent(address)
            await self.sim(address).breaks()
            await settles(lambda i=agent.id: at.core.heartbeat.connection(i) is None)


def _open_for(db: Any) -> set[str]:
    sql = "select distinct agent_id from delivery where state in ('PENDING', 'OFFERED', 'PASTED')"
    return {row[0] for row in db.execute_sql(sql).fetchall()}


def _span(length: timedelta) -> Duration:
    found = Duration()
    found.FromTimedelta(length)
    return found


def _minute(at: datetime) -> int:
    return (at - START.replace(tzinfo=None)) // timedelta(minutes=1)


async def _alerts(at: Serving) -> list[tuple[int, str, str]]:
    stub = supervision_pb2_grpc.SupervisionServiceStub(at.channel)
    answer = await stub.ListAlerts(supervision_pb2.ListAlertsRequest(page_size=1000))
    return sorted((_minute(a.create_time.ToDatetime()), a.kind, a.subject) for a in answer.alerts)


async def _counts(at: Serving, agent: str) -> supervision_pb2.NudgeCounts:
    stub = supervision_pb2_grpc.SupervisionServiceStub(at.channel)
    return (await stub.ListNudges(supervision_pb2.ListNudgesRequest(agent=agent))).counts


def _heard(team: list[Sim]) -> list[tuple[int, str, str]]:
    """What the agents were told: of an escalation the head and the matter."""
    found = []
    for sim in team:
        for minute, text in sim.got:
            head, _, matter = text.partition(" Please see to it")
            words = f"{head} {matter.partition(chr(10))[2]}" if matter else text
            found.append((minute, sim.address, words))
    return sorted(found)


def test_a_night_of_twenty_agents(folder: Path) -> None:
    night = Night(folder)

    async def body() -> None:
        async with serving(folder, clock=night.clock, pace=PACE) as at:
            await night.until(at, RESTART)
            await at.core.heartbeat.drain(timedelta(seconds=1))
            await at.core.supervisor.close()
        here = [sim for sim in night.team if sim.stream]
        async with serving(folder, clock=night.clock, pace=PACE) as at:
            await asyncio.gather(*(sim.connect(at) for sim in here))
            await night.until(at, NIGHT)
            assert await _alerts(at) == ALERTS
            await _check_counts(at)

    asyncio.run(body())
    heard = _heard(night.team)
    expected = sorted(TEXTS)
    assert len(heard) == len(expected), heard
    for (minute, who, words), (then, whom, begin) in zip(heard, expected, strict=True):
        if (minute, who) != (then, whom):
            begin = LATE[minute, who]
        assert words.startswith(begin), words


async def _check_counts(at: Serving) -> None:
    """What was due and not sent, by the reason of the one agent that shows it."""
    done = await _counts(at, "atlas:done")
    assert (done.sent, done.over_budget, done.not_wanted, done.no_credit) == (1, 0, 0, 0)
    assert done.nothing_changed >= (NIGHT - 25) // 5 - 5
    waiter, quiet = await _counts(at, "atlas:waiter"), await _counts(at, "atlas:quiet")
    assert waiter.sent == quiet.sent == 0
    assert min(waiter.not_wanted, quiet.not_wanted) >= NIGHT // 5 - 5
    held = await _counts(at, "cirrus:held")
    assert held.sent == 0
    assert held.no_credit in (20, 21)  # held five seconds longer when it is not the first
    assert (await _counts(at, "delphi:developer")).suspended == NIGHT // 5 - 1
    assert (await _counts(at, "epsilon:developer")).suspended == 1
    everybody = await _counts(at, "")
    assert everybody.sent == sum("[nudge]" in begin for _, _, begin in TEXTS)
    assert everybody.false_alarms == 0
