"""Tasks, ids and pages in the store."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from orch_server.core.errors import Ambiguous, InvalidInput, NotFound
from orch_server.core.task import TaskState
from orch_server.storage import agenda, firing, lookup, tasks
from tests.storage.parts import Opened, add_agent, agent, opened, task


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())
            await body(at)

    asyncio.run(with_store())


async def _insert(at: Opened, task_id: str, seconds: float = 0, request_id: str = "") -> str:
    new = task(task_id, seconds)
    return await at.store.write(lambda tx: tasks.insert(tx, new, request_id, 1000))


async def _fire(at: Opened, most: int = 100) -> list[str]:
    return (await at.store.write(lambda tx: firing.fire_due(tx, most, {}))).agents


async def _deliveries(at: Opened) -> list[tuple[str, str]]:
    sql = "select text, dedupe_key from delivery order by number"
    return await at.store.read(lambda db: db.execute_sql(sql).fetchall())


def test_a_due_task_fires_once(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _insert(at, "aaa111", 10)
        at.clock.advance(9.999)
        assert await _fire(at) == []
        at.clock.advance(0.001)
        assert await _fire(at) == ["dev"]
        assert await _fire(at) == []
        assert [t for t, _ in await _deliveries(at)] == ["note aaa111"]
        fired = await at.store.read(lambda db: agenda.get(db, "aaa111"))
        assert fired.state is TaskState.FIRED
        assert fired.fired_at == at.clock.now()
        assert fired.delivery_state == "PENDING"

    _run(folder, body)


def test_two_firings_at_once_make_one_delivery(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _insert(at, "aaa111")
        fired = await asyncio.gather(*(_fire(at) for _ in range(10)))
        assert sorted(fired, key=len)[-1] == ["dev"]
        assert sum(len(f) for f in fired) == 1
        assert len(await _deliveries(at)) == 1

    _run(folder, body)


def test_tasks_fire_in_the_order_of_their_due_times_and_in_portions(folder: Path) -> None:
    async def body(at: Opened) -> None:
        for task_id, seconds in (("a3", 3), ("a1", 1), ("a2", 2), ("b1", 1)):
            await _insert(at, task_id, seconds)
        at.clock.advance(5)
        assert len(await _fire(at, most=3)) == 3
        assert len(await _fire(at, most=3)) == 1
        order = [t for t, _ in await _deliveries(at)]
        assert order == ["note a1", "note b1", "note a2", "note a3"]

    _run(folder, body)


def test_a_cancelled_task_does_not_fire(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _insert(at, "aaa111")
        await at.store.write(lambda tx: tasks.cancel(tx, "aaa111", "operator"))
        assert await _fire(at) == []
        assert await at.store.read(tasks.next_due) is None

    _run(folder, body)


def test_the_next_due_time_is_that_of_the_earliest_pending_task(folder: Path) -> None:
    async def body(at: Opened) -> None:
        assert await at.store.read(tasks.next_due) is None
        await _insert(at, "late", 20)
        await _insert(at, "soon", 10)
        assert await at.store.read(tasks.next_due) == task("x", 10).due_at
        at.clock.advance(10)
        await _fire(at)
        assert await at.store.read(tasks.next_due) == task("x", 20).due_at

    _run(folder, body)


def test_a_repeated_request_returns_the_first_task(folder: Path) -> None:
    async def body(at: Opened) -> None:
        first = await _insert(at, "aaa111", 10, request_id="r1")
        again = await asyncio.gather(
            *(_insert(at, f"bbb{n}", 99, request_id="r1") for n in range(5))
        )
        assert {first, *again} == {"aaa111"}
        assert await _insert(at, "ccc", request_id="r2") == "ccc"
        assert await _insert(at, "ddd") == "ddd"
        assert await _insert(at, "eee") == "eee"
        listed, _ = await at.store.read(lambda db: agenda.list_page(db, "", None, 0, ""))
        assert {t.id for t in listed} == {"aaa111", "ccc", "ddd", "eee"}
        assert len([e for e in at.events if e.kind == "task.created"]) == 4

    _run(folder, body)


IDS = ("abc111111111", "abc222222222", "abd000000000", "0123456789ab")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("0", "0123456789ab"),
        ("abd", "abd000000000"),
        ("abc1", "abc111111111"),
        ("abc222222222", "abc222222222"),
    ],
)
def test_an_unambiguous_prefix_is_enough(folder: Path, given: str, found: str) -> None:
    async def body(at: Opened) -> None:
        for task_id in IDS:
            await _insert(at, task_id)
        assert (await at.store.read(lambda db: agenda.get(db, given))).id == found

    _run(folder, body)


def test_an_ambiguous_prefix_names_those_it_may_mean(folder: Path) -> None:
    async def body(at: Opened) -> None:
        for task_id in IDS:
            await _insert(at, task_id)
        with pytest.raises(Ambiguous) as caught:
            await at.store.read(lambda db: agenda.get(db, "abc"))
        assert "abc111111111, abc222222222" in caught.value.message
        assert "abd" not in caught.value.message

    _run(folder, body)


@pytest.mark.parametrize(
    "given",
    ["", "f", "abc1111111119", "ABC1", "abc%", "_", "%", "'; drop table task; --", "\x00", "ab c"],
)
def test_what_is_no_id_is_not_found(folder: Path, given: str) -> None:
    async def body(at: Opened) -> None:
        for task_id in IDS:
            await _insert(at, task_id)
        with pytest.raises(NotFound) as caught:
            await at.store.read(lambda db: agenda.get(db, given))
        assert caught.value.message.isprintable()

    _run(folder, body)


def test_a_whole_id_that_begins_another_is_that_one(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _insert(at, "abc")
        await _insert(at, "abcdef")
        assert (await at.store.read(lambda db: agenda.get(db, "abc"))).id == "abc"

    _run(folder, body)


@pytest.mark.parametrize("size", [1, 3, 7, 10, 1000])
def test_pages_hold_everything_once_and_in_order(folder: Path, size: int) -> None:
    async def body(at: Opened) -> None:
        for n in range(10):
            await _insert(at, f"{n:012x}", seconds=n // 3)
        found: list[str] = []
        token, pages = "", 0
        while True:
            page, token = await at.store.read(
                lambda db, t=token: agenda.list_page(db, "atlas", None, size, t)
            )
            found.extend(t.id for t in page)
            pages += 1
            if not token:
                break
        assert found == [f"{n:012x}" for n in range(10)]
        assert pages == -(-10 // size)

    _run(folder, body)


def test_lists_are_filtered_by_session_and_state(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _insert(at, "aaa")
        await _insert(at, "bbb", seconds=60)
        await _fire(at)

        async def listed(session: str, state: TaskState | None) -> list[str]:
            page, _ = await at.store.read(lambda db: agenda.list_page(db, session, state, 0, ""))
            return [t.id for t in page]

        assert await listed("", None) == ["aaa", "bbb"]
        assert await listed("atlas", TaskState.FIRED) == ["aaa"]
        assert await listed("", TaskState.PENDING) == ["bbb"]
        assert await listed("borealis", None) == []

    _run(folder, body)


def test_a_page_has_100_entries_unless_asked_and_1000_at_most() -> None:
    assert lookup.window(0, "") == (0, 100)
    assert lookup.window(5000, "") == (0, 1000)
    with pytest.raises(InvalidInput):
        lookup.window(-1, "")


@pytest.mark.parametrize("token", ["junk", "é", "====", base64.b64encode(b"x").decode(), "AA"])
def test_a_page_token_of_somebody_else_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        lookup.window(0, token)
    assert caught.value.field == "page_token"


def test_a_page_token_with_a_huge_number_is_refused(folder: Path) -> None:
    token = base64.urlsafe_b64encode(b"9" * 30).decode()

    async def body(at: Opened) -> None:
        await _insert(at, "aaa")
        with pytest.raises(InvalidInput):
            await at.store.read(lambda db: agenda.list_page(db, "", None, 0, token))

    _run(folder, body)
