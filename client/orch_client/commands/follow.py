"""Follows a stream of the server to its end, over restarts of the server."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from orch_client import channel, errors
from orch_client.errors import ClientError

_CODE = grpc.StatusCode
#: The server restarts, or our own time ended.
_WORTH_WAITING = (_CODE.UNAVAILABLE, _CODE.CANCELLED, _CODE.DEADLINE_EXCEEDED)


def follow(
    watch: Callable[[grpc.Channel, float | None, channel.Metadata], Iterable[Any]],
    take: Callable[[Any], None],
    is_done: Callable[[], bool],
    limit: float | None,
) -> bool:
    """Opens `watch(channel, timeout, metadata)` and hands what comes to `take`.

    Returns True when the stream ended by itself with `is_done`, False after `limit` seconds. Opens
    it anew when the server went away. Raises ClientError for any other error.
    """
    ends = None if limit is None else time.monotonic() + limit
    while True:
        left = None if ends is None else ends - time.monotonic()
        if left is not None and left <= 0:
            return False
        if _once(watch, take, left) and is_done():
            return True
        time.sleep(_pause(ends))


def _once(watch: Any, take: Callable[[Any], None], left: float | None) -> bool:
    """One stream; whether it ended by itself."""
    target = channel.address()
    try:
        metadata = channel.credentials(target)
        with grpc.insecure_channel(target, channel.STREAM_OPTIONS) as opened:
            for message in watch(opened, left, metadata):
                take(message)
        return True
    except ClientError as exc:
        if exc.status != errors.UNREACHABLE:
            raise
    except grpc.RpcError as exc:
        if not is_worth_waiting(exc.code(), target):
            channel.fail(exc, target)
    return False


def is_worth_waiting(code: grpc.StatusCode, target: str) -> bool:
    """Over a Unix socket each attempt has fresh credentials, which a server that was restarted
    knows; over TCP it is always the same token."""
    is_stale = code is _CODE.UNAUTHENTICATED and target.startswith("unix:")
    return is_stale or code in _WORTH_WAITING


def _pause(ends: float | None) -> float:
    wanted = random.uniform(0.05, 0.5)  # noqa: S311
    return wanted if ends is None else max(0.0, min(wanted, ends - time.monotonic()))
