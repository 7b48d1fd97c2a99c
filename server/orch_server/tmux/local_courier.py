"""The server's own courier, for panes of this host that no client serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orch_client.courier import deliver
from orch_server.core.delivery import DeliveryState, Offer, Report


class LocalCourier:
    """Delivers offers with the same code that the clients use."""

    def __init__(self) -> None:
        self._courier = deliver.Courier()

    async def deliver(self, offer: Offer, report: Callable[[Report], Awaitable[None]]) -> None:
        """Works on the offer until its outcome is known, and reports it."""

        async def tell(outcome: deliver.Outcome) -> None:
            state = DeliveryState(outcome.state)
            await report(
                Report(offer.delivery_id, offer.sequence, offer.grant, state, outcome.detail)
            )

        at = deliver.PaneAddress(
            offer.incarnation.socket,
            offer.incarnation.server_pid,
            offer.incarnation.started,
            offer.incarnation.pane,
        )
        asked = deliver.Offer(
            offer.sequence, offer.generation, offer.text, offer.kind, offer.tried_before
        )
        await tell(await self._courier.deliver(asked, at, tell))
