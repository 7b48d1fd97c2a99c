"""Leases: who is still counted as alive, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_server.core.errors import StaleEpoch
from orch_server.core.lease import LeaseTable
from orch_server.core.pace import Pace

PACE = Pace(beat=5.0, lease=15.0, grace=0.75)


def _table() -> LeaseTable:
    return LeaseTable(PACE)


def test_a_silent_client_is_expired_at_its_lease_and_not_before() -> None:
    table = _table()
    table.grant("a", 1, now=0)
    assert table.next_check() == 15
    assert table.expire(14.999) == []
    assert table.expire(15) == [("a", 1)]
    assert table.expire(1000) == []
    assert table.next_check() is None


def test_a_beat_renews_the_lease() -> None:
    table = _table()
    table.grant("a", 1, now=0)
    table.renew("a", 1, now=10)
    assert table.expire(15) == []
    assert table.expire(24.999) == []
    assert table.expire(25) == [("a", 1)]


def test_a_frame_of_an_older_connection_is_refused_and_renews_nothing() -> None:
    table = _table()
    table.grant("a", 1, now=0)
    table.grant("a", 2, now=1)
    with pytest.raises(StaleEpoch) as caught:
        table.renew("a", 1, now=10)
    assert caught.value.metadata == {"epoch": "1"}
    assert table.expire(16) == [("a", 2)]


def test_a_frame_after_the_end_of_the_lease_is_refused() -> None:
    table = _table()
    table.grant("a", 1, now=0)
    table.expire(15)
    with pytest.raises(StaleEpoch):
        table.renew("a", 1, now=15)


def test_a_frame_of_an_unknown_agent_is_refused() -> None:
    with pytest.raises(StaleEpoch):
        _table().renew("nobody", 1, now=0)


def test_a_broken_stream_has_only_the_grace() -> None:
    table = _table()
    table.grant("a", 1, now=0)
    assert table.broke("a", 1, now=2)
    assert table.expire(2.74) == []
    assert table.expire(2.75) == [("a", 1)]


def test_a_client_that_comes_back_within_the_grace_has_a_whole_lease() -> None:
    table = _table()
    table.grant("a", 1, now=0)
    table.broke("a", 1, now=2)
    table.grant("a", 2, now=2.5)
    assert table.expire(17.4) == []
    assert table.expire(17.5) == [("a", 2)]


def test_the_break_of_an_older_connection_changes_nothing() -> None:
    table = _table()
    table.grant("a", 1, now=0)
    table.grant("a", 2, now=1)
    assert not table.broke("a", 1, now=2)
    assert table.expire(15.9) == []


def test_a_goodbye_ends_the_lease_of_its_own_connection_only() -> None:
    table = _table()
    table.grant("a", 2, now=0)
    assert not table.end("a", 1)
    assert table.end("a", 2)
    assert not table.end("a", 2)
    assert table.expire(1000) == []


def test_what_has_ended_is_returned_in_the_order_of_the_deadlines() -> None:
    table = _table()
    for agent, start in (("late", 3), ("early", 0), ("middle", 2), ("never", 90)):
        table.grant(agent, 7, now=start)
    assert table.expire(50) == [("early", 7), ("middle", 7), ("late", 7)]


def test_an_amnesty_lasts_two_leases_and_ends_with_the_return() -> None:
    table = _table()
    table.await_return("back", 4, now=0)
    table.await_return("gone", 4, now=0)
    table.grant("back", 5, now=20)
    assert table.expire(29.9) == []
    assert table.expire(30) == [("gone", 4)]
    assert table.expire(35) == [("back", 5)]


def test_a_stall_of_the_server_extends_every_lease() -> None:
    table = _table()
    table.grant("a", 1, now=0)
    table.grant("b", 1, now=0)
    table.broke("b", 1, now=14)
    table.extend_all(100)
    assert table.expire(114.74) == []
    assert table.expire(114.75) == [("b", 1)]
    assert table.expire(114.99) == []
    assert table.expire(115) == [("a", 1)]


def test_nobody_with_a_lease_means_nothing_to_check() -> None:
    assert _table().next_check() is None


def test_a_client_that_reconnects_often_leaves_nothing_behind() -> None:
    """A table that keeps a mark of each connection grows as long as the agent lives."""
    table = _table()
    for epoch in range(1, 201):
        now = epoch * 10.0
        table.grant("a", epoch, now)
        table.expire(now)
    assert len(table._heap) <= 4


@dataclass
class _Held:
    epoch: int
    deadline: float


class _Model:
    """The rules once more, without a heap: all leases are looked at each time."""

    def __init__(self) -> None:
        self.held: dict[str, _Held] = {}

    def put(self, agent: str, epoch: int, deadline: float) -> None:
        self.held[agent] = _Held(epoch, deadline)

    def mine(self, agent: str, epoch: int) -> _Held | None:
        held = self.held.get(agent)
        return held if held is not None and held.epoch == epoch else None

    def expire(self, now: float) -> set[tuple[str, int]]:
        ended = {a: h for a, h in self.held.items() if h.deadline <= now}
        for agent in ended:
            del self.held[agent]
        return {(agent, held.epoch) for agent, held in ended.items()}


_AGENT = st.sampled_from("abc")
_EPOCH = st.integers(1, 3)
_STEP = st.one_of(
    st.tuples(st.just("pass"), st.sampled_from([0.25, 0.75, 1.0, 5.0, 14.0, 15.0, 30.0])),
    st.tuples(st.just("extend"), st.sampled_from([0.5, 20.0])),
    *(
        st.tuples(st.just(name), _AGENT, _EPOCH)
        for name in ("grant", "await_return", "renew", "broke", "end")
    ),
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(_STEP, max_size=40))
def test_the_table_behaves_like_a_naive_model(steps: list[tuple[str, ...]]) -> None:
    table, model, now = _table(), _Model(), 0.0
    for step, *args in steps:
        if step == "pass":
            now += float(args[0])
            assert set(table.expire(now)) == model.expire(now)
        elif step == "extend":
            table.extend_all(float(args[0]))
            for held in model.held.values():
                held.deadline += float(args[0])
        else:
            _both(table, model, step, args[0], int(args[1]), now)
        check = table.next_check()
        if model.held:  # too early costs a look, too late is a wrong verdict
            assert check is not None
            assert check <= min(h.deadline for h in model.held.values())
    assert set(table.expire(now + 10**6)) == model.expire(now + 10**6)


def _both(table: LeaseTable, model: _Model, step: str, agent: str, epoch: int, now: float) -> None:
    mine = model.mine(agent, epoch)
    if step == "grant":
        table.grant(agent, epoch, now)
        model.put(agent, epoch, now + PACE.lease)
    elif step == "await_return":
        table.await_return(agent, epoch, now)
        model.put(agent, epoch, now + 2 * PACE.lease)
    elif step == "renew":
        if mine is None:
            with pytest.raises(StaleEpoch):
                table.renew(agent, epoch, now)
        else:
            table.renew(agent, epoch, now)
            mine.deadline = now + PACE.lease
    elif step == "broke":
        assert table.broke(agent, epoch, now) is (mine is not None)
        if mine is not None:
            model.put(agent, epoch, now + PACE.grace)
    else:
        assert table.end(agent, epoch) is (mine is not None)
        if mine is not None:
            del model.held[agent]
