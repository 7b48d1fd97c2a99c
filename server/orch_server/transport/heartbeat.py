"""HeartbeatService over gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc

from orch.v1 import heartbeat_pb2 as pb
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceServicer
from orch_server import __version__
from orch_server.core.agent import Agent, Liveness
from orch_server.core.delivery import Offer
from orch_server.core.errors import InvalidInput, OrchError, Unavailable
from orch_server.core.pace import Pace
from orch_server.services.agent_state import AgentStates
from orch_server.services.connection import Connection, Draining, Push, Replaced
from orch_server.services.heartbeat import HeartbeatService
from orch_server.services.hooks import HookService
from orch_server.services.mailbox import Mailbox
from orch_server.services.operations import OperationService
from orch_server.services.session_state import SessionStateService
from orch_server.transport import convert, convert_delivery, paging
from orch_server.transport.guard import Undecodable, caller, undecodable

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[pb.ConnectRequest, pb.ConnectResponse]

logger = logging.getLogger(__name__)

_HELLO_DEADLINE = 10.0
_PUSH_DEADLINE = 10.0
_LAST_WRITE = 1.0
_MOST_UNWRITTEN = 32  # changes of one agent's state that wait for the disk
_NO_TIME, _LONGEST_QUIET = timedelta(0), timedelta(days=365)
_LEAVING = {
    pb.GOODBYE_REASON_PANE_ENDED: Liveness.ENDED,
    pb.GOODBYE_REASON_CLIENT_STOPPED: Liveness.UNMANAGED,
    pb.GOODBYE_REASON_DRAINED: Liveness.UNKNOWN,
}


class HeartbeatServicer(HeartbeatServiceServicer):
    """Streams of clients, and the list of agents."""

    def __init__(
        self,
        heartbeat: HeartbeatService,
        mailbox: Mailbox,
        state: SessionStateService,
        hooks: HookService,
        states: AgentStates,
        operations: OperationService,
    ) -> None:
        self._heartbeat = heartbeat
        self._mailbox = mailbox
        self._state = state
        self._hooks = hooks
        self._states = states
        self._operations = operations
        self._aftermath: set[asyncio.Task[None]] = set()

    async def Connect(  # type: ignore[override]  # grpc.aio also takes read/write style
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> None:
        """Serves one client until its stream ends."""
        stream = _Stream(self._heartbeat, self._mailbox, self._states, context)
        try:
            await stream.serve()
        except asyncio.CancelledError:
            if stream.ending is None or stream.stuck:  # after a stuck write no status can be sent
                raise
            stream.task.uncancel()
            raise stream.ending from None
        finally:
            if stream.connection is not None:
                self._after(self._heartbeat.broke(stream.connection))

    async def ListAgents(
        self, request: pb.ListAgentsRequest, context: Any
    ) -> pb.ListAgentsResponse:
        views = await self._state.agents(request.session)
        page, token = paging.cut(views, request.page_size, request.page_token)
        return pb.ListAgentsResponse(
            agents=[convert.agent(view) for view in page], next_page_token=token
        )

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> pb.GetAgentResponse:
        view = await self._state.agent(request.agent)
        explanation = convert.explanation(self._state.explain(view.agent))
        return pb.GetAgentResponse(agent=convert.agent(view), explanation=explanation)

    async def WatchAgents(
        self, request: pb.WatchAgentsRequest, context: Any
    ) -> AsyncIterator[pb.WatchAgentsResponse]:
        async for view, event in self._state.watch_agents(request.session):
            yield pb.WatchAgentsResponse(
                agent=convert.agent(view),
                event_number=event.number if event else 0,
                event_time=convert.timestamp(event.at) if event else None,
            )

    async def ReportHookEvent(
        self, request: pb.ReportHookEventRequest, context: Any
    ) -> pb.ReportHookEventResponse:
        await self._hooks.report(caller(), convert.hook_report(request))
        return pb.ReportHookEventResponse()

    async def ExtendOperation(
        self, request: pb.ExtendOperationRequest, context: Any
    ) -> pb.ExtendOperationResponse:
        length = convert.to_timedelta("duration", request.duration)
        operation, left = await self._operations.extend(caller(), length, request.reason)
        return pb.ExtendOperationResponse(
            operation=convert.operation(operation), left=convert.duration(left)
        )

    def _after(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs what must be done although the call itself is being cancelled."""
        task = asyncio.create_task(work)
        self._aftermath.add(task)
        task.add_done_callback(self._aftermath_done)

    def _aftermath_done(self, task: asyncio.Task[None]) -> None:
        self._aftermath.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.warning("end of a stream not stored", extra={"error": str(task.exception())})


