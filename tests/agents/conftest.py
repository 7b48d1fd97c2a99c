"""Fixtures: real agents at their desks. Without `make agents` these tests are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.agents.cli import KINDS, Setup, installed
from tests.agents.desk import DEFAULT, Desk


@pytest.fixture(scope="session", autouse=True)
def agents() -> None:
    """Skips all tests here when there are no agents."""
    if not installed():
        pytest.skip("the real agents are not installed; 'make agents' does it")


@pytest.fixture(scope="module")
def shared(agents: None) -> Iterator[dict[str, Desk]]:
    """The desks by kind, for all tests of a module."""
    desks: dict[str, Desk] = {}
    yield desks
    for desk in desks.values():
        desk.end()


@pytest.fixture(params=KINDS)
def desk(request: pytest.FixtureRequest, shared: dict[str, Desk]) -> Iterator[Desk]:
    """A desk with an agent that is idle; one that a test left in disorder is not used again."""
    kind = request.param
    if kind not in shared:
        shared[kind] = Desk(kind).open()
    yield shared[kind]
    try:
        shared[kind].settle()
    except AssertionError:
        shared.pop(kind).end()
        raise


@pytest.fixture
def open_desk(agents: None) -> Iterator[Callable[..., Desk]]:
    """Opens desks that are only for one test."""
    opened: list[Desk] = []

    def make(kind: str, setup: Setup = DEFAULT, *, hooks: bool = False, beat: float = 0.2) -> Desk:
        opened.append(Desk(kind, setup, hooks=hooks, beat=beat).open())
        return opened[-1]

    yield make
    for one in opened:
        one.end()
