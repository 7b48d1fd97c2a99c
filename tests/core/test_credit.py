"""The rules of credit: until when an account is held."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orch_server.core.credit import CreditHold, guess, limited

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _limited(
    before: CreditHold | None = None, reset: datetime | None = None, early: bool = False
) -> CreditHold | None:
    return limited("claude@host", before, reset, "atlas:dev", "limit", NOW, early)


def _hold(**how: object) -> CreditHold:
    made = CreditHold("claude@host", NOW - HOUR, NOW + HOUR, True, 0, "atlas:qa", "limit")
    return replace(made, **how)  # type: ignore[arg-type]


def test_a_reset_that_was_said_is_the_end_of_the_hold() -> None:
    found = _limited(reset=NOW + 3 * HOUR)
    assert found is not None
    assert (found.ends_at, found.reset_known, found.attempts) == (NOW + 3 * HOUR, True, 0)
    assert (found.began_at, found.source, found.detail) == (NOW, "atlas:dev", "limit")


def test_without_one_the_end_is_a_guess_that_doubles_each_time_it_was_too_early() -> None:
    before, held = None, []
    for _ in range(8):
        found = _limited(before, early=before is not None)
        assert found is not None
        assert not found.reset_known
        held.append((found.ends_at - NOW) // timedelta(minutes=1))
        before = replace(found, released_at=found.ends_at)
    assert held == [15, 30, 60, 120, 240, 300, 300, 300]


def test_a_guess_that_was_not_too_early_begins_again() -> None:
    before = _hold(reset_known=False, attempts=3, released_at=NOW - HOUR)
    found = _limited(before, early=False)
    assert found is not None
    assert (found.attempts, found.ends_at) == (0, NOW + timedelta(minutes=15))


def test_a_limit_after_a_reset_that_was_said_is_no_guess_that_was_too_early() -> None:
    found = _limited(_hold(released_at=NOW), early=True)
    assert found is not None
    assert found.attempts == 0


@pytest.mark.parametrize(
    ("before", "reset", "ends"),
    [
        (_hold(), None, None),
        (_hold(), NOW + HOUR, None),
        (_hold(), NOW + 2 * HOUR, NOW + 2 * HOUR),
        (_hold(reset_known=False), NOW + timedelta(minutes=5), NOW + timedelta(minutes=5)),
        (_hold(reset_known=False), None, None),
        (_hold(manual=True), NOW + 2 * HOUR, None),
    ],
)
def test_while_an_account_is_held_only_a_better_or_a_later_time_changes_it(
    before: CreditHold, reset: datetime | None, ends: datetime | None
) -> None:
    found = _limited(before, reset)
    assert (found and found.ends_at) == ends
    if found is not None:
        assert found.began_at == before.began_at, "it is the same hold"


def test_a_guess_never_overflows() -> None:
    assert guess(10_000) == timedelta(hours=5)
