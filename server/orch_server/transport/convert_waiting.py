"""Between the messages of the wait-for graph and the core."""

from __future__ import annotations

from collections.abc import Callable

from orch.v1 import session_state_pb2 as pb
from orch_server.core.deadlock import Wait
from orch_server.transport import convert


def wait(given: Wait, address: Callable[[str], str]) -> pb.Wait:
    """A wait for the API; `address` writes the agent with an id."""
    return pb.Wait(
        id=given.id,
        kind=pb.WaitKind.Value(f"WAIT_KIND_{given.kind}"),
        waiter=address(given.waiter),
        holder=address(given.holder),
        reason=given.reason,
        priority=given.priority,
        create_time=convert.timestamp(given.created_at),
        deadline=convert.timestamp(given.deadline_at),
    )
