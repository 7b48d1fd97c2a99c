"""The server's own courier takes no pane over while half of the clients are missing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from orch.v1 import delivery_pb2, messaging_pb2
from orch_server.core.agent import Agent, Liveness
from orch_server.storage import agents
from tests.transport.harness import PATIENCE
from tests.transport.overseen import Fleet, oversee


def test_the_pane_of_a_lost_client_is_not_taken_over_in_a_partition(folder: Path) -> None:
    async def body(fleet: Fleet) -> None:
        core = fleet.at.core
        team = [await fleet.agent(f"dev{n}", "WORKING") for n in range(4)]
        for one in team:
            await one.breaks()
        assert core.heartbeat.partition_suspected
        agent = core.registry.get(team[0].id)
        here = replace(agent.incarnation, host=core.mailbox._host, socket=str(folder / "none"))
        await _moves(fleet, replace(agent, incarnation=here, liveness=Liveness.LOST))
        request = messaging_pb2.SendMessageRequest(targets=["atlas:dev0"], text="are you there?")
        sent = (await fleet.at.messaging.SendMessage(request)).results[0].delivery
        for _ in range(50):
            core.mailbox.wake(agent.id)
            await fleet.written()
        assert (await _delivery(fleet, sent.id)).attempts == 0
        fleet.at.clock.advance(1000)
        await core.heartbeat.expire()
        assert not core.heartbeat.partition_suspected
        core.mailbox.wake(agent.id)
        async with asyncio.timeout(PATIENCE):
            while (await _delivery(fleet, sent.id)).attempts == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    oversee(folder, body)


async def _moves(fleet: Fleet, agent: Agent) -> None:
    """The agent lives on the server's host, and its client is lost."""
    core = fleet.at.core
    core.registry.put(agent)
    await core.store.write(lambda tx: agents.register(tx, agent, "test"))


async def _delivery(fleet: Fleet, delivery_id: str) -> delivery_pb2.Delivery:
    request = messaging_pb2.GetDeliveryRequest(id=delivery_id)
    return (await fleet.at.messaging.GetDelivery(request)).delivery
