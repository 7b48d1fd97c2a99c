"""The real server in this process: the real wiring on a Unix socket, with a clock of the test's.

Panes are on a host "elsewhere", where clients are believed, so no tmux is needed. Loops run only
when a test asks for them; what a loop would do, the test does through the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from orch.v1 import (
    agent_pb2,
    authorization_pb2_grpc,
    delivery_pb2,
    event_pb2_grpc,
    heartbeat_pb2,
    heartbeat_pb2_grpc,
    messaging_pb2_grpc,
    scheduler_pb2_grpc,
    session_state_pb2_grpc,
)
from orch_server import app, wiring
from orch_server.config import Settings
from orch_server.core.clock import Clock, ManualClock
from orch_server.core.pace import Pace
from orch_server.core.policy import Policy, default_policy
from orch_server.services.tokens import TokenFiles

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
PATIENCE = 15.0
PACE = Pace(beat=5.0, lease=15.0, grace=0.75)
EOF = grpc.aio.EOF


@dataclass
class Serving:
    """A server that answers, and stubs for it."""

    core: Any
    clock: Any
    settings: Settings
    addresses: list[str]
    channel: grpc.aio.Channel
    streams: list[Stream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.heartbeat = heartbeat_pb2_grpc.HeartbeatServiceStub(self.channel)
        self.scheduler = scheduler_pb2_grpc.SchedulerServiceStub(self.channel)
        self.authorization = authorization_pb2_grpc.AuthorizationServiceStub(self.channel)
        self.messaging = messaging_pb2_grpc.MessagingServiceStub(self.channel)
        self.events = event_pb2_grpc.EventServiceStub(self.channel)
        self.state = session_state_pb2_grpc.SessionStateServiceStub(self.channel)

    def token(self, session: str, role: str) -> tuple[tuple[str, str], ...]:
        """The header of a caller who acts for this role; of the operator, when both are ""."""
        token = TokenFiles(self.settings.tokens).create(session, role, "now")
        return (("authorization", f"Bearer {token}"),)

    def connect(self, metadata: Any = None) -> Stream:
        """Opens a heartbeat stream."""
        stream = Stream(self.heartbeat.Connect(metadata=metadata))
        self.streams.append(stream)
        return stream

    async def alive(self, role: str, pane: str, **more: Any) -> Stream:
        """A stream whose hello was welcomed."""
        stream = self.connect()
        await stream.hello(role, pane, **more)
        return stream

    async def agent(self, address: str) -> agent_pb2.Agent:
        """The agent as the API shows it now."""
        request = heartbeat_pb2.GetAgentRequest(agent=address)
        return (await self.heartbeat.GetAgent(request, timeout=PATIENCE)).agent

    async def until(self, address: str, liveness: int) -> agent_pb2.Agent:
        """Waits, by the watch of agents, until the agent's client is in this state."""
        session = address.partition(":")[0]
        watch = self.heartbeat.WatchAgents(heartbeat_pb2.WatchAgentsRequest(session=session))
        try:
            async with asyncio.timeout(PATIENCE):
                async for change in watch:
                    found = change.agent
                    if f"{found.session}:{found.role}" == address and found.liveness == liveness:
                        return found
        finally:
            watch.cancel()
        raise AssertionError("the watch ended")


class Stream:
    """A client's heartbeat stream, frame by frame."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.welcome: heartbeat_pb2.Welcome | None = None
        self.beats = 0

    async def hello(self, role: str, pane: str, **more: Any) -> heartbeat_pb2.Welcome:
        """Introduces a pane on the host elsewhere; returns the welcome."""
        await self.send(hello=hello(role, pane, **more))
        frame = await self.read()
        assert frame is not EOF, await self.error()
        assert frame.WhichOneof("frame") == "welcome"
        self.welcome = frame.welcome
        return self.welcome

    async def send(self, **frame: Any) -> None:
        """Sends one frame."""
        await asyncio.wait_for(self.call.write(heartbeat_pb2.ConnectRequest(**frame)), PATIENCE)

    async def beat(self, sequence: int = 0, program: str = "", **more: Any) -> Any:
        """Beats, with the next number unless one is given, and returns the next frame."""
        self.beats = sequence or self.beats + 1
        beat = heartbeat_pb2.Beat(sequence=self.beats, foreground_program=program, **more)
        await self.send(beat=beat)
        return await self.read()

    async def read(self) -> Any:
        """The next frame, or EOF."""
        return await asyncio.wait_for(self.call.read(), PATIENCE)

    async def report(self, offer: delivery_pb2.DeliveryOffer, state: str, **more: Any) -> None:
        """Reports what became of an offer."""
        await self.send(
            report=delivery_pb2.DeliveryReport(
                delivery_id=offer.delivery_id,
                sequence=offer.sequence,
                **{"grant": offer.grant, **more},
                state=delivery_pb2.DeliveryState.Value(f"DELIVERY_STATE_{state}"),
            )
        )

    async def goodbye(self, reason: str) -> None:
        """Leaves, and waits for the end of the stream."""
        value = heartbeat_pb2.GoodbyeReason.Value(f"GOODBYE_REASON_{reason}")
        await self.send(goodbye=heartbeat_pb2.Goodbye(reason=value))
        assert await self.read() is EOF
        assert await self.call.code() is grpc.StatusCode.OK

    async def error(self) -> Failure:
        """The error with which the server ends the stream, after all frames."""
        async with asyncio.timeout(PATIENCE):
            try:
                while await self.call.read() is not EOF:
                    pass
            except (grpc.aio.AioRpcError, asyncio.CancelledError):
                pass
            return failure(
                await self.call.code(), await self.call.details(), await trailing(self.call)
            )


async def settles(probe: Callable[[], object]) -> None:
    """Lets the server, which runs on this loop, go on until the probe is true."""
    async with asyncio.timeout(PATIENCE):
        while not probe():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Failure:
    """An error as a client sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: tuple[str, ...]


