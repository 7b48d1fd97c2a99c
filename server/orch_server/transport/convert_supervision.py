"""Between the messages of SupervisionService and the objects of the core."""

from __future__ import annotations

from orch.v1 import agent_pb2
from orch.v1 import supervision_pb2 as pb
from orch_server.core.alert import Alert
from orch_server.core.credit import CreditHold
from orch_server.core.supervision import Escalation, NotSent, Nudge, NudgeCounts
from orch_server.transport.convert import timestamp


def alert(given: Alert) -> pb.Alert:
    """An alert."""
    return pb.Alert(
        id=given.id,
        severity=pb.AlertSeverity.Value(f"ALERT_SEVERITY_{given.severity}"),
        kind=given.kind,
        subject=given.subject,
        session=given.session,
        text=given.text,
        create_time=timestamp(given.created_at),
        suppressed=given.suppressed,
        webhook_time=timestamp(given.webhook_at),
        webhook_error=given.webhook_error,
    )


def nudge(given: Nudge, address: str) -> pb.Nudge:
    """A nudge of the agent that is addressed so."""
    return pb.Nudge(
        id=given.id,
        agent_id=given.agent_id,
        agent=address,
        reason=pb.NudgeReason.Value(f"NUDGE_REASON_{given.reason}"),
        delivery_id=given.delivery_id,
        create_time=timestamp(given.created_at),
        false_alarm=given.false_alarm,
    )


def counts(given: NudgeCounts) -> pb.NudgeCounts:
    """How often a nudge was sent and not sent."""
    not_sent = given.not_sent
    return pb.NudgeCounts(
        sent=given.sent,
        false_alarms=given.false_alarms,
        nothing_changed=not_sent.get(NotSent.NOTHING_CHANGED, 0),
        over_budget=not_sent.get(NotSent.OVER_BUDGET, 0),
        not_wanted=not_sent.get(NotSent.NOT_WANTED, 0),
        no_credit=not_sent.get(NotSent.NO_CREDIT, 0),
        suspended=not_sent.get(NotSent.SUSPENDED, 0),
    )


def escalation(given: Escalation, address: str) -> pb.Escalation:
    """A matter of the agent that is addressed so."""
    return pb.Escalation(
        id=given.id,
        agent_id=given.agent_id,
        agent=address,
        matter=pb.Matter.Value(f"MATTER_{given.matter}"),
        level=given.level,
        create_time=timestamp(given.created_at),
        next_time=timestamp(given.next_at),
        end_time=timestamp(given.ended_at),
        detail=given.detail,
    )


def hold(given: CreditHold, agents: list[agent_pb2.Agent]) -> pb.CreditHold:
    """A held account with its agents."""
    return pb.CreditHold(
        credential=given.credential,
        begin_time=timestamp(given.began_at),
        end_time=timestamp(given.ends_at),
        reset_known=given.reset_known,
        source=given.source,
        detail=given.detail,
        agents=agents,
    )
