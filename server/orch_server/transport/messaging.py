"""MessagingService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from orch.v1 import messaging_pb2 as pb
from orch.v1.messaging_pb2_grpc import MessagingServiceServicer
from orch_server.services.messaging import MessagingService
from orch_server.transport import convert_delivery as convert
from orch_server.transport.guard import caller


class MessagingServicer(MessagingServiceServicer):
    """Converts, calls, converts back."""

    def __init__(self, messaging: MessagingService) -> None:
        self._messaging = messaging

    async def SendMessage(
        self, request: pb.SendMessageRequest, context: Any
    ) -> pb.SendMessageResponse:
        results, removed = await self._messaging.send(caller(), convert.draft(request))
        return pb.SendMessageResponse(results=convert.sent(results), removed_characters=removed)

    async def GetDelivery(
        self, request: pb.GetDeliveryRequest, context: Any
    ) -> pb.GetDeliveryResponse:
        found = await self._messaging.get(request.id)
        return pb.GetDeliveryResponse(delivery=convert.delivery(found))

    async def ListDeliveries(
        self, request: pb.ListDeliveriesRequest, context: Any
    ) -> pb.ListDeliveriesResponse:
        found, token = await self._messaging.list_page(
            convert.wanted(request), request.page_size, request.page_token
        )
        return pb.ListDeliveriesResponse(
            deliveries=[convert.delivery(d) for d in found], next_page_token=token
        )

    async def WatchDeliveries(
        self, request: pb.WatchDeliveriesRequest, context: Any
    ) -> AsyncIterator[pb.WatchDeliveriesResponse]:
        async for current in self._messaging.watch(tuple(request.ids)):
            yield pb.WatchDeliveriesResponse(delivery=convert.delivery(current))

    async def CancelDelivery(
        self, request: pb.CancelDeliveryRequest, context: Any
    ) -> pb.CancelDeliveryResponse:
        cancelled = await self._messaging.cancel(caller(), request.id)
        return pb.CancelDeliveryResponse(delivery=convert.delivery(cancelled))

    async def ClaimDeliveries(
        self, request: pb.ClaimDeliveriesRequest, context: Any
    ) -> pb.ClaimDeliveriesResponse:
        claimed = await self._messaging.claim(caller(), request.max_bytes, request.hook_event)
        return pb.ClaimDeliveriesResponse(deliveries=[convert.delivery(d) for d in claimed])

    async def AcknowledgeClaim(
        self, request: pb.AcknowledgeClaimRequest, context: Any
    ) -> pb.AcknowledgeClaimResponse:
        await self._messaging.acknowledge(caller(), tuple(request.ids))
        return pb.AcknowledgeClaimResponse()

    async def RedriveDelivery(
        self, request: pb.RedriveDeliveryRequest, context: Any
    ) -> pb.RedriveDeliveryResponse:
        redriven = await self._messaging.redrive(caller(), request.id, request.force)
        return pb.RedriveDeliveryResponse(delivery=convert.delivery(redriven))

    async def SetDoNotDisturb(
        self, request: pb.SetDoNotDisturbRequest, context: Any
    ) -> pb.SetDoNotDisturbResponse:
        agents = await self._messaging.do_not_disturb(caller(), request.target, request.enabled)
        return pb.SetDoNotDisturbResponse(agents=[agent.address for agent in agents])

    async def ListTemplates(
        self, request: pb.ListTemplatesRequest, context: Any
    ) -> pb.ListTemplatesResponse:
        found = await self._messaging.templates.all()
        return pb.ListTemplatesResponse(templates=[convert.template(one) for one in found])
