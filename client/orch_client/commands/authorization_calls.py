"""The calls of the authorization's commands: one answer, all that is pending, the decision that is
waited for, the use of an approval.

grpc is imported by the call that needs it, so that usage errors are quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from orch_client.errors import PENDING, REFUSED, UNREACHABLE, USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import authorization_pb2 as pb

_PAGE = 1000
#: A dozen actions of 256 KiB fit into one gRPC message of 4 MiB.
_PAGE_OF_LARGE_ONES = 12


def call(method: str, request: Any) -> Any:
    """The answer of the server."""
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = _stub(grpc_channel)
        return getattr(stub, method)(request, timeout=channel.DEADLINE, metadata=metadata)


def call_with_passphrase(method: str, request: Any) -> Any:
    """The answer of the server; when it wants the passphrase, that is asked for on the terminal."""
    import grpc

    from orch_client import channel

    def ask(stub: Any) -> Any:
        return getattr(stub, method)(request, timeout=channel.DEADLINE, metadata=metadata)

    with channel.connected() as (grpc_channel, metadata):
        stub = _stub(grpc_channel)
        try:
            return ask(stub)
        except grpc.RpcError as exc:
            if not channel.has_reason(exc, "PASSPHRASE_REQUIRED"):
                raise
            request.passphrase = _passphrase(exc.details() or "")
        return ask(stub)


def _passphrase(wanted: str) -> str:
    """What is typed on the terminal. Raises ClientError where there is none; `wanted` says what the
    passphrase is for."""
    if not sys.stdin.isatty():
        raise ClientError(f"{wanted} Run this on a terminal, where it is asked for.", REFUSED)
    import getpass

    try:
        return getpass.getpass("Operator's passphrase: ")
    except UnicodeDecodeError as exc:
        raise ClientError("the passphrase is not valid UTF-8.", USAGE) from exc


def all_in(state: str, session: str) -> list[pb.Authorization]:
    """All in a state such as "PENDING", or in any for "UNSPECIFIED", in the server's order."""
    import grpc

    from orch.v1 import authorization_pb2 as pb
    from orch_client import channel

    found: list[pb.Authorization] = []
    request = pb.ListAuthorizationsRequest(
        session=session,
        state=pb.AuthorizationState.Value(f"AUTHORIZATION_STATE_{state}"),
        page_size=_PAGE,
    )
    with channel.connected() as (grpc_channel, metadata):
        stub = _stub(grpc_channel)
        while True:
            try:
                page = stub.ListAuthorizations(request, timeout=channel.DEADLINE, metadata=metadata)
            except grpc.RpcError as exc:
                # One page of long actions may be larger than gRPC takes: then few at a time.
                too_large = exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                if not too_large or request.page_size == _PAGE_OF_LARGE_ONES:
                    raise
                request.page_size = _PAGE_OF_LARGE_ONES
                continue
            found.extend(page.authorizations)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


def wait(authorization_id: str, limit: float | None) -> tuple[pb.Authorization, bool]:
    """Waits for the end, over restarts of the server, so many seconds at most. Returns what came
    last, if anything did, and whether that is the end. The stream is opened anew now and then, so
    that one which a dying server has left in between is not waited for."""
    from orch.v1 import authorization_pb2 as pb
    from orch_client.commands.follow import follow

    request = pb.WaitAuthorizationRequest(id=authorization_id)
    current = pb.Authorization()

    def watch(grpc_channel: Any, left: float | None, metadata: Any) -> Any:
        return _stub(grpc_channel).WaitAuthorization(
            request, timeout=_at_most(left), metadata=metadata
        )

    def is_decided() -> bool:
        return current.state > pb.AUTHORIZATION_STATE_PENDING

    is_over = follow(
        watch, lambda change: current.CopyFrom(change.authorization), is_decided, limit
    )
    return current, is_over


def use(approved: pb.Authorization, cwd: str, limit: float | None) -> None:
    """Uses an approval once, over restarts of the server, for as long as it holds and for `limit`
    seconds at most. Raises ClientError unless it was used."""
    from orch_client.commands.follow import follow

    request = consumption(approved.id, cwd)
    used: list[Any] = []

    def once(grpc_channel: Any, left: float | None, metadata: Any) -> Iterator[Any]:
        stub = _stub(grpc_channel)
        yield stub.ConsumeAuthorization(request, timeout=_at_most(left), metadata=metadata)

    holds = (
        approved.lapse_time.ToMicroseconds() - approved.resolve_time.ToMicroseconds()
    ) / 1_000_000
    patience = holds if limit is None else min(holds, limit)
    if not follow(once, used.append, lambda: bool(used), patience):
        raise ClientError(
            f"{approved.id} was approved, but no server answered that could let it be used.",
            UNREACHABLE,
        )


def use_now(authorization_id: str, cwd: str) -> pb.Authorization:
    """Uses what was approved already. Raises ClientError, with PENDING when nobody has decided."""
    import grpc

    from orch_client import channel

    request = consumption(authorization_id, cwd)
    with channel.connected() as (grpc_channel, metadata):
        try:
            call = _stub(grpc_channel).ConsumeAuthorization
            used = call(request, timeout=channel.DEADLINE, metadata=metadata).authorization
        except grpc.RpcError as exc:
            info = channel.error_info(exc)
            if info is None or info.metadata.get("state") != "PENDING":
                raise
            raise ClientError(exc.details() or "It is still pending.", PENDING) from exc
    return cast("pb.Authorization", used)


def consumption(authorization_id: str, cwd: str) -> pb.ConsumeAuthorizationRequest:
    """The request that uses an approval of words, in this folder; it may be repeated."""
    from orch.v1 import authorization_pb2 as pb

    return pb.ConsumeAuthorizationRequest(
        id=authorization_id, action=pb.Action(cwd=cwd), request_id=os.urandom(16).hex()
    )


def _at_most(left: float | None) -> float:
    """How long one call may take when so many seconds are left; None for no end."""
    from orch_client import channel

    return channel.DEADLINE if left is None else min(left, channel.DEADLINE)


def _stub(grpc_channel: Any) -> Any:
    from orch.v1 import authorization_pb2_grpc

    return authorization_pb2_grpc.AuthorizationServiceStub(grpc_channel)
