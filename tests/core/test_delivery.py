"""The rules of deliveries: what follows from a refusal, and what is said of a delivery."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from orch_server.core.agent import check_kind
from orch_server.core.delivery import (
    MAX_REFUSALS,
    NOT_NOW,
    DeliveryEvent,
    DeliveryMode,
    Offering,
    RefusalReason,
    header,
    judge,
    offered_mode,
    retry_delay,
    whole_text,
)
from orch_server.core.errors import InvalidInput
from orch_server.core.text import MAX_REPLY_BYTES, clean_reply

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
R, M, E = RefusalReason, DeliveryMode, DeliveryEvent


def _offering(mode: M = M.WAIT_IDLE, refusals: int = 3, reason: R = R.UNSET) -> Offering:
    return Offering(mode, START, START, refusals, reason)


def _seconds(n: float) -> timedelta:
    return timedelta(seconds=n)


@pytest.mark.parametrize(("mode", "reason"), list(product(M, sorted(NOT_NOW))))
def test_a_not_now_waits_half_a_minute_but_for_the_bound_of_a_busy_agent(
    mode: M, reason: R
) -> None:
    bounded = mode is M.WAIT_IDLE and reason is R.AGENT_BUSY
    for passed, waits in ((0, 30), (29, 30), (31, 29), (59.5, 0.5), (61, 0)):
        now = START + _seconds(passed)
        refused = judge(_offering(mode), reason, now, 1)
        assert (refused.event, refused.refusals) == (E.REFUSE, 3)
        assert refused.retry_at == now + _seconds(waits if bounded else 30)
    late = replace(_offering(mode), offered_at=START + _seconds(60))
    now = START + _seconds(61)
    assert judge(late, reason, now, 1).retry_at == now + _seconds(30)


@pytest.mark.parametrize("reason", sorted(set(R) - NOT_NOW - {R.UNREADABLE, R.NUMBER_USED}))
def test_other_refusals_count_and_are_at_last_too_many(reason: R) -> None:
    for before in range(MAX_REFUSALS):
        refused = judge(_offering(refusals=before), reason, START, 0.3)
        assert refused.refusals == before + 1
        last = before + 1 == MAX_REFUSALS
        assert refused.event is (E.BURY if last else E.REFUSE)
        assert last or refused.retry_at == START + retry_delay(before + 1, 0.3)


def test_a_used_number_does_not_count_the_first_time() -> None:
    refused = judge(_offering(), R.NUMBER_USED, START, 0.5)
    assert (refused.event, refused.refusals, refused.retry_at) == (E.REFUSE, 3, START)
    again = judge(_offering(reason=R.NUMBER_USED), R.NUMBER_USED, START, 0.5)
    assert (again.refusals, again.retry_at) == (4, START + retry_delay(4, 0.5))


def test_what_is_unreadable_is_buried() -> None:
    assert judge(_offering(refusals=0), R.UNREADABLE, START, 0).event is E.BURY


@pytest.mark.parametrize("mode", list(M))
def test_only_what_waits_for_idle_stops_waiting(mode: M) -> None:
    assert offered_mode(mode, START, START + _seconds(59.999)) is mode
    after = M.IMMEDIATE if mode is M.WAIT_IDLE else mode
    assert offered_mode(mode, START, START + _seconds(60)) is after


def test_a_header_names_the_delivery_and_the_sender() -> None:
    line = header("1a2b3c4d5e6f", "atlas:pm")
    assert line == "[message 1a2b3c4d from atlas:pm]"
    assert whole_text(line, "a\nb") == "[message 1a2b3c4d from atlas:pm]\na\nb"
    assert whole_text("", "a") == "a"


@pytest.mark.parametrize("kind", ["", "claude", "a", "9-a_b", "x" * 32])
def test_a_word_is_a_kind(kind: str) -> None:
    assert check_kind("kind", kind) == kind


@pytest.mark.parametrize("kind", ["A", "a b", "_a", "a\n", "x" * 33, "\u0430", "a\x00"])
def test_anything_else_is_no_kind(kind: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_kind("hello.kind", kind)
    assert caught.value.field == "hello.kind"
    assert caught.value.message.isprintable()


def test_a_reply_is_cleaned_and_cut_between_characters() -> None:
    assert clean_reply("a\r\nb\x1b[1mc\td") == "a\nb[1mc\td"
    cut = clean_reply("x" + "é" * MAX_REPLY_BYTES)
    assert len(cut.encode()) == MAX_REPLY_BYTES - 1
    assert cut.endswith("é")
