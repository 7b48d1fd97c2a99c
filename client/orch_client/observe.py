"""What a client sees of the agent in its pane: one look for each beat, which never holds it up.

The process tells first (an agent that is stopped, a shell where an agent was), else the screen, by
the rules of the agent's kind. A program whose screen nobody can read tells nothing. What reads
screens is loaded when there is an agent: an idle client does without it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from orch.v1 import agent_pb2, heartbeat_pb2
from orch_client.courier import kinds
from orch_client.courier.programs import Program, Sort
from orch_client.courier.tmux import PaneGone, TmuxDied, TmuxFailed, TmuxSilent

if TYPE_CHECKING:
    from orch_client.courier.kinds import Kind
    from orch_client.courier.screen import Reading

_PATIENCE = 0.3
_STILL, _TRIES = 0.05, 3  # seconds between two looks that must be the same
_OLD = 0.5  # seconds after which a look is done again rather than told
_LONGEST_DETAIL = 200
_STATES = {
    "idle": agent_pb2.AGENT_STATE_IDLE,
    "working": agent_pb2.AGENT_STATE_WORKING,
    "starting": agent_pb2.AGENT_STATE_STARTING,
    "waiting_permission": agent_pb2.AGENT_STATE_WAITING_PERMISSION,
    "waiting_question": agent_pb2.AGENT_STATE_WAITING_ANSWER,
    "usage_limited": agent_pb2.AGENT_STATE_USAGE_LIMITED,
    "auth_failed": agent_pb2.AGENT_STATE_AUTH_FAILED,
    "unknown": agent_pb2.AGENT_STATE_UNKNOWN,
}
#: In these states the line says more than the rule: which dialog, until when. A spinner's only
#: counts seconds.
_TELLING = frozenset(
    {
        agent_pb2.AGENT_STATE_WAITING_PERMISSION,
        agent_pb2.AGENT_STATE_WAITING_ANSWER,
        agent_pb2.AGENT_STATE_USAGE_LIMITED,
        agent_pb2.AGENT_STATE_AUTH_FAILED,
    }
)

Capture: TypeAlias = Callable[[bool], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look saw. `agent` is the kind of a known agent that is there, "" when a kind was
    given by hand; `quiet`: for so many seconds the screen has not moved, None when it was not read.
    """

    program: str = ""
    agent: str = ""
    observation: heartbeat_pb2.Observation | None = None
    quiet: float | None = None


Key: TypeAlias = tuple[int, int, str, str, int]


def key(observation: heartbeat_pb2.Observation) -> Key:
    """What must differ for an observation to be another one."""
    seen = observation
    detail = seen.detail if seen.state in _TELLING else ""
    return seen.source, seen.state, seen.rule, detail, seen.context


