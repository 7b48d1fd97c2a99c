"""Simulated agents: real heartbeat streams whose observations follow a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from orch.v1 import agent_pb2, delivery_pb2
from orch.v1 import heartbeat_pb2 as pb
from tests.transport.harness import EOF, PATIENCE, Serving, Stream

#: What an agent does from some minute on: a state of AgentState, or "still": it claims to work.
Script = list[tuple[int, str]]


@dataclass
class Sim:
    """One agent. `script` says what it does when; `on_text` what a text makes it do: the minutes
    for which it works then, None for nothing."""

    session: str
    role: str
    pane: str
    script: Script
    on_text: Callable[[str], int | None] = lambda text: None
    credential: str = ""
    detail: str = ""
    got: list[tuple[int, str]] = field(default_factory=list)
    _typed: set[str] = field(default_factory=set)
    stream: Stream | None = None
    state: str = "IDLE"
    since: int = 0
    works_until: int | None = None
    _reader: asyncio.Task[None] | None = None
    _acks: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    _told: tuple[str, str] | None = None
    minute: int = 0

    @property
    def address(self) -> str:
        return f"{self.session}:{self.role}"

    async def connect(self, at: Serving) -> None:
        """Opens its stream and reads what comes."""
        self.stream = at.connect()
        await self.stream.hello(
            self.role,
            self.pane,
            session=self.session,
            kind="claude",
            client_id=self.address,
            credential=self.credential,
        )
        self._told = None
        self._acks = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(self.stream))

    async def breaks(self) -> None:
        """Its client is killed."""
        assert self.stream is not None
        assert self._reader is not None
        self._reader.cancel()
        self.stream.call.cancel()
        self.stream = None

    async def lives(self, minute: int) -> None:
        """One minute: takes its next state from the script or its work, and beats."""
        self.minute = minute
        for begins, state in self.script:
            if begins == minute:
                self._becomes(state)
                self.works_until = None
        if self.works_until is not None and minute >= self.works_until:
            self._becomes("IDLE")
            self.works_until = None
        if self.stream is not None:
            await self.beat()

    async def beat(self) -> None:
        """Beats, and waits for the answer."""
        assert self.stream is not None
        state = "WORKING" if self.state == "still" else self.state
        moving = self.state == "WORKING"
        quiet = timedelta(0) if moving else timedelta(minutes=self.minute - self.since)
        more: dict[str, Any] = {"quiet": _duration(quiet)}
        if (state, self.detail) != self._told:
            more["observation"] = pb.Observation(
                source=agent_pb2.EVIDENCE_SOURCE_SCREEN,
                state=agent_pb2.AgentState.Value(f"AGENT_STATE_{state}"),
                rule=f"claude/{state.lower()}",
                detail=self.detail if state == "USAGE_LIMITED" else "",
            )
            self._told = (state, self.detail)
        self.stream.beats += 1
        await self.stream.send(beat=pb.Beat(sequence=self.stream.beats, **more))
        async with asyncio.timeout(PATIENCE):
            while await self._acks.get() != self.stream.beats:
                pass

    async def exits(self, status: int) -> None:
        """The agent crashes under `orch-client run`, which leaves then."""
        assert self.stream is not None
        assert self._reader is not None
        await self.stream.send(exit=pb.AgentExit(status=status))
        reason = pb.GOODBYE_REASON_CLIENT_STOPPED
        await self.stream.send(goodbye=pb.Goodbye(reason=reason))
        await self._reader
        self.stream = None

    def _becomes(self, state: str) -> None:
        self.state, self.since = state, self.minute

    async def _read(self, stream: Stream) -> None:
        while (frame := await stream.call.read()) is not EOF:
            kind = frame.WhichOneof("frame")
            if kind == "ack":
                self._acks.put_nowait(frame.ack.sequence)
            elif kind == "offer":
                await self._take(stream, frame.offer)

    async def _take(self, stream: Stream, offer: delivery_pb2.DeliveryOffer) -> None:
        # As a pane does by its guard: what is offered anew after a restart may be there already.
        if offer.delivery_id not in self._typed:
            self._typed.add(offer.delivery_id)
            self.got.append((self.minute, offer.text))
        minutes = self.on_text(offer.text)
        if minutes is not None:
            self._becomes("WORKING")
            self.works_until = self.minute + minutes
        # Last: once the night hears that a text was taken, it goes on with the next minute.
        await stream.report(offer, "PASTED")
        await stream.report(offer, "CONFIRMED")


def _duration(length: timedelta) -> Duration:
    found = Duration()
    found.FromTimedelta(length)
    return found
