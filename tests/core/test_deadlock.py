"""Cycles in the wait-for graph, and which wait is ended."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from orch_server.core.deadlock import (
    Cycle,
    Deadlock,
    Wait,
    WaitKind,
    advice,
    cycle_text,
    deadlocks,
    find_cycles,
    victim,
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


def test_a_chain_is_no_cycle() -> None:
    assert find_cycles([wait("a", "b"), wait("b", "c"), wait("a", "c")]) == []
    assert find_cycles([]) == []


def test_two_that_wait_for_each_other_are_a_cycle_that_begins_with_the_older_wait() -> None:
    first, second = ring("a", "b")
    assert find_cycles([second, first]) == [(first, second)]


def test_who_has_come_to_wait_for_itself_is_a_cycle_too() -> None:
    """A declared wait moves with its pane to another role, which may be the one waited for."""
    alone = wait("a", "a")
    assert find_cycles([alone, wait("a", "b"), wait("c", "a")]) == [(alone,)]


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
    assert deadlocks(mixed, 100) == deadlocks(waits, 100)


@given(graphs())
def test_once_the_chosen_waits_are_ended_no_cycle_is_left(waits: list[Wait]) -> None:
    found = deadlocks(waits, 100)
    ended = {d.ended.id for d in found}
    assert not has_cycle([w for w in waits if w.id not in ended])
    assert len(ended) == len(found)
    assert all(is_cycle(d.cycle) and d.ended in d.cycle for d in found)


@given(graphs(), st.integers(0, 3))
def test_at_most_so_many_are_chosen_at_once(waits: list[Wait], most: int) -> None:
    found, everything = deadlocks(waits, most), deadlocks(waits, 100)
    assert len(found) == min(most, len(everything))


def test_of_two_groups_only_one_is_chosen_when_there_is_one_place() -> None:
    old, new = ring("x", "y"), [wait("a", "b", 5), wait("b", "a", 6)]
    assert [d.cycle for d in deadlocks([*new, *old], 1)] == [tuple(old)]


@given(graphs())
def test_the_wait_that_is_ended_is_the_youngest_of_the_least_urgent(waits: list[Wait]) -> None:
    for cycle in find_cycles(waits):
        ended = victim(cycle)
        for other in cycle:
            assert other.priority >= ended.priority
            if other.priority == ended.priority:
                assert (other.created_at, other.id) <= (ended.created_at, ended.id)


def test_an_urgent_request_outlives_an_older_wait_for_work() -> None:
    cycle = (wait("a", "b", 0, priority=1), wait("b", "a", 5, priority=3))
    assert victim(cycle) is cycle[0]


def test_ten_thousand_waits_are_read_fast_and_without_recursion() -> None:
    long = ring(*(f"a{i}" for i in range(10_000)))
    begun = time.monotonic()
    assert len(find_cycles(long)[0]) == 10_000
    chance = random.Random(4)
    agents = [f"a{i}" for i in range(1000)]
    dense = [wait(*chance.sample(agents, 2), i, wait_id=f"w{i}") for i in range(10_000)]
    assert find_cycles(dense)
    assert find_cycles([w for w in dense if w.waiter < w.holder]) == []
    assert time.monotonic() - begun < 3.0


def test_the_text_names_who_waits_for_whom_and_what_was_ended() -> None:
    first = wait("a", "b", reason="the schema\nand \x1b[31mmore")
    second = wait("b", "a", 5, priority=2, reason="Deploy")
    found = Deadlock((first, second), first)
    assert cycle_text(found, lambda i: f"atlas:{i}") == (
        "Deadlock: atlas:a waits for atlas:b (its work on 'the schema and ?[31mmore'); atlas:b"
        " waits for atlas:a (its decision on 'Deploy'). To break it, the wait of atlas:a for"
        " atlas:b was ended: of the least urgent ones it was the youngest."
    )
    assert "is over" in advice(found, first)
    assert advice(found, second) == "Your own wait goes on."
    assert "is a no" in advice(Deadlock(found.cycle, second), second)


def test_the_text_of_a_long_cycle_stays_one_readable_line() -> None:
    cycle = find_cycles(ring(*(f"a{i}" for i in range(50))))[0]
    text = cycle_text(Deadlock(cycle, victim(cycle)), lambda i: f"atlas:{i}")
    assert "and 44 more up to atlas:a0" in text
    assert len(text) < 1000
