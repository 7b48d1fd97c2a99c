"""Events over a real connection: pages, filters, watches that miss nothing and double nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from orch.v1 import event_pb2 as pb
from orch_server.storage import events as table
from orch_server.storage.lookup import token_of
from orch_server.storage.store import Transaction
from tests.transport.harness import PATIENCE, START, Failure, Serving, fails, run, settles
from tests.transport.harness import failure as failed

Code = grpc.StatusCode


async def _emit(at: Serving, count: int = 1, kind: str = "thing.made", **more: Any) -> None:
    """So many events in one transaction."""

    def unit(tx: Transaction) -> None:
        for _ in range(count):
            tx.emit(kind, **{"subject": "x", **more})

    await at.core.store.write(unit)


async def _page(at: Serving, **asked: Any) -> pb.ListEventsResponse:
    answer = await at.events.ListEvents(pb.ListEventsRequest(**asked), timeout=PATIENCE)
    assert isinstance(answer, pb.ListEventsResponse)
    return answer


def _numbers(page: pb.ListEventsResponse) -> list[int]:
    return [event.number for event in page.events]


def _watch(at: Serving, **asked: Any) -> Any:
    return at.events.WatchEvents(pb.WatchEventsRequest(**asked))


async def _take(watch: Any, count: int) -> list[int]:
    """The numbers of the next events."""
    async with asyncio.timeout(PATIENCE):
        return [(await watch.read()).event.number for _ in range(count)]


async def _end(watch: Any) -> Failure:
    """The error with which the watch ends, after all that still comes."""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await watch.read() is not grpc.aio.EOF:
                pass
        return failed(await watch.code(), await watch.details(), await watch.trailing_metadata())


async def _watched(at: Serving) -> None:
    """Waits until a watch has subscribed."""
    await settles(lambda: at.core.bus._subscriptions)


# ---- lists ----


def test_an_event_says_what_happened_to_what_and_by_whom(folder: Path) -> None:
    async def body(at: Serving) -> None:
        assert await _page(at) == pb.ListEventsResponse()
        await at.alive("developer", "%1")
        agent = await at.agent("atlas:developer")
        page = await _page(at, kinds=["agent.registered"])
        (event,) = page.events
        assert (event.kind, event.subject, event.agent) == ("agent.registered", agent.id, agent.id)
        assert event.session == "atlas"
        assert event.time.ToDatetime(START.tzinfo) == START
        assert "atlas:developer" in event.detail
        assert page.last_number == (await _page(at)).events[-1].number

    run(folder, body)


def test_pages_go_on_where_the_one_before_ended(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _emit(at, 7)
        page = await _page(at, page_size=3)
        assert (_numbers(page), page.last_number) == ([1, 2, 3], 7)
        await _emit(at)
        page = await _page(at, page_size=3, page_token=page.next_page_token)
        assert (_numbers(page), page.last_number) == ([4, 5, 6], 8)
        page = await _page(at, page_size=3, page_token=page.next_page_token)
        assert (_numbers(page), page.next_page_token) == ([7, 8], "")
        assert _numbers(await _page(at, after=6)) == [7, 8]
        assert _numbers(await _page(at, after=6, page_token=token_of(2))) == [7, 8]
        await _emit(at, 1500)
        assert len((await _page(at)).events) == 100
        assert len((await _page(at, page_size=2**31 - 1)).events) == 1000

    run(folder, body)


def test_a_rare_kind_is_found_over_pages_that_are_empty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "SPAN", 10)

    async def body(at: Serving) -> None:
        await _emit(at, 25)
        await _emit(at, 1, "rare.one", session="atlas", subject="y")
        found, token, pages = [], "", 0
        while pages == 0 or token:
            page = await _page(at, session="atlas", page_token=token)
            found, token, pages = found + _numbers(page), page.next_page_token, pages + 1
        assert (found, pages) == ([26], 3)
        assert await _take(_watch(at, kinds=["rare"], subject="y"), 1) == [26]

    run(folder, body)


def test_details_of_many_agents_fit_into_a_page(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _emit(at, 700, detail="ü" * 8000)
        found, token = [], ""
        while not found or token:
            page = await _page(at, page_size=1000, page_token=token)
            found, token = found + _numbers(page), page.next_page_token
        assert found == list(range(1, 701))

    run(folder, body)


def test_a_prefix_of_an_id_selects_what_happened_to_it(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await at.alive("developer", "%1")
        agent = await at.agent("atlas:developer")
        short = await _page(at, subject=agent.id[:8])
        assert _numbers(short) == _numbers(await _page(at, subject=agent.id)) != []
        assert await _take(_watch(at, subject=agent.id[:8]), 1) == _numbers(short)[:1]

    run(folder, body)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"after": -1}, "after"),
        ({"kinds": [""]}, "kinds"),
        ({"kinds": ["task."]}, "kinds"),
        ({"kinds": ["Task"]}, "kinds"),
        ({"kinds": ["task.fired", "a b"]}, "kinds"),
        ({"kinds": ["task.fired\n"]}, "kinds"),
        ({"kinds": ["task"] * 101}, "kinds"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "what"}, "page_token"),
        ({"new_only": True, "after": 1}, "new_only"),
    ],
)
def test_bad_input_names_its_field(folder: Path, asked: dict[str, Any], field: str) -> None:
    async def body(at: Serving) -> None:
        errors = []
        if "new_only" not in asked:
            errors.append(await fails(_page(at, **asked)))
        if not field.startswith("page_"):
            errors.append(await _end(_watch(at, **asked)))
        assert errors
        for error in errors:
            assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "INVALID_INPUT")
            assert error.fields == (field,)

    run(folder, body)


# ---- watches ----


def test_a_watch_begins_where_it_is_told_and_goes_on(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _emit(at, 5)
        whole, later, new = _watch(at), _watch(at, after=3), _watch(at, new_only=True)
        coming = _watch(at, after=6)
        assert await _take(whole, 5) == [1, 2, 3, 4, 5]
        assert await _take(later, 2) == [4, 5]
        await settles(lambda: len(at.core.bus._subscriptions) == 4)
        await _emit(at, 2)
        assert await _take(whole, 2) == [6, 7]
        assert await _take(later, 2) == [6, 7]
        assert await _take(new, 2) == [6, 7]
        assert await _take(coming, 1) == [7]

    run(folder, body)


def test_a_watch_shows_only_what_is_wanted_stored_or_new(folder: Path) -> None:
    async def body(at: Serving) -> None:
        async def emit() -> None:
            await _emit(at, 1, "task.fired", session="atlas")
            await _emit(at, 1, "task.fired", session="zeus")
            await _emit(at, 1, "delivery.created", session="atlas")

        await emit()
        watch = _watch(at, kinds=["task"], session="atlas")
        assert await _take(watch, 1) == [1]
        await _watched(at)
        await emit()
        assert await _take(watch, 1) == [4]

    run(folder, body)


async def _resuming(at: Serving, until: int, draw: random.Random) -> AsyncIterator[int]:
    """The odd numbers up to the last one, by a watch that breaks again and again."""
    seen = 0
    while seen < until:
        watch = _watch(at, after=seen, kinds=["odd"])
        for _ in range(draw.randint(1, 400)):
            seen = (await watch.read()).event.number
            yield seen
            if seen >= until:
                break
        watch.cancel()


def test_a_watch_that_breaks_misses_and_doubles_nothing_while_thousands_are_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "SPAN", 150)  # so that portions end while others are written
    total = 6000

    async def body(at: Serving) -> None:
        async def write(draw: random.Random) -> None:
            done = 0
            while done < total:
                size = min(draw.randint(1, 30), total - done)

                def unit(tx: Transaction, begin: int = done, size: int = size) -> None:
                    for number in range(begin + 1, begin + size + 1):
                        tx.emit("odd.one" if number % 2 else "even.one", str(number))

                await at.core.store.write(unit)
                done += size

        writing = asyncio.create_task(write(random.Random(1)))
        watchers = await asyncio.gather(*(_all(at, total - 1, seed) for seed in (2, 3, 4)))
        await writing
        for numbers in watchers:
            assert numbers == list(range(1, total, 2))

    run(folder, body)


async def _all(at: Serving, until: int, seed: int) -> list[int]:
    return [number async for number in _resuming(at, until, random.Random(seed))]


def test_a_watcher_that_does_not_read_falls_behind_and_resumes(folder: Path) -> None:
    async def body(at: Serving) -> None:
        watch = _watch(at)
        await _watched(at)
        (behind,) = at.core.bus._subscriptions
        written = 0
        while not behind._lagged:  # gRPC takes some megabytes before anybody reads
            await _emit(at, 1000, detail="x" * 2000)
            written += 1000
        seen: list[int] = []
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while (answer := await watch.read()) is not grpc.aio.EOF:
                    seen.append(answer.event.number)
        error = await _end(watch)
        assert (error.code, error.reason) == (Code.UNAVAILABLE, "UNAVAILABLE")
        assert "behind" in error.message
        assert seen == list(range(1, len(seen) + 1))
        assert 4000 < len(seen) < written
        rest = await _take(_watch(at, after=seen[-1]), written - len(seen))
        assert seen + rest == list(range(1, written + 1))

    run(folder, body)


def test_a_long_way_to_catch_up_is_no_falling_behind(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _emit(at, 5000, detail="x" * 2000)  # more than gRPC takes before it is read
        watch = _watch(at)
        assert await _take(watch, 1) == [1]
        await _emit(at, 5000, detail="x" * 2000)  # more than a subscription holds
        assert await _take(watch, 9999) == list(range(2, 10_001))
        await _emit(at)
        assert await _take(watch, 1) == [10_001]

    run(folder, body)


def test_a_draining_server_ends_watches_after_what_came(folder: Path) -> None:
    async def body(at: Serving) -> None:
        watch, behind = _watch(at), _watch(at, after=5)
        await settles(lambda: len(at.core.bus._subscriptions) == 2)
        await _emit(at, 2)
        at.core.bus.close()
        assert await _take(watch, 2) == [1, 2]
        for ended in (watch, behind, _watch(at), _watch(at, new_only=True)):
            error = await _end(ended)
            assert (error.code, error.reason) == (Code.UNAVAILABLE, "DRAINING")
        assert _numbers(await _page(at)) == [1, 2]

    run(folder, body)


def test_a_draining_server_does_not_wait_until_a_watch_has_caught_up(folder: Path) -> None:
    async def body(at: Serving) -> None:
        await _emit(at, 20_000, detail="x" * 200)
        watch = _watch(at)
        assert await _take(watch, 1) == [1]
        at.core.bus.close()
        seen = 1
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await watch.read() is not grpc.aio.EOF:
                    seen += 1
        assert (await _end(watch)).reason == "DRAINING"
        assert seen < 10_000

    run(folder, body)


def test_numbers_go_on_over_a_restart_of_the_server(folder: Path) -> None:
    async def before(at: Serving) -> None:
        await _emit(at, 3)

    async def after(at: Serving) -> None:
        watch = _watch(at, after=2)
        await _watched(at)
        await _emit(at, 1)
        assert await _take(watch, 2) == [3, 4]

    run(folder, before)
    run(folder, after)


def test_an_ended_watch_leaves_nothing_behind(folder: Path) -> None:
    async def body(at: Serving) -> None:
        watch = _watch(at, new_only=True)
        await _watched(at)
        watch.cancel()
        await settles(lambda: not at.core.bus._subscriptions)

    run(folder, body)
