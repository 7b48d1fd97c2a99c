"""The server's own courier, for panes of this host that no client serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orch_client.courier import deliver
from orch_client.courier.control import Control
from orch_server.core.delivery import DeliveryState, Offer, RefusalReason, Report


class Listener(Protocol):
    """Hears what becomes of one offer, also after `LocalCourier.deliver` has returned."""

    async def report(self, report: Report) -> None:
        """PASTED when the text is in the pane, then the final outcome."""

    async def ready(self) -> None:
        """What stood in the way of the refused offer is over."""

    async def reply(self, text: str, complete: bool) -> None:
        """What the screen said after the delivery; `complete`: the agent had come to rest."""


class LocalCourier:
    """Delivers offers with the same code that the clients use."""

    def __init__(self) -> None:
        self._courier = deliver.Courier(Control)

    async def deliver(self, offer: Offer, listener: Listener) -> None:
        """Works on the offer until its outcome is known and reported."""
        at = deliver.PaneAddress(
            offer.incarnation.socket,
            offer.incarnation.server_pid,
            offer.incarnation.started,
            offer.incarnation.pane,
        )
        asked = deliver.Offer(
            offer.sequence,
            offer.generation,
            offer.text,
            offer.kind,
            offer.tried_before,
            offer.mode.value,
            offer.reply_patience.total_seconds(),
        )
        await self._courier.serve(asked, at, _Ears(offer, listener))

    async def close(self) -> None:
        """Ends what is being watched, and the connections to tmux."""
        await self._courier.close()


@dataclass(frozen=True, slots=True)
class _Ears:
    """Turns the courier's words into the server's."""

    offer: Offer
    listener: Listener

    async def report(self, _: deliver.Offer, outcome: deliver.Outcome) -> None:
        offer = self.offer
        state, reason = DeliveryState(outcome.state), RefusalReason(outcome.reason)
        report = Report(
            offer.delivery_id, offer.sequence, offer.grant, state, outcome.detail, reason
        )
        await self.listener.report(report)

    async def ready(self, _: deliver.PaneAddress) -> None:
        await self.listener.ready()

    async def reply(self, _: deliver.Offer, said: deliver.Reply) -> None:
        await self.listener.reply(said.text, said.complete)
