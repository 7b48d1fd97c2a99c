"""AuthorizationService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from orch.v1 import authorization_pb2 as pb
from orch.v1.authorization_pb2_grpc import AuthorizationServiceServicer
from orch_server.core.authorization import Verdict
from orch_server.services.authorization import AuthorizationService
from orch_server.transport import convert, convert_authorization
from orch_server.transport.guard import caller


class AuthorizationServicer(AuthorizationServiceServicer):
    """Converts, calls, converts back."""

    def __init__(self, authorization: AuthorizationService) -> None:
        self._authorization = authorization

    async def RequestAuthorization(
        self, request: pb.RequestAuthorizationRequest, context: Any
    ) -> pb.RequestAuthorizationResponse:
        priority = convert_authorization.priority(request.priority)
        asked = await self._authorization.request(
            caller(),
            request.action,
            priority,
            request.approver_role,
            request.request_id,
            convert.to_timedelta("timeout", request.timeout),
            request.cwd,
        )
        return pb.RequestAuthorizationResponse(
            authorization=convert_authorization.authorization(asked)
        )

    async def ApproveAuthorization(
        self, request: pb.ApproveAuthorizationRequest, context: Any
    ) -> pb.ApproveAuthorizationResponse:
        decided = await self._authorization.decide(
            caller(), request.id, Verdict.APPROVE, request.reason, request.passphrase
        )
        return pb.ApproveAuthorizationResponse(
            authorization=convert_authorization.authorization(decided)
        )

    async def DenyAuthorization(
        self, request: pb.DenyAuthorizationRequest, context: Any
    ) -> pb.DenyAuthorizationResponse:
        decided = await self._authorization.decide(
            caller(), request.id, Verdict.DENY, request.reason, request.passphrase
        )
        return pb.DenyAuthorizationResponse(
            authorization=convert_authorization.authorization(decided)
        )

    async def CancelAuthorization(
        self, request: pb.CancelAuthorizationRequest, context: Any
    ) -> pb.CancelAuthorizationResponse:
        withdrawn = await self._authorization.cancel(caller(), request.id)
        return pb.CancelAuthorizationResponse(
            authorization=convert_authorization.authorization(withdrawn)
        )

    async def ConsumeAuthorization(
        self, request: pb.ConsumeAuthorizationRequest, context: Any
    ) -> pb.ConsumeAuthorizationResponse:
        consumed = await self._authorization.consume(
            caller(), request.id, convert_authorization.action(request.action), request.request_id
        )
        return pb.ConsumeAuthorizationResponse(
            authorization=convert_authorization.authorization(consumed)
        )

    async def EscalateAuthorization(
        self, request: pb.EscalateAuthorizationRequest, context: Any
    ) -> pb.EscalateAuthorizationResponse:
        escalated = await self._authorization.escalate(caller(), request.id)
        return pb.EscalateAuthorizationResponse(
            authorization=convert_authorization.authorization(escalated)
        )

    async def CheckAction(
        self, request: pb.CheckActionRequest, context: Any
    ) -> pb.CheckActionResponse:
        checked = await self._authorization.check_action(
            caller(), convert_authorization.action(request.action), request.request_id
        )
        return convert_authorization.checked(checked)

    async def GetAuthorization(
        self, request: pb.GetAuthorizationRequest, context: Any
    ) -> pb.GetAuthorizationResponse:
        found = await self._authorization.get(request.id)
        return pb.GetAuthorizationResponse(authorization=convert_authorization.authorization(found))

    async def ListAuthorizations(
        self, request: pb.ListAuthorizationsRequest, context: Any
    ) -> pb.ListAuthorizationsResponse:
        state = convert_authorization.state(request.state)
        found, token = await self._authorization.list_page(
            request.session, state, request.page_size, request.page_token
        )
        return pb.ListAuthorizationsResponse(
            authorizations=[convert_authorization.authorization(a) for a in found],
            next_page_token=token,
        )

    async def WaitAuthorization(
        self, request: pb.WaitAuthorizationRequest, context: Any
    ) -> AsyncIterator[pb.WaitAuthorizationResponse]:
        async for current in self._authorization.wait(request.id):
            yield pb.WaitAuthorizationResponse(
                authorization=convert_authorization.authorization(current)
            )

    async def GetAuthorizationStats(
        self, request: pb.GetAuthorizationStatsRequest, context: Any
    ) -> pb.GetAuthorizationStatsResponse:
        window = convert.to_timedelta("window", request.window)
        found, since = await self._authorization.stats(request.session, window)
        return convert_authorization.report(found, since)
