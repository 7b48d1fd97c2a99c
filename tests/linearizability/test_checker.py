"""The checker itself: it finds each kind of fault, and takes each legal history for what it is."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from tests.linearizability.checker import check
from tests.linearizability.history import NEVER, Kind, Operation, Outcome, State

START: State = (1, "")


def _is_legal(*operations: Operation) -> bool:
    return check(operations, {"s": START}) == []


def _read(invoked: float, returned: float, version: int, value: str) -> Operation:
    return Operation("s", Kind.READ, invoked, returned, Outcome.OK, 0, value, version)


def _write(
    invoked: float, returned: float, value: str, version: int, expected: int = 0
) -> Operation:
    """An update that was answered with this new version."""
    return Operation("s", Kind.UPDATE, invoked, returned, Outcome.OK, expected, value, version)


def _refused(invoked: float, returned: float, expected: int, present: int) -> Operation:
    made = (invoked, returned, Outcome.MISMATCH, expected, "refused", present)
    return Operation("s", Kind.UPDATE, *made)


def _lost(invoked: float, value: str, expected: int = 0) -> Operation:
    """An update that was never answered."""
    return Operation("s", Kind.UPDATE, invoked, NEVER, Outcome.UNKNOWN, expected, value)


LEGAL = {
    "nothing": (),
    "one by one": (_read(0, 1, 1, ""), _write(2, 3, "a", 2), _read(4, 5, 2, "a")),
    "a read beside a write sees what was": (_write(0, 9, "a", 2), _read(1, 2, 1, "")),
    "a read beside a write sees what will be": (_write(0, 9, "a", 2), _read(1, 2, 2, "a")),
    "two writes in the other order": (_write(0, 9, "a", 3), _write(1, 8, "b", 2)),
    "of two of one version one wins": (_write(0, 9, "a", 2, 1), _refused(1, 8, 1, 2)),
    "a refusal tells the present version": (_write(0, 1, "a", 2), _refused(2, 3, 7, 2)),
    "what was lost never happened": (_lost(0, "a"), _read(5, 6, 1, "")),
    "what was lost happened": (_lost(0, "a"), _read(5, 6, 2, "a")),
    "what was lost happened late": (_lost(0, "a"), _read(5, 6, 1, ""), _read(7, 8, 2, "a")),
    "what was lost was overwritten unseen": (_lost(0, "a"), _write(5, 6, "b", 3)),
    "of two that were lost the second alone": (
        *(_lost(0, "a"), _lost(1, "b")),
        *(_read(5, 6, 2, "b"), _write(7, 8, "c", 3, 2)),
    ),
    "what was lost had a version": (_lost(0, "a", 1), _read(5, 6, 2, "a")),
}
ILLEGAL = {
    "a stale read": (_write(0, 1, "a", 2), _read(2, 3, 1, "")),
    "a read goes back": (_write(0, 9, "a", 2), _read(1, 2, 2, "a"), _read(3, 4, 1, "")),
    "a lost update": (_write(0, 1, "a", 2, 1), _read(2, 3, 1, ""), _write(4, 5, "b", 2, 1)),
    "an update that left no trace": (_write(0, 1, "a", 2), _write(2, 3, "b", 2)),
    "both of one version win": (_write(0, 9, "a", 2, 1), _write(1, 8, "b", 3, 1)),
    "a double apply": (_write(0, 1, "a", 2), _read(2, 3, 3, "a")),
    "a value of nobody": (_write(0, 1, "a", 2), _read(2, 3, 2, "x")),
    "time travel": (_read(0, 1, 2, "a"), _write(2, 3, "a", 2)),
    "a refusal from the future": (_refused(0, 1, 7, 2), _write(2, 3, "a", 2)),
    "a refusal of the right version": (_refused(0, 1, 1, 1),),
    "the order of two that follow each other": (_write(0, 1, "a", 3), _write(2, 3, "b", 2)),
    "what was lost happened before its call": (_read(0, 1, 2, "a"), _lost(5, "a")),
    "what was lost happened twice": (
        *(_lost(0, "a"), _read(5, 6, 2, "a"), _write(7, 8, "b", 3)),
        _read(9, 10, 4, "a"),
    ),
    "what was lost had another version": (_lost(0, "a", 5), _read(5, 6, 2, "a")),
    "what was seen is gone": (_lost(0, "a"), _read(5, 6, 2, "a"), _read(7, 8, 1, "")),
}


@pytest.mark.parametrize("what", LEGAL)
def test_a_legal_history_has_an_order(what: str) -> None:
    assert _is_legal(*LEGAL[what])


@pytest.mark.parametrize("what", ILLEGAL)
def test_what_cannot_have_been_is_found(what: str) -> None:
    assert not _is_legal(*ILLEGAL[what])


def test_sessions_are_told_apart() -> None:
    right = _write(0, 1, "a", 2)
    wrong = replace(_read(2, 3, 2, "a"), key="other")
    faults = check([right, wrong], {"s": START, "other": START})
    assert [(f.key, f.stuck, f.state) for f in faults] == [("other", wrong, START)]


def _by_brute_force(operations: tuple[Operation, ...]) -> bool:
    """Every order of every choice of what was lost."""
    known = [op for op in operations if op.outcome is not Outcome.UNKNOWN]
    lost = [op for op in operations if op.outcome is Outcome.UNKNOWN]
    for count in range(len(lost) + 1):
        for some in itertools.combinations(lost, count):
            if any(_fits(order) for order in itertools.permutations([*known, *some])):
                return True
    return False


def _fits(order: tuple[Operation, ...]) -> bool:
    state: State | None = START
    latest = -1.0
    for operation in order:
        latest = max(latest, operation.invoked)
        state = operation.apply(state) if state is not None else None
        if state is None or operation.returned < latest:
            return False
    return True


def _drawn(draw: random.Random) -> tuple[Operation, ...]:
    """A few operations that may have been, more often than not."""
    made: list[Operation] = []
    for number in range(draw.randint(1, 5)):
        invoked = draw.randint(0, 9)
        returned = invoked + draw.randint(1, 6)
        value, version = draw.choice("abcd"), draw.randint(1, 4)
        made.append(
            draw.choice(
                (
                    _read(invoked, returned, version, value if version > 1 else ""),
                    _write(
                        invoked, returned, "abcde"[number], version + 1, draw.choice((0, version))
                    ),
                    _refused(invoked, returned, draw.randint(1, 4), version),
                    _lost(invoked, "abcde"[number], draw.choice((0, 0, version))),
                )
            )
        )
    return tuple(made)


def test_the_search_finds_what_brute_force_finds() -> None:
    draw = random.Random(20261121)
    told = {True: 0, False: 0}
    for _ in range(4_000):
        operations = _drawn(draw)
        truth = _by_brute_force(operations)
        assert _is_legal(*operations) == truth, operations
        told[truth] += 1
    assert min(told.values()) > 200
