"""Clients that serve panes among others: they yield to a pane's own client, and to one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from orch.v1 import agent_pb2
from orch.v1 import messaging_pb2 as pb
from tests.support import Home, Tmux
from tests.transport.harness import EOF, Serving, Stream, hello, run

L = agent_pb2.Liveness
Code = grpc.StatusCode


async def _courier(at: Serving, pane: str, role: str = "", **more: Any) -> Stream:
    return await at.alive(role, pane, courier=True, **more)


async def _refused(at: Serving, role: str, pane: str, **more: Any) -> str:
    stream = at.connect()
    await stream.send(hello=hello(role, pane, **more))
    error = await stream.error()
    assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "ALREADY_EXISTS")
    return error.message


def test_a_pane_without_a_better_name_is_called_after_its_number(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await _courier(at, "%7")
        assert stream.welcome is not None
        assert stream.welcome.role == "pane7"
        known = await at.agent("atlas:pane7")
        assert known.served_by_courier
        assert (await stream.beat()).HasField("ack")

    run(folder, body)


@pytest.mark.parametrize("liveness", ["ALIVE", "SUSPECT", "UNKNOWN"])
def test_a_courier_yields_to_a_panes_own_client(folder: Path, liveness: str) -> None:
    async def body(at: Serving) -> None:
        own = await at.alive("developer", "%1")
        if liveness == "SUSPECT":
            own.call.cancel()
            await at.until("atlas:developer", L.LIVENESS_SUSPECT)
        elif liveness == "UNKNOWN":
            await own.goodbye("DRAINED")
        said = await _refused(at, "", "%1", courier=True)
        assert "a client of its own" in said
        await _refused(at, "", "%1", courier=True, take_over=True)
        assert not (await at.agent("atlas:developer")).served_by_courier

    run(folder, body)


@pytest.mark.parametrize("end", ["lost", "stopped"])
def test_a_courier_serves_a_pane_whose_own_client_is_gone(folder: Path, end: str) -> None:
    async def body(at: Serving) -> None:
        own = await at.alive("developer", "%1")
        if end == "lost":
            own.call.cancel()
            await at.until("atlas:developer", L.LIVENESS_SUSPECT)
            at.clock.advance(1)
            await at.core.heartbeat.expire()
        else:
            await own.goodbye("CLIENT_STOPPED")
        courier = await _courier(at, "%1")
        assert courier.welcome is not None
        assert courier.welcome.role == "developer"
        assert (await at.agent("atlas:developer")).served_by_courier

    run(folder, body)


@pytest.mark.parametrize("role", ["", "developer"])
def test_a_panes_own_client_replaces_a_courier_without_a_take_over(folder: Path, role: str) -> None:
    async def body(at: Serving) -> None:
        courier = await _courier(at, "%1")
        request = pb.SendMessageRequest(targets=["atlas:pane1"], text="hi", plain=True)
        await at.messaging.SendMessage(request)
        offer = (await courier.read()).offer
        own = await at.alive(role, "%1")
        assert own.welcome is not None
        assert own.welcome.role == (role or "pane1")
        assert (await courier.read()).HasField("superseded")
        assert (await courier.error()).code is Code.ABORTED
        again = (await own.read()).offer
        assert (again.delivery_id, again.sequence) == (offer.delivery_id, offer.sequence)
        known = await at.agent(f"atlas:{own.welcome.role}")
        assert (known.served_by_courier, known.liveness) == (False, L.LIVENESS_ALIVE)

    run(folder, body)


def test_what_waits_for_a_couriers_pane_goes_to_the_client_with_another_known_role(
    folder: Path,
) -> None:
    async def body(at: Serving) -> None:
        former = await at.alive("developer", "%9")
        await former.goodbye("PANE_ENDED")
        courier = await _courier(at, "%1")
        request = pb.SendMessageRequest(targets=["atlas:pane1"], text="hi", plain=True)
        await at.messaging.SendMessage(request)
        offer = (await courier.read()).offer
        own = await at.alive("developer", "%1")
        assert (await courier.error()).code is Code.ABORTED
        again = (await own.read()).offer
        assert again.delivery_id == offer.delivery_id
        left = await at.agent("atlas:pane1")
        assert (left.liveness, left.pane.pane_id) == (L.LIVENESS_UNMANAGED, "")

    run(folder, body)


def test_a_courier_never_replaces_another_one_that_lives(folder: Path) -> None:
    async def body(at: Serving) -> None:
        first = await _courier(at, "%1")
        assert "another courier" in await _refused(at, "", "%1", courier=True)
        await _refused(at, "", "%1", courier=True, take_over=True)
        assert (await first.beat()).HasField("ack")
        first.call.cancel()
        await at.until("atlas:pane1", L.LIVENESS_SUSPECT)
        second = await _courier(at, "%1")  # or the same one, which is back
        assert second.welcome is not None
        assert second.welcome.epoch == 2

    run(folder, body)


def test_a_courier_comes_back_after_a_restart_of_the_server(folder: Path) -> None:
    async def first(at: Serving) -> None:
        await _courier(at, "%1")

    async def second(at: Serving) -> None:
        courier = await _courier(at, "%1")
        assert courier.welcome is not None
        assert (courier.welcome.role, courier.welcome.epoch) == ("pane1", 2)

    run(folder, first)
    run(folder, second)


def test_a_courier_does_not_take_a_role_that_somebody_holds(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        await _refused(at, "developer", "%2", courier=True)

    run(folder, body)


@pytest.mark.parametrize("passphrase", [False, True], ids=["open", "closed"])
def test_a_courier_takes_the_panes_own_name_unless_it_is_taken_or_reserved(
    passphrase: bool,
) -> None:
    home = Home()
    tmux = Tmux(home)
    try:
        lead = tmux.pane("atlas", "orchestrator", "cat")
        dev = tmux.pane("atlas", "developer", "cat")
        twins = [tmux.pane("atlas", "twin", "cat") for _ in range(2)]
        pid, started = tmux.run("display-message", "-p", "#{pid} #{start_time}").split()

        async def body(at: Serving) -> None:
            host = at.core.identity._finder.host
            if passphrase:
                at.core.passphrase.set("secret")

            async def role(pane: str) -> str:
                said = hello("", pane, host=host, session="", courier=True, life=int(pid))
                said.pane.tmux_socket = str(tmux.socket)
                said.pane.tmux_server_start_time.seconds = int(started)
                stream = at.connect()
                await stream.send(hello=said)
                frame = await stream.read()
                assert frame is not EOF, await stream.error()
                return str(frame.welcome.role)

            await at.alive("developer", "%77")  # on another host
            number = dev.lstrip("%")
            assert await role(dev) == f"pane{number}"
            for twin in twins:
                assert await role(twin) == f"pane{twin.lstrip('%')}"
            reserved = f"pane{lead.lstrip('%')}" if passphrase else "orchestrator"
            assert await role(lead) == reserved

        run(home.path, body, loops=())
    finally:
        tmux.end()
        home.remove()


@pytest.mark.parametrize("kind", ["claude", "aider", "my-agent_2", "x" * 32, ""])
def test_any_word_is_a_kind(folder: Path, kind: str) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1", kind=kind)
        assert (await at.agent("atlas:developer")).kind == kind

    run(folder, body)


@pytest.mark.parametrize("kind", ["Claude", "a b", "x" * 33, "-a", "a\n", "é"])
def test_what_is_no_word_is_no_kind(folder: Path, kind: str) -> None:
    async def body(at: Serving) -> None:
        stream = at.connect()
        await stream.send(hello=hello("developer", "%1", kind=kind))
        assert (await stream.error()).fields == ("hello.kind",)

    run(folder, body)
