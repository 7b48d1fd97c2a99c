"""The bare counterpart of `orch-client schedule`: imports the stub, makes the call, exits."""

from __future__ import annotations

import os
import sys

import grpc
from google.protobuf.duration_pb2 import Duration

from orch.v1 import scheduler_pb2, scheduler_pb2_grpc


def main(address: str, target: str, note: str) -> None:
    """Makes the one call and prints the task's id."""
    with grpc.insecure_channel(address) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        request = scheduler_pb2.CreateTaskRequest(
            note=note, delay=Duration(seconds=3600), target=target, request_id=os.urandom(16).hex()
        )
        print(stub.CreateTask(request).task.id)


if __name__ == "__main__":
    main(*sys.argv[1:])
