"""Deadlocks: who waits for whom, the cycles in it, and the wait that is ended to break one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orch_server.core.text import one_line

#: Links of a cycle that a text names.
_SHOWN = 6
#: Deadlocks that a text tells.
_TOLD = 3


class WaitKind(StrEnum):
    """Why one agent waits for another; see session_state.proto."""

    AUTHORIZATION = "AUTHORIZATION"
    DEPENDENCY = "DEPENDENCY"


@dataclass(frozen=True, slots=True)
class Wait:
    """One edge of the graph; `waiter` and `holder` are ids of agents. `priority` is 1, 2 or 3."""

    id: str
    kind: WaitKind
    waiter: str
    holder: str
    reason: str
    priority: int
    created_at: datetime
    deadline_at: datetime


#: Waits of which each one's holder is the next one's waiter, and the last one's the first one's.
Cycle = tuple[Wait, ...]


@dataclass(frozen=True, slots=True)
class Deadlock:
    """A cycle, and the wait that is ended to break it."""

    cycle: Cycle
    ended: Wait


def find_cycles(waits: Iterable[Wait]) -> list[Cycle]:
    """One cycle for each group of agents that wait for each other, the oldest group first.

    None is left out: where the result is empty there is no cycle. Each cycle begins with its oldest
    wait and passes no agent twice. The order of `waits` does not matter.
    """
    edges = _sorted(waits)
    group = _groups(edges)
    inner: dict[int, list[Wait]] = {}
    for wait in edges:
        if group[wait.waiter] == group[wait.holder]:
            inner.setdefault(group[wait.waiter], []).append(wait)
    cycles = [_first_cycle(found) for found in inner.values()]
    return sorted(cycles, key=lambda cycle: _age(cycle[0]))


def deadlocks(waits: Iterable[Wait], most: int) -> list[Deadlock]:
    """The cycles and the waits to be ended, one after the other, until none is left: at most so
    many, so that there may be more when all places are taken."""
    left = list(waits)
    found: list[Deadlock] = []
    while len(found) < most and (cycles := find_cycles(left)):
        chosen = [Deadlock(cycle, victim(cycle)) for cycle in cycles[: most - len(found)]]
        found += chosen
        ended = {deadlock.ended.id for deadlock in chosen}
        left = [wait for wait in left if wait.id not in ended]
    return found


def victim(cycle: Sequence[Wait]) -> Wait:
    """The wait that is ended: of those with the lowest priority the youngest."""
    lowest = min(wait.priority for wait in cycle)
    return max((wait for wait in cycle if wait.priority == lowest), key=_age)


def cycle_text(deadlock: Deadlock, name: Callable[[str], str]) -> str:
    """The deadlock on one line, for those in it; `name` gives an agent's address for its id."""
    links = [_link(wait, name) for wait in deadlock.cycle[:_SHOWN]]
    more = len(deadlock.cycle) - len(links)
    if more:
        links.append(f"and {more} more up to {name(deadlock.cycle[0].waiter)}")
    ended = deadlock.ended
    return (
        f"Deadlock: {'; '.join(links)}. To break it, the wait of {name(ended.waiter)} for"
        f" {name(ended.holder)} was ended: of the least urgent ones it was the youngest."
    )


def advice(deadlock: Deadlock, wait: Wait) -> str:
    """What a deadlock means for the agent of one wait in it."""
    if wait is not deadlock.ended:
        return "Your own wait goes on."
    if wait.kind is WaitKind.AUTHORIZATION:
        return (
            f"Your authorization {wait.id} has expired, which is a no; settle it with the others"
            " and ask again if it is still needed."
        )
    return "Your wait is over: go on without it, or settle it with the others."


def together(texts: Sequence[str]) -> str:
    """What is said of several deadlocks at once; not every one of very many."""
    more = len(texts) - _TOLD
    last = (
        [f"{more} more deadlocks were broken with them: orch-client waiting."] if more > 0 else []
    )
    return "\n".join((*texts[:_TOLD], *last))


def _link(wait: Wait, name: Callable[[str], str]) -> str:
    what = "its decision" if wait.kind is WaitKind.AUTHORIZATION else "its work"
    about = f"{what} on '{one_line(wait.reason, 80)}'"
    return f"{name(wait.waiter)} waits for {name(wait.holder)} ({about})"


def _age(wait: Wait) -> tuple[datetime, str]:
    return wait.created_at, wait.id


def _sorted(waits: Iterable[Wait]) -> list[Wait]:
    return sorted(waits, key=_age)


def _first_cycle(edges: Sequence[Wait]) -> Cycle:
    """The shortest cycle through the oldest of these waits, which all lie in one group."""
    out: dict[str, list[Wait]] = {}
    for wait in edges:
        out.setdefault(wait.waiter, []).append(wait)
    start = edges[0]
    came: dict[str, Wait] = {start.holder: start}
    queue = [start.holder]
    for agent in queue:  # grows while it is read: breadth first
        if agent == start.waiter:
            break
        for wait in out[agent]:
            if wait.holder not in came:
                came[wait.holder] = wait
                queue.append(wait.holder)
    back = [came[start.waiter]]
    while back[-1] is not start:
        back.append(came[back[-1].waiter])
    return tuple(reversed(back))


def _groups(edges: Sequence[Wait]) -> dict[str, int]:
    """For each agent the number of its strongly connected component (Tarjan, without recursion)."""
    out: dict[str, list[str]] = {}
    for wait in edges:
        out.setdefault(wait.waiter, []).append(wait.holder)
        out.setdefault(wait.holder, [])
    walk = _Walk(out)
    for agent in out:
        if agent not in walk.index:
            walk.visit(agent)
    return walk.group


class _Walk:
    """The state of Tarjan's search."""

    def __init__(self, out: dict[str, list[str]]) -> None:
        self.group: dict[str, int] = {}
        self.index: dict[str, int] = {}
        self._out = out
        self._low: dict[str, int] = {}
        self._open: list[str] = []

    def visit(self, root: str) -> None:
        """Walks through all that can be reached from here and was not seen."""
        path = [self._enter(root)]
        while path:
            agent, holders = path[-1]
            for holder in holders:
                if holder not in self.index:
                    path.append(self._enter(holder))
                    break
                if holder not in self.group:
                    self._low[agent] = min(self._low[agent], self.index[holder])
            else:
                path.pop()
                self._leave(agent, path[-1][0] if path else None)

    def _enter(self, agent: str) -> tuple[str, Iterator[str]]:
        self.index[agent] = self._low[agent] = len(self.index)
        self._open.append(agent)
        return agent, iter(self._out[agent])

    def _leave(self, agent: str, parent: str | None) -> None:
        if self._low[agent] == self.index[agent]:
            member = ""
            while member != agent:
                member = self._open.pop()
                self.group[member] = self.index[agent]
        if parent is not None:
            self._low[parent] = min(self._low[parent], self._low[agent])
