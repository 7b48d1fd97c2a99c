"""Finds the server and calls it: the address, the token, the retries, the errors."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import grpc

from orch_client import errors, identity
from orch_client.errors import ClientError

if TYPE_CHECKING:
    from google.rpc.error_details_pb2 import ErrorInfo

Metadata = tuple[tuple[str, str], ...]

DEADLINE = 20.0
_ATTEMPTS = 5
_FIRST_WAIT = 0.1
#: Only UNAVAILABLE is retried, since then nothing was done; requests carry a request_id anyway.
_SERVICE_CONFIG = (
    '{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":5,"initialBackoff":"0.1s",'
    '"maxBackoff":"1s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]}'
)
_BACKOFF = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    # It is also the least time that a connection may take: a server that is just busy is there.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
OPTIONS = (("grpc.service_config", _SERVICE_CONFIG), *_BACKOFF)
#: Of a stream that its caller opens anew: a retry by the channel may wait for ever when the server
#: is killed just as the stream begins.
STREAM_OPTIONS = (("grpc.enable_retries", 0), *_BACKOFF)
_EXIT = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.USAGE,
    grpc.StatusCode.UNAVAILABLE: errors.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.UNREACHABLE,
    grpc.StatusCode.NOT_FOUND: errors.MISSING,
    grpc.StatusCode.PERMISSION_DENIED: errors.REFUSED,
    grpc.StatusCode.UNAUTHENTICATED: errors.REFUSED,
    grpc.StatusCode.ALREADY_EXISTS: errors.CONFLICT,
    grpc.StatusCode.ABORTED: errors.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: errors.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.CONFLICT,
}


def home() -> str:
    """ORCH_HOME, else `orch` under the XDG state directory."""
    if os.environ.get("ORCH_HOME"):
        return os.path.abspath(os.environ["ORCH_HOME"])  # noqa: PTH100 - pathlib costs start-up
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111
    return f"{state}/orch"


def address() -> str:
    """ORCH_ADDRESS, else the socket in ORCH_HOME. Raises ClientError when it is malformed."""
    given = os.environ.get("ORCH_ADDRESS", "")
    if not given:
        return f"unix:{home()}/orch.sock"
    if given.startswith("unix:/") or (":" in given and given.rpartition(":")[2].isdigit()):
        return given
    raise ClientError(f"ORCH_ADDRESS is '{given}'; use unix:/PATH or HOST:PORT.", errors.USAGE)


def unreachable(target: str) -> ClientError:
    """The server is not there."""
    return ClientError(
        f"no orch-server answers at {target}; start it: orch-server run", errors.UNREACHABLE
    )


def was_there(target: str) -> bool:
    """Whether a server has run at this address before, so that waiting for it makes sense."""
    folder = os.path.dirname(target.removeprefix("unix:"))  # noqa: PTH120
    return not target.startswith("unix:") or any(
        os.path.exists(f"{folder}/{name}")  # noqa: PTH110
        for name in ("orch.db", os.path.basename(target) + ".lock")  # noqa: PTH119
    )


def credentials(target: str) -> Metadata:
    """What goes with each call. Over a Unix socket the kernel's word, over TCP ORCH_TOKEN.

    Raises ClientError when the server is not there; a server that is just starting is waited for.
    """
    if not target.startswith("unix:"):
        token = os.environ.get("ORCH_TOKEN", "")
        if not token:
            raise ClientError(
                f"a call to {target} needs ORCH_TOKEN; make one with 'orch-server token create'.",
                errors.REFUSED,
            )
        return bearer(token)
    for attempt in range(_ATTEMPTS):
        try:
            return bearer(identity.ask(target).token)
        except OSError:
            if attempt == _ATTEMPTS - 1 or not was_there(target):
                break
            time.sleep(random.uniform(0.5, 1) * _FIRST_WAIT * 2**attempt)  # noqa: S311
    raise unreachable(target)


def bearer(token: str) -> Metadata:
    """The header for a token; none for the operator on the Unix socket."""
    return (("authorization", f"Bearer {token}"),) if token else ()


@contextmanager
def connected() -> Iterator[tuple[grpc.Channel, Metadata]]:
    """A channel to the server and what goes with each call; errors become ClientError."""
    target = address()
    metadata = credentials(target)
    channel = grpc.insecure_channel(target, OPTIONS)
    try:
        yield channel, metadata
    except grpc.RpcError as exc:
        fail(exc, target)


def fail(exc: grpc.RpcError, target: str) -> NoReturn:
    """Ends the command with the server's own sentence."""
    code, details = exc.code(), exc.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and error_info(exc) is None:
        raise unreachable(target) from exc
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = f"the server at {target} did not answer within {DEADLINE:g} s."
    exit_status = _EXIT.get(code, errors.FAILED)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and error_info(exc) is None:
        exit_status = errors.FAILED  # gRPC's own limit: a message that is too large
    raise ClientError(details or code.name, exit_status) from exc


def error_info(exc: grpc.RpcError) -> ErrorInfo | None:
    """The server's ErrorInfo; None when the error is gRPC's own."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status = rpc_status.from_call(exc)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


def has_reason(exc: grpc.RpcError, reason: str) -> bool:
    """Whether the server gave this reason."""
    info = error_info(exc)
    return info is not None and info.reason == reason
