"""Agents that ask for leave to act, and those who decide, as real clients do.

    python -m bench.asking expire ADDRESS DATABASE AGENTS
    python -m bench.asking wait ADDRESS DATABASE AGENTS SESSION
    python -m bench.asking approve ADDRESS DATABASE AGENTS
    python -m bench.asking check ADDRESS DATABASE
    python -m bench.asking cycle ADDRESS DATABASE AGENTS
    python -m bench.asking bidi ADDRESS PAUSE
    python -m bench.asking echo ADDRESS

Each agent has a heartbeat stream and a pane on another host, and calls with the token that the
server gives to a process in that pane; it is signed here, with the key out of the database. All
times are of CLOCK_MONOTONIC, or of CLOCK_REALTIME where a deadline is one side.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, cast

import apsw
import grpc
import uvloop
from google.protobuf.duration_pb2 import Duration

from bench import child, frames
from orch.v1 import authorization_pb2 as pb
from orch.v1 import event_pb2
from orch.v1.authorization_pb2_grpc import AuthorizationServiceStub
from orch.v1.event_pb2_grpc import EventServiceStub
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub
from orch.v1.scheduler_pb2_grpc import SchedulerServiceStub
from orch_server.core.clock import SystemClock
from orch_server.core.identity import Incarnation
from orch_server.services.identity import LIFETIME, IdentityService

SESSION = "bench"
ROLES = ("orchestrator", "project_manager")
#: Seconds between the first request and the first deadline, and over which the deadlines lie.
LEAD, SPREAD = 3.0, 5.0
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
_PER_CHANNEL = 50
_CALLERS = 16
_FLAGS = apsw.SQLITE_OPEN_READONLY
_Header = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Asker:
    """An agent: stubs on a channel, and the header of its calls."""

    stub: Any
    header: _Header

    async def ask(self, words: str, seconds: float) -> pb.Authorization:
        """A request of the project manager, so that the orchestrator is the first level."""
        timeout = Duration()
        timeout.FromMicroseconds(int(seconds * 1e6))
        request = pb.RequestAuthorizationRequest(
            action=words,
            approver_role="project_manager",
            request_id=secrets.token_hex(8),
            timeout=timeout,
        )
        answer = await self.stub.RequestAuthorization(request, metadata=self.header)
        return cast(pb.Authorization, answer.authorization)


async def agents(
    stack: AsyncExitStack, address: str, database: str, session: str, roles: list[str]
) -> list[Asker]:
    """Agents with these roles, connected for as long as the stack lives."""
    channel = await _channel(stack, address)
    beats: Any = HeartbeatServiceStub(channel)
    made = []
    for index, role in enumerate(roles):
        hello = frames.hello(session, index)
        hello.hello.role = role
        call = beats.Connect()
        await call.write(hello)
        answer = await call.read()
        assert answer.WhichOneof("frame") == "welcome", answer
        stack.callback(call.cancel)
        stub = AuthorizationServiceStub(await _channel(stack, address))
        made.append(Asker(stub, _header(database, hello.hello.pane)))
    return made


def _header(database: str, pane: Any) -> _Header:
    """What a process in this pane gets from orch-id.sock."""
    with apsw.Connection(database, flags=_FLAGS) as db:
        key = bytes.fromhex(str(db.execute("select token_key from store").get))
    clock, nobody = SystemClock(), cast(Any, None)
    at = Incarnation(
        pane.host,
        pane.tmux_socket,
        pane.tmux_server_pid,
        pane.tmux_server_start_time.seconds,
        pane.pane_id,
    )
    service = IdentityService(nobody, nobody, nobody, key, clock)
    return (("authorization", f"Bearer {service._sign(at, clock.now() + LIFETIME)}"),)


async def _channel(stack: AsyncExitStack, address: str) -> grpc.aio.Channel:
    return await stack.enter_async_context(grpc.aio.insecure_channel(address, _OWN_CONNECTION))


async def _all(work: list[Callable[[], Awaitable[None]]], callers: int) -> None:
    """Does all of it, so many at a time."""
    left = iter(work)

    async def caller() -> None:
        for one in left:
            await one()

    await asyncio.gather(*(caller() for _ in range(callers)))


# ---- expire ----


class _Expiry:
    """Requests that nobody answers; what became of them is seen by a watch of events."""

    def __init__(self, address: str, database: str, count: str) -> None:
        self._at = (address, database, SESSION)
        self._count = int(count)
        self._reached = 0  # the last event that was seen

    async def open(self, stack: AsyncExitStack) -> None:
        """The agents, and the watch."""
        names = [*ROLES, *(f"agent-{n}" for n in range(self._count))]
        self._agents = (await agents(stack, *self._at, names))[len(ROLES) :]
        self._events: Any = EventServiceStub(await _channel(stack, self._at[0]))

    async def measure(self, count: float) -> child.Answer:
        """So many requests; milliseconds from deadline or due time until the watch shows it."""
        kinds = ["authorization.expired", "authorization.escalated"]
        wanted = event_pb2.WatchEventsRequest(after=self._reached, kinds=kinds)
        watch = self._events.WatchEvents(wanted)
        seen = asyncio.create_task(self._watch(watch, int(count)))
        made = await self._ask(int(count))
        expired, told = await seen
        last = [(expired[one.id] - one.deadline.ToNanoseconds()) / 1e6 for one in made]
        levels = [
            (at - level.due_time.ToNanoseconds()) / 1e6
            for one in made
            for at, level in zip(told[one.id], one.levels, strict=True)
        ]
        return {**_summed("expired", last), **_summed("told", levels)}

    async def _ask(self, count: int) -> list[pb.Authorization]:
        start, made = time.monotonic(), []

        async def one(number: int) -> None:
            at = start + LEAD + SPREAD * number / count
            agent = self._agents[number % self._count]
            made.append(await agent.ask(f"tidy {number}", at - time.monotonic()))

        await _all([lambda n=n: one(n) for n in range(count)], _CALLERS)  # type: ignore[misc]
        return made

    async def _watch(self, watch: Any, count: int) -> tuple[dict[str, int], dict[str, list[int]]]:
        expired: dict[str, int] = {}
        told: dict[str, list[int]] = {}
        async for answer in watch:
            event, now = answer.event, time.time_ns()
            self._reached = event.number
            if event.kind == "authorization.escalated":
                told.setdefault(event.subject, []).append(now)
            else:
                expired[event.subject] = now
            if len(expired) == count:
                break
        watch.cancel()
        return expired, told


def _summed(name: str, values: list[float]) -> child.Answer:
    ordered = sorted(values)
    return {
        f"{name} p50": ordered[len(ordered) // 2],
        f"{name} p99": ordered[math.ceil(0.99 * len(ordered)) - 1],
        f"{name} max": ordered[-1],
    }


# ---- wait and approve ----


class _Waiters:
    """Requests, each with an open WaitAuthorization; tells when each decision was received."""

    def __init__(self, address: str, database: str, count: str, session: str) -> None:
        self._at = (address, database, session)
        self._count = int(count)
        self._waits: list[Any] = []
        self._ids: list[str] = []

    async def open(self, stack: AsyncExitStack) -> None:
        """The agents."""
        names = [f"agent-{n}" for n in range(-(-self._count // 100))]
        self._agents = await agents(stack, *self._at, names)
        many = range(-(-self._count // _PER_CHANNEL))
        channels = [await _channel(stack, self._at[0]) for _ in many]
        self._stubs: list[Any] = [AuthorizationServiceStub(channel) for channel in channels]

    async def measure(self, phase: float) -> child.Answer:
        """0: asks and opens the streams; 1: begins to read; 2: all that was received, by id."""
        if phase == 0:
            await self._ask()
        elif phase == 1:
            self._reading = asyncio.gather(*(self._read(w) for w in self._waits))
        else:
            return dict(zip(self._ids, await self._reading, strict=True))
        return {}

    async def _ask(self) -> None:
        self._ids, self._waits = [], []
        for n in range(self._count):
            agent = self._agents[n % len(self._agents)]
            asked = await agent.ask(f"tidy {n}", 3600)
            request = pb.WaitAuthorizationRequest(id=asked.id)
            stub = self._stubs[n // _PER_CHANNEL]
            wait = stub.WaitAuthorization(request, metadata=agent.header)
            first = await wait.read()
            assert first.authorization.state == pb.AUTHORIZATION_STATE_PENDING
            self._ids.append(asked.id)
            self._waits.append(wait)

    async def _read(self, wait: Any) -> float:
        answer = await wait.read()
        now = time.perf_counter()
        assert answer.authorization.state == pb.AUTHORIZATION_STATE_APPROVED, answer
        assert await wait.read() is grpc.aio.EOF
        return now


class _Approver:
    """Approves all that is pending, one after the other; tells when it called and was answered."""

    def __init__(self, address: str, database: str) -> None:
        self._at = (address, database, SESSION)

    async def open(self, stack: AsyncExitStack) -> None:
        """The orchestrator of each session whose agents ask is another agent."""
        self._stub: Any = AuthorizationServiceStub(await _channel(stack, self._at[0]))

    async def measure(self, pause: float) -> child.Answer:
        """With so many seconds between an answer and the next call."""
        request = pb.ListAuthorizationsRequest(state=pb.AUTHORIZATION_STATE_PENDING, page_size=1000)
        pending = (await self._stub.ListAuthorizations(request)).authorizations
        times: child.Answer = {}
        for one in pending:
            times[f"{one.id} called"] = time.perf_counter()
            await self._stub.ApproveAuthorization(pb.ApproveAuthorizationRequest(id=one.id))
            times[f"{one.id} answered"] = time.perf_counter()
            if pause:
                await asyncio.sleep(pause)
        return times


# ---- calls ----


class _Checks:
    """CheckAction of a tool that the policy allows, one caller."""

    def __init__(self, address: str, database: str) -> None:
        self._at = (address, database, SESSION)

    async def open(self, stack: AsyncExitStack) -> None:
        """The agent."""
        self._agent = (await agents(stack, *self._at, ["agent-0"]))[0]

    async def measure(self, seconds: float) -> child.Answer:
        """Calls a second."""
        action = pb.Action(tool="Read", arguments='{"file_path":"/a"}', cwd="/work")
        request = pb.CheckActionRequest(action=action)
        check, header = self._agent.stub.CheckAction, self._agent.header
        return await _rate(lambda: check(request, metadata=header), seconds)


class _Cycles:
    """A request, its approval and its use, by so many agents at once."""

    def __init__(self, address: str, database: str, count: str) -> None:
        self._at = (address, database, SESSION)
        self._count = int(count)
        self._numbers = itertools.count()

    async def open(self, stack: AsyncExitStack) -> None:
        """The agents, and the operator."""
        names = [f"agent-{n}" for n in range(self._count)]
        self._agents = await agents(stack, *self._at, names)
        self._operator: Any = AuthorizationServiceStub(await _channel(stack, self._at[0]))

    async def measure(self, seconds: float) -> child.Answer:
        """Cycles a second."""
        rates = await asyncio.gather(
            *(_rate(lambda a=agent: self._cycle(a), seconds) for agent in self._agents)  # type: ignore[misc]
        )
        return {"rate": sum(one["rate"] for one in rates)}

    async def _cycle(self, agent: Asker) -> None:
        asked = await agent.ask(f"tidy {next(self._numbers)}", 3600)
        await self._operator.ApproveAuthorization(pb.ApproveAuthorizationRequest(id=asked.id))
        await agent.stub.ConsumeAuthorization(
            pb.ConsumeAuthorizationRequest(id=asked.id), metadata=agent.header
        )


class _Bidi:
    """Round trips on one stream of the bare server, one after the other, at the approver's pace: a
    machine that has just slept is slower than one that is always busy."""

    def __init__(self, address: str, pause: str) -> None:
        self._address = address
        self._pause = float(pause)

    async def open(self, stack: AsyncExitStack) -> None:
        """The stream."""
        stub: Any = HeartbeatServiceStub(await _channel(stack, self._address))
        self._call = stub.Connect()
        await self._call.write(frames.hello("bidi", 0))
        await self._call.read()
        stack.callback(self._call.cancel)

    async def measure(self, count: float) -> child.Answer:
        """Milliseconds of so many."""
        took = []
        for sequence in range(int(count)):
            start = time.perf_counter()
            await self._call.write(frames.beat(sequence + 1))
            await self._call.read()
            took.append((time.perf_counter() - start) * 1e3)
            if self._pause:
                await asyncio.sleep(self._pause)
        return _summed("trip", took)


class _Echo:
    """Calls of the bare server's unary echo, one caller."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def open(self, stack: AsyncExitStack) -> None:
        """The channel."""
        self._stub: Any = SchedulerServiceStub(await _channel(stack, self._address))

    async def measure(self, seconds: float) -> child.Answer:
        """Calls a second."""
        request = frames.task_request(0)
        return await _rate(lambda: self._stub.CreateTask(request), seconds)


async def _rate(call: Callable[[], Awaitable[object]], seconds: float) -> child.Answer:
    start, done = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < seconds:
        await call()
        done += 1
    return {"rate": done / took}


_KINDS: dict[str, Callable[..., Any]] = {
    "expire": _Expiry,
    "wait": _Waiters,
    "approve": _Approver,
    "check": _Checks,
    "cycle": _Cycles,
    "bidi": _Bidi,
    "echo": _Echo,
}


async def _main(kind: str, *given: str) -> None:
    async with AsyncExitStack() as stack:
        helper = _KINDS[kind](*given)
        await helper.open(stack)
        await child.serve(helper.measure)


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