class _Stream:
    """One open stream: reads frames, writes answers and what the server has to say."""

    def __init__(
        self,
        heartbeat: HeartbeatService,
        mailbox: Mailbox,
        states: AgentStates,
        context: Context,
    ) -> None:
        self._heartbeat = heartbeat
        self._mailbox = mailbox
        self._states = states
        self._context = context
        self._lock = asyncio.Lock()
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.connection: Connection | None = None
        self.ending: OrchError | None = None
        self.stuck = False  # something is being written
        self._unwritten: set[asyncio.Task[None]] = set()  # to the store
        self._last: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Introduces the client, then serves its frames until it ends the stream."""
        hello = await self._hello()
        async with self._lock:  # nothing may be pushed before the welcome
            agent, connection = await self._heartbeat.connect(
                caller(), convert.introduction(hello), self._push, self._close
            )
            self.connection = connection
            await self._write(self._welcome(agent, connection.told))
        self._mailbox.wake(agent.id)
        await self._frames(connection)

    async def _hello(self) -> pb.Hello:
        try:
            async with asyncio.timeout(_HELLO_DEADLINE):
                first = await self._context.read()
        except TimeoutError as exc:
            raise InvalidInput("hello", "No hello came within 10 s; send it first.") from exc
        if not isinstance(first, pb.ConnectRequest) or first.WhichOneof("frame") != "hello":
            raise InvalidInput("hello", "The first frame is no hello; send it first.")
        return first.hello

    async def _frames(self, connection: Connection) -> None:
        read = self._context.read
        while True:
            frame: Any = await read()
            if isinstance(frame, Undecodable):
                raise undecodable()
            if not isinstance(frame, pb.ConnectRequest):  # the end of the stream
                return
            kind = frame.WhichOneof("frame")
            if kind == "beat":
                await self._beat(connection, frame.beat)
            elif kind == "goodbye":
                liveness = _LEAVING.get(frame.goodbye.reason, Liveness.UNMANAGED)
                await self._heartbeat.left(connection, liveness)
                return
            else:
                await self._courier_says(connection, frame)

    async def _beat(self, connection: Connection, beat: pb.Beat) -> None:
        """Answers a beat, then takes what the client saw: the answer waits for no disk."""
        sequence = beat.sequence
        pace = self._heartbeat.beat(connection, sequence, beat.foreground_program)
        seen = convert.observation(beat.observation) if beat.HasField("observation") else None
        quiet = convert.to_timedelta("beat.quiet", beat.quiet) if beat.HasField("quiet") else None
        answer = pb.ConnectResponse(ack=pb.Ack(sequence=sequence))
        if pace is not None:
            answer.ack.beat_interval.FromTimedelta(timedelta(seconds=pace.beat))
            answer.ack.lease.FromTimedelta(timedelta(seconds=pace.lease))
        async with self._lock:
            await self._write(answer)
        if quiet is not None and not _NO_TIME <= quiet <= _LONGEST_QUIET:
            raise InvalidInput("beat.quiet", "The quiet is no time from 0 s to a year.")
        written = self._states.observed(connection.agent_id, connection.epoch, seen, quiet)
        if written is not None:
            await self._follow(connection, written)

    async def _follow(self, connection: Connection, written: asyncio.Task[None]) -> None:
        """Waits for no write of what was seen, but when there are many."""
        self._unwritten.add(written)
        written.add_done_callback(self._unwritten.discard)
        if len(self._unwritten) > _MOST_UNWRITTEN:
            with self._heartbeat.own_wait(connection):
                await asyncio.wait(self._unwritten)

    async def _courier_says(self, connection: Connection, frame: pb.ConnectRequest) -> None:
        """A frame about deliveries. `ready` and `reply` count for the stream that they come on:
        they may belong to an offer that was made on an earlier one."""
        kind = frame.WhichOneof("frame")
        if kind == "report":
            await self._report(connection, frame)
        elif kind == "ready":
            self._heartbeat.sign_of_life(connection)
            with self._heartbeat.own_wait(connection):
                await self._mailbox.ready(connection.agent_id, connection.epoch)
        elif kind == "reply":
            self._heartbeat.sign_of_life(connection)
            reply = convert_delivery.reply(frame.reply)
            with self._heartbeat.own_wait(connection):
                await self._mailbox.reply(connection.agent_id, connection.epoch, reply)
        elif kind == "exit":
            self._heartbeat.sign_of_life(connection)
            ended = convert.agent_exit(frame.exit)
            with self._heartbeat.own_wait(connection):
                await self._states.exited(connection.agent_id, connection.epoch, ended)
        else:
            raise InvalidInput(
                "frame",
                "After the hello come beats, reports, ready, replies, exits and a goodbye.",
            )

    async def _report(self, connection: Connection, frame: pb.ConnectRequest) -> None:
        report = convert_delivery.report(frame.report)
        self._heartbeat.heard(connection, report)
        with self._heartbeat.own_wait(connection):
            await self._mailbox.report(connection.agent_id, report)
        answer = pb.ReportAck(delivery_id=report.delivery_id, sequence=report.sequence)
        async with self._lock:
            await self._write(pb.ConnectResponse(report_ack=answer))

    def _welcome(self, agent: Agent, pace: Pace) -> pb.ConnectResponse:
        return pb.ConnectResponse(
            welcome=pb.Welcome(
                agent_id=agent.id,
                session=agent.session,
                role=agent.role,
                epoch=agent.epoch,
                beat_interval=convert.duration(timedelta(seconds=pace.beat)),
                lease=convert.duration(timedelta(seconds=pace.lease)),
                server_version=__version__,
            )
        )

    async def _push(self, push: Push) -> None:
        """Writes what the server has to say. Raises Unavailable when the client is gone."""
        try:
            async with asyncio.timeout(_PUSH_DEADLINE), self._lock:
                await self._write(_frame(push))
        except (TimeoutError, grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as exc:
            raise Unavailable("The client takes nothing any more.") from exc

    async def _write(self, frame: pb.ConnectResponse) -> None:
        """Writes one frame; who calls this holds the lock. A client that reads nothing makes the
        write wait, and when that is given up nothing can be written any more."""
        self.stuck = True
        await self._context.write(frame)
        self.stuck = False
        if self._last is not None:
            self._last.cancel()
            self.task.cancel()

    def _close(self, error: OrchError) -> None:
        """Ends the call with this error, wherever it waits; what is being written is let finish."""
        if self.ending is None and not self.task.done():
            self.ending = error
            if self.stuck:
                loop = asyncio.get_running_loop()
                self._last = loop.call_later(_LAST_WRITE, self.task.cancel)
            else:
                self.task.cancel()


def _frame(push: Push) -> pb.ConnectResponse:
    if isinstance(push, Offer):
        return pb.ConnectResponse(offer=convert_delivery.offer(push))
    if isinstance(push, Replaced):
        return pb.ConnectResponse(superseded=pb.Superseded(epoch=push.epoch, by=push.by))
    assert isinstance(push, Draining)
    after = convert.duration(push.reconnect_after)
    return pb.ConnectResponse(drain=pb.Drain(reconnect_after=after))