async def trailing(call: Any) -> Any:
    """The call's last metadata."""
    return await call.trailing_metadata()


def failure(code: grpc.StatusCode, message: str | None, metadata: Any) -> Failure:
    """Reads the details out of the metadata."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(info) or detail.Unpack(bad)
    fields = tuple(violation.field for violation in bad.field_violations)
    return Failure(code, message or "", info.reason, info.domain, dict(info.metadata), fields)


async def fails(call: Awaitable[Any]) -> Failure:
    """The error of a call that must fail."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as exc:
        return failure(exc.code(), exc.details(), exc.trailing_metadata())
    raise AssertionError(f"the call did not fail but answered {answer}")


def hello(role: str, pane: str, **more: Any) -> heartbeat_pb2.Hello:
    """A hello for a pane on the host elsewhere, in session atlas unless `session` says other."""
    life = more.pop("life", 1)
    at = agent_pb2.Pane(
        host=more.pop("host", "elsewhere"),
        tmux_socket="/tmp/tmux.sock",
        tmux_server_pid=life,
        pane_id=pane,
    )
    at.tmux_server_start_time.seconds = 1_700_000_000
    return heartbeat_pb2.Hello(
        pane=at, role=role, **{"session": "atlas", "pane_pid": 4242, "kind": "generic", **more}
    )


def settings_for(
    home: Path, pace: Pace = PACE, tcp: bool = False, policy: Policy | None = None
) -> Settings:
    """The settings of a server in this home."""
    return Settings(
        home=home,
        sockets=(home / "orch.sock",),
        ports=("127.0.0.1:0",) if tcp else (),
        policy=policy or default_policy(("orchestrator", "project_manager")),
        pace=pace,
        log_level="info",
        templates=home / "templates",
        default_tmux=str(home / "default.sock"),
    )


@asynccontextmanager
async def serving(
    home: Path,
    clock: Clock | None = None,
    pace: Pace = PACE,
    tcp: bool = False,
    loops: tuple[str, ...] = ("mailbox",),
    policy: Policy | None = None,
) -> AsyncIterator[Serving]:
    """A server on HOME/orch.sock and, when asked, on TCP; with the named loops."""
    settings = settings_for(home, pace, tcp, policy)
    moving = clock or ManualClock(START)
    core = await wiring.wire(settings, moving)
    try:
        await wiring.recover(core)
        server, _ = app._server(core, moving)
        addresses = app._bind(server, settings)
        await server.start()
        running = [
            asyncio.create_task(loop.run())
            for loop in app._loops(core, moving)
            if loop.name in loops
        ]
        async with grpc.aio.insecure_channel(addresses[0]) as channel:
            made = Serving(core, moving, settings, addresses, channel)
            try:
                yield made
            finally:
                for stream in made.streams:
                    stream.call.cancel()
                await server.stop(0)
                while running:  # a cancellation can be lost; test_loops.py is about that
                    for task in running:
                        task.cancel()
                    _, pending = await asyncio.wait(running, timeout=0.5)
                    running = list(pending)
    finally:
        await core.courier.close()
        await core.store.close()


def run(home: Path, body: Callable[[Serving], Awaitable[None]], **how: Any) -> None:
    """Runs the body beside a server."""

    async def with_server() -> None:
        async with asyncio.timeout(60), serving(home, **how) as at:
            await body(at)

    asyncio.run(with_server())
