"""The table of events: portions, filters, gaps, and what a subject may be given as."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from orch_server.core.errors import Ambiguous
from orch_server.core.event import Wanted
from orch_server.storage import events, tasks
from orch_server.storage.events import Portion
from orch_server.storage.store import Transaction
from tests.storage.parts import Opened, add_agent, agent, opened, task


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await body(at)

    asyncio.run(with_store())


async def _emit(at: Opened, count: int, kind: str = "thing.made", **more: Any) -> None:
    def unit(tx: Transaction) -> None:
        for _ in range(count):
            tx.emit(kind, **{"subject": "x", **more})

    await at.store.write(unit)


async def _read(at: Opened, after: int = 0, limit: int = 100, **wanted: Any) -> Portion:
    return await at.store.read(lambda db: events.read(db, after, Wanted(**wanted), limit))


def _numbers(portion: Portion) -> list[int]:
    return [event.number for event in portion.events]


def test_what_is_read_is_what_was_published(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _emit(at, 2, "task.fired", session="atlas", agent="dev", actor="pm", detail="ü\n\0")
        found = await _read(at)
        assert found.events == at.events
        assert (found.reached, found.newest) == (2, 2)

    _run(folder, body)


def test_an_empty_log_and_a_number_that_is_to_come(folder: Path) -> None:
    async def body(at: Opened) -> None:
        assert await _read(at) == Portion([], 0, 0)
        await _emit(at, 3)
        assert await _read(at, 3) == Portion([], 3, 3)
        assert await _read(at, 2**63 - 1) == Portion([], 2**63 - 1, 3)

    _run(folder, body)


def test_a_limit_cuts_after_the_last_that_was_found(folder: Path) -> None:
    async def body(at: Opened) -> None:
        for kind in ("a.x", "b.x", "a.x", "a.x"):
            await _emit(at, 1, kind)
        found = await _read(at, limit=2, kinds=("a",))
        assert (_numbers(found), found.reached, found.newest) == ([1, 3], 3, 4)

    _run(folder, body)


def test_large_details_end_a_portion_early(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _emit(at, 5, detail="ä" * 400_000)
        found = await _read(at)
        assert (_numbers(found), found.reached, found.newest) == ([1, 2], 2, 5)

    _run(folder, body)


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"kinds": ("task",)}, [1, 2]),
        ({"kinds": ("task.fired",)}, [1]),
        ({"kinds": ("task.fired", "tasks")}, [1, 3]),
        ({"kinds": ("tas",)}, []),
        ({"session": "atlas"}, [1, 3]),
        ({"subject": "s1"}, [1, 2]),
        ({"subject": "s1", "session": "atlas", "kinds": ("task", "task.fired")}, [1]),
        ({"session": "' or 1"}, []),
    ],
)
def test_the_table_and_the_bus_filter_alike(
    folder: Path, wanted: dict[str, Any], numbers: list[int]
) -> None:
    async def body(at: Opened) -> None:
        for kind, subject, session in (
            ("task.fired", "s1", "atlas"),
            ("task.created", "s1", "zeus"),
            ("tasks.fired", "s2", "atlas"),
            ("server.stalled", "server", ""),
            ("session.deleted", "zeus", "zeus"),
        ):
            await _emit(at, 1, kind, subject=subject, session=session)
        assert _numbers(await _read(at, **wanted)) == numbers
        assert [e.number for e in at.events if Wanted(**wanted).admits(e)] == numbers

    _run(folder, body)


def test_a_portion_looks_at_no_more_than_its_span_and_skips_what_was_removed(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _emit(at, events.SPAN + 10)
        await _emit(at, 1, "rare.one")
        found = await _read(at, kinds=("rare",))
        assert (found.events, found.reached) == ([], events.SPAN)
        found = await _read(at, found.reached, kinds=("rare",))
        assert (_numbers(found), found.reached) == ([events.SPAN + 11], found.newest)
        await at.store.write(lambda tx: tx.execute("delete from event where number <= 1000"))
        found = await _read(at, kinds=("rare",))
        assert _numbers(found) == [events.SPAN + 11]

    _run(folder, body)


def test_every_filter_goes_by_the_number(folder: Path) -> None:
    """The plan of each query is a search in a range of numbers, never a scan of the table."""

    async def body(at: Opened) -> None:
        for wanted in (
            Wanted(),
            Wanted("atlas"),
            Wanted(subject="x"),
            Wanted("atlas", ("delivery", "task.fired"), "x"),
        ):
            where, params = events._conditions(wanted)
            sql = f"explain query plan {events._SELECT}{where} order by number limit ?"
            plan = await at.store.read(
                lambda db, s=sql, p=params: db.execute_sql(s, (0, 9, *p, 5)).fetchall()
            )
            (step,) = [row[3] for row in plan]
            assert step == "SEARCH event USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"

    _run(folder, body)


def test_a_subject_is_a_prefix_of_an_id_or_a_name(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent())
        for task_id in ("abc000000001", "abc000000002", "bee000000003"):
            await at.store.write(lambda tx, t=task_id: tasks.insert(tx, task(t, 60), "", 100))

        async def full(given: str) -> str:
            return await at.store.read(lambda db: events.full_subject(db, given))

        assert await full("bee") == "bee000000003"
        assert await full("abc000000001") == "abc000000001"
        for name in ("", "atlas", "claude@host", "ffff", "%", "bee000000003"):
            assert await full(name) == name
        with pytest.raises(Ambiguous, match="abc000000001, abc000000002"):
            await full("abc")
        await at.store.write(
            lambda tx: tx.execute(
                "insert into session (name, created_at, updated_at, version, specification_path,"
                " parent_branch, phase, plan, completion, failure_reason)"
                " values ('bee', 0, 0, 1, '', '', 'ACTIVE', '', 'PENDING', '')"
            )
        )
        assert await full("bee") == "bee"

    _run(folder, body)
