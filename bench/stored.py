"""Create and cancel by the server's own storage code, in a database that no server has open."""

from __future__ import annotations

import random
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench import frames
from orch_server.storage import agenda, database, tasks
from orch_server.storage.store import Transaction

_ANY_NUMBER = 1 << 40  # of events, beyond all that a server has written
_MOST_OPEN = 100_000


class Stored:
    """Makes tasks like one that is there, for all agents in turn, and withdraws them. Each median
    is of so many in one transaction, in microseconds, without the commit."""

    def __init__(self, path: Path, calls: int) -> None:
        self._db = database.writer(path)
        self._calls = calls
        self._agents = [row[0] for row in self._db.execute_sql("select id from agent").fetchall()]
        first = self._db.execute_sql("select id from task limit 1").fetchone()[0]
        self._model = agenda.get(self._db, first)
        self._events = _ANY_NUMBER
        self._made: list[str] = []

    def create(self) -> float:
        """New tasks, due in an hour to a day."""
        return self._median(self._insert)

    def cancel(self) -> float:
        """Withdraws what was just created."""
        return self._median(lambda tx, _: tasks.cancel(tx, self._made.pop(), "operator"))

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def _insert(self, tx: Transaction, n: int) -> None:
        request_id = secrets.token_hex(16)
        task = replace(
            self._model,
            id=secrets.token_hex(6),
            agent_id=self._agents[n % len(self._agents)],
            note=frames.note(request_id),
            due_at=tx.now + timedelta(seconds=random.uniform(3600, 86_400)),
        )
        self._made.append(tasks.insert(tx, task, request_id, _MOST_OPEN))

    def _median(self, call: Callable[[Transaction, int], object]) -> float:
        took = []
        with self._transaction() as tx:
            for n in range(self._calls):
                start = time.perf_counter()
                call(tx, n)
                took.append(time.perf_counter() - start)
        return statistics.median(took) * 1e6

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        tx = Transaction(self._db, datetime.now(UTC), self._events)
        tx.execute("begin immediate")
        yield tx
        tx.execute("commit")
        self._events += len(tx.events)
