"""A pane's role when none is given, and the pane that a target means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from orch_server.core.agent import Liveness
from orch_server.core.errors import Ambiguous, InvalidInput, NotAllowed, NotFound
from orch_server.core.identity import Incarnation, InPane, Operator, Pane, TokenAgent
from orch_server.services.agents import role_of
from orch_server.services.targets import Targets
from orch_server.tmux.finder import PaneFinder
from orch_server.tmux.processes import host_name
from tests.support import Home, Tmux
from tests.transport.harness import Serving, run


def _pane(number: int, window: int, name: str, option: str = "", session: str = "atlas") -> Pane:
    at = Incarnation("here", "/s", 1, 1, f"%{number}")
    return Pane(at, 1000 + number, session, window, name, option)


@pytest.mark.parametrize(
    ("pane", "others", "role"),
    [
        (_pane(1, 0, "developer"), [], "developer"),
        (_pane(1, 0, "QA Lead"), [], "qa_lead"),
        (_pane(1, 0, "developer", "tester"), [], "tester"),
        (_pane(1, 0, "bash", "Tester"), [_pane(2, 0, "bash", "other")], "tester"),
        (_pane(1, 0, "developer"), [_pane(2, 1, "tester")], "developer"),
        (_pane(1, 0, "developer"), [_pane(2, 0, "developer", session="b")], "developer"),
    ],
)
def test_the_role_is_the_panes_option_else_the_windows_name(
    pane: Pane, others: list[Pane], role: str
) -> None:
    assert role_of(pane, [pane, *others]) == role


@pytest.mark.parametrize(
    ("pane", "others"),
    [
        (_pane(1, 0, "developer"), [_pane(2, 1, "developer")]),
        (_pane(1, 0, "developer"), [_pane(2, 0, "developer")]),
        (_pane(1, 0, "developer"), [_pane(2, 0, "developer", "tester")]),
        (_pane(1, 0, "ümläut"), []),
        (_pane(1, 0, ""), []),
        (_pane(1, 0, "#(id)"), []),
        (_pane(1, 0, "fine", "not fine!"), []),
    ],
)
def test_a_name_that_is_no_role_or_not_unique_is_refused(pane: Pane, others: list[Pane]) -> None:
    with pytest.raises(InvalidInput) as caught:
        role_of(pane, [pane, *others])
    assert caught.value.field == "role"
    assert caught.value.message.isprintable()


def _with_panes(
    home: Home, tmux: Tmux, body: Callable[[Serving, Targets, Incarnation], Awaitable[None]]
) -> None:
    """Panes: atlas:developer (%0), atlas:twin twice (%1, %2), atlas:split of two (%3, %4)."""
    first = tmux.pane("atlas", "developer", "cat")
    tmux.pane("atlas", "twin", "cat")
    tmux.pane("atlas", "twin", "cat")
    split = tmux.pane("atlas", "split", "cat")
    tmux.run("split-window", "-d", "-t", split, "cat")
    pid, started = tmux.run("display-message", "-p", "#{pid} #{start_time}").split()
    mine = Incarnation(host_name(), str(tmux.socket), int(pid), int(started), first)

    async def with_targets(at: Serving) -> None:
        finder = PaneFinder(host_name(), "")
        targets = Targets(
            at.core.registry, finder, at.core.passphrase, at.settings.policy.deciding_roles()
        )
        await body(at, targets, mine)

    run(home.path, with_targets, loops=())


def test_a_target_is_a_role_then_a_window_then_its_number(home: Home, tmux: Tmux) -> None:
    async def body(at: Serving, targets: Targets, mine: Incarnation) -> None:
        caller = InPane(mine)
        by_window = await targets.resolve(caller, "atlas:developer")
        assert (by_window.role, by_window.liveness) == ("developer", Liveness.UNMANAGED)
        for target in ("", "developer", "atlas:0", mine.pane):
            assert (await targets.resolve(caller, target)).id == by_window.id, target
        second = await targets.resolve(caller, "atlas:1")
        assert second.role == "pane1"
        assert (await targets.resolve(caller, "%1")).id == second.id
        assert (await targets.resolve(caller, "atlas:pane1")).id == second.id
        assert len(at.core.registry.all()) == 2

    _with_panes(home, tmux, body)


@pytest.mark.parametrize("target", ["atlas:twin", "twin", "atlas:split", "atlas:3"])
def test_a_target_that_means_two_panes_names_them(home: Home, tmux: Tmux, target: str) -> None:
    async def body(at: Serving, targets: Targets, mine: Incarnation) -> None:
        with pytest.raises(Ambiguous) as caught:
            await targets.resolve(InPane(mine), target)
        assert caught.value.message.count("(%") == 2
        assert not at.core.registry.all()

    _with_panes(home, tmux, body)


@pytest.mark.parametrize(
    "target", ["nobody", "atlas:nobody", "atlas:9", "atla:developer", "%99", "atlas:develope", "x:"]
)
def test_a_target_that_means_nothing_lists_the_windows(home: Home, tmux: Tmux, target: str) -> None:
    async def body(at: Serving, targets: Targets, mine: Incarnation) -> None:
        with pytest.raises(NotFound) as caught:
            await targets.resolve(InPane(mine), target)
        assert "atlas:developer" in caught.value.message
        assert "atlas:split" in caught.value.message

    _with_panes(home, tmux, body)


def test_many_agents_are_no_target_for_a_note(home: Home, tmux: Tmux) -> None:
    async def body(at: Serving, targets: Targets, mine: Incarnation) -> None:
        for target in ("@all", "@session:atlas", "@role:developer", "@"):
            with pytest.raises(InvalidInput) as caught:
                await targets.resolve(InPane(mine), target)
            assert caught.value.field == "target"

    _with_panes(home, tmux, body)


def test_only_a_pane_is_an_agent_of_its_own(folder: Path) -> None:
    async def body(at: Serving) -> None:
        targets = Targets(
            at.core.registry, PaneFinder("here", ""), at.core.passphrase, ("orchestrator",)
        )
        with pytest.raises(NotAllowed):
            await targets.own(Operator(), "ask")
        gone = InPane(Incarnation("here", "/nowhere", 1, 1, "%1"))
        with pytest.raises(NotFound, match="%1 is gone"):
            await targets.own(gone, "ask")
        with pytest.raises(InvalidInput, match="--to"):
            await targets.resolve(Operator(), "")
        with pytest.raises(NotFound, match="says too little"):
            await targets.resolve(Operator(), "developer")

    run(folder, body, loops=())


def test_callers_are_called_by_what_they_are(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("developer", "%1")
        targets = Targets(
            at.core.registry, PaneFinder("here", ""), at.core.passphrase, ("orchestrator",)
        )
        known = at.core.registry.at("atlas", "developer")
        here = InPane(known.incarnation)
        assert targets.name(Operator()) == "operator"
        assert targets.name(here) == "atlas:developer"
        assert targets.name(TokenAgent("atlas", "x")) == "atlas:x"
        assert (targets.decider(here).operator, targets.decider(here).role) == (False, "developer")
        assert targets.decider(Operator()).operator
        assert not targets.decider(TokenAgent("atlas", "orchestrator")).operator
        await stream.goodbye("CLIENT_STOPPED")
        decider = targets.decider(here)  # a pane without a client is the operator's
        assert (decider.operator, decider.agent_id) == (True, known.id)

    run(folder, body, loops=())


def test_a_pane_without_a_client_does_not_take_a_living_or_a_reserved_role(
    home: Home, tmux: Tmux
) -> None:
    async def body(at: Serving, targets: Targets, mine: Incarnation) -> None:
        await at.alive("developer", "%77")
        agent = await targets.resolve(InPane(mine), mine.pane)
        assert agent.role == f"pane{mine.pane[1:]}"
        at.core.passphrase.set("x")
        boss = tmux.pane("atlas", "orchestrator", "cat")
        agent = await targets.resolve(InPane(mine), boss)
        assert agent.role == f"pane{boss[1:]}"

    _with_panes(home, tmux, body)


def test_two_first_calls_of_one_pane_make_one_agent(home: Home, tmux: Tmux) -> None:
    async def body(at: Serving, targets: Targets, mine: Incarnation) -> None:
        agents = await asyncio.gather(*(targets.resolve(InPane(mine), "") for _ in range(8)))
        assert len({a.id for a in agents}) == 1
        assert len(at.core.registry.all()) == 1

    _with_panes(home, tmux, body)
