"""Runs orch-client in this process against grpc_testing's channel: what the server would hear."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc_testing
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

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
from orch_client import cli

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
METHODS = {
    method.name: method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
HEADER = ("authorization", "Bearer the-token")


@dataclass(frozen=True)
class Asked:
    """A call that the command made and waits for."""

    request: Any
    metadata: Any
    rpc: Any

    def answer(self, message: Any) -> None:
        """Lets it succeed."""
        self.rpc.terminate(message, (), grpc.StatusCode.OK, "")

    def fail(self, code: grpc.StatusCode, details: str, reason: str = "", **metadata: str) -> None:
        """Lets it fail, as our server does when a reason is given."""
        trailing = ()
        if reason:
            packed = any_pb2.Any()
            packed.Pack(
                error_details_pb2.ErrorInfo(reason=reason, domain="orch", metadata=metadata)
            )
            status = status_pb2.Status(code=code.value[0], message=details, details=[packed])
            trailing = (("grpc-status-details-bin", status.SerializeToString()),)
        self.rpc.terminate(None, trailing, code, details)


class Terminal:
    """Runs orch-client in this process against the testing channel."""

    def __init__(self, channel: Any, pool: ThreadPoolExecutor) -> None:
        self._channel = channel
        self._pool = pool

    def start(self, *argv: str) -> Any:
        """Starts a command; its result is the exit status."""
        return self._pool.submit(cli.main, list(argv))

    def asked(self, method: str) -> Asked:
        """The next call of this method."""
        taken: list[Any] = []
        thread = threading.Thread(
            target=lambda: taken.append(self._channel.take_unary_unary(METHODS[method])),
            daemon=True,
        )
        thread.start()
        thread.join(10)
        assert taken, f"no call of {method} came"
        metadata, request, rpc = taken[0]
        rpc.send_initial_metadata(())
        return Asked(request, metadata, rpc)

    def run(self, method: str, answer: Any, *argv: str) -> Any:
        """Runs a command that makes one call and succeeds; returns the request."""
        running = self.start(*argv)
        asked = self.asked(method)
        asked.answer(answer)
        assert running.result(10) == 0
        return asked.request


@contextmanager
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A user whose server is elsewhere, with a token."""
    services = [s for f in FILES for s in f.DESCRIPTOR.services_by_name.values()]
    channel = grpc_testing.channel(services, grpc_testing.strict_fake_time(0))
    monkeypatch.setattr(grpc, "insecure_channel", lambda target, options=None: channel)
    monkeypatch.setenv("ORCH_ADDRESS", "127.0.0.1:50051")
    monkeypatch.setenv("ORCH_TOKEN", "the-token")
    with ThreadPoolExecutor(1) as pool:
        yield Terminal(channel, pool)
