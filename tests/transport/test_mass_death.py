"""Many are lost at once: the server suspects itself first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orch.v1 import agent_pb2, supervision_pb2, supervision_pb2_grpc
from tests.transport.agents import alive, break_off, events, expire, liveness_of, pulses, why
from tests.transport.harness import Serving, run

L = agent_pb2.Liveness


def test_when_most_clients_are_lost_at_once_nothing_is_taken_over(folder: Path) -> None:
    async def body(at: Serving) -> None:
        woken: list[str] = []
        streams = await alive(at, 5)
        await break_off(at, *streams[:2])
        assert not at.core.heartbeat.partition_suspected
        await break_off(at, streams[2])
        assert at.core.heartbeat.partition_suspected
        await expire(at, 1)
        for n in range(3):
            assert await liveness_of(at, n) == L.LIVENESS_LOST  # what is shown stays honest
        (told,) = await events(at, "server.partitioned")
        assert told.startswith("3 of 5 clients were lost at once")
        request = supervision_pb2.ListAlertsRequest()
        stub: Any = supervision_pb2_grpc.SupervisionServiceStub(at.channel)
        alerts = (await stub.ListAlerts(request)).alerts
        assert [(a.kind, a.severity) for a in alerts if a.kind == "partition"] == [
            ("partition", supervision_pb2.ALERT_SEVERITY_CRITICAL)
        ]
        at.core.heartbeat.on_courier = woken.append
        await at.alive("agent0", "%0", client_id="client0")
        assert not at.core.heartbeat.partition_suspected
        assert len(await events(at, "server.reunited")) == 1
        assert len(woken) == 2  # what was held back for the two that are lost goes on

    run(folder, body)


def test_clients_that_fall_silent_together_are_a_mass_death(folder: Path) -> None:
    async def body(at: Serving) -> None:
        streams = await alive(at, 5)
        await expire(at, 14)
        for stream in streams[:2]:
            await stream.beat()
        await expire(at, 1)
        assert at.core.heartbeat.partition_suspected

    run(folder, body)


def test_a_suspicion_is_over_two_leases_after_the_last_loss(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await break_off(at, *await alive(at, 4))
        assert at.core.heartbeat.partition_suspected
        pulses(at, 29.75)
        assert at.core.heartbeat.partition_suspected
        pulses(at, 0.25)
        assert not at.core.heartbeat.partition_suspected

    run(folder, body)


def test_one_killed_client_of_many_panes_is_one_loss(folder: Path) -> None:
    async def body(at: Serving) -> None:
        many = await alive(at, 12, client="all")
        await alive(at, 3, first=20)
        await break_off(at, *many)
        assert not at.core.heartbeat.partition_suspected
        await expire(at, 1)
        assert await liveness_of(at, 0) == L.LIVENESS_LOST
        assert not at.core.heartbeat.partition_suspected

    run(folder, body)


def test_clients_that_say_goodbye_are_no_losses(folder: Path) -> None:
    async def body(at: Serving) -> None:
        for stream in await alive(at, 5):
            await stream.goodbye("PANE_ENDED")
        assert not at.core.heartbeat.partition_suspected

    run(folder, body)


def test_clients_that_do_not_return_after_a_restart_are_a_mass_death(folder: Path) -> None:
    async def first(at: Serving) -> None:
        await alive(at, 4)

    async def second(at: Serving) -> None:
        assert at.core.store.commits <= 3  # one for all of them
        await at.alive("agent0", "%0", client_id="client0")
        at.clock.advance(29)
        assert not at.core.heartbeat.partition_suspected
        assert "has 1.0 s left to come back" in await why(at, 1)
        await expire(at, 1)
        assert at.core.heartbeat.partition_suspected

    run(folder, first)
    run(folder, second)


def test_the_panes_of_one_courier_that_does_not_return_are_one_loss(folder: Path) -> None:
    async def first(at: Serving) -> None:
        for n in range(6):
            await at.alive("", f"%{n}", client_id="all", courier=True)

    async def second(at: Serving) -> None:
        streams = await alive(at, 2, first=20)
        for _ in range(2):
            pulses(at, 14)
            for stream in streams:
                await stream.beat()
        await expire(at, 2)
        lost = [a for a in at.core.registry.all() if a.liveness == "LOST"]
        assert len(lost) == 6
        assert not at.core.heartbeat.partition_suspected

    run(folder, first)
    run(folder, second)


def test_an_agent_that_lost_its_pane_while_it_was_awaited_is_not_lost_as_well(folder: Path) -> None:
    async def first(at: Serving) -> None:
        await alive(at, 1)

    async def second(at: Serving) -> None:
        await at.alive("other", "%0", take_over=True)
        assert await liveness_of(at, 0) == L.LIVENESS_ENDED
        await expire(at, 31)
        assert await liveness_of(at, 0) == L.LIVENESS_ENDED

    run(folder, first)
    run(folder, second)
