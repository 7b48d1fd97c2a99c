"""Lets the product's own storage live through a story, as the firing loop would.

The store's code runs on a real SQLite file, on this thread, and waits for no disk:
what a kill leaves is tested elsewhere. Each story is rolled back at its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from orch_server.core.agent import Agent, Liveness
from orch_server.core.schedule import Asked, Missed, due, plan
from orch_server.core.task import OPEN, Task, TaskState
from orch_server.storage import agents, database, firing, tasks
from orch_server.storage.columns import from_micros
from orch_server.storage.store import Transaction
from tests.scheduling.cases import Case, Plan, Step
from tests.scheduling.oracle import Verdict

_BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
_AGENT = Agent(
    id="dev",
    session="atlas",
    role="dev",
    kind="generic",
    incarnation=None,
    pane_pid=0,
    epoch=0,
    liveness=Liveness.UNMANAGED,
    liveness_changed_at=_BEGIN,
    last_check_in_at=None,
    client_version="",
    created_at=_BEGIN,
)


class World:
    """A store with one agent, in which stories happen one after the other."""

    def __init__(self, folder: Path) -> None:
        self._db = database.writer(folder / "orch.db")
        database.prepare(self._db, folder / "orch.db", folder, "")
        self._db.execute_sql("pragma synchronous = off").fetchall()
        self._run("begin")
        agents.register(self._at(_BEGIN), _AGENT, "test")

    def close(self) -> None:
        """Leaves nothing behind."""
        self._run("rollback")
        self._db.close()

    def tell(self, case: Case) -> Verdict:
        """What the product makes of a story."""
        with self._rolled_back():
            story = _Story(self, case)
            for step in case.steps:
                story.until(step.at)
                story.take(step)
                story.look(step.at)
            story.until(case.horizon)
            story.look(case.horizon)
            return self._verdict(case.task_id)

    def next_look(self) -> datetime | None:
        """When the firing loop would wake."""
        return tasks.next_due(self._db)

    def state(self, task_id: str) -> TaskState:
        """The state of a task."""
        sql = "select state from task where id = ?"
        return TaskState(self._at(_BEGIN).execute(sql, (task_id,))[0][0])

    def transaction(self, now: datetime) -> Transaction:
        """A transaction at this time."""
        return self._at(now)

    @contextmanager
    def _rolled_back(self) -> Iterator[None]:
        self._run("savepoint story")
        try:
            yield
        finally:
            self._run("rollback to story")
            self._run("release story")

    def _verdict(self, task_id: str) -> Verdict:
        sql = """select nominal_at, outcome, reason, decided_at from occurrence where task_id = ?
            order by nominal_at"""
        found = self._at(_BEGIN).execute(sql, (task_id,))
        rows = tuple(
            (from_micros(nominal), outcome, reason) for nominal, outcome, reason, _ in found
        )
        decided = {from_micros(n): from_micros(at) for n, o, _, at in found if o == "FIRED"}
        return Verdict(rows, self.state(task_id), decided)

    def _at(self, now: datetime) -> Transaction:
        return Transaction(self._db, now, 1)

    def _run(self, sql: str) -> None:
        self._db.execute_sql(sql).fetchall()


class _Story:
    """One case on its way."""

    def __init__(self, world: World, case: Case) -> None:
        self._world = world
        self._id = case.task_id
        self._up, self._stuck = True, False
        self._held: dict[str, datetime] = {}
        self._freed: set[str] = set()
        schedule = plan(_asked(case.plan), case.created_at, "UTC")
        task = Task(
            id=case.task_id,
            agent_id="dev",
            session="atlas",
            role="dev",
            note="look",
            schedule=schedule,
            next_at=schedule.first,
            due_at=due(schedule, case.task_id, schedule.first),
            creator="operator",
            created_at=case.created_at,
            catch_up=case.catch_up,
            missed=Missed(case.missed),
        )
        tasks.insert(world.transaction(case.created_at), task, "", 1000)

    def until(self, end: datetime) -> None:
        """The loop wakes and looks as often as it wants to before this time."""
        while self._up and (at := self._world.next_look()) is not None and at < end:
            self.look(at)

    def look(self, now: datetime) -> None:
        """The loop looks, as often as it says that more is due."""
        while self._up:
            tx = self._world.transaction(now)
            fired = firing.fire_due(tx, 7, self._held, frozenset(self._freed))
            self._freed.clear()
            self._take_deliveries(tx)
            if not fired.more:
                return

    def take(self, step: Step) -> None:
        """Something happens."""
        tx = self._world.transaction(step.at)
        state = self._world.state(self._id)
        if step.word in _OF_ALL:
            _OF_ALL[step.word](tx)
        elif step.word in ("down", "up"):
            self._up = step.word == "up"
        elif step.word in ("stuck", "unstuck"):
            self._stuck = step.word == "stuck"
        elif step.word == "hold":
            assert step.until is not None
            self._held["dev"] = step.until
        elif step.word == "release":
            self._held.clear()
            self._freed.add("dev")
        elif state in OPEN:
            self._change(tx, step)
        self._take_deliveries(tx)

    def _change(self, tx: Transaction, step: Step) -> None:
        if step.word == "pause":
            tasks.pause(tx, self._id, "", "test")
        elif step.word == "resume":
            tasks.resume(tx, self._id, "test")
        elif step.word == "run_now":
            firing.run_now(tx, self._id, "test", "")
        elif step.word == "cancel":
            tasks.cancel(tx, self._id, "test")
        else:
            assert step.word == "reschedule"
            assert step.plan is not None
            schedule = plan(_asked(step.plan), step.at, "UTC")
            tasks.reschedule(tx, self._id, schedule, 0, "test")

    def _take_deliveries(self, tx: Transaction) -> None:
        if not self._stuck:
            tx.execute("update delivery set state = 'CONFIRMED' where state = 'PENDING'")


_OF_ALL = {
    "pause_all": lambda tx: tasks.pause_all(tx, "", "test"),
    "resume_all": lambda tx: tasks.resume_all(tx, "test"),
    "session_ends": lambda tx: firing.expire_session(tx, "atlas", "test"),
}


def _asked(given: Plan) -> Asked:
    return Asked(
        **{given.form: given.value},  # type: ignore[arg-type]
        time_zone="" if given.form == "delay" else given.time_zone,
        jitter=given.jitter,
        until=given.until,
    )
