"""When most clients are lost at once, the server suspects itself first."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_server.core.partition import PartitionWatch

LEASE = 15.0


def _watch(clients: int) -> PartitionWatch:
    watch = PartitionWatch()
    for n in range(clients):
        watch.joined(f"c{n}", f"a{n}")
    return watch


def _lose(watch: PartitionWatch, *numbers: int, now: float = 100.0) -> bool | None:
    for n in numbers:
        watch.lost(f"c{n}", f"a{n}", now)
    return watch.judge(now, LEASE)


@pytest.mark.parametrize(
    ("clients", "lost", "suspected"),
    [(5, 3, True), (5, 2, False), (6, 3, False), (6, 4, True), (2, 2, False), (3, 3, True)],
)
def test_it_takes_more_than_half_and_at_least_three(
    clients: int, lost: int, suspected: bool
) -> None:
    watch = _watch(clients)
    assert bool(_lose(watch, *range(lost))) is suspected
    assert watch.suspected is suspected


def test_losses_that_come_slowly_are_no_mass_death() -> None:
    watch = _watch(5)
    for n in range(4):
        assert _lose(watch, n, now=100.0 + 2 * LEASE * n) is None


def test_one_client_with_many_panes_is_one_loss() -> None:
    watch = _watch(3)
    for n in range(50):
        watch.joined("all", f"b{n}")
    for n in range(50):
        watch.lost("all", f"b{n}", 100.0)
    assert watch.judge(100.0, LEASE) is None
    assert watch.counts == (3, 1)


def test_a_client_that_loses_one_stream_of_several_is_no_loss() -> None:
    watch = _watch(0)
    for n in range(4):
        watch.joined(f"c{n}", f"a{n}")
        watch.joined(f"c{n}", f"b{n}")
    assert _lose(watch, 0, 1, 2, 3) is None


def test_goodbyes_are_no_losses() -> None:
    watch = _watch(5)
    for n in range(5):
        watch.left(f"c{n}", f"a{n}")
    assert watch.judge(100.0, LEASE) is None
    assert watch.counts == (0, 0)


def test_it_is_over_when_at_most_half_are_missing() -> None:
    watch = _watch(5)
    assert _lose(watch, 0, 1, 2, 3) is True
    watch.joined("c0", "a0")
    assert watch.judge(101.0, LEASE) is None
    watch.joined("new", "a1")  # another process for the same agent
    assert watch.judge(102.0, LEASE) is False
    assert not watch.suspected


def test_it_is_over_two_leases_after_the_last_loss() -> None:
    watch = _watch(5)
    assert _lose(watch, 0, 1, 2, now=100.0) is True
    assert _lose(watch, 3, now=110.0) is None
    assert watch.judge(110.0 + 2 * LEASE - 0.1, LEASE) is None
    assert watch.judge(110.0 + 2 * LEASE, LEASE) is False
    assert watch.judge(1000.0, LEASE) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "leave", "lose", "wait"]), st.integers(0, 7), st.floats(0, 20)
        ),
        max_size=60,
    )
)
def test_it_tells_each_beginning_and_end_once_and_always_ends(
    steps: list[tuple[str, int, float]],
) -> None:
    watch, now, told = _watch(0), 0.0, []
    for what, n, length in steps:
        if what == "join":
            watch.joined(f"c{n}", f"a{n}")
        elif what == "leave":
            watch.left(f"c{n}", f"a{n}")
        elif what == "lose":
            watch.lost(f"c{n}", f"a{n}", now)
        else:
            now += length
        told.append(watch.judge(now, LEASE))
    told.append(watch.judge(now + 2 * LEASE, LEASE))
    told.append(watch.judge(now + 4 * LEASE, LEASE))
    verdicts = [verdict for verdict in told if verdict is not None]
    assert verdicts == [n % 2 == 0 for n in range(len(verdicts))]
    assert not watch.suspected


_MOVE = st.tuples(st.sampled_from(["join", "leave", "lose"]), st.integers(0, 4), st.integers(0, 7))


@given(st.lists(_MOVE, max_size=80))
def test_it_counts_as_a_naive_count_of_all_streams_does(moves: list[tuple[str, int, int]]) -> None:
    watch = _watch(0)
    streams: set[tuple[int, int]] = set()  # (client, agent)
    lost: dict[int, int] = {}  # agent -> the client that was lost with it
    for now, (what, client, agent) in enumerate(moves):
        if what == "join":
            watch.joined(f"c{client}", f"a{agent}")
            streams.add((client, agent))
            lost.pop(agent, None)
        elif what == "leave":
            watch.left(f"c{client}", f"a{agent}")
            streams.discard((client, agent))
        else:
            watch.lost(f"c{client}", f"a{agent}", float(now))
            streams.discard((client, agent))
            lost[agent] = client
        connected = {c for c, _ in streams}
        assert watch.counts == (len(connected), len(set(lost.values()) - connected))


def test_ten_thousand_clients_may_be_lost_and_come_back_in_one_moment() -> None:
    watch = _watch(10_000)
    start = time.process_time()
    for n in range(10_000):
        _lose(watch, n)
    assert watch.suspected
    for n in range(10_000):
        watch.joined(f"c{n}", f"a{n}")
        watch.judge(101.0, LEASE)
    assert watch.counts == (10_000, 0)
    assert not watch.suspected
    assert time.process_time() - start < 1.0  # each look at all losses would take minutes
