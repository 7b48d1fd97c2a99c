"""Alerts in the store: written once, counted when they repeat, held back when too many come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from orch_server.core.alert import Alert, NewAlert, Severity
from orch_server.storage import alerts
from tests.storage.parts import START, Opened, opened


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await body(at)

    asyncio.run(with_store())


async def _raise(at: Opened, subject: str = "atlas:dev", kind: str = "escalation") -> None:
    new = NewAlert(Severity.WARNING, kind, subject, f"Look at {subject}.", "atlas")
    await at.store.write(lambda tx: alerts.raise_alert(tx, new))


async def _all(at: Opened) -> list[Alert]:
    found, token = await at.store.read(lambda db: alerts.list_page(db, "", 1000, ""))
    assert token == ""
    return found


def _told(at: Opened) -> list[str]:
    return [event.detail for event in at.events if event.kind == alerts.RAISED]


async def _due(at: Opened) -> list[tuple[str, int]]:
    found = await at.store.read(lambda db: alerts.due(db, at.clock.now(), 100))
    return [(posting.alert.subject, posting.attempts) for posting in found]


def test_an_alert_is_written_and_told_in_the_transaction_of_what_it_is_about(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _raise(at)
        (found,) = await _all(at)
        assert (found.kind, found.subject, found.session) == ("escalation", "atlas:dev", "atlas")
        assert (found.severity, found.text) == (Severity.WARNING, "Look at atlas:dev.")
        assert (found.created_at, found.suppressed, found.webhook_at) == (START, 0, None)
        (event,) = at.events
        assert (event.kind, event.subject, event.session) == ("alert.raised", found.id, "atlas")

        def fails(tx: object) -> None:
            alerts.raise_alert(tx, NewAlert(Severity.INFO, "other", "x", "Undone."))  # type: ignore[arg-type]
            raise ValueError

        results = await asyncio.gather(at.store.write(fails), return_exceptions=True)
        assert isinstance(results[0], ValueError)
        assert len(await _all(at)) == 1

    _run(folder, body)


def test_the_same_within_a_quarter_of_an_hour_is_counted_and_not_told(folder: Path) -> None:
    async def body(at: Opened) -> None:
        for _ in range(5):
            await _raise(at)
            at.clock.advance(179)
        assert [a.suppressed for a in await _all(at)] == [4]
        await _raise(at, "atlas:tester")
        await _raise(at, kind="deadlock")
        at.clock.advance(6)
        await _raise(at)  # 15 min and 1 s after the first
        assert _told(at) == [
            "escalation atlas:dev",
            "escalation atlas:tester",
            "deadlock atlas:dev",
            "escalation atlas:dev",
        ]
        assert [a.suppressed for a in await _all(at)] == [0, 0, 0, 4]

    _run(folder, body)


def test_of_very_many_thirty_are_told_then_one_that_says_so_and_all_are_listed(
    folder: Path,
) -> None:
    async def body(at: Opened) -> None:
        for number in range(100):
            await _raise(at, f"atlas:a{number}")
            at.clock.advance(1)
        told = _told(at)
        assert told == [f"escalation atlas:a{n}" for n in range(30)] + ["alert-storm"]
        assert len(await _all(at)) == 101
        assert len(await _due(at)) == 31, "what is not told is not posted either"
        (storm,) = [a for a in await _all(at) if a.kind == "alert-storm"]
        assert (storm.severity, storm.suppressed) == (Severity.CRITICAL, 69)
        at.clock.advance(601)
        await _raise(at, "atlas:later")
        assert _told(at)[-1] == "escalation atlas:later"

    _run(folder, body)


def test_a_clock_set_back_by_an_hour_silences_nothing(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _raise(at)
        (alert,) = await _all(at)
        await at.store.write(lambda tx: alerts.not_posted(tx, alert.id, 1, "refused"))
        at.clock.advance(-3600)
        await _raise(at)
        assert _told(at) == ["escalation atlas:dev"] * 2
        at.clock.advance(-3700)
        assert len(await _due(at)) == 2, "an attempt is put off for an hour at most"

    _run(folder, body)


def test_what_is_asked_at_each_alert_is_found_by_an_index(folder: Path) -> None:
    """Without reading the table, which grows, and without sorting."""

    async def plan(at: Opened, sql: str, params: tuple[object, ...]) -> list[str]:
        rows = await at.store.read(
            lambda db: db.execute_sql(f"explain query plan {sql}", params).fetchall()
        )
        return [row[3] for row in rows]

    async def body(at: Opened) -> None:
        assert await plan(at, alerts._LAST, ("escalation", "atlas:dev")) == [
            "SEARCH alert USING INDEX alert_subject (kind=? AND subject=?)"
        ]
        assert await plan(at, alerts._LATELY, ("alert-storm", 0, 1)) == [
            "SEARCH alert USING COVERING INDEX alert_time (created_at>? AND created_at<?)"
        ]

    _run(folder, body)


def test_text_of_others_is_cut_to_one_line_without_control_characters(folder: Path) -> None:
    async def body(at: Opened) -> None:
        new = NewAlert(Severity.INFO, "k", "s\x1b]0;x\n" + "s" * 999, "a\nb\x07" + "c" * 5000)
        await at.store.write(lambda tx: alerts.raise_alert(tx, new))
        (found,) = await _all(at)
        assert found.text.startswith("a b?c")
        assert (len(found.text), len(found.subject)) == (1000, 200)
        assert found.subject.isprintable()

    _run(folder, body)


def test_attempts_in_vain_are_put_off_until_they_are_given_up(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _raise(at)
        (alert,) = await _all(at)
        for attempts, wait in enumerate((5, 30, 120, 600, 3600), start=1):
            assert await _due(at) == [("atlas:dev", attempts - 1)]
            again = at.store.write(
                lambda tx, n=attempts: alerts.not_posted(tx, alert.id, n, f"no {n}")
            )
            assert await again
            at.clock.advance(wait - 0.001)
            assert await _due(at) == []
            at.clock.advance(0.001)
        assert not await at.store.write(lambda tx: alerts.not_posted(tx, alert.id, 6, "no 6"))
        at.clock.advance(100_000)
        assert await _due(at) == []
        assert await at.store.read(alerts.next_attempt) is None
        assert [a.webhook_error for a in await _all(at)] == ["no 6"]

    _run(folder, body)


def test_once_posted_it_is_not_posted_again(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await _raise(at)
        (alert,) = await _all(at)
        await at.store.write(lambda tx: alerts.not_posted(tx, alert.id, 1, "refused"))
        await at.store.write(lambda tx: alerts.posted(tx, alert.id))
        (found,) = await _all(at)
        assert (found.webhook_at, found.webhook_error) == (START, "")
        at.clock.advance(100_000)
        assert await _due(at) == []

    _run(folder, body)


def test_a_page_has_the_newest_first_and_only_the_sessions_own(folder: Path) -> None:
    async def body(at: Opened) -> None:
        for number in range(5):
            await _raise(at, f"atlas:a{number}")
        await at.store.write(
            lambda tx: alerts.raise_alert(tx, NewAlert(Severity.INFO, "k", "", "No session."))
        )
        first, token = await at.store.read(lambda db: alerts.list_page(db, "atlas", 3, ""))
        rest, end = await at.store.read(lambda db: alerts.list_page(db, "atlas", 3, token))
        subjects = [a.subject for a in (*first, *rest)]
        assert (subjects, end) == ([f"atlas:a{n}" for n in (4, 3, 2, 1, 0)], "")

    _run(folder, body)
