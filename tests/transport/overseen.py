"""Agents that a supervisor watches: real heartbeat streams that show what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from orch.v1 import agent_pb2, supervision_pb2_grpc
from orch.v1 import heartbeat_pb2 as pb
from orch.v1 import supervision_pb2 as supervision
from orch_server.core.pace import Pace
from tests.transport.harness import EOF, PATIENCE, Serving, Stream, run

#: A beat a minute, so that a test lives by minutes.
SLOW = Pace(beat=60, lease=180, grace=0.75)
_OPEN = "select distinct agent_id from delivery where state in ('PENDING', 'OFFERED', 'PASTED')"


class Actor:
    """An agent in a pane. It takes each text at once, unless `takes` says otherwise. Its screen
    moves while it works, unless `hangs` says otherwise, and else stands still."""

    def __init__(self, at: Serving, stream: Stream) -> None:
        self.at = at
        self.stream: Stream | None = stream
        self.takes = True
        self.hangs = False
        self.got: list[str] = []
        self.id = stream.welcome.agent_id if stream.welcome else ""
        self._moved = at.clock.monotonic()
        self._state = ""
        self._acks: asyncio.Queue[int] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(stream))

    async def shows(self, state: str, **more: Any) -> None:
        """Its screen changes and says this now."""
        self._moved = self.at.clock.monotonic()
        await self.tells(state, **more)

    async def tells(
        self, state: str, source: str = "SCREEN", detail: str = "", context: int = 0, **more: Any
    ) -> None:
        """Its client tells this, and since when the screen stands still."""
        self._state = state
        seen = pb.Observation(
            source=agent_pb2.EvidenceSource.Value(f"EVIDENCE_SOURCE_{source}"),
            state=agent_pb2.AgentState.Value(f"AGENT_STATE_{state}"),
            rule="foreground" if source == "PROCESS" else f"claude/{state.lower()}",
            detail=detail,
            context=context,
        )
        await self.beats(observation=seen, **more)

    async def beats(self, blind: bool = False, moved: float | None = None, **more: Any) -> None:
        """Beats, and waits until that was taken. `blind`: it cannot see the screen; `moved`: so
        many seconds ago the screen moved."""
        if self._state == "WORKING" and not self.hangs:
            moved = 0
        if moved is not None:
            self._moved = self.at.clock.monotonic() - moved
        quiet = {} if blind else {"quiet": span(self.at.clock.monotonic() - self._moved)}
        await self._beat(**quiet, **more)
        await self._beat()  # the answer to the first one came before what it tells was looked at

    async def _beat(self, **more: Any) -> None:
        assert self.stream is not None
        self.stream.beats += 1
        await self.stream.send(beat=pb.Beat(sequence=self.stream.beats, **more))
        async with asyncio.timeout(PATIENCE):
            while await self._acks.get() != self.stream.beats:
                pass

    async def breaks(self) -> None:
        """Its client is killed; returns when the server has noticed."""
        assert self.stream is not None
        self.stream.call.cancel()
        self._reader.cancel()
        self.stream = None
        async with asyncio.timeout(PATIENCE):
            while self.at.core.heartbeat.connection(self.id) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def _read(self, stream: Stream) -> None:
        while (frame := await stream.call.read()) is not EOF:
            kind = frame.WhichOneof("frame")
            if kind == "ack":
                self._acks.put_nowait(frame.ack.sequence)
            elif kind == "offer" and self.takes:
                self.got.append(frame.offer.text)
                await stream.report(frame.offer, "PASTED")
                await stream.report(frame.offer, "CONFIRMED")


class Fleet:
    """The agents of a test, and the passing of minutes."""

    def __init__(self, at: Serving) -> None:
        self.at = at
        self.actors: list[Actor] = []
        self.stub = supervision_pb2_grpc.SupervisionServiceStub(at.channel)

    async def agent(self, role: str, state: str, session: str = "atlas", **more: Any) -> Actor:
        """One more agent, that shows this state; "" for nothing yet."""
        pane = more.pop("pane", f"%{len(self.actors) + 1}")
        named = {"kind": "claude", "client_id": f"{session}:{role}", **more}
        actor = Actor(self.at, await self.at.alive(role, pane, session=session, **named))
        self.actors.append(actor)
        if state:
            await actor.shows(state)
        return actor

    async def minutes(self, number: int) -> None:
        """So many minutes pass, each with a beat of all who have a client."""
        for _ in range(number):
            await self.passes(60)

    async def passes(self, seconds: float) -> None:
        """So many seconds pass; all beat, and what is due is done."""
        self.at.clock.advance(seconds)
        await asyncio.gather(*(a.beats() for a in self.actors if a.stream))
        await self.looks()

    async def looks(self) -> None:
        """The loops do what is due now, and the texts arrive."""
        core = self.at.core
        for _ in range(2):
            await core.heartbeat.expire()
            await core.credit.run_due()
            await core.supervisor.run_due()
            await self.settled()

    async def settled(self) -> None:
        """Waits until whatever can be delivered was."""
        able = {a.id for a in self.actors if a.stream and a.takes}
        async with asyncio.timeout(PATIENCE):
            while True:
                views = await self.at.core.state.agents()
                able -= {v.agent.id for v in views if v.held_until or v.agent.do_not_disturb}
                open_for = await self.at.core.store.read(
                    lambda db: {row[0] for row in db.execute_sql(_OPEN).fetchall()}
                )
                if not able & open_for:
                    return
                await asyncio.sleep(0.001)

    async def written(self) -> None:
        """Waits until what the server writes by itself is on disk."""
        await self.at.core.store.write(lambda tx: None)

    async def counts(self, agent: str = "") -> supervision.NudgeCounts:
        """How many nudges were sent and not sent."""
        await self.written()
        answer = await self.stub.ListNudges(supervision.ListNudgesRequest(agent=agent))
        return answer.counts

    async def escalations(self, open_only: bool = True) -> list[tuple[str, str, int]]:
        """The matters as (agent, matter, level), the oldest first."""
        await self.written()
        request = supervision.ListEscalationsRequest(open_only=open_only)
        found = (await self.stub.ListEscalations(request)).escalations
        name = supervision.Matter.Name
        shown = [(e.agent, name(e.matter).removeprefix("MATTER_"), e.level) for e in found]
        return shown[::-1]

    async def alerts(self) -> list[tuple[str, str]]:
        """The alerts as (kind, subject), the oldest first."""
        await self.written()
        found = (await self.stub.ListAlerts(supervision.ListAlertsRequest())).alerts
        return [(a.kind, a.subject) for a in found][::-1]


def oversee(home: Path, body: Callable[[Fleet], Awaitable[None]], **how: Any) -> None:
    """Runs the body with a fleet on a server of its own."""

    async def with_fleet(at: Serving) -> None:
        await body(Fleet(at))

    run(home, with_fleet, pace=SLOW, **how)


def span(seconds: float) -> Duration:
    """A length of time for the API."""
    found = Duration()
    found.FromTimedelta(timedelta(seconds=seconds))
    return found
