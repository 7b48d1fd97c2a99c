"""Deadlocks: who waits for whom, the cycles in it, and the wait that is ended to break one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orch_server.core.text import one_line

#: Links of a cycle that a text names.
_SHOWN = 6
#: Ended waits that a text names.
_TOLD = 5


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
    cycles = [_first_cycle(found) for found in _inner(waits)]
    return sorted(cycles, key=lambda cycle: _age(cycle[0]))


def deadlocks(waits: Iterable[Wait]) -> list[Deadlock]:
    """The waits to be ended so that no cycle is left, each with a cycle that it closes.

    The most urgent waits are kept first, of those the older ones, and each that would close a cycle
    with what is kept is ended: it is the victim of that cycle, whose other waits are all kept. So
    the result is one pass, and may be carried out in any order.
    """
    found: list[Deadlock] = []
    for group in _inner(waits):
        kept = _Kept()
        for wait in sorted(group, key=lambda one: -one.priority):
            cycle = kept.add(wait)
            if cycle:
                found.append(Deadlock(_from_oldest(cycle), wait))
    return found


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


def told(found: Sequence[Deadlock], agent_id: str, name: Callable[[str], str]) -> str:
    """What an agent is told of the deadlocks that it was in, on one line: which waits were ended,
    its own first."""
    if len(found) == 1:
        (own,) = (wait for wait in found[0].cycle if wait.waiter == agent_id)
        return f"{cycle_text(found[0], name)} {advice(found[0], own)}"
    ended = sorted((one.ended for one in found), key=lambda wait: wait.waiter != agent_id)
    mine = ended[0].waiter == agent_id
    last = (
        "Go on without what you waited for there, or settle it with the others; a request for"
        " authorization that was ended has expired, which is a no."
        if mine
        else "Your own waits go on."
    )
    return f"{_ended_text(ended, name, agent_id)} {last}"


def summary(found: Sequence[Deadlock], name: Callable[[str], str]) -> str:
    """What a person is told of deadlocks that were broken together, on one line."""
    if len(found) == 1:
        return cycle_text(found[0], name)
    return _ended_text([one.ended for one in found], name)


def _ended_text(ended: Sequence[Wait], name: Callable[[str], str], agent_id: str = "") -> str:
    """Which waits were ended; those of this agent are called its own."""
    named = [_ended_link(wait, name, wait.waiter == agent_id) for wait in ended[:_TOLD]]
    more = len(ended) - len(named)
    if more:
        named.append(f"and {more} more")
    return (
        f"Deadlock: agents wait for each other in {len(ended)} circles. To break them, these waits"
        f" were ended: {'; '.join(named)}. Of the least urgent ones of its circle each was the"
        " youngest."
    )


def _ended_link(wait: Wait, name: Callable[[str], str], own: bool) -> str:
    whose = "yours" if own else f"that of {name(wait.waiter)}"
    which = f", authorization {wait.id}" if wait.kind is WaitKind.AUTHORIZATION else ""
    return f"{whose} for {name(wait.holder)} ({_about(wait)}{which})"


def _link(wait: Wait, name: Callable[[str], str]) -> str:
    return f"{name(wait.waiter)} waits for {name(wait.holder)} ({_about(wait)})"


def _about(wait: Wait) -> str:
    what = "its decision" if wait.kind is WaitKind.AUTHORIZATION else "its work"
    return f"{what} on '{one_line(wait.reason, 80)}'"


def _age(wait: Wait) -> tuple[datetime, str]:
    return wait.created_at, wait.id


def _sorted(waits: Iterable[Wait]) -> list[Wait]:
    return sorted(waits, key=_age)


def _inner(waits: Iterable[Wait]) -> list[list[Wait]]:
    """The waits within each group of agents that wait for each other, the oldest first."""
    edges = _sorted(waits)
    group = _groups(edges)
    inner: dict[int, list[Wait]] = {}
    for wait in edges:
        if group[wait.waiter] == group[wait.holder]:
            inner.setdefault(group[wait.waiter], []).append(wait)
    return list(inner.values())


def _from_oldest(cycle: Cycle) -> Cycle:
    """The same cycle, beginning with its oldest wait."""
    first = cycle.index(min(cycle, key=_age))
    return cycle[first:] + cycle[:first]


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


class _Kept:
    """Waits without a cycle, in an order in which each agent stands before those it waits for, so
    that a search looks only at what stands between (Pearce and Kelly)."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}
        self._out: dict[str, dict[str, Wait]] = {}
        self._in: dict[str, list[str]] = {}

    def add(self, wait: Wait) -> Cycle:
        """Keeps the wait and returns (), or does not and returns a cycle that it would close."""
        high, low = self._enter(wait.waiter), self._enter(wait.holder)
        if wait.waiter == wait.holder:
            return (wait,)
        if low < high:
            came = self._ahead(wait.holder, high)
            if wait.waiter in came:
                return (wait, *_path(came, wait))
            self._reorder(self._behind(wait.waiter, low), list(came))
        if wait.holder not in self._out[wait.waiter]:
            self._out[wait.waiter][wait.holder] = wait
            self._in[wait.holder].append(wait.waiter)
        return ()

    def _enter(self, agent: str) -> int:
        self._out.setdefault(agent, {})
        self._in.setdefault(agent, [])
        return self._place.setdefault(agent, len(self._place))

    def _ahead(self, start: str, high: int) -> dict[str, Wait | None]:
        """For each agent that this one waits for, itself included, up to a place, the wait by which
        the search came there; breadth first."""
        came: dict[str, Wait | None] = {start: None}
        queue = [start]
        for agent in queue:  # grows while it is read
            for holder, wait in self._out[agent].items():
                if holder not in came and self._place[holder] <= high:
                    came[holder] = wait
                    queue.append(holder)
        return came

    def _behind(self, start: str, low: int) -> list[str]:
        """The agents that wait for this one, itself included, down to a place."""
        seen = {start}
        queue = [start]
        for agent in queue:  # grows while it is read
            for waiter in self._in[agent]:
                if waiter not in seen and self._place[waiter] >= low:
                    seen.add(waiter)
                    queue.append(waiter)
        return queue

    def _reorder(self, behind: list[str], ahead: list[str]) -> None:
        """Puts those before these, in the places that both have."""
        agents = [
            *sorted(behind, key=self._place.__getitem__),
            *sorted(ahead, key=self._place.__getitem__),
        ]
        places = sorted(self._place[agent] for agent in agents)
        self._place.update(zip(agents, places, strict=True))


def _path(came: dict[str, Wait | None], wait: Wait) -> list[Wait]:
    """The waits by which a search came from a wait's holder to its waiter."""
    back: list[Wait] = []
    step = came[wait.waiter]
    while step is not None:
        back.append(step)
        step = came[step.waiter]
    return back[::-1]
