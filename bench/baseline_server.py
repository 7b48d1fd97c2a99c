"""The bare server: grpc.aio on uvloop with the product's message classes, and nothing else.

No interceptor, no state: a hello gets a fixed welcome, a beat an ack, a request a fixed response.
With a folder, each request's row is committed before it is answered.

    python -m bench.baseline_server ADDRESS [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop

from bench import child, frames
from bench.group_commit import Writer, template
from orch.v1 import heartbeat_pb2 as pb
from orch.v1 import scheduler_pb2, session_state_pb2

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
)


async def _connect(_requests: Any, context: Any) -> None:
    await context.read()
    await context.write(frames.welcome())
    read, write = context.read, context.write
    while (frame := await read()) is not grpc.aio.EOF:
        await write(pb.ConnectResponse(ack=pb.Ack(sequence=frame.beat.sequence)))


class _Tasks:
    """CreateTask: an echo, or with a writer a commit of the same row and then the echo."""

    def __init__(self, writer: Writer | None) -> None:
        self._writer = writer
        self._response = frames.task_response()

    async def echo(self, _request: Any, _context: Any) -> scheduler_pb2.CreateTaskResponse:
        return self._response

    async def commit(self, request: Any, _context: Any) -> scheduler_pb2.CreateTaskResponse:
        assert self._writer is not None
        await self._writer.write(request.request_id)
        return self._response


class _Sessions:
    """UpdateSession: an echo, or with a writer a commit of the same change and then the echo."""

    def __init__(self, writer: Writer | None) -> None:
        self._writer = writer
        self._response = frames.update_response()

    async def echo(self, _request: Any, _context: Any) -> session_state_pb2.UpdateSessionResponse:
        return self._response

    async def commit(self, request: Any, _context: Any) -> session_state_pb2.UpdateSessionResponse:
        assert self._writer is not None
        await self._writer.update(int(request.session.name.rpartition("-")[2]))
        return self._response


def _handlers(writer: Writer | None) -> list[grpc.GenericRpcHandler]:
    connect = grpc.stream_stream_rpc_method_handler(
        _connect, pb.ConnectRequest.FromString, pb.ConnectResponse.SerializeToString
    )
    tasks = _Tasks(writer)
    create = grpc.unary_unary_rpc_method_handler(
        tasks.echo if writer is None else tasks.commit,
        scheduler_pb2.CreateTaskRequest.FromString,
        scheduler_pb2.CreateTaskResponse.SerializeToString,
    )
    sessions = _Sessions(writer)
    update = grpc.unary_unary_rpc_method_handler(
        sessions.echo if writer is None else sessions.commit,
        session_state_pb2.UpdateSessionRequest.FromString,
        session_state_pb2.UpdateSessionResponse.SerializeToString,
    )
    state = "orch.v1.SessionStateService"
    return [
        grpc.method_handlers_generic_handler(state, {"UpdateSession": update}),
        grpc.method_handlers_generic_handler("orch.v1.HeartbeatService", {"Connect": connect}),
        grpc.method_handlers_generic_handler("orch.v1.SchedulerService", {"CreateTask": create}),
    ]


def _writer(folder: str) -> Writer:
    path = Path(folder) / "bare-rpc.db"
    template(path)
    return Writer(path)


async def _main(address: str, folder: str = "") -> None:
    writer = _writer(folder) if folder else None
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(_handlers(writer))
    server.add_insecure_port(address)
    await server.start()
    await child.serve(child.nothing)
    await server.stop(0)
    if writer is not None:
        await writer.close()


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
