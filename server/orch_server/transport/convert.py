"""Between the messages of the API and the objects of the core. Nothing below knows protobuf."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import (
    agent_pb2,
    delivery_pb2,
    heartbeat_pb2,
)
from orch_server.core.agent import AgentView, WaitingFor, check_credential, check_kind
from orch_server.core.agent_state import (
    MAX_DETAIL,
    MAX_RULE,
    AgentState,
    Evidence,
    EvidenceSource,
    Exit,
    Explanation,
    HookReport,
    Observation,
    Operation,
)
from orch_server.core.delivery import DeliveryState
from orch_server.core.errors import InvalidInput
from orch_server.core.fusion import TELLS
from orch_server.core.identity import Incarnation
from orch_server.core.session import AgentDetail
from orch_server.core.text import one_line
from orch_server.services.binding import Introduction

E = TypeVar("E", bound=StrEnum)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 253_402_300_799  # of the year 9999, the last that a Timestamp may hold
_DELIVERY_STATES = {
    state: delivery_pb2.DeliveryState.Value(f"DELIVERY_STATE_{state}") for state in DeliveryState
}


def timestamp(at: datetime | None) -> Timestamp | None:
    """A time; None stays None."""
    if at is None:
        return None
    since = at - _EPOCH  # three times as fast as FromDatetime
    seconds = since.days * 86_400 + since.seconds
    return Timestamp(seconds=seconds, nanos=since.microseconds * 1000)


def duration(length: timedelta) -> Duration:
    """A length of time."""
    result = Duration()
    result.FromTimedelta(length)
    return result


def to_timedelta(field: str, given: Duration) -> timedelta:
    """A length of time from a request. Raises InvalidInput when Python cannot hold it."""
    try:
        return timedelta(seconds=given.seconds, microseconds=given.nanos // 1000)
    except OverflowError as exc:
        raise InvalidInput(field, f"The {field} of {given.seconds} s makes no sense.") from exc


def to_datetime(field: str, given: Timestamp) -> datetime:
    """A time from a request. Raises InvalidInput when Python cannot hold it."""
    try:
        return _EPOCH + timedelta(seconds=given.seconds, microseconds=given.nanos // 1000)
    except OverflowError as exc:
        raise InvalidInput(field, f"The {field} is no time between the years 1 and 9999.") from exc


def word(enum: Any, prefix: str, value: int, into: type[E], field: str) -> E | None:
    """The member of a StrEnum for a value of the API's enum; None when not set."""
    if value == 0:
        return None
    try:
        return into(enum.Name(value).removeprefix(prefix))
    except ValueError as exc:
        known = ", ".join(name for name in list(enum.keys()) if not name.endswith("_UNSPECIFIED"))
        raise InvalidInput(field, f"{value} is no {field}; use one of: {known}.") from exc


def pane(at: Incarnation | None) -> agent_pb2.Pane | None:
    """A pane for the API."""
    if at is None:
        return None
    return agent_pb2.Pane(
        host=at.host,
        tmux_socket=at.socket,
        tmux_server_pid=at.server_pid,
        tmux_server_start_time=Timestamp(seconds=at.started),
        pane_id=at.pane,
    )


def waiting_for(waiting: WaitingFor | None) -> agent_pb2.WaitingFor | None:
    """What an agent waits for."""
    if waiting is None:
        return None
    return agent_pb2.WaitingFor(
        role=waiting.role,
        reason=waiting.reason,
        authorization_id=waiting.authorization_id,
        since=timestamp(waiting.since),
        deadline=timestamp(waiting.deadline),
        dependency_id=waiting.dependency_id,
    )


def evidence(told: Evidence | None) -> agent_pb2.Evidence | None:
    """What told an agent's state."""
    if told is None:
        return None
    return agent_pb2.Evidence(
        source=agent_pb2.EvidenceSource.Value(f"EVIDENCE_SOURCE_{told.source or 'UNSPECIFIED'}"),
        state=agent_pb2.AgentState.Value(f"AGENT_STATE_{told.state}"),
        rule=told.rule,
        detail=told.detail[:MAX_DETAIL],
        begin_time=timestamp(told.began_at),
        observe_time=timestamp(told.observed_at),
        reset_time=timestamp(told.reset_at),
    )


def operation(given: Operation | None) -> agent_pb2.Operation | None:
    """A long operation."""
    if given is None:
        return None
    return agent_pb2.Operation(
        reason=given.reason,
        begin_time=timestamp(given.began_at),
        end_time=timestamp(given.ends_at),
    )


def explanation(given: Explanation) -> heartbeat_pb2.Explanation:
    """Why an agent is shown as it is."""
    return heartbeat_pb2.Explanation(
        evidence=[one for told in given.evidence if (one := evidence(told)) is not None],
        state_rule=given.state_rule,
        liveness_rule=given.liveness_rule,
        supervision=given.supervision,
        would_change=given.would_change,
    )


