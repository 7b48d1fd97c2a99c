"""Every method of every service, called as no client of ours would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from orch.v1 import (
    authorization_pb2,
    event_pb2,
    heartbeat_pb2,
    messaging_pb2,
    metrics_pb2,
    scheduler_pb2,
    session_state_pb2,
    supervision_pb2,
)
from tests.transport.harness import PATIENCE, Failure, Serving, failure, run, trailing

Code = grpc.StatusCode
FILES = (
    heartbeat_pb2,
    scheduler_pb2,
    authorization_pb2,
    session_state_pb2,
    messaging_pb2,
    supervision_pb2,
    event_pb2,
    metrics_pb2,
)
HUGE = 2**63 - 1
_MOST = 4 * 1024 * 1024
HUGE_TOKEN = "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk="


def _methods() -> Iterator[descriptor.MethodDescriptor]:
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from service.methods


METHODS = list(_methods())


def _path(method: descriptor.MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


async def _call(
    channel: grpc.aio.Channel,
    method: descriptor.MethodDescriptor,
    request: bytes,
    metadata: Any = None,
    quiet: float = 0.2,
) -> Failure | bytes:
    """The first answer of a method, or its error. Nothing here knows the messages. A watch that
    has said nothing for `quiet` seconds is left.

    grpc.aio replaces the status of a server that ends a stream while the client still writes with
    one of its own (grpc issue 36066, open); such a call tells nothing and is made anew.
    """
    for _ in range(20):
        told = await _call_once(channel, method, request, metadata, quiet)
        if isinstance(told, bytes) or told.message != "Internal error from Core":
            return told
    raise AssertionError("the server's own status never came through")


async def _call_once(
    channel: grpc.aio.Channel,
    method: descriptor.MethodDescriptor,
    request: bytes,
    metadata: Any,
    quiet: float,
) -> Failure | bytes:
    style = ("stream" if method.client_streaming else "unary") + (
        "_stream" if method.server_streaming else "_unary"
    )
    make = getattr(channel, style)(_path(method))
    call: Any = None
    try:
        async with asyncio.timeout(PATIENCE):
            if method.client_streaming:
                call = make(metadata=metadata)
                await call.write(request)
                await call.done_writing()
                answer = await call.read()
            elif method.server_streaming:
                call = make(request, metadata=metadata)
                answer = await _first(call, quiet)
            else:
                return bytes(await make(request, metadata=metadata))
    except grpc.aio.AioRpcError as exc:
        return failure(exc.code(), exc.details(), exc.trailing_metadata())
    except asyncio.InvalidStateError:
        return failure(await call.code(), await call.details(), await trailing(call))
    if answer is grpc.aio.EOF:
        return failure(await call.code(), await call.details(), await trailing(call))
    call.cancel()
    return bytes(answer)


async def _refusal(
    channel: grpc.aio.Channel,
    method: descriptor.MethodDescriptor,
    request: bytes,
    metadata: Any = None,
) -> Failure:
    """The error of a method that must fail; also a watch is not left before it has come."""
    result = await _call(channel, method, request, metadata, quiet=PATIENCE)
    assert isinstance(result, Failure), method.full_name
    return result


async def _first(call: Any, quiet: float) -> Any:
    """The first answer of a stream; b"" when it says nothing, as a watch of nobody may."""
    reading = asyncio.ensure_future(call.read())
    await asyncio.wait({reading}, timeout=quiet)
    if not reading.done():
        call.cancel()
        await asyncio.wait({reading})
        return b""
    return reading.result()


def _check(method: descriptor.MethodDescriptor, result: Failure | bytes) -> None:
    if isinstance(result, bytes):
        return
    assert result.code not in (Code.UNKNOWN, Code.INTERNAL), (method.full_name, result)
    assert result.domain == "orch", (method.full_name, result)
    assert result.reason, (method.full_name, result)
    assert "Traceback" not in result.message
    if result.code is Code.INVALID_ARGUMENT:
        assert result.fields, (method.full_name, result)


def test_there_are_eight_services() -> None:
    assert len({m.containing_service.full_name for m in METHODS}) == 8
    assert len(METHODS) >= 44


def test_an_empty_request_is_answered_or_refused_with_a_reason(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        for method in METHODS:
            _check(method, await _call(at.channel, method, b""))
            _check(method, await _call(at.channel, method, b"", at.token("atlas", "developer")))
            _check(method, await _call(at.channel, method, b"", at.token("", "")))

    run(folder, body)


def _hostile(method: descriptor.MethodDescriptor, value: str) -> bytes:
    """A request with every field set to something extreme."""
    made = message_factory.GetMessageClass(method.input_type)()
    _fill(made, value)
    if made.ByteSize() > _MOST:  # gRPC itself would refuse it
        return _hostile(method, value[: len(value) // 2])
    return bytes(made.SerializeToString())


def _fill(message: Any, value: str) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            if field.type == field.TYPE_STRING:
                getattr(message, field.name).append(value)
        elif field.type == field.TYPE_MESSAGE:
            _fill(getattr(message, field.name), value)
        elif field.type == field.TYPE_STRING:
            text = HUGE_TOKEN if field.name == "page_token" else value
            setattr(message, field.name, text)
        elif field.type == field.TYPE_INT64:
            setattr(message, field.name, HUGE)
        elif field.type in (field.TYPE_INT32, field.TYPE_ENUM):
            setattr(message, field.name, 2**31 - 1)
        elif field.type == field.TYPE_BOOL:
            setattr(message, field.name, True)


@pytest.mark.parametrize(
    "value",
    ["", "\x00", "%1", "a:b", "@all", "'; drop table task; --", "\u202e\U0001f469", "x" * 300_000],
    ids=lambda value: ascii(value[:20]),
)
def test_a_hostile_request_is_answered_or_refused_with_a_reason(folder: Path, value: str) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        token = at.token("atlas", "developer")
        for method in METHODS:
            _check(method, await _call(at.channel, method, _hostile(method, value)))
            _check(method, await _call(at.channel, method, _hostile(method, value), token))

    run(folder, body)


@pytest.mark.parametrize("name", ["GetTask", "WatchSessions", "Connect"])
def test_a_request_that_is_no_message_is_the_callers_fault(folder: Path, name: str) -> None:
    """One of each style: unary, a watch, the heartbeat."""

    async def body(at: Serving) -> None:
        method = next(m for m in METHODS if m.name == name)
        result = await _refusal(at.channel, method, b"\xff\xff\xff")
        assert result.code not in (Code.UNKNOWN, Code.INTERNAL), result
        assert "class" not in result.message

    run(folder, body)


def test_over_tcp_every_method_wants_a_token(folder: Path) -> None:
    async def body(at: Serving) -> None:
        for header in (
            None,
            (("authorization", "Bearer nonsense"),),
            (("authorization", "Bearer "),),
            (("authorization", "Basic b3JjaA=="),),
            (("authorization", f"Bearer orch_{'0' * 12}_{'x' * 43}"),),
            (("authorization", "Bearer WzFd.00"),),
        ):
            async with grpc.aio.insecure_channel(at.addresses[1]) as channel:
                for method in METHODS:
                    result = await _refusal(channel, method, b"", header)
                    assert (result.code, result.domain) == (Code.UNAUTHENTICATED, "orch"), result

    run(folder, body, tcp=True)


def test_over_tcp_a_token_opens_every_method(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        async with grpc.aio.insecure_channel(at.addresses[1]) as channel:
            for method in METHODS:
                result = await _call(channel, method, b"", at.token("atlas", "developer"))
                _check(method, result)
                assert getattr(result, "code", None) is not Code.UNAUTHENTICATED

    run(folder, body, tcp=True)


def test_a_bad_token_is_refused_on_the_socket_too(folder: Path) -> None:
    async def body(at: Serving) -> None:
        header = (("authorization", "Bearer nonsense"),)
        for method in METHODS:
            result = await _refusal(at.channel, method, b"", header)
            assert result.code is Code.UNAUTHENTICATED

    run(folder, body)


def test_a_fault_of_the_server_is_masked_and_the_connection_goes_on(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(at: Serving) -> None:
        await at.core.store.write(
            lambda tx: tx.execute(
                "insert into session (name, created_at, updated_at, version, specification_path,"
                " parent_branch, phase, plan, completion, failure_reason)"
                " values ('broken', 0, 0, 1, '', '', 'SECRET-NONSENSE', '', 'PENDING', '')"
            )
        )
        method = next(m for m in METHODS if m.name == "ListSessions")
        result = await _refusal(at.channel, method, b"")
        assert result.code is Code.INTERNAL
        assert "SECRET" not in f"{result.message} {result.metadata}"
        assert result.metadata["incident"] in result.message
        assert any(
            getattr(r, "incident", "") == result.metadata["incident"] for r in caplog.records
        )
        for record in caplog.records:  # a traceback holds the reader's statement, and so the
            record.exc_info = None  # last checkpoint
        method = next(m for m in METHODS if m.name == "ListAgents")
        assert isinstance(await _call(at.channel, method, b""), bytes)

    run(folder, body)


def test_reflection_lists_every_service(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stub = reflection_pb2_grpc.ServerReflectionStub(at.channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await asyncio.wait_for(call.read(), PATIENCE)
        await call.done_writing()
        names = {s.name for s in answer.list_services_response.service}
        assert {m.containing_service.full_name for m in METHODS} <= names
        assert "grpc.health.v1.Health" in names

    run(folder, body)
