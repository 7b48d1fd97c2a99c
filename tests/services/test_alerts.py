"""Telling alerts: each once to log, tmux and webhook, over refusals and restarts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orch_server.core.alert import Alert, NewAlert, Severity
from orch_server.core.clock import ManualClock
from orch_server.services.alerts import AlertService
from orch_server.services.events import LocalBus
from orch_server.storage import alerts as table
from orch_server.storage.store import Store
from tests.services.receivers import Received, Receiver, closed_port, receiver

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
PATIENCE = 10.0
_REFUSE = """create trigger refuse before update on alert
    begin select raise(abort, 'no change is taken'); end"""


class Board:
    """A display that keeps what it shows, and may be slow."""

    def __init__(self) -> None:
        self.shown: asyncio.Queue[str] = asyncio.Queue()
        self.free = asyncio.Event()
        self.free.set()

    async def show(self, text: str) -> int:
        await self.free.wait()
        self.shown.put_nowait(text)
        return 1


@dataclass
class Telling:
    """A running alert service."""

    alerts: AlertService
    bus: LocalBus
    store: Store
    clock: ManualClock
    loop: asyncio.Task[None]
    board: Board = field(default_factory=Board)

    async def raised(self, subject: str = "atlas:dev", text: str = "It hangs.") -> None:
        new = NewAlert(Severity.WARNING, "escalation", subject, text, "atlas")
        await self.store.write(lambda tx: table.raise_alert(tx, new))

    async def seen(self) -> str:
        return await asyncio.wait_for(self.board.shown.get(), PATIENCE)

    async def all(self) -> list[Alert]:
        return (await self.alerts.list_page("", 100, ""))[0]

    async def until(self, probe: Callable[[Alert], object]) -> Alert:
        """Waits until the newest alert is so."""
        async with asyncio.timeout(PATIENCE):
            while not (found := await self.all()) or not probe(found[0]):
                assert not self.loop.done()
        return found[0]

    async def later(self, seconds: float) -> None:
        """Time passes, and the service looks at it."""
        self.clock.advance(seconds)
        self.alerts._changed.set()


@asynccontextmanager
async def telling(folder: Path, url: str, start: datetime = START) -> AsyncIterator[Telling]:
    """An alert service on a store in the folder."""
    bus, clock, board = LocalBus(), ManualClock(start), Board()
    store = Store(folder / "orch.db", clock, bus.publish)
    await store.open()
    alerts = AlertService(store, bus, board, clock, url)
    loop = asyncio.create_task(alerts.run())
    try:
        await _eventually(lambda: bus._subscriptions)
        yield Telling(alerts, bus, store, clock, loop, board)
    finally:
        loop.cancel()
        await asyncio.wait({loop}, timeout=PATIENCE)
        await store.close()


def _run(folder: Path, url: str, body: Callable[[Telling], Any]) -> None:
    async def with_service() -> None:
        async with asyncio.timeout(30), telling(folder, url) as at:
            await body(at)

    asyncio.run(with_service())


async def _eventually(probe: Callable[[], object]) -> None:
    """Waits for what has no event of its own."""
    async with asyncio.timeout(PATIENCE):
        while not probe():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def _got(at: Receiver) -> Received:
    return await asyncio.to_thread(at.got.get, timeout=PATIENCE)


def test_an_alert_reaches_log_display_and_webhook_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with receiver() as hook:

        async def body(at: Telling) -> None:
            await at.raised()
            assert await at.seen() == "orch: warning escalation atlas:dev: It hangs."
            got = await _got(hook)
            alert = await at.until(lambda a: a.webhook_at)
            assert got.body == {
                "id": alert.id,
                "severity": "WARNING",
                "kind": "escalation",
                "subject": "atlas:dev",
                "session": "atlas",
                "text": "It hangs.",
                "time": "2026-11-21T12:00:00.000Z",
            }
            await at.raised()
            await at.raised("atlas:tester")
            assert (await _got(hook)).body["subject"] == "atlas:tester"
            assert "atlas:tester" in await at.seen(), "the repeat is shown nowhere"
            (record, _) = [r for r in caplog.records if r.message == "alert raised"]
            assert record.levelname == "WARNING"
            assert record.__dict__["text"] == "It hangs."

        _run(folder, hook.url, body)


def test_a_refusing_receiver_is_tried_again_until_it_takes_it(folder: Path) -> None:
    with receiver(500, 503) as hook:

        async def body(at: Telling) -> None:
            await at.raised()
            first = await _got(hook)
            await at.until(lambda a: a.webhook_error == "127.0.0.1 answered 500.")
            await at.later(4.9)
            await at.later(0.1)
            assert (await _got(hook)).body == first.body, "the id is the same each time"
            await at.until(lambda a: a.webhook_error == "127.0.0.1 answered 503.")
            await at.later(30)
            await _got(hook)
            assert (await at.until(lambda a: a.webhook_at)).webhook_error == ""

        _run(folder, hook.url, body)
        assert hook.got.empty()


def test_after_six_attempts_in_vain_it_is_given_up_with_a_line_in_the_log(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(at: Telling) -> None:
        await at.raised()
        for attempt, wait in enumerate((5, 30, 120, 600, 3600), start=1):
            await _eventually(lambda n=attempt: tried() == list(range(1, n + 1)))
            await at.later(wait)
        given_up = "alert given up, the webhook never took it"
        await _eventually(lambda: given_up in [r.message for r in caplog.records])

    def tried() -> list[int]:
        said = [r for r in caplog.records if r.message == "alert not posted yet"]
        return [r.__dict__["attempts"] for r in said]

    with closed_port() as port:
        _run(folder, f"http://127.0.0.1:{port}/", body)


def test_what_was_not_posted_is_posted_after_a_restart(folder: Path) -> None:
    async def before(at: Telling) -> None:
        await at.raised()
        await at.until(lambda a: "cannot be reached" in a.webhook_error)

    async def after(url: str) -> None:
        async with telling(folder, url, START.replace(hour=15)) as at:
            await at.until(lambda a: a.webhook_at)

    with closed_port() as port:
        url = f"http://127.0.0.1:{port}/hook"
        _run(folder, url, before)
        with receiver(port=port) as hook:
            asyncio.run(asyncio.wait_for(after(url), 30))
            assert hook.got.get(timeout=PATIENCE).body["text"] == "It hangs."
            assert hook.got.empty()


def test_a_hanging_display_does_not_keep_the_webhook_from_being_told(folder: Path) -> None:
    with receiver() as hook:

        async def body(at: Telling) -> None:
            at.board.free.clear()
            await at.raised()
            await at.raised("atlas:tester")
            told = {(await _got(hook)).body["subject"] for _ in range(2)}
            assert told == {"atlas:dev", "atlas:tester"}
            assert at.board.shown.empty()
            at.board.free.set()
            assert "atlas:dev" in await at.seen()
            assert "atlas:tester" in await at.seen()

        _run(folder, hook.url, body)


def test_without_a_webhook_nothing_is_kept_for_one_that_comes_later(folder: Path) -> None:
    async def without(at: Telling) -> None:
        await at.raised()
        await at.seen()
        async with asyncio.timeout(PATIENCE):
            while await at.store.read(_waiting):
                pass
        (alert,) = await at.all()
        assert (alert.webhook_at, alert.webhook_error) == (None, "")

    _run(folder, "", without)
    with receiver() as hook:

        async def later(at: Telling) -> None:
            await at.raised("atlas:new")
            await at.until(lambda a: a.webhook_at)

        _run(folder, hook.url, later)
        assert hook.got.get(timeout=PATIENCE).body["subject"] == "atlas:new"
        assert hook.got.empty()


def _waiting(db: Any) -> int:
    sql = "select count(*) from alert where webhook_next_at is not null"
    return int(db.execute_sql(sql).fetchone()[0])


def test_more_than_a_round_takes_are_all_posted(folder: Path) -> None:
    with receiver() as hook:

        async def body(at: Telling) -> None:
            await asyncio.gather(*(at.raised(f"atlas:a{n}") for n in range(25)))
            told = {(await _got(hook)).body["subject"] for _ in range(25)}
            assert told == {f"atlas:a{n}" for n in range(25)}

        _run(folder, hook.url, body)


def test_what_the_receiver_took_is_not_posted_again_when_the_store_took_no_note_of_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiver() as hook:

        async def body(at: Telling) -> None:
            await at.store.write(lambda tx: tx.execute(_REFUSE) and None)
            await at.raised()
            await _got(hook)
            await _eventually(lambda: "alerts not posted" in [r.message for r in caplog.records])
            await at.store.write(lambda tx: tx.execute("drop trigger refuse") and None)
            await at.until(lambda a: a.webhook_at)

        _run(folder, hook.url, body)
        assert hook.got.empty()


def test_when_the_bus_closes_the_loop_waits_to_be_cancelled(folder: Path) -> None:
    async def body(at: Telling) -> None:
        at.bus.close()
        await at.raised()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not at.loop.done()
        at.loop.cancel()
        done, _ = await asyncio.wait({at.loop}, timeout=2)
        assert done
        assert at.loop.cancelled()

    _run(folder, "", body)


def test_hostile_text_is_json_for_the_webhook_and_data_for_the_log(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = '"}%s %(levelname)s {0} \\ #(touch x) $(id) 你好 \x1b[31m'
    with receiver() as hook:

        async def body(at: Telling) -> None:
            await at.raised(text=hostile)
            got = await _got(hook)
            assert got.body["text"] == hostile.replace("\x1b", "?")
            await at.seen()
            assert json.dumps(got.body)

        _run(folder, hook.url, body)
    (record,) = [r for r in caplog.records if r.message == "alert raised"]
    assert "%(levelname)s" in record.__dict__["text"]
