"""Cycles in the wait-for graph, and which wait is ended."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from orch_server.core.deadlock import (
    Cycle,
    Deadlock,
    Wait,
    WaitKind,
    cycle_text,
    deadlocks,
    find_cycles,
    summary,
    told,
)

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


def wait(
    waiter: str, holder: str, second: int = 0, priority: int = 1, wait_id: str = "", **more: str
) -> Wait:
    """A wait that began so many seconds after the start."""
    kind = WaitKind.AUTHORIZATION if priority > 1 else WaitKind.DEPENDENCY
    begun = START + timedelta(seconds=second)
    name = wait_id or f"{waiter}{holder}{second}"
    reason = more.get("reason", f"{holder}'s part")
    return Wait(name, kind, waiter, holder, reason, priority, begun, begun + timedelta(hours=1))


def ring(*agents: str) -> list[Wait]:
    """Each waits for the next one, the last one for the first; begun in this order."""
    after = (*agents[1:], agents[0])
    return [wait(a, b, i) for i, (a, b) in enumerate(zip(agents, after, strict=True))]


@st.composite
def graphs(draw: st.DrawFn, agents: int = 7, most: int = 20) -> list[Wait]:
    """Some waits among a few agents, none of itself; several between the same two are possible."""
    pairs = st.tuples(st.integers(0, agents - 1), st.integers(0, agents - 1))
    edges = draw(st.lists(pairs.filter(lambda p: p[0] != p[1]), max_size=most))
    return [
        wait(f"a{a}", f"a{b}", draw(st.integers(0, 5)), draw(st.integers(1, 3)), f"w{i:02}")
        for i, (a, b) in enumerate(edges)
    ]


def has_cycle(waits: Sequence[Wait]) -> bool:
    """The oracle: takes away who waits for nobody that waits, until nothing changes."""
    left = list(waits)
    while True:
        waiting = {w.waiter for w in left}
        kept = [w for w in left if w.holder in waiting]
        if len(kept) == len(left):
            return bool(left)
        left = kept


def reaches(waits: Sequence[Wait], start: str, end: str) -> bool:
    """Whether one waits for the other, if only through others."""
    seen, path = set(), [start]
    while path:
        agent = path.pop()
        for w in waits:
            if w.waiter == agent and w.holder not in seen:
                seen.add(w.holder)
                path.append(w.holder)
    return end in seen


def is_cycle(cycle: Cycle) -> bool:
    """Whether each one's holder is the next one's waiter, and nobody is passed twice."""
    pairs = zip(cycle, (*cycle[1:], cycle[0]), strict=True)
    waiters = [w.waiter for w in cycle]
    return all(a.holder == b.waiter for a, b in pairs) and len(set(waiters)) == len(waiters)


def victim(cycle: Cycle) -> Wait:
    """The rule: of the waits with the lowest priority the youngest."""
    return max(cycle, key=lambda w: (-w.priority, w.created_at, w.id))


def address(agent_id: str) -> str:
    return f"atlas:{agent_id}"


def test_a_chain_is_no_cycle() -> None:
    assert find_cycles([wait("a", "b"), wait("b", "c"), wait("a", "c")]) == []
    assert find_cycles([]) == []


def test_two_that_wait_for_each_other_are_a_cycle_that_begins_with_the_older_wait() -> None:
    first, second = ring("a", "b")
    assert find_cycles([second, first]) == [(first, second)]


def test_who_has_come_to_wait_for_itself_is_a_cycle_too() -> None:
    """A declared wait moves with its pane to another role, which may be the one waited for."""
    alone = wait("a", "a")
    waits = [alone, wait("a", "b"), wait("c", "a")]
    assert find_cycles(waits) == [(alone,)]
    assert deadlocks(waits) == [Deadlock((alone,), alone)]


def test_who_only_leads_into_a_cycle_is_not_in_it() -> None:
    waits = [*ring("a", "b", "c"), wait("x", "a", 9), wait("b", "y", 9)]
    assert find_cycles(waits) == [tuple(ring("a", "b", "c"))]


def test_groups_apart_each_give_a_cycle_and_the_older_comes_first() -> None:
    old, new = ring("x", "y"), [wait("a", "b", 5), wait("b", "a", 6)]
    assert find_cycles([*new, *old]) == [tuple(old), tuple(new)]


@given(graphs())
def test_there_is_a_cycle_in_the_result_whenever_there_is_one(waits: list[Wait]) -> None:
    found = find_cycles(waits)
    assert bool(found) == has_cycle(waits)
    assert all(is_cycle(cycle) and set(cycle) <= set(waits) for cycle in found)


@given(graphs())
def test_all_who_are_caught_have_a_cycle_in_their_group(waits: list[Wait]) -> None:
    found = find_cycles(waits)
    for agent in {w.waiter for w in waits if reaches(waits, w.waiter, w.waiter)}:
        members = [c[0].waiter for c in found]
        assert any(reaches(waits, agent, m) and reaches(waits, m, agent) for m in members)


@given(graphs(), st.randoms(use_true_random=False))
def test_the_order_of_the_waits_changes_nothing(waits: list[Wait], chance: random.Random) -> None:
    mixed = list(waits)
    chance.shuffle(mixed)
    assert find_cycles(mixed) == find_cycles(waits)
    assert deadlocks(mixed) == deadlocks(waits)


@given(graphs())
def test_once_the_chosen_waits_are_ended_no_cycle_is_left(waits: list[Wait]) -> None:
    found = deadlocks(waits)
    ended = {d.ended.id for d in found}
    assert not has_cycle([w for w in waits if w.id not in ended])
    assert len(ended) == len(found)
    assert all(is_cycle(d.cycle) and d.ended in d.cycle for d in found)


@given(graphs())
def test_the_wait_that_is_ended_is_the_youngest_of_the_least_urgent(waits: list[Wait]) -> None:
    for found in deadlocks(waits):
        assert found.ended == victim(found.cycle)
        assert found.cycle[0] == min(found.cycle, key=lambda w: (w.created_at, w.id))


@given(graphs())
def test_no_wait_is_ended_that_closes_no_cycle_with_those_that_go_on(waits: list[Wait]) -> None:
    found = deadlocks(waits)
    ended = {d.ended.id for d in found}
    for one in found:
        assert all(w is one.ended or w.id not in ended for w in one.cycle)


def test_an_urgent_request_outlives_an_older_wait_for_work() -> None:
    older, urgent = wait("a", "b", 0, priority=1), wait("b", "a", 5, priority=3)
    assert deadlocks([older, urgent]) == [Deadlock((older, urgent), older)]


def test_ten_thousand_waits_are_read_without_recursion() -> None:
    long = ring(*(f"a{i}" for i in range(10_000)))
    assert len(find_cycles(long)[0]) == 10_000
    chance = random.Random(4)
    agents = [f"a{i}" for i in range(1000)]
    dense = [wait(*chance.sample(agents, 2), i, wait_id=f"w{i}") for i in range(10_000)]
    assert find_cycles(dense)
    assert find_cycles([w for w in dense if w.waiter < w.holder]) == []
    assert len(deadlocks(long)) == 1


def test_of_six_thousand_waits_those_are_ended_without_which_there_is_no_circle() -> None:
    chance = random.Random(4)
    agents = [f"a{i}" for i in range(300)]
    waits = [wait(*chance.sample(agents, 2), i, wait_id=f"w{i}") for i in range(6000)]
    found = deadlocks(waits)
    ended = {one.ended.id for one in found}
    assert find_cycles([w for w in waits if w.id not in ended]) == []


def test_the_text_names_who_waits_for_whom_and_what_was_ended() -> None:
    first = wait("a", "b", reason="the schema\nand \x1b[31mmore")
    second = wait("b", "a", 5, priority=2, reason="Deploy")
    found = Deadlock((first, second), first)
    assert cycle_text(found, address) == (
        "Deadlock: atlas:a waits for atlas:b (its work on 'the schema and ?[31mmore'); atlas:b"
        " waits for atlas:a (its decision on 'Deploy'). To break it, the wait of atlas:a for"
        " atlas:b was ended: of the least urgent ones it was the youngest."
    )
    assert "Your wait is over" in told([found], "a", address)
    assert told([found], "b", address).endswith("Your own wait goes on.")
    assert "is a no" in told([Deadlock(found.cycle, second)], "b", address)
    assert summary([found], address) == cycle_text(found, address)


def test_several_deadlocks_are_one_text_that_names_ones_own_ended_waits_first() -> None:
    apart = [Deadlock((wait("b", "a"), wait("a", "b", i)), wait("b", "a")) for i in range(6)]
    asked = wait("a", "b", 9, priority=2, wait_id="f00d", reason="Deploy")
    found = [*apart, Deadlock((wait("b", "a"), asked), asked)]
    text = told(found, "a", address)
    assert text.startswith("Deadlock: agents wait for each other in 7 circles.")
    first = "ended: yours for atlas:b (its decision on 'Deploy', authorization f00d); that of"
    assert first in text
    assert text.count("that of atlas:b for atlas:a (its work on") == 4
    assert "; and 2 more. " in text
    assert text.endswith("has expired, which is a no.")
    other = told(apart, "a", address)
    assert "yours" not in other
    assert other.endswith("Your own waits go on.")
    assert "that of atlas:a for atlas:b (its decision on" in summary(found[5:], address)


def test_the_text_of_a_long_cycle_stays_one_readable_line() -> None:
    cycle = find_cycles(ring(*(f"a{i}" for i in range(50))))[0]
    text = cycle_text(Deadlock(cycle, victim(cycle)), address)
    assert "and 44 more up to atlas:a0" in text
    assert len(text) < 1000
