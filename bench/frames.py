"""The messages that both servers get and give, so that both carry frames of the same size."""

from __future__ import annotations

import secrets

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import agent_pb2, heartbeat_pb2, scheduler_pb2, session_state_pb2

SESSION = "bench"
TARGET = f"{SESSION}:agent-0"
NOTE = "check whether the build is green"
_SECONDS = 1_800_000_000


def hello(session: str, index: int) -> heartbeat_pb2.ConnectRequest:
    """Introduces the agent `agent-INDEX`, in a pane on another host: so the client is believed."""
    pane = agent_pb2.Pane(
        host="bench",
        tmux_socket=f"/bench/{session}",
        tmux_server_pid=1,
        tmux_server_start_time=Timestamp(seconds=_SECONDS),
        pane_id=f"%{index}",
    )
    said = heartbeat_pb2.Hello(
        pane=pane, pane_pid=2, session=session, role=f"agent-{index}", kind="generic"
    )
    return heartbeat_pb2.ConnectRequest(hello=said)


def beat(sequence: int) -> heartbeat_pb2.ConnectRequest:
    """A client's beat."""
    said = heartbeat_pb2.Beat(sequence=sequence, foreground_program="python3")
    return heartbeat_pb2.ConnectRequest(beat=said)


def goodbye() -> heartbeat_pb2.ConnectRequest:
    """The client leaves."""
    reason = heartbeat_pb2.GOODBYE_REASON_CLIENT_STOPPED
    return heartbeat_pb2.ConnectRequest(goodbye=heartbeat_pb2.Goodbye(reason=reason))


def welcome() -> heartbeat_pb2.ConnectResponse:
    """What the bare server answers to a hello."""
    said = heartbeat_pb2.Welcome(
        agent_id="0" * 12,
        session=SESSION,
        role="agent-0",
        epoch=1,
        beat_interval=Duration(seconds=60),
        lease=Duration(seconds=180),
        server_version="0.0.0",
    )
    return heartbeat_pb2.ConnectResponse(welcome=said)


def note(request_id: str) -> str:
    """A note of its own for each request, all of one length: the product refuses repeated ones."""
    return f"{NOTE} {request_id[:12]}"


def task_request(agent: int, seconds: float = 3600) -> scheduler_pb2.CreateTaskRequest:
    """A note for one of the agents, in an hour unless said otherwise."""
    request_id, delay = secrets.token_hex(16), Duration()
    delay.FromMicroseconds(int(seconds * 1e6))
    return scheduler_pb2.CreateTaskRequest(
        note=note(request_id),
        delay=delay,
        target=f"{SESSION}:agent-{agent}",
        request_id=request_id,
    )


def task_response() -> scheduler_pb2.CreateTaskResponse:
    """An answer of the size that the product gives."""
    task = scheduler_pb2.Task(
        id="0" * 12,
        agent_id="0" * 12,
        session=SESSION,
        role="agent-0",
        note=note("0" * 12),
        due_time=Timestamp(seconds=_SECONDS + 3600, nanos=123_456_000),
        state=scheduler_pb2.TASK_STATE_PENDING,
        creator="operator",
        create_time=Timestamp(seconds=_SECONDS, nanos=123_456_000),
    )
    return scheduler_pb2.CreateTaskResponse(task=task)


def session_name(index: int) -> str:
    """The session of one caller."""
    return f"{SESSION}-{index}"


def update_request(index: int, version: int) -> session_state_pb2.UpdateSessionRequest:
    """A change of two fields of a session that has this version; 0 for any."""
    review = session_state_pb2.PHASE_REVIEW
    return session_state_pb2.UpdateSessionRequest(
        session=session_state_pb2.Session(
            name=session_name(index),
            version=version,
            phase=review,
            parent_branch=secrets.token_hex(8),
        ),
        update_mask=FieldMask(paths=["phase", "parent_branch"]),
    )


def update_response() -> session_state_pb2.UpdateSessionResponse:
    """An answer of the size that the product gives."""
    at = Timestamp(seconds=_SECONDS, nanos=123_456_000)
    session = session_state_pb2.Session(
        name=session_name(0),
        parent_branch="0" * 16,
        phase=session_state_pb2.PHASE_REVIEW,
        completion=session_state_pb2.COMPLETION_PENDING,
        version=2,
        create_time=at,
        update_time=at,
    )
    return session_state_pb2.UpdateSessionResponse(session=session)
