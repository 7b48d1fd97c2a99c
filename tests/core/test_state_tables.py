"""The state machines: every pair of their tables, the legal and the illegal ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest

from orch_server.core import authorization, delivery
from orch_server.core.authorization import AuthorizationState, Verdict
from orch_server.core.delivery import DeliveryEvent, DeliveryState
from orch_server.core.errors import Conflict, IllegalTransition
from tests.core.asked import ASKED, NOW

D, E, A = DeliveryState, DeliveryEvent, AuthorizationState

# Written by hand from DESIGN's list of states, so that a slip in the table is seen here.
LEGAL_DELIVERY = {
    D.PENDING: {
        E.OFFER: D.OFFERED,
        E.CLAIM: D.OFFERED,
        E.EXPIRE: D.EXPIRED,
        E.CANCEL: D.CANCELLED,
    },
    D.OFFERED: {
        E.OFFER: D.OFFERED,
        E.PASTE: D.PASTED,
        E.CONFIRM: D.CONFIRMED,
        E.QUEUE: D.QUEUED_BY_AGENT,
        E.DOUBT: D.UNCONFIRMED,
        E.REFUSE: D.PENDING,
        E.BURY: D.DEAD,
    },
    D.PASTED: {
        E.OFFER: D.PASTED,
        E.PASTE: D.PASTED,
        E.CONFIRM: D.CONFIRMED,
        E.QUEUE: D.QUEUED_BY_AGENT,
        E.DOUBT: D.UNCONFIRMED,
    },
    **{
        ended: {E.REDRIVE: D.PENDING}
        for ended in (D.UNCONFIRMED, D.REFUSED, D.EXPIRED, D.CANCELLED, D.DEAD)
    },
}


@pytest.mark.parametrize(("state", "event"), list(product(D, E)))
def test_each_pair_of_the_delivery_table(state: DeliveryState, event: DeliveryEvent) -> None:
    expected = LEGAL_DELIVERY.get(state, {}).get(event)
    if expected is not None:
        assert delivery.after(state, event) is expected
        return
    with pytest.raises(IllegalTransition) as caught:
        delivery.after(state, event)
    assert state.lower() in caught.value.message
    assert event.lower() in caught.value.message
    assert caught.value.metadata == {"machine": "delivery", "state": state, "event": event}


@pytest.mark.parametrize(("state", "verdict"), list(product(A, Verdict)))
def test_each_pair_of_the_authorization_table(state: AuthorizationState, verdict: Verdict) -> None:
    expected = {
        (A.PENDING, Verdict.APPROVE): A.APPROVED,
        (A.PENDING, Verdict.DENY): A.DENIED,
        (A.PENDING, Verdict.EXPIRE): A.EXPIRED,
        (A.PENDING, Verdict.CANCEL): A.CANCELLED,
        (A.APPROVED, Verdict.CONSUME): A.CONSUMED,
        (A.APPROVED, Verdict.LAPSE): A.LAPSED,
    }.get((state, verdict))
    asked = replace(ASKED, state=state, lapses_at=NOW + timedelta(minutes=1))
    if expected is not None:
        assert authorization.resolve(asked, verdict, NOW) is expected
        return
    with pytest.raises(Conflict) as caught:
        authorization.resolve(asked, verdict, NOW)
    assert "3fa8" in caught.value.message
    assert state.lower() in caught.value.message
    assert caught.value.metadata["state"] == state


def test_a_delivery_that_has_ended_takes_only_a_redrive_and_one_that_arrived_not_even_that() -> (
    None
):
    final = set(D) - set(delivery.OPEN)
    assert final == {
        D.CONFIRMED,
        D.QUEUED_BY_AGENT,
        D.UNCONFIRMED,
        D.REFUSED,
        D.EXPIRED,
        D.CANCELLED,
        D.DEAD,
    }
    taken = {(state, event) for state, event in delivery.TRANSITIONS if state in final}
    assert {event for _, event in taken} == {E.REDRIVE}
    assert not {state for state, _ in taken} & {D.CONFIRMED, D.QUEUED_BY_AGENT}


def test_what_was_pasted_never_goes_back() -> None:
    reachable = {new for (old, _), new in delivery.TRANSITIONS.items() if old is D.PASTED}
    assert not reachable & {D.PENDING, D.OFFERED, D.REFUSED}


def test_a_courier_reports_only_what_an_offer_can_become() -> None:
    for event in delivery.REPORTED.values():
        assert delivery.after(D.OFFERED, event) in set(D)
    assert set(delivery.REPORTED) == {
        D.PASTED,
        D.CONFIRMED,
        D.QUEUED_BY_AGENT,
        D.UNCONFIRMED,
        D.REFUSED,
    }


def test_a_refused_delivery_is_tried_again_ever_more_slowly() -> None:
    delays = [delivery.retry_delay(n, 1.0) for n in range(1, 12)]
    assert delays[:4] == [timedelta(seconds=s) for s in (0.5, 1, 2, 4)]
    assert delays == sorted(delays)
    assert delays[-1] == delivery.retry_delay(10**9, 1.0) == timedelta(seconds=60)
    assert delivery.retry_delay(3, 0.25) == timedelta(seconds=0.5)
    assert delivery.retry_delay(3, 0.0) == timedelta(0)
