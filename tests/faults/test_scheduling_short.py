"""The kill loop of the scheduler in short; `make faults` runs it in full.

What it finds is as good as its verdict, so that has tests too: over made-up rows, and over the
store of a run in which something was changed by hand.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.scheduling import Options, Result, Scene, run, table
from tests.faults.scheduling_grid import MINUTE, SECOND, Given, Plan, walk
from tests.faults.scheduling_ledger import BROKEN, OK, Action, Attempt, Ledger, Made
from tests.faults.scheduling_store import DeliveryRow, Occurrence, Stored, TaskRow, read
from tests.faults.scheduling_verdict import judge

#: Beside a busy machine all of it takes several times as long as alone.
pytestmark = pytest.mark.timeout(300)
OPTIONS = Options(10, seed=7, most=60, callers=10, long_each=1000, outages=0.05, ends=(3, 6))
T = 1_800_000_000 * SECOND
EVERY = Plan("every", SECOND)


# ---- the run ----


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Result, Path]]:
    """A run, and a copy of its store."""
    scene = Scene()
    copied = tmp_path_factory.mktemp("scheduling") / "orch.db"
    try:
        done = asyncio.run(run(OPTIONS, scene))
        _copy(scene.store, copied)
        yield done, copied
    finally:
        scene.close()


def test_no_task_is_lost_and_no_occurrence_doubled_whenever_the_server_is_killed(
    result: tuple[Result, Path],
) -> None:
    done, _ = result
    shown = "\n".join(table(done))
    assert done.verdict.good, shown
    assert done.kills >= 5, shown
    assert done.verdict.acknowledged > 50, shown
    assert done.verdict.outcomes["FIRED"] > 50, shown


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("delete from task where id = (select min(id) from task)", "lost"),
        ("delete from occurrence where rowid in one", "holes"),
        ("delete from occurrence where rowid in one", "unlinked"),
        ("insert into occurrence select * from occurrence where rowid in one", "doubled"),
        ("update occurrence set nominal_at = nominal_at + 1 where rowid in one", "extra"),
        ("update occurrence set decided_at = nominal_at - 1 where rowid in one", "early"),
        ("update occurrence set decided_at = nominal_at + 9e12 where rowid in one", "against"),
        ("delete from delivery where origin like 'task:%'", "unlinked"),
        ("update task set state = 'PENDING' where state = 'FIRED'", "open"),
        ("update task set state = 'CANCELLED' where state = 'FIRED'", "against"),
    ],
)
def test_what_is_changed_in_the_store_by_hand_is_found(
    result: tuple[Result, Path], tmp_path: Path, change: str, column: str
) -> None:
    done, copied = result
    store = tmp_path / "orch.db"
    _copy(copied, store)
    _change(store, change)
    verdict = judge(read(store), done.ledger, done.courier.taken)
    assert verdict.faults[column] > 0, verdict


def _copy(store: Path, to: Path) -> None:
    source, target = sqlite3.connect(f"file:{store}?mode=ro", uri=True), sqlite3.connect(to)
    source.backup(target)
    source.close()
    target.close()


def _change(store: Path, change: str) -> None:
    """Changes the store, whose tables have no keys and triggers any more. `one` is the first
    occurrence of the task that fired most often, always by the same schedule."""
    db = sqlite3.connect(store)
    for name in ("task", "occurrence", "delivery"):
        db.execute(f"create table bare_{name} as select * from {name}")
        db.execute(f"drop table {name}")
        db.execute(f"alter table bare_{name} rename to {name}")
    db.execute(
        "create temp table one as select rowid from occurrence where reason = '' and task_id ="
        " (select task_id from occurrence where outcome = 'FIRED' and reason = '' and task_id"
        "  not in (select subject from event where kind = 'task.rescheduled')"
        "  group by 1 order by count(*) desc limit 1) order by nominal_at limit 1"
    )
    assert db.execute(change).rowcount > 0
    db.commit()
    db.close()


# ---- the verdict, over made-up rows ----


@dataclass
class Case:
    """A task each second that fired three times and was cancelled, and one that fired once."""

    ledger: Ledger = field(default_factory=lambda: Ledger(caught_up=T + 4 * SECOND + 400))
    stored: Stored = field(default_factory=Stored)
    taken: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger.made = [
            Made("again", "r1", EVERY, ids={"t1"}, created_at=T),
            Made("once", "r2", Plan("once", 0), ids={"t2"}, created_at=T),
        ]
        self.stored.tasks = [TaskRow("t1", "again", "CANCELLED"), TaskRow("t2", "once", "FIRED")]
        self.act("cancel", at=T + 4 * SECOND + 500).answered = "CANCELLED"
        for number in (1, 2, 3, 4):
            self.fire("t1", T + number * SECOND)
        self.fire("t2", T)

    def fire(self, task_id: str, nominal: int, **more: str) -> None:
        """An occurrence that became a delivery, which was taken."""
        name = f"d{len(self.stored.deliveries)}"
        note = next(task.note for task in self.stored.tasks if task.id == task_id)
        key = f"task:{task_id}:{nominal}"
        said = {"reason": "", "request_id": "", **more}
        self.stored.occurrences.append(
            Occurrence(task_id, nominal, "FIRED", decided=nominal + 9, delivery_id=name, **said)
        )
        self.stored.deliveries.append(DeliveryRow(name, f"task:{task_id}", key, note, "CONFIRMED"))
        self.taken[name] = [(len(self.taken) + 1, note)]

    def act(self, kind: str, at: int, code: str = OK, plan: Plan | None = None) -> Action:
        """Something that was done to the task that repeats, or may have been."""
        action = Action(kind, plan, attempts=[Attempt(at, at + 100, code)])
        self.ledger.made[0].actions.append(action)
        return action

    def faults(self) -> set[str]:
        """The columns in which something is wrong."""
        self.stored.occurrences.sort(key=lambda row: row.nominal)
        return set(+judge(self.stored, self.ledger, self.taken).faults)


def _pop(rows: str, number: int) -> Callable[[Case], object]:
    return lambda case: getattr(case.stored, rows).pop(number)


def _replace(number: int, **values: object) -> Callable[[Case], object]:
    def change(case: Case) -> None:
        row = case.stored.occurrences[number]
        case.stored.occurrences[number] = row._replace(**values)  # type: ignore[arg-type]

    return change


def _make_again(case: Case) -> None:
    case.ledger.made[1].ids.add("t3")
    case.stored.tasks.append(TaskRow("t3", "once", "FIRED"))


FAULTS: dict[str, tuple[Callable[[Case], object], set[str]]] = {
    "a task is gone": (
        lambda c: (
            (c.stored.tasks.pop(1), c.stored.occurrences.pop(), c.taken.pop("d4"))
            and c.stored.deliveries.pop()
        ),
        {"lost"},
    ),
    "a retry made a second task": (_make_again, {"doubled"}),
    "a retry was refused": (
        lambda c: c.ledger.made[1].attempts.append(Attempt(T, T + 1, "INVALID_ARGUMENT")),
        {"against"},
    ),
    "an occurrence is there twice": (
        lambda c: c.stored.occurrences.append(c.stored.occurrences[-1]),
        {"doubled"},
    ),
    "the first of the grid is missing": (_pop("occurrences", 0), {"holes", "unlinked"}),
    "one in the midst is missing": (_pop("occurrences", 1), {"holes", "unlinked"}),
    "the last before the end is missing": (_pop("occurrences", 3), {"holes", "unlinked"}),
    "one that was due once never fired": (_pop("occurrences", 4), {"lost", "unlinked"}),
    "one lies beside the grid": (lambda c: c.fire("t1", T + 1_500_000), {"extra"}),
    "it fired too early": (_replace(1, decided=T + 2 * SECOND - 1), {"early"}),
    "two were due, and each fired": (_replace(1, decided=T + 3 * SECOND), {"against"}),
    "it was too late": (_replace(4, decided=T + 3601 * SECOND), {"against"}),
    "it was not too late": (
        _replace(1, outcome="SKIPPED", reason="MISSED"),
        {"against", "unlinked"},
    ),
    "nobody had paused it": (
        _replace(1, outcome="SKIPPED", reason="PAUSED"),
        {"against", "unlinked"},
    ),
    "nobody had run it": (lambda c: c.fire("t1", T + 7, reason="RUN_NOW"), {"extra"}),
    "a delivery is gone": (_pop("deliveries", 0), {"unlinked", "extra"}),
    "a delivery never arrived": (lambda c: c.taken.pop("d0"), {"lost"}),
    "a delivery arrived twice": (lambda c: c.taken["d0"].append((99, "again")), {"doubled"}),
    "it fired while it was paused": (
        lambda c: setattr(c.act("pause", T + 2_500_000), "answered", "PAUSED"),
        {"against"},
    ),
    "it fired after it was cancelled": (
        lambda c: setattr(c.act("cancel", T + 2_500_000), "answered", "CANCELLED"),
        {"against"},
    ),
    "the file is damaged": (lambda c: setattr(c.stored, "integrity", "row missing"), {"errors"}),
    "nobody did what would end it": (lambda c: c.ledger.made[0].actions.clear(), {"against"}),
    "it was given another schedule, and kept the old": (
        lambda c: c.act("reschedule", T + 2_500_000, plan=Plan("every", 2 * SECOND)),
        {"extra"},
    ),
}


def test_a_run_without_faults_is_good() -> None:
    assert Case().faults() == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen(fault: str) -> None:
    change, columns = FAULTS[fault]
    case = Case()
    change(case)
    assert case.faults() >= columns


def test_a_call_that_broke_may_have_been_done_or_not() -> None:
    case = Case()
    again = deepcopy(case)
    for one in (case, again):
        one.act("pause", T + 1_500_000, BROKEN)
        one.act("reschedule", T + 5 * SECOND, BROKEN, Plan("every", 2 * SECOND))
    assert case.faults() == set()
    again.stored.occurrences[1] = again.stored.occurrences[1]._replace(
        outcome="SKIPPED", reason="PAUSED", delivery_id=""
    )
    again.stored.deliveries.pop(1)
    again.taken.pop("d1")
    assert again.faults() == set()


def test_a_new_schedule_counts_from_the_moment_when_it_was_given() -> None:
    given = [
        Given(EVERY, T, T),
        Given(Plan("every", 2 * SECOND), T + 1_200_000, T + 1_300_000),
        Given(Plan("cron", MINUTE), T + 6 * SECOND, T + 6 * SECOND, certain=False),
    ]
    rows = [T + SECOND, T + 3_250_000, T + 5_250_000, T + MINUTE]
    found = walk(given, rows)
    assert (found.holes, found.extra) == (0, [])
    forms = [{plan.form for plan in plans} for plans in found.placed.values()]
    assert forms == [{"every"}, {"every"}, {"every"}, {"cron"}]
    assert walk(given, [T + SECOND, T + 2 * SECOND]).extra == [T + 2 * SECOND]


def test_the_jitter_is_that_of_the_document() -> None:
    plan = Plan("every", 20 * MINUTE, jitter=2 * MINUTE)
    due = plan.due("0123456789ab", T)
    assert T < due < T + 2 * MINUTE
    assert due == plan.due("0123456789ab", T)
    assert EVERY.due("0123456789ab", T) == T
