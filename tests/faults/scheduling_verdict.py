"""What became of all tasks: the store's word against what the callers were told and what the
courier took.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.scheduling_ledger import BROKEN, Ledger, Made
from tests.faults.scheduling_rules import complaints
from tests.faults.scheduling_store import DeliveryRow, Occurrence, Stored, TaskRow

#: delivery id -> the numbers under which its text was let in, with the text
Taken = Mapping[str, Sequence[tuple[int, str]]]
COLUMNS = {
    "lost": "acknowledged, and gone or never delivered",
    "doubled": "tasks, occurrences or deliveries",
    "holes": "nominal times without an occurrence",
    "extra": "occurrences, or deliveries, that nothing planned",
    "early": "decided before they were due",
    "unlinked": "an occurrence without its delivery, or the reverse",
    "against": "the rules, by outcome, state or answer",
    "open": "not come to an end",
    "errors": "answers that no call should get, a damaged file",
}
_SHOWN = 8


@dataclass
class Verdict:
    """The counts; `notes` for a person to read, a few of each kind."""

    acknowledged: int = 0
    unacknowledged: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing at all is wrong."""
        return not self.faults.total()

    def say(self, column: str, note: str) -> None:
        """Counts a fault."""
        assert column in COLUMNS
        self.faults[column] += 1
        if self.faults[column] <= _SHOWN:
            self.notes.append(f"{column}: {note}")


def judge(stored: Stored, ledger: Ledger, taken: Taken, more: Sequence[str] = ()) -> Verdict:
    """Compares; `more` are errors that were seen elsewhere."""
    verdict = Verdict()
    problems = [*ledger.errors, *more, *([] if stored.integrity == "ok" else [stored.integrity])]
    for problem in problems:
        verdict.say("errors", problem)
    verdict.states = Counter(task.state for task in stored.tasks)
    verdict.outcomes = Counter(f"{row.outcome} {row.reason}".strip() for row in stored.occurrences)
    _tasks(verdict, stored, ledger)
    _occurrences(verdict, stored)
    _deliveries(verdict, stored, taken)
    return verdict


def lines(verdict: Verdict) -> Iterator[str]:
    """The table."""
    yield f"{'acknowledged':<14}{verdict.acknowledged:>7}  tasks"
    yield f"{'refused':<14}{verdict.unacknowledged:>7}  tasks"
    for column, what in COLUMNS.items():
        yield f"{column:<14}{verdict.faults[column]:>7}  {what}"
    yield "occurrences: " + _told(verdict.outcomes)
    yield "tasks: " + _told(verdict.states)
    yield from verdict.notes


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())


# ---- tasks ----


def _tasks(verdict: Verdict, stored: Stored, ledger: Ledger) -> None:
    by_note: dict[str, list[TaskRow]] = defaultdict(list)
    for task in stored.tasks:
        by_note[task.note].append(task)
    rows: dict[str, list[Occurrence]] = defaultdict(list)
    for row in stored.occurrences:
        rows[row.task_id].append(row)
    for made in ledger.made:
        _task(verdict, made, by_note.pop(made.note, []), rows, ledger.caught_up)
    for note in by_note:
        verdict.say("extra", f"a task that nobody made: {note!r}")


def _task(
    verdict: Verdict,
    made: Made,
    found: Sequence[TaskRow],
    rows: Mapping[str, Sequence[Occurrence]],
    caught_up: int,
) -> None:
    what = f"{made.note} {sorted(made.ids)} {made.plan}"
    if len(found) > 1 or len(made.ids) > 1:
        verdict.say("doubled", f"{what}: {found}")
    if not made.acknowledged:
        verdict.unacknowledged += 1
        if found:
            verdict.say("against", f"{what}: refused, but made")
        if not made.plan.repeats and made.attempts and made.attempts[-1].code != BROKEN:
            verdict.say("errors", f"{what}: refused for no reason: {made.attempts[-1].code}")
        return
    verdict.acknowledged += 1
    for task in found:
        if task.id in made.ids:
            of_task = rows.get(task.id, ())
            for column, note in complaints(made, task.id, task.state, of_task, caught_up):
                verdict.say(column, f"{what}: {note}")
            return
    verdict.say("lost", what)


# ---- occurrences and deliveries ----


def _occurrences(verdict: Verdict, stored: Stored) -> None:
    times = Counter((row.task_id, row.nominal) for row in stored.occurrences)
    for (task_id, nominal), count in times.items():
        if count > 1:
            verdict.say("doubled", f"occurrence {nominal} of {task_id} × {count}")
    tasks = {task.id for task in stored.tasks}
    for task_id in {row.task_id for row in stored.occurrences} - tasks:
        verdict.say("extra", f"an occurrence of {task_id}, which does not exist")


def _deliveries(verdict: Verdict, stored: Stored, taken: Taken) -> None:
    notes = {task.id: task.note for task in stored.tasks}
    by_id = {delivery.id: delivery for delivery in stored.deliveries}
    keys = Counter(delivery.dedupe_key for delivery in stored.deliveries)
    fired = {row.delivery_id: row for row in stored.occurrences if row.outcome == "FIRED"}
    for row in stored.occurrences:
        _link(verdict, row, by_id)
    for delivery in stored.deliveries:
        what = f"{delivery.id} {delivery.dedupe_key} {delivery.state}"
        if keys[delivery.dedupe_key] > 1:
            verdict.say("doubled", what)
        task_id = delivery.origin.removeprefix("task:")
        if delivery.id not in fired or fired[delivery.id].task_id != task_id:
            verdict.say("unlinked", f"no occurrence for {what}")
        _taken(verdict, delivery, what, taken.get(delivery.id, ()), notes.get(task_id))
    for delivery_id in taken.keys() - by_id.keys():
        verdict.say("extra", f"the courier got {delivery_id}, which is not in the store")


def _link(verdict: Verdict, row: Occurrence, by_id: Mapping[str, DeliveryRow]) -> None:
    delivery = by_id.get(row.delivery_id)
    if row.outcome == "FIRED":
        good = delivery is not None and delivery.dedupe_key == f"task:{row.task_id}:{row.nominal}"
    else:
        good = not row.delivery_id or (
            delivery is not None and delivery.origin == f"task:{row.task_id}"
        )
    if not good:
        verdict.say("unlinked", f"{row} has {delivery}")


def _taken(
    verdict: Verdict,
    delivery: DeliveryRow,
    what: str,
    taken: Sequence[tuple[int, str]],
    note: str | None,
) -> None:
    if delivery.state in ("PENDING", "OFFERED", "PASTED"):
        verdict.say("open", what)
    elif delivery.state != "CONFIRMED" or not taken:
        verdict.say("lost", f"{what}, taken {taken}")
    if len(taken) > 1:
        verdict.say("doubled", f"{what}, taken {taken}")
    if any(text != note for _, text in taken):
        verdict.say("extra", f"{what}, another text: {taken}")
