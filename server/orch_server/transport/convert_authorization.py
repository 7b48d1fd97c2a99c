"""Between the messages of authorizations and the core."""

from __future__ import annotations

from datetime import datetime

from orch.v1 import authorization_pb2 as pb
from orch_server.core.authorization import Action, Authorization, AuthorizationState, Proof
from orch_server.core.errors import InvalidInput
from orch_server.core.policy import AuthorizationPriority
from orch_server.services.authorization_steps import Checked
from orch_server.storage.authorization_stats import Report, Stats
from orch_server.transport.convert import duration, timestamp, word


def authorization(given: Authorization) -> pb.Authorization:
    """An authorization for the API."""
    return pb.Authorization(
        id=given.id,
        session=given.session,
        requester_role=given.requester_role,
        requester_agent_id=given.agent_id,
        approver_role=given.approver_role,
        action=given.action,
        priority=pb.AuthorizationPriority.Value(f"AUTHORIZATION_PRIORITY_{given.priority.name}"),
        priority_derived=given.priority_derived,
        state=pb.AuthorizationState.Value(f"AUTHORIZATION_STATE_{given.state}"),
        create_time=timestamp(given.created_at),
        deadline=timestamp(given.deadline_at),
        resolve_time=timestamp(given.resolved_at),
        resolver=given.resolver,
        reason=given.reason,
        action_class=given.action_class,
        approvers=given.approvers,
        human_required=given.human,
        reason_required=given.reason_required,
        levels=[
            pb.AuthorizationLevel(
                receiver=level.receiver,
                due_time=timestamp(level.due_at),
                tell_time=timestamp(level.told_at),
                passed_over=level.passed_over,
            )
            for level in given.levels
        ],
        proof=_proof(given.proof),
        lapse_time=timestamp(given.lapses_at),
        close_time=timestamp(given.closed_at),
        bound_action=pb.Action(
            tool=given.bound.tool, arguments=given.bound.arguments, cwd=given.bound.cwd
        ),
        digest=given.digest,
    )


def action(given: pb.Action) -> Action:
    """What is about to be done."""
    return Action(given.tool, given.arguments, given.cwd)


def checked(given: Checked) -> pb.CheckActionResponse:
    """The answer to the gate."""
    found = given.authorization
    return pb.CheckActionResponse(
        verdict=pb.ActionVerdict.Value(f"ACTION_VERDICT_{given.verdict}"),
        reason=given.reason,
        authorization=None if found is None else authorization(found),
    )


def report(given: Report, since: datetime) -> pb.GetAuthorizationStatsResponse:
    """How long decisions took."""
    return pb.GetAuthorizationStatsResponse(
        all=_stats(given.all),
        by_priority=[_stats(one) for one in given.by_priority],
        by_resolver=[_stats(one) for one in given.by_resolver],
        start_time=timestamp(since),
    )


def state(given: int) -> AuthorizationState | None:
    """The state to list."""
    return word(pb.AuthorizationState, "AUTHORIZATION_STATE_", given, AuthorizationState, "state")


def priority(given: int) -> AuthorizationPriority | None:
    """The priority of a request; None when it is to be derived."""
    if given == 0:
        return None
    try:
        return AuthorizationPriority(given)
    except ValueError as exc:
        raise InvalidInput(
            "priority", f"{given} is no priority; use 1 (low), 2 (medium) or 3 (high)."
        ) from exc


def _proof(given: Proof) -> pb.DecisionProof.ValueType:
    return pb.DecisionProof.Value(f"DECISION_PROOF_{given or 'UNSPECIFIED'}")


def _stats(given: Stats) -> pb.AuthorizationStats:
    return pb.AuthorizationStats(
        name=given.name,
        requests=given.requests,
        approved=given.approved,
        denied=given.denied,
        expired=given.expired,
        cancelled=given.cancelled,
        pending=given.pending,
        escalated=given.escalated,
        mean=None if given.mean is None else duration(given.mean),
        median=None if given.median is None else duration(given.median),
        p95=None if given.p95 is None else duration(given.p95),
    )
