"""The history of deliveries: pages, filters and full-text search."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_server.core.delivery import DeliveryMode, DeliveryState, NewDelivery, RefusalReason
from orch_server.core.errors import Ambiguous, InvalidInput, NotFound
from orch_server.storage import database, deliveries, history, sessions
from orch_server.storage.history import Filter
from tests.storage.parts import Opened, add_agent, agent, opened, text


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())
            await body(at)

    asyncio.run(with_store())


async def _put(at: Opened, *new: NewDelivery) -> list[str]:
    return [await at.store.write(lambda tx, n=n: deliveries.enqueue(tx, n)) for n in new]


async def _list(at: Opened, size: int = 0, token: str = "", **wanted: Any) -> tuple[Any, str]:
    return await at.store.read(lambda db: history.list_page(db, Filter(**wanted), size, token))


async def _found(at: Opened, search: str) -> list[str]:
    page, _ = await _list(at, search=search)
    return [d.text for d in page]


def test_the_newest_comes_first_and_pages_do_not_shift(folder: Path) -> None:
    async def body(at: Opened) -> None:
        made = await _put(at, *(text(f"{n}") for n in range(7)))
        first, token = await _list(at, size=3)
        assert [d.id for d in first] == made[6:3:-1]
        await _put(at, text("came meanwhile"))
        second, token = await _list(at, size=3, token=token)
        assert [d.id for d in second] == made[3:0:-1]
        last, token = await _list(at, size=3, token=token)
        assert ([d.id for d in last], token) == (made[:1], "")

    _run(folder, body)


def test_a_page_of_large_texts_ends_early(folder: Path) -> None:
    async def body(at: Opened) -> None:
        made = await _put(at, *(text(f"{n}" + "x" * 700_000) for n in range(5)))
        page, token = await _list(at)
        assert [d.id for d in page] == made[:2:-1]
        page, token = await _list(at, token=token)
        assert [d.id for d in page] == made[2:0:-1]
        page, token = await _list(at, token=token)
        assert ([d.id for d in page], token) == (made[:1], "")

    _run(folder, body)


def test_a_list_can_be_of_one_agent_session_or_state(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await add_agent(at.store, agent("tst"))
        mine, other, dead = await _put(at, text("a"), text("b", agent_id="tst"), text("c"))
        sql = "update delivery set state = 'DEAD' where id = ?"
        await at.store.write(lambda tx: tx.execute(sql, (dead,)))
        assert [d.id for d in (await _list(at, agent="dev"))[0]] == [dead, mine]
        assert [d.id for d in (await _list(at, state=DeliveryState.DEAD))[0]] == [dead]
        assert [d.id for d in (await _list(at, session="atlas"))[0]] == [dead, other, mine]
        assert (await _list(at, session="nowhere"))[0] == []
        both = await _list(at, agent="tst", search="b", state=DeliveryState.PENDING)
        assert [d.id for d in both[0]] == [other]

    _run(folder, body)


def test_a_search_finds_all_words_in_text_or_header_in_any_case(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(
            at,
            text("please check the build"),
            text("the build is Broken; check Größe"),
            text("unrelated", header="[message 1a2b3c4d from atlas:pm]"),
        )
        assert await _found(at, "BUILD check") == [
            "the build is Broken; check Größe",
            "please check the build",
        ]
        assert await _found(at, '"check the build"') == ["please check the build"]
        assert await _found(at, '"build check"') == []
        assert await _found(at, "GRÖSSE") == []
        assert await _found(at, "größe") == ["the build is Broken; check Größe"]
        assert await _found(at, "1a2b3c4d") == ["unrelated"]
        assert await _found(at, "build … !") == await _found(at, "build")
        assert await _found(at, "... --") == await _found(at, '""') == []
        assert len(await _found(at, "  ")) == 3

    _run(folder, body)


def test_nothing_in_a_search_is_taken_for_the_search_language(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("AND OR NOT NEAR text header"), text("plain"))
        for hostile in ("NOT", "NEAR(text)", "text:plain", "pl*", "a OR plain", "x AND plain"):
            assert "plain" not in await _found(at, hostile), hostile
        assert await _found(at, '"unbalanced') == []
        assert await _found(at, 'plain"') == ["plain"]

    _run(folder, body)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=60))
def test_any_search_is_a_valid_one(search: str) -> None:
    words = history.match_words(search)
    connection = apsw.Connection(":memory:")
    connection.execute("create virtual table s using fts5 (text)")
    if words:
        connection.execute("select rowid from s where s match ?", (words,)).fetchall()
    connection.close()


@pytest.mark.parametrize("search", ["w " * 65, "x" * 1001])
def test_a_search_that_is_too_long_is_refused(search: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        history.match_words(search)
    assert caught.value.field == "search"


def test_what_is_deleted_is_not_found_any_more(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("needle"))
        assert await _found(at, "needle") == ["needle"]
        await at.store.write(lambda tx: sessions.delete(tx, "atlas", "operator"))
        assert await _found(at, "needle") == []
        check = "insert into delivery_search (delivery_search, rank) values ('integrity-check', 1)"
        await at.store.write(lambda tx: tx.execute(check))

    _run(folder, body)


def test_a_delivery_is_found_by_a_prefix_of_its_id(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _put(at, text("a", id="aaa000000001"), text("b", id="aaa000000002"))
        assert (await at.store.read(lambda db: history.get(db, "aaa000000001"))).text == "a"
        with pytest.raises(Ambiguous):
            await at.store.read(lambda db: history.get(db, "aaa"))
        with pytest.raises(NotFound):
            await at.store.read(lambda db: history.get(db, "bbb"))
        with pytest.raises(NotFound):
            await at.store.read(lambda db: history.by_ids(db, ("bbb",)))

    _run(folder, body)


def test_a_database_of_the_first_version_is_brought_up_to_date(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder / "migrations"
    first.mkdir()
    (first / "0001_initial.py").write_text((database.MIGRATIONS / "0001_initial.py").read_text())
    connection = apsw.Connection(str(folder / "orch.db"))
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", first)
        db = database.writer(folder / "orch.db")
        database.prepare(db, folder / "orch.db", folder / "backups", "now")
        db.close()
    connection.execute(
        """insert into session values (1, 'atlas', 0, 0, 1, '', '', '', '', 'ACTIVE', '', 'PENDING',
            '');
        insert into agent values (1, 'dev', 'atlas', 'dev', 'claude', 'h', '/s', 1, 1, '%1', 7, 1,
            'ALIVE', 0, null, '0.1', 0);
        insert into delivery values
            (1, 'aaaa', 'dev', 'an old text', 'task 12ab', 'k1', 10, 'CONFIRMED', 'Typed.', 3, 1,
                'p', 2, 9000, 99, 5, 6),
            (2, 'bbbb', 'dev', 'another', 'task 34cd', 'k2', 10, 'PENDING', '', 0, 0, '', 1, 9000,
                99, 5, 6);"""
    )
    connection.close()

    async def body() -> None:
        async with opened(folder) as at:
            found, _ = await _list(at, search="old")
            assert [d.id for d in found] == ["aaaa"]
            old = found[0]
            assert (old.origin, old.attempts, old.mode) == ("task:12ab", 3, DeliveryMode.WAIT_IDLE)
            assert (old.reason, old.not_before) == (RefusalReason.UNSET, old.created_at)
            waits = await at.store.read(lambda db: history.get(db, "bbbb"))
            assert (waits.attempts, waits.state) == (1, DeliveryState.PENDING)

    asyncio.run(body())
    assert len(list((folder / "backups").iterdir())) == 1
