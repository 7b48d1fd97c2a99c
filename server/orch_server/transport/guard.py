"""Stands before every method: tells who calls, and turns errors into statuses.

One interceptor wraps each method's handler once. Servicers then ask `caller()` and raise what they
like.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from orch_server.core.errors import InvalidInput, OrchError, Unidentified
from orch_server.core.identity import Caller, Operator
from orch_server.services.identity import IdentityService
from orch_server.transport import errors

_CALLER: ContextVar[Caller] = ContextVar("caller")
_OPEN = ("/grpc.health.v1.",)
_BEARER = "Bearer "


def caller() -> Caller:
    """Who makes the call that is being served."""
    return _CALLER.get()


class Guard(grpc.aio.ServerInterceptor):
    """Wraps the handlers of all methods."""

    def __init__(self, identity: IdentityService) -> None:
        self._identity = identity
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is not None:
            handler = self._wrapped[method] = self._wrap(method, handler)
        return handler

    def _wrap(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        serve, make = _shape(handler)
        guarded = self._guarded(method, serve)
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            guarded, _lenient(handler.request_deserializer), handler.response_serializer
        )
        return wrapped

    def _guarded(self, method: str, serve: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(request: Any, context: Any) -> Any:
            try:
                await self._enter(method, request, context)
                return await serve(request, context)
            except Exception as exc:  # the top of a call
                status = _status(exc, method)
            return await errors.abort(context, status)

        async def stream(request: Any, context: Any) -> Any:
            try:
                await self._enter(method, request, context)
                async for response in serve(request, context):
                    yield response
                return
            except Exception as exc:  # the top of a call
                status = _status(exc, method)
            await errors.abort(context, status)

        return stream if inspect.isasyncgenfunction(serve) else answer

    async def _enter(self, method: str, request: Any, context: Any) -> None:
        if isinstance(request, Undecodable):
            raise undecodable()
        if not method.startswith(_OPEN):
            _CALLER.set(await self._identify(context))

    async def _identify(self, context: Any) -> Caller:
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                if not value.startswith(_BEARER):
                    raise Unidentified("The authorization header is not 'Bearer TOKEN'.")
                return await self._identity.read(value[len(_BEARER) :])
        if context.peer().startswith("unix:"):
            return Operator()
        raise Unidentified(
            "A call over TCP needs a token: 'authorization: Bearer TOKEN'; make one with"
            " 'orch-server token create'."
        )


class Undecodable:
    """Stands for a request that is no message of its method; gRPC itself would say UNKNOWN."""


def undecodable() -> InvalidInput:
    """The error for such a request."""
    return InvalidInput("request", "The request is not the message that this method takes.")


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def attempt(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return Undecodable()

    return attempt


def _status(exc: Exception, method: str) -> status_pb2.Status:
    """What the caller hears of an exception; one that ended the call already passes through."""
    if isinstance(exc, grpc.aio.AbortError):
        raise exc
    return errors.to_status(exc) if isinstance(exc, OrchError) else errors.masked(exc, method)


def _shape(handler: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The behaviour of a handler, and what makes a handler of its kind."""
    if handler.request_streaming and handler.response_streaming:
        return handler.stream_stream, grpc.stream_stream_rpc_method_handler
    if handler.response_streaming:
        return handler.unary_stream, grpc.unary_stream_rpc_method_handler
    if handler.request_streaming:
        return handler.stream_unary, grpc.stream_unary_rpc_method_handler
    return handler.unary_unary, grpc.unary_unary_rpc_method_handler
