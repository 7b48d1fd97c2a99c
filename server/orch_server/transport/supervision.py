"""SupervisionService over gRPC."""

from __future__ import annotations

from typing import Any

from orch.v1 import supervision_pb2 as pb
from orch.v1.supervision_pb2_grpc import SupervisionServiceServicer
from orch_server.core.agent import AgentView
from orch_server.core.credit import CreditHold
from orch_server.services.agents import AgentRegistry
from orch_server.services.alerts import AlertService
from orch_server.services.credit import CreditService
from orch_server.services.session_state import SessionStateService
from orch_server.services.supervisor import Supervisor
from orch_server.services.targets import Targets
from orch_server.transport import convert, convert_supervision
from orch_server.transport.guard import caller


class SupervisionServicer(SupervisionServiceServicer):
    """Converts, calls, converts back."""

    def __init__(
        self,
        supervisor: Supervisor,
        credit: CreditService,
        alerts: AlertService,
        state: SessionStateService,
        registry: AgentRegistry,
        targets: Targets,
    ) -> None:
        self._supervisor = supervisor
        self._credit = credit
        self._alerts = alerts
        self._state = state
        self._registry = registry
        self._targets = targets

    async def ListAlerts(
        self, request: pb.ListAlertsRequest, context: Any
    ) -> pb.ListAlertsResponse:
        page, token = await self._alerts.list_page(
            request.session, request.page_size, request.page_token
        )
        return pb.ListAlertsResponse(
            alerts=[convert_supervision.alert(one) for one in page], next_page_token=token
        )

    async def ListNudges(
        self, request: pb.ListNudgesRequest, context: Any
    ) -> pb.ListNudgesResponse:
        since = convert.to_datetime("since", request.since) if request.HasField("since") else None
        page, token, counts = await self._supervisor.list_nudges(
            request.agent, since, request.page_size, request.page_token
        )
        return pb.ListNudgesResponse(
            nudges=[convert_supervision.nudge(one, self._address(one.agent_id)) for one in page],
            next_page_token=token,
            counts=convert_supervision.counts(counts),
        )

    async def ListEscalations(
        self, request: pb.ListEscalationsRequest, context: Any
    ) -> pb.ListEscalationsResponse:
        page, token = await self._supervisor.list_escalations(
            request.session, request.open_only, request.page_size, request.page_token
        )
        return pb.ListEscalationsResponse(
            escalations=[
                convert_supervision.escalation(one, self._address(one.agent_id)) for one in page
            ],
            next_page_token=token,
        )

    async def ListCreditHolds(
        self, request: pb.ListCreditHoldsRequest, context: Any
    ) -> pb.ListCreditHoldsResponse:
        views = await self._state.agents()
        holds = [self._shown(one, views) for one in self._credit.held()]
        return pb.ListCreditHoldsResponse(holds=holds)

    async def HoldCredit(
        self, request: pb.HoldCreditRequest, context: Any
    ) -> pb.HoldCreditResponse:
        ends_at = convert.to_datetime("end_time", request.end_time)
        actor = self._targets.name(caller())
        held = await self._credit.hold(actor, request.credential, ends_at)
        return pb.HoldCreditResponse(hold=self._shown(held, await self._state.agents()))

    async def ReleaseCredit(
        self, request: pb.ReleaseCreditRequest, context: Any
    ) -> pb.ReleaseCreditResponse:
        await self._credit.release(self._targets.name(caller()), request.credential)
        return pb.ReleaseCreditResponse()

    def _shown(self, hold: CreditHold, views: list[AgentView]) -> pb.CreditHold:
        """The hold with its agents as they are now."""
        mine = [v for v in views if self._credit.credential_of(v.agent) == hold.credential]
        return convert_supervision.hold(hold, [convert.agent(view) for view in mine])

    def _address(self, agent_id: str) -> str:
        agent = self._registry.get(agent_id)
        return agent.address if agent is not None else ""
