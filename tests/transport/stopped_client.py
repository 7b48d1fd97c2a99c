"""Connects a heartbeat, then stops itself as Ctrl-Z would: nothing is read any more."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import grpc

from orch.v1 import heartbeat_pb2, heartbeat_pb2_grpc
from tests.transport.harness import hello


def frames() -> Iterator[heartbeat_pb2.ConnectRequest]:
    """The hello and nothing else."""
    yield heartbeat_pb2.ConnectRequest(hello=hello(sys.argv[2], sys.argv[3]))
    signal.pause()


channel = grpc.insecure_channel(sys.argv[1])
call = heartbeat_pb2_grpc.HeartbeatServiceStub(channel).Connect(frames())
print(next(call).welcome.epoch, flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
