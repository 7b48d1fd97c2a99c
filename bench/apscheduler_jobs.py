"""APScheduler 3 with its jobs in SQLite: how late it calls the functions of one instant.

    python -m bench.apscheduler_jobs FOLDER COUNT

A measurement of so many seconds adds the jobs to a new database and lets all of them be due that
long after its start. It returns the p50 and p99 from due to called, in milliseconds.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from bench import child

_PATIENCE = 30.0
_called: list[int] = []


def job(number: int) -> None:
    """What is due: it writes down when it was called."""
    _called.append(time.time_ns())


def _measure(path: Path, count: int, seconds: float) -> child.Answer:
    _called.clear()
    path.unlink(missing_ok=True)
    scheduler = BackgroundScheduler(
        jobstores={"default": SQLAlchemyJobStore(url=f"sqlite:///{path}")}, timezone=UTC
    )
    scheduler.start()
    try:
        due = time.time() + seconds
        _add(scheduler, count, due)
        while len(_called) < count:
            if time.time() > due + _PATIENCE:
                raise RuntimeError(f"{len(_called)} of {count} jobs were called")
            time.sleep(0.2)
    finally:
        scheduler.shutdown()
    late = sorted((at - due * 1e9) / 1e6 for at in _called)
    return {"p50": statistics.median(late), "p99": late[math.ceil(0.99 * count) - 1]}


def _add(scheduler: Any, count: int, due: float) -> None:
    """Date jobs for one instant. Raises RuntimeError when it was over before all were there."""
    at = datetime.fromtimestamp(due, UTC)
    for number in range(count):
        scheduler.add_job(
            job, "date", run_date=at, args=[number], misfire_grace_time=None, id=f"job-{number}"
        )
    if time.time() > due:
        raise RuntimeError("adding the jobs took longer than they had")


def _measuring(folder: Path, count: int) -> Callable[[float], Any]:
    async def measure(seconds: float) -> child.Answer:
        return await asyncio.to_thread(_measure, folder / "jobs.db", count, seconds)

    return measure


if __name__ == "__main__":
    asyncio.run(child.serve(_measuring(Path(sys.argv[1]), int(sys.argv[2]))))
