"""The writer: what is answered is on disk, what raises is gone, and many share one commit."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from orch_server.core.errors import Conflict, StoreUnavailable
from orch_server.storage import agents
from orch_server.storage.store import Store, Transaction
from tests.storage.parts import PATIENCE, add_agent, agent, opened, writer_held

TABLE = "create table kept (id text primary key)"


def _keep(row: str) -> object:
    def unit(tx: Transaction) -> str:
        tx.execute("insert into kept values (?)", (row,))
        tx.emit("row.kept", row)
        return row

    return unit


async def _rows(store: Store) -> list[str]:
    return await store.read(
        lambda db: [r[0] for r in db.execute_sql("select id from kept order by rowid").fetchall()]
    )


def test_units_that_wait_share_one_commit(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute(TABLE))
            before = at.store.commits
            async with writer_held(at.store):
                waiting = [asyncio.create_task(at.store.write(_keep(f"{n}"))) for n in range(100)]
                await asyncio.sleep(0)
            assert await asyncio.gather(*waiting) == [f"{n}" for n in range(100)]
            assert at.store.commits - before <= 2  # the one that held the writer, and one for all
            assert await _rows(at.store) == [f"{n}" for n in range(100)]

    asyncio.run(body())


def test_a_unit_that_raises_rolls_back_alone(folder: Path) -> None:
    def fails(tx: Transaction) -> None:
        tx.execute("insert into kept values ('half')")
        tx.emit("row.kept", "half")
        raise Conflict("no")

    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute(TABLE))
            async with writer_held(at.store):
                units = (_keep("before"), fails, _keep("after"))
                waiting = [asyncio.create_task(at.store.write(unit)) for unit in units]
                await asyncio.sleep(0)
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert [results[0], results[2]] == ["before", "after"]
            assert isinstance(results[1], Conflict)
            assert await _rows(at.store) == ["before", "after"]
            assert [e.subject for e in at.events] == ["before", "after"]

    asyncio.run(body())


def test_a_row_that_exists_already_fails_its_own_unit_only(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute(TABLE))
            async with writer_held(at.store):
                rows = ("a", "a", "b")
                waiting = [asyncio.create_task(at.store.write(_keep(row))) for row in rows]
                await asyncio.sleep(0)
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert [results[0], results[2]] == ["a", "b"]
            assert isinstance(results[1], Conflict)
            assert await _rows(at.store) == ["a", "b"]

    asyncio.run(body())


def test_events_are_numbered_without_gaps_in_the_order_of_the_writes(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute(TABLE))
            await asyncio.gather(*(at.store.write(_keep(f"{n}")) for n in range(300)))
            assert [e.number for e in at.events] == list(range(1, 301))
            assert [e.subject for e in at.events] == [f"{n}" for n in range(300)]
            stored = await at.store.read(
                lambda db: db.execute_sql("select number, subject from event").fetchall()
            )
            assert stored == [(e.number, e.subject) for e in at.events]
        async with opened(folder) as again:
            await again.store.write(_keep("later"))
            assert [e.number for e in again.events] == [301]

    asyncio.run(body())


def test_a_caller_that_leaves_does_not_take_its_write_along(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute(TABLE))
            async with writer_held(at.store):
                gone = asyncio.create_task(at.store.write(_keep("gone")))
                stays = asyncio.create_task(at.store.write(_keep("stays")))
                await asyncio.sleep(0)
                gone.cancel()
            assert await stays == "stays"
            assert await _rows(at.store) == ["gone", "stays"]

    asyncio.run(body())


def test_an_answer_means_that_it_is_on_disk(folder: Path) -> None:
    """The files are copied at the moment of the answer, as if the machine died then."""

    async def write_and_copy(store: Store, number: int) -> None:
        await store.write(_keep(f"{number}"))
        _copy(folder, folder / f"copy-{number}")

    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute(TABLE))
            await asyncio.gather(*(write_and_copy(at.store, n) for n in range(12)))

    asyncio.run(body())
    for number in range(12):
        found = apsw.Connection(str(folder / f"copy-{number}" / "orch.db"))
        assert found.execute("select count(*) from kept where id = ?", (f"{number}",)).get == 1
        assert found.execute("select count(*) from event where subject = ?", (f"{number}",)).get
        assert found.execute("pragma integrity_check").get == "ok"
        found.close()


def _copy(folder: Path, copy: Path) -> None:
    copy.mkdir()
    for file in folder.glob("orch.db*"):
        if not file.name.endswith("-shm"):
            shutil.copy(file, copy)


def test_every_commit_is_synced(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            found = await at.store.write(
                lambda tx: (
                    tx.execute("pragma synchronous")[0][0],
                    tx.execute("pragma journal_mode")[0][0],
                    tx.execute("pragma foreign_keys")[0][0],
                )
            )
            assert found == (2, "wal", 1)

    asyncio.run(body())


@pytest.mark.parametrize(
    "sql",
    [
        "create table x (y)",
        "delete from event",
        "update store set generation = 'x'",
        "insert into session (name) values ('x')",
    ],
)
def test_a_reader_cannot_write(folder: Path, sql: str) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            with pytest.raises(StoreUnavailable):
                await at.store.read(lambda db: db.execute_sql(sql).fetchall())

    asyncio.run(body())


def test_a_fault_in_the_midst_of_reading_is_told_as_the_stores(folder: Path) -> None:
    broken = "select json(x) from (select '1' as x union all select '{')"

    async def body() -> None:
        async with opened(folder) as at:
            with pytest.raises(StoreUnavailable, match="malformed JSON"):
                await at.store.read(lambda db: db.execute_sql(broken).fetchall())

    asyncio.run(body())


def test_a_reader_sees_what_was_answered(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute(TABLE))
            for n in range(20):
                await at.store.write(_keep(f"{n}"))
                assert f"{n}" in await _rows(at.store)

    asyncio.run(body())


def test_what_waits_when_the_store_closes_is_still_written(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute(TABLE))
            async with writer_held(at.store):
                waiting = asyncio.create_task(at.store.write(_keep("last")))
                await asyncio.sleep(0)
                closing = asyncio.create_task(at.store.close())
                await asyncio.sleep(0)
            assert await waiting == "last"
            await closing
            with pytest.raises(StoreUnavailable, match="closed"):
                await at.store.write(_keep("too late"))
        async with opened(folder) as again:
            assert await _rows(again.store) == ["last"]

    asyncio.run(body())


def test_a_closed_store_leaves_one_file_that_says_all(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())

    asyncio.run(body())
    wal = folder / "orch.db-wal"
    assert not wal.exists() or wal.stat().st_size == 0


def test_the_generation_is_made_once_for_each_database(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()

    async def body() -> None:
        async with opened(folder) as at, opened(other) as elsewhere:
            first = at.identity
            assert first.generation != elsewhere.identity.generation
            assert first.token_key != elsewhere.identity.token_key
        async with opened(folder) as again:
            assert again.identity == first

    asyncio.run(body())


def test_agents_are_read_back_as_they_were_written(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            known = [agent("dev", epoch=7), agent("lost", pane=None)]
            for one in known:
                await add_agent(at.store, one)
            loaded = await at.store.read(agents.load_all)
            assert loaded[0] == known[0]
            assert loaded[1].incarnation is None

    asyncio.run(body())


def _limit_to_present_size(tx: Transaction, more: int) -> None:
    pages = tx.execute("pragma page_count")[0][0]
    tx.execute(f"pragma max_page_count = {pages + more}")


async def _until_it_fails(call: Callable[[], Awaitable[object]]) -> None:
    for _ in range(10):
        await asyncio.wait_for(call(), PATIENCE)


@pytest.mark.parametrize("many", ["events", "rows"])
def test_a_full_disk_refuses_writes_and_the_store_lives_on(folder: Path, many: str) -> None:
    """SQLite itself reports the full disk: the file may not grow any more."""

    def grow(tx: Transaction) -> None:
        if many == "events":
            tx.emit("row.kept", "x", detail="x" * 20_000)
        else:
            tx.execute("insert into kept values (hex(randomblob(20000)))")

    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute(TABLE))
            await at.store.write(lambda tx: _limit_to_present_size(tx, 2))
            with pytest.raises(StoreUnavailable, match="nothing was changed"):
                await _until_it_fails(lambda: at.store.write(grow))
            await at.store.write(lambda tx: _limit_to_present_size(tx, 1000))
            published = len(at.events)
            await asyncio.wait_for(at.store.write(_keep("space again")), PATIENCE)
            assert "space again" in await _rows(at.store)
            assert [e.subject for e in at.events[published:]] == ["space again"]
            numbers = [e.number for e in at.events]
            assert numbers == list(range(1, len(numbers) + 1))

    asyncio.run(asyncio.wait_for(body(), PATIENCE))
