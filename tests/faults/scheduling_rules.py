"""What may have become of one task, by the rules of docs/reference/scheduling.md, given what its
callers know. A call that broke may have been done or not; nothing else is left open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from tests.faults.scheduling_grid import Plan, Walk, walk
from tests.faults.scheduling_ledger import BROKEN, OK, Action, Attempt, Made
from tests.faults.scheduling_store import Occurrence

#: A column of the verdict, and a sentence.
Complaint = tuple[str, str]
_RUN = "RUN_NOW"


def complaints(
    made: Made, task_id: str, state: str, rows: Sequence[Occurrence], caught_up: int
) -> Iterator[Complaint]:
    """All that is wrong with a task in this state; `rows` are its occurrences by nominal time.
    What was open at `caught_up`, and cancelled then, has no gap before that time."""
    planned = [row for row in rows if row.reason != _RUN]
    found = walk(made.givens(), [row.nominal for row in planned])
    yield from (("holes", f"{found.holes} in all") for _ in range(found.holes))
    yield from (("extra", f"{nominal} is on no grid") for nominal in found.extra)
    yield from _end(made, state, rows, found)
    yield from _tail(made, task_id, state, found, caught_up)
    for row in planned:
        possible = [list(_row(made, row, plan)) for plan in found.placed.get(row.nominal, ())]
        yield from min(possible, key=len, default=[])
    yield from _runs(made, rows)
    yield from _answers(made, rows)


# ---- how it ended ----


def _end(made: Made, state: str, rows: Sequence[Occurrence], found: Walk) -> Iterator[Complaint]:
    cancels = list(made.some("cancel"))
    allowed = {"ENDED"} if made.plan.repeats else {"FIRED", "SKIPPED"}
    if any(action.acknowledged for action in cancels):
        allowed = {"CANCELLED"}
    elif any(action.possible for action in cancels):
        allowed.add("CANCELLED")
    if state in ("PENDING", "PAUSED"):
        yield "open", f"still {state}"
    elif state not in allowed:
        yield "against", f"{state}, not one of {sorted(allowed)}"
    if made.plan.repeats:
        if state == "ENDED" and all(ahead is not None for _, ahead in found.ahead):
            yield "holes", "ended before its end"
        return
    outcomes = [row.outcome for row in rows]
    expected = [state] if state in ("FIRED", "SKIPPED") else []
    if len(outcomes) > 1:
        yield "doubled", f"once, but {outcomes}"
    elif outcomes != expected:
        yield "lost" if expected else "extra", f"{state} with the occurrences {outcomes}"


def _tail(made: Made, task_id: str, state: str, found: Walk, caught_up: int) -> Iterator[Complaint]:
    cancelled = [action for action in made.some("cancel") if action.acknowledged]
    if not (state == "CANCELLED" and cancelled and cancelled[-1].began >= caught_up):
        return
    reached = (n is not None and plan.due(task_id, n) >= caught_up for plan, n in found.ahead)
    if not any(reached):
        yield "holes", "nothing more before its cancellation"


# ---- each occurrence ----


def _row(made: Made, row: Occurrence, plan: Plan) -> Iterator[Complaint]:
    late = row.decided - plan.due(row.task_id, row.nominal)
    what = f"{row.nominal} {row.outcome} {row.reason} {late / 1e6:+.3f} s"
    if late < 0:
        yield "early", what
    for action in made.some("cancel"):
        if action.acknowledged and row.decided > action.ended:
            yield "against", f"{what}, after it was cancelled"
    rule = _RULES.get((row.outcome, row.reason))
    why = "there is no such outcome" if rule is None else rule(made, row, plan, late)
    if why:
        yield "against", f"{what}: {why}"


def _fired(made: Made, row: Occurrence, plan: Plan, late: int) -> str:
    if late > made.catch_up:
        return "later than its catch-up window"
    if any(begin < row.decided < end for begin, end in _pauses(made)):
        return "while it was paused"
    if made.missed == "ONE" and _next_is_due(row, plan):
        return "although the next one was due too"
    return ""


def _missed_for_another(made: Made, row: Occurrence, plan: Plan, late: int) -> str:
    if late > made.catch_up:
        return "later than its catch-up window"
    return "" if made.missed == "ONE" and _next_is_due(row, plan) else "for no other one"


def _still_waiting(made: Made, row: Occurrence, plan: Plan, late: int) -> str:
    return "" if made.missed == "ONE" and plan.repeats else "but each was to fire"


def _too_late(made: Made, row: Occurrence, plan: Plan, late: int) -> str:
    return "" if late > made.catch_up else "within its catch-up window"


def _paused(made: Made, row: Occurrence, plan: Plan, late: int) -> str:
    if not any(a.possible and a.began < row.decided for a in made.some("pause")):
        return "nobody had paused it"
    return "" if plan.repeats else _too_late(made, row, plan, late)


_RULES: dict[tuple[str, str], Callable[[Made, Occurrence, Plan, int], str]] = {
    ("FIRED", ""): _fired,
    ("COALESCED", "MISSED"): _missed_for_another,
    ("COALESCED", "STILL_WAITING"): _still_waiting,
    ("SKIPPED", "MISSED"): _too_late,
    ("SKIPPED", "PAUSED"): _paused,
}


def _next_is_due(row: Occurrence, plan: Plan) -> bool:
    following = plan.after(row.nominal)
    return following is not None and plan.due(row.task_id, following) <= row.decided


def _pauses(made: Made) -> Iterator[tuple[int, float]]:
    """The times at which it certainly was paused."""
    for number, action in enumerate(made.actions):
        if action.kind == "pause" and action.acknowledged:
            resumed = (
                later.began
                for later in made.actions[number + 1 :]
                if later.kind == "resume" and later.possible
            )
            yield action.ended, next(resumed, float("inf"))


# ---- what was answered ----


def _runs(made: Made, rows: Sequence[Occurrence]) -> Iterator[Complaint]:
    actions = {action.request_id: action for action in made.some("run")}
    fired = [row for row in rows if row.request_id or row.reason == _RUN]
    for row in fired:
        action = actions.get(row.request_id)
        if action is None or not action.possible or row.outcome != "FIRED":
            yield "extra", f"{row.nominal} was run for the request id {row.request_id!r}"
    for request_id, action in actions.items():
        nominals = {row.nominal for row in fired if row.request_id == request_id}
        if len(nominals | action.nominals) > 1:
            yield "doubled", f"run-now gave {nominals}, and answered {action.nominals}"
        elif action.acknowledged and not nominals:
            yield "lost", f"run-now at {action.nominals}"


def _answers(made: Made, rows: Sequence[Occurrence]) -> Iterator[Complaint]:
    run = {row.request_id for row in rows}
    for action in made.actions:
        what = f"{action.kind}: {_told(action.attempts)}"
        if any(attempt.code == "NOT_FOUND" for attempt in action.attempts):
            yield "lost", what
        if action.kind == "run" and _refused_last(action) and action.request_id in run:
            yield "against", f"{what}, although it had been done"
        wanted = {"pause": "PAUSED", "cancel": "CANCELLED"}.get(action.kind)
        if wanted and action.acknowledged and action.answered != wanted:
            yield "against", f"{what}, answered {action.answered}"
    if any(attempt.code not in (OK, BROKEN) for attempt in made.attempts):
        yield "against", f"created, but refused: {_told(made.attempts)}"


def _refused_last(action: Action) -> bool:
    return action.attempts[-1].code not in (OK, BROKEN)


def _told(attempts: Sequence[Attempt]) -> str:
    runs = groupby(attempt.code for attempt in attempts)
    return ", ".join(f"{len(list(run))} × {code}" for code, run in runs)