def observation(given: heartbeat_pb2.Observation) -> Observation:
    """What a client saw. Raises InvalidInput when source or state make no sense."""
    field = "beat.observation"
    sources, states = agent_pb2.EvidenceSource, agent_pb2.AgentState
    source = word(sources, "EVIDENCE_SOURCE_", given.source, EvidenceSource, f"{field}.source")
    if source is None or source not in TELLS:
        raise InvalidInput(f"{field}.source", "A client sees by SCREEN or PROCESS; use one.")
    state = word(states, "AGENT_STATE_", given.state, AgentState, f"{field}.state")
    if state is None or state not in TELLS[source]:
        known = ", ".join(sorted(TELLS[source]))
        raise InvalidInput(f"{field}.state", f"What a {source} may tell is: {known}.")
    rule = one_line(given.rule, MAX_RULE)
    return Observation(source, state, rule, one_line(given.detail, MAX_DETAIL), given.context)


def hook_report(given: heartbeat_pb2.ReportHookEventRequest) -> HookReport:
    """What an agent's own hook saw."""
    return HookReport(
        event=given.event,
        agent_session_id=given.agent_session_id,
        detail=given.detail,
        message=given.message,
        continues=given.continues,
    )


def agent_exit(given: heartbeat_pb2.AgentExit) -> Exit:
    """How an agent has ended. Raises InvalidInput when the numbers make no sense."""
    if not 0 <= given.status <= 255 or not 0 <= given.signal <= 64:
        raise InvalidInput("exit", "An exit has a status from 0 to 255 or a signal from 1 to 64.")
    again = None
    if given.HasField("restart_after"):
        again = to_timedelta("exit.restart_after", given.restart_after)
    return Exit(given.status, given.signal, again, given.gave_up, given.wanted)


def agent(view: AgentView) -> agent_pb2.Agent:
    """An agent for the API."""
    known, status = view.agent, view.status
    return agent_pb2.Agent(
        id=known.id,
        session=known.session,
        role=known.role,
        kind=known.kind,
        pane=pane(known.incarnation),
        liveness=agent_pb2.Liveness.Value(f"LIVENESS_{known.liveness}"),
        liveness_change_time=timestamp(known.liveness_changed_at),
        last_check_in_time=timestamp(known.last_check_in_at),
        epoch=known.epoch,
        client_version=known.client_version,
        waiting_for=waiting_for(view.waiting),
        foreground_program=view.foreground_program,
        do_not_disturb=known.do_not_disturb,
        served_by_courier=known.courier,
        state=agent_pb2.AgentState.Value(f"AGENT_STATE_{status.state if status else 'UNKNOWN'}"),
        state_change_time=timestamp(status.changed_at) if status else None,
        evidence=evidence(status.evidence) if status else None,
        operation=operation(view.operation),
        credential=known.credential,
        hold_end_time=timestamp(view.held_until),
        window_index=view.detail.window_index,
        window_name=view.detail.window_name,
        last_briefing_time=timestamp(view.detail.briefed_at),
        worktree_path=view.detail.worktree_path,
        branch=view.detail.branch,
        commit_hash=view.detail.commit_hash,
        detail_version=view.detail.version,
        **({} if known.epoch else _imported(view.detail)),
    )


def _imported(detail: AgentDetail) -> dict[str, Any]:
    """The old system's last word; it means nothing once a client of ours was heard."""
    return {
        "imported_alive": detail.imported_alive,
        "imported_exhausted": detail.imported_exhausted,
        "imported_credit_reset": detail.imported_credit_reset,
    }


def introduction(hello: heartbeat_pb2.Hello) -> Introduction:
    """Who connects. Raises InvalidInput when the pane or the kind is missing or wrong."""
    if not hello.pane.pane_id.startswith("%") or not hello.pane.host:
        raise InvalidInput("hello.pane", "The hello names no pane; give host and pane_id.")
    if not 0 <= hello.pane.tmux_server_start_time.seconds <= _LAST_SECOND:
        raise InvalidInput("hello.pane", "The hello's tmux_server_start_time is no time.")
    return Introduction(
        incarnation=Incarnation(
            hello.pane.host,
            hello.pane.tmux_socket,
            hello.pane.tmux_server_pid,
            hello.pane.tmux_server_start_time.seconds,
            hello.pane.pane_id,
        ),
        pane_pid=hello.pane_pid,
        session=hello.session,
        role=hello.role,
        kind=check_kind("hello.kind", hello.kind),
        client_version=hello.client_version[:40],
        take_over=hello.take_over,
        passphrase=hello.passphrase,
        courier=hello.courier,
        client_id=one_line(hello.client_id, 64),
        credential=check_credential("hello.credential", hello.credential),
    )


def delivery_state(given: DeliveryState | None) -> delivery_pb2.DeliveryState.ValueType:
    """The state of a delivery; unspecified for None."""
    return _DELIVERY_STATES[given] if given else delivery_pb2.DELIVERY_STATE_UNSPECIFIED
