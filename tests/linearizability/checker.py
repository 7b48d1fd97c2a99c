"""Is there an order of all operations, each at one moment between its call and its answer, in which
every answer is right?

The search is Wing and Gong's, with Lowe's memory of what was tried: a set of operations that have
happened and the state after them need be looked at once. Sessions do not know of each other, so
each is searched alone. What a crash left unanswered may have happened at any time after its call,
or never: it is tried only where versions have a gap, since elsewhere a later answer would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from tests.linearizability.history import Operation, Outcome, State

_LIMIT = 2_000_000


@dataclass(frozen=True, slots=True)
class Fault:
    """A session whose history has no order; `stuck` is the first operation that fits nowhere in the
    longest order that was found, and `state` the register then."""

    key: str
    stuck: Operation
    state: State
    fitted: int


class TooHard(Exception):
    """The search took too many steps to say anything."""


def check(history: Iterable[Operation], initial: dict[str, State]) -> list[Fault]:
    """The sessions that are not linearizable, with the registers' first states. Raises TooHard."""
    by_key: dict[str, list[Operation]] = {key: [] for key in initial}
    for operation in history:
        by_key[operation.key].append(operation)
    found = (_Search(key, ops, initial[key]).run() for key, ops in by_key.items())
    return [fault for fault in found if fault is not None]


@dataclass(frozen=True, slots=True)
class _Step:
    """What was tried: which operations have happened, as bits, the state then, which of them were
    called and which answered without a gap from the beginning, and what may be next."""

    happened: int
    state: State
    called: int
    answered: int
    candidates: list[int]


class _Search:
    """One session's search. Operations that were answered are numbered by their calls; the others
    come after them."""

    def __init__(self, key: str, operations: list[Operation], initial: State) -> None:
        self._key = key
        in_order = sorted(operations, key=lambda op: op.invoked)
        known = [op for op in in_order if op.outcome is not Outcome.UNKNOWN]
        unknown = [op for op in in_order if op.outcome is Outcome.UNKNOWN]
        self._ops = [*known, *unknown]
        self._known = len(known)
        self._by_answer = sorted(range(self._known), key=lambda i: known[i].returned)
        self._initial = initial
        self._seen: set[tuple[int, State]] = set()

    def run(self) -> Fault | None:
        """None when there is an order."""
        best = self._step(0, self._initial, 0, 0)
        stack = [best]
        while stack:
            step = stack[-1]
            if step.answered == self._known:
                return None
            if step.answered > best.answered:
                best = step
            following = self._next(step)
            if following is None:
                stack.pop()
            else:
                stack.append(following)
            if len(self._seen) > _LIMIT:
                raise TooHard(self._key)
        stuck = self._ops[self._by_answer[best.answered]]
        return Fault(self._key, stuck, best.state, best.answered)

    def _next(self, step: _Step) -> _Step | None:
        while step.candidates:
            number = step.candidates.pop()
            state = self._ops[number].apply(step.state)
            happened = step.happened | 1 << number
            if state is None or (happened, state) in self._seen:
                continue
            self._seen.add((happened, state))
            return self._step(happened, state, step.called, step.answered)
        return None

    def _step(self, happened: int, state: State, called: int, answered: int) -> _Step:
        while called < self._known and happened >> called & 1:
            called += 1
        while answered < self._known and happened >> self._by_answer[answered] & 1:
            answered += 1
        return _Step(
            happened, state, called, answered, self._candidates(happened, state, called, answered)
        )

    def _candidates(self, happened: int, state: State, called: int, answered: int) -> list[int]:
        """What may be next, the most promising last: what was called before any that has not
        happened yet was answered. Versions only grow, so that one must not be missed either."""
        if answered == self._known:
            return []
        closing = self._ops[self._by_answer[answered]]
        needed = closing.at_version
        assert needed is not None
        if state[0] > needed:
            return []
        numbers = [*takewhile(lambda i: self._before(i, closing), range(called, self._known))]
        if state[0] < needed:
            rest = range(self._known, len(self._ops))
            numbers += takewhile(lambda i: self._before(i, closing), rest)
        return [number for number in reversed(numbers) if not happened >> number & 1]

    def _before(self, number: int, closing: Operation) -> bool:
        return self._ops[number].invoked <= closing.returned