class Observer:
    """Looks at one pane. `judge` tells the program in its foreground. `capture` tells its screen;
    it raises what Tmux.run raises and, unless True is given, may return None when the screen is as
    it was the last time. `kind` was given by hand, or is ""; `agent` is the kind of the agent that
    is or was there, as far as that is known; `started` names what `run` has started, while it
    runs."""

    def __init__(
        self,
        judge: Callable[[], Program],
        capture: Capture,
        kind: str = "",
        agent: str = "",
        started: Callable[[], str] = lambda: "",
    ) -> None:
        self._judge = judge
        self._capture = capture
        self._given = kind
        self.agent = agent
        self._started = started
        self._process_told = False
        self._reading: Reading | None = None
        self._read_by: Kind | None = None
        self._captured = self._text = 0
        self._moved = 0.0
        self._idle = False

    async def look(self) -> Sight:
        """What is to be seen now. A tmux that does not answer leaves the screen out."""
        program = self._judge()
        self.agent = program.agent or self.agent
        agent = "" if self._given else program.agent
        of_process = self._of_process(program)
        if of_process is not None:
            return Sight(program.name, agent, of_process)
        kind = self._readable(program)
        if kind is None:
            return Sight(program.name, agent, self._alive() or self._withdrawn(program))
        try:
            reading = await self._steady(kind)
        except (PaneGone, TmuxDied, TmuxFailed, TmuxSilent):
            reading = None
        if reading is None:
            return Sight(program.name, agent)
        quiet = time.monotonic() - self._moved
        return Sight(program.name, agent, _of_screen(kind, reading), quiet)

    def _of_process(self, program: Program) -> heartbeat_pb2.Observation | None:
        """A stopped agent hangs; a shell in its place means that it has left."""
        kind = kinds.load().get(self._given or self.agent)
        if kind is None or kind.way != "type":
            return None
        if program.sort is Sort.PROMPT:
            state = agent_pb2.AGENT_STATE_SHELL
            rule = "foreground"
        elif program.stopped and (self._given or program.agent):
            state, rule = agent_pb2.AGENT_STATE_HUNG, "stopped"
        else:
            return None
        self._process_told = True
        self._idle = False
        return _of_process(state, rule, program.name)

    def _alive(self) -> heartbeat_pb2.Observation | None:
        """All that is known of what `run` has started, when nobody can read its screen."""
        name = self._started()
        return _of_process(agent_pb2.AGENT_STATE_UNKNOWN, "started", name) if name else None

    def _withdrawn(self, program: Program) -> heartbeat_pb2.Observation | None:
        """Nothing is known any more, where the process had told something."""
        if not self._process_told:
            return None
        return _of_process(agent_pb2.AGENT_STATE_UNKNOWN, "foreground", program.name)

    def _readable(self, program: Program) -> Kind | None:
        """The rules for the program's screen; None when there are none."""
        if program.sort not in (Sort.AGENT, Sort.OTHER):
            return None
        kind = kinds.load().get(program.agent or self._given)
        return kind if kind is not None and kind.composer is not None else None

    async def _steady(self, kind: Kind) -> Reading | None:
        """The reading; one that has become idle only when the next look finds the same screen. One
        that does not keep still tells nothing."""
        reading = await self._read(kind)
        for _ in range(_TRIES):
            if reading.state != "idle" or self._idle:
                break
            before = self._text
            await asyncio.sleep(_STILL)
            reading = await self._read(kind)
            if reading.state == "idle" and self._text == before:
                self._idle = True
        self._idle = self._idle and reading.state == "idle"
        return None if reading.state == "idle" and not self._idle else reading

    async def _read(self, kind: Kind) -> Reading:
        from orch_client.courier import screen

        known = self._reading if kind is self._read_by else None
        captured = await self._capture(known is None)
        if known is not None and (captured is None or hash(captured) == self._captured):
            return known
        lines = screen.parse(captured or "")
        text = hash(tuple(line.text for line in lines))
        if self._reading is None or text != self._text:
            self._moved = time.monotonic()
        self._captured, self._text, self._read_by = hash(captured), text, kind
        self._reading = reading = screen.read(kind, lines)
        return reading


class Watch:
    """Looks once for each beat, and keeps a beat waiting for 0.3 s at most. When a look took longer
    it is `late`, and `on_late` called: there is something to tell before the next beat is due."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.late = False
        self.on_late: Callable[[], None] = lambda: None
        self._looking: asyncio.Task[Sight] | None = None
        self._waiting = False
        self._looked_at = 0.0
        self._program = ""

    async def sight(self, patience: float = _PATIENCE) -> Sight:
        """What is to be seen, or only the last program's name when the look takes too long."""
        self.late = False
        looking = self._looking
        if looking is None or (looking.done() and time.monotonic() - self._looked_at > _OLD):
            looking = self._looking = asyncio.create_task(self.observer.look())
            looking.add_done_callback(self._looked)
            await self._wait(looking, min(patience, _PATIENCE))
        if self._looking is not looking or not looking.done():  # given up, or not yet
            return Sight(self._program)
        self._looking = None
        seen = looking.result()
        self._program = seen.program
        return seen

    def give_up(self) -> None:
        """What the look that is under way sees is not told any more."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _wait(self, looking: asyncio.Task[Sight], patience: float) -> None:
        self._waiting = True
        try:
            await asyncio.wait([looking], timeout=patience)
        finally:
            self._waiting = False

    def _looked(self, task: asyncio.Task[Sight]) -> None:
        self._looked_at = time.monotonic()
        if not self._waiting and not task.cancelled():
            self.late = True
            self.on_late()


def _of_screen(kind: Kind, reading: Reading) -> heartbeat_pb2.Observation:
    return heartbeat_pb2.Observation(
        source=agent_pb2.EVIDENCE_SOURCE_SCREEN,
        state=_STATES[reading.state],
        rule=f"{kind.name}/{reading.rule}" if reading.rule else kind.name,
        detail=reading.line[:_LONGEST_DETAIL],
        context=reading.context,
    )


def _of_process(
    state: agent_pb2.AgentState.ValueType, rule: str, name: str
) -> heartbeat_pb2.Observation:
    return heartbeat_pb2.Observation(
        source=agent_pb2.EVIDENCE_SOURCE_PROCESS,
        state=state,
        rule=rule,
        detail=name[:_LONGEST_DETAIL],
    )
