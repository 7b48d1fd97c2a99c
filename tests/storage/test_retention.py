"""What is too old goes, in small portions, and what remains holds together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from orch_server import config
from orch_server.core.alert import NewAlert, Severity
from orch_server.core.delivery import DeliveryState, Report
from orch_server.core.errors import StartupError
from orch_server.core.event import Wanted
from orch_server.core.schedule import Form, Schedule
from orch_server.core.supervision import Escalation, Matter, Nudge
from orch_server.services.agents import AgentRegistry
from orch_server.services.passphrase import Passphrase
from orch_server.services.retention import Retention
from orch_server.services.targets import Targets
from orch_server.storage import (
    alerts,
    authorizations,
    database,
    deliveries,
    events,
    firing,
    history,
    retention,
    supervision,
    tasks,
)
from orch_server.storage.audit_check import verify
from orch_server.storage.columns import micros
from orch_server.tmux.finder import PaneFinder
from tests.storage import audit_log
from tests.storage.parts import PANE, START, Opened, add_agent, agent, opened, task, text

MANY, SOME = 100_000, 3_000
LONG_AGO = START - timedelta(days=100)


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())
            await body(at)

    asyncio.run(with_store())


def _retention(at: Opened, days: int = 90) -> Retention:
    registry = AgentRegistry(at.store, at.clock)
    targets = Targets(
        registry, PaneFinder("here", ""), Passphrase(at.path.parent / "passphrase"), ()
    )
    folder = at.path.parent / "backups"
    return Retention(at.store, registry, targets, at.clock, days, folder, lambda ids: None)


async def _prune(at: Opened, days: int = 90) -> datetime:
    return await _retention(at, days).run_due()


async def _rows(at: Opened, sql: str) -> list[tuple[Any, ...]]:
    return await at.store.read(lambda db: list(db.execute_sql(sql).fetchall()))


async def _count(at: Opened, table: str) -> int:
    return int((await _rows(at, f"select count(*) from {table}"))[0][0])


async def _holds_together(at: Opened) -> None:
    """Nothing refers to what is gone, in the tables, in the index of texts and in the audit."""
    assert await _rows(at, "pragma foreign_key_check") == []
    check = "insert into delivery_search (delivery_search, rank) values ('integrity-check', 1)"
    await at.store.write(lambda tx: tx.execute(check))
    report = verify(at.path)
    assert report.faults == 0, report.findings


def _fill(path: Path, at: int) -> None:
    """Puts a big history of this time into a closed store: events, and tasks that fired with their
    occurrences and texts."""
    numbers = f"with recursive n (i) as (select 1 union all select i + 1 from n where i < {SOME})"
    connection = apsw.Connection(str(path))
    connection.execute("pragma foreign_keys = on; begin")
    connection.execute(
        f"""with recursive n (i) as (select 1 union all select i + 1 from n where i < {MANY})
        insert into event (at, kind, subject, session, agent, actor, detail)
        select ?, 'delivery.created', 'd' || i, 'atlas', 'dev', '', '' from n""",
        (at,),
    )
    connection.execute(
        f"""{numbers} insert into delivery (id, agent_id, text, origin, dedupe_key, priority, state,
        detail, sequence, offer_epoch, offered_to, refusals, not_before, expires_at, created_at,
        updated_at) select 'd' || i, 'dev', 'text ' || i, 'test', 'k' || i, 10, 'CONFIRMED', '', i,
        1, '', 0, ?1, ?1, ?1, ?1 from n""",
        (at,),
    )
    connection.execute(
        f"""{numbers} insert into task (id, agent_id, note, due_at, state, creator, created_at,
        fired_at, delivery_id) select 't' || i, 'dev', 'note', ?1, 'FIRED', 'operator', ?1, ?1,
        'd' || i from n""",
        (at,),
    )
    connection.execute(
        f"""{numbers} insert into occurrence (task_id, nominal_at, outcome, reason, decided_at,
        delivery_id) select 't' || i, ?1, 'FIRED', '', ?1, 'd' || i from n""",
        (at,),
    )
    connection.execute("commit")
    connection.close()


def test_a_big_history_goes_in_small_portions_while_others_write(folder: Path) -> None:
    _run(folder, lambda at: asyncio.sleep(0))
    _fill(folder / "orch.db", micros(LONG_AGO))

    async def body(at: Opened) -> None:
        before = await _count(at, "event")
        commits = at.store.commits
        pruning = asyncio.create_task(_prune(at))
        written = 0
        while not pruning.done():
            await at.store.write(lambda tx: tx.emit("x.written", "meanwhile"))
            written += 1
        assert await pruning == START + timedelta(days=1)
        portions = (MANY + 3 * SOME) // 500
        assert at.store.commits - commits >= portions
        assert written >= portions // 10
        counts = [await _count(at, t) for t in ("delivery", "task", "occurrence")]
        assert counts == [0, 0, 0]
        assert await _count(at, "event") == before - MANY + written + 1
        (pruned,) = [e for e in at.events if e.kind == "history.pruned"]
        assert pruned.detail == "3,000 occurrence, 3,000 task, 3,000 delivery, 100,000 event"
        await _holds_together(at)

    async def again() -> None:
        async with opened(folder) as at:
            await body(at)

    asyncio.run(again())


async def _delivery(at: Opened, key: str, state: DeliveryState, **more: Any) -> str:
    made = await at.store.write(lambda tx: deliveries.enqueue(tx, text(key, **more)))
    if state is DeliveryState.PENDING:
        return made
    offer = await at.store.write(lambda tx: deliveries.offer_next(tx, "dev", 1, PANE))
    assert isinstance(offer, deliveries.Offered)
    assert offer.delivery_id == made
    if state is not DeliveryState.OFFERED:
        report = Report(made, offer.sequence, 1, state, "")
        await at.store.write(lambda tx: deliveries.record(tx, "dev", report))
    return made


async def _lived(at: Opened) -> dict[str, str]:
    """Some of everything, over and open; the ids by what they are."""
    S = DeliveryState
    await at.store.write(lambda tx: tasks.insert(tx, task("f1ed", 1), "", 1000))
    await at.store.write(lambda tx: tasks.insert(tx, task("ca11ed", 2), "", 1000))
    await at.store.write(lambda tx: tasks.insert(tx, task("aaa1", 1e8), "", 1000))
    await at.store.write(lambda tx: tasks.cancel(tx, "ca11ed", "operator"))
    at.clock.advance(1)
    await at.store.write(lambda tx: firing.fire_due(tx, 10, {}))
    (fired,) = [r[0] for r in await _rows(at, "select id from delivery")]
    await at.store.write(lambda tx: deliveries.cancel(tx, fired, "operator"))
    await at.store.write(lambda tx: _told(tx, "a"))
    patience = timedelta(minutes=5)
    made = {
        "over": await _delivery(at, "over", S.CONFIRMED),
        "awaiting": await _delivery(at, "awaiting", S.CONFIRMED, reply_patience=patience),
        "out": await _delivery(at, "out", S.OFFERED),
        "waiting": await _delivery(at, "waiting", S.PENDING),
    }
    await audit_log.fill(at)
    return made


def _told(tx: Any, name: str) -> None:
    """A nudge, escalations, a dependency, an operation and alerts of this moment."""
    now, at = tx.now, micros(tx.now)
    nudge = Nudge(f"n{name}", "dev", "IDLE", "gone", now, False)  # type: ignore[arg-type]
    supervision.nudge(tx, nudge, "atlas", "wake up")
    tx.execute("update delivery set state = 'CONFIRMED' where origin = ?", (f"nudge:n{name}",))
    tx.execute("insert into nudge_count values (null, ?, 'dev', 'OVER_BUDGET', 1)", (at,))
    for key, matter, ended in (("open", Matter.HUNG, None), ("over", Matter.DEAD, now)):
        one = Escalation(f"e{key}{name}", "dev", matter, 0, now, None, ended, "")
        supervision.save_escalation(tx, one, "atlas", "began")
        tx.execute(
            "insert into dependency values (null, ?, 'dev', 'dev', '', 1, ?, ?, ?, '', null)",
            (f"w{key}{name}", at, at, None if ended is None else at),
        )
    tx.execute("insert into operation values (null, 'dev', 'build', ?, ?)", (at, at))
    for kind in ("posted", "to.post", "audit"):
        alerts.raise_alert(tx, NewAlert(Severity.INFO, kind, name, "text"))
    tx.execute("update alert set webhook_next_at = null where kind <> 'to.post'")
    for period in ("HOUR", "DAY"):
        sql = "insert into metric values (null, ?, ?, '', 'commits', 1, 1)"
        tx.execute(sql, (period, at))


async def _left(at: Opened) -> dict[str, list[str]]:
    """What is there, by table."""
    asked = {
        "task": "select id from task",
        "nudge": "select id from nudge",
        "nudge_count": "select agent_id from nudge_count",
        "escalation": "select id from escalation",
        "dependency": "select id from dependency",
        "operation": "select agent_id from operation",
        "alert": "select kind from alert",
        "metric": "select period from metric",
        "authorization": "select distinct state from authorization",
    }
    return {key: sorted(r[0] for r in await _rows(at, sql)) for key, sql in asked.items()}


def test_what_is_over_goes_after_ninety_days_and_what_is_open_stays(folder: Path) -> None:
    async def body(at: Opened) -> None:
        made = await _lived(at)
        before = await _left(at)
        at.clock.advance(89 * 86_400)
        await _prune(at)
        assert await _left(at) == before
        at.clock.advance(2 * 86_400)
        await _prune(at)
        assert await _left(at) == {
            "task": ["aaa1"],
            "nudge": [],
            "nudge_count": [],
            "escalation": ["eopena"],
            "dependency": ["wopena"],
            "operation": [],
            "alert": ["audit", "to.post"],
            "metric": ["DAY"],
            "authorization": ["PENDING"],
        }
        kept = {r[0] for r in await _rows(at, "select id from delivery")}
        assert kept == {made["awaiting"], made["out"], made["waiting"]}
        assert await _count(at, "occurrence") == 0
        await _holds_together(at)
        assert await at.store.prune_audit(at.clock.now()) > 0
        await _holds_together(at)

    _run(folder, body)


def test_a_task_that_repeats_keeps_its_younger_occurrences(folder: Path) -> None:
    async def body(at: Opened) -> None:
        often = Schedule(Form.EVERY, START + timedelta(days=1_000), timedelta(days=1))
        new = task("aaa1", 1e8, schedule=often)
        await at.store.write(lambda tx: tasks.insert(tx, new, "", 1000))
        for days in (0, 50):
            at.clock.advance(days * 86_400)
            request = f"run-{days}"
            await at.store.write(
                lambda tx, request=request: firing.run_now(tx, "aaa1", "operator", request)
            )
        sql = "update delivery set state = 'CONFIRMED'"
        await at.store.write(lambda tx: tx.execute(sql))
        at.clock.advance(45 * 86_400)
        await _prune(at)
        assert (await _count(at, "task"), await _count(at, "occurrence")) == (1, 1)
        assert await _count(at, "delivery") == 1
        await _holds_together(at)
        # As if the last planned firing had become one with the text of the first.
        later = "update occurrence set decided_at = ?"
        await at.store.write(lambda tx: tx.execute(later, (micros(tx.now),)))
        at.clock.advance(50 * 86_400)
        await _prune(at)
        assert (await _count(at, "task"), await _count(at, "occurrence")) == (1, 1)
        assert await _count(at, "delivery") == 0
        await _holds_together(at)

    _run(folder, body)


def test_a_text_that_waits_again_when_it_is_to_go_stays(folder: Path) -> None:
    async def body(at: Opened) -> None:
        made = await _delivery(at, "a", DeliveryState.UNCONFIRMED)
        (deliveries_of,) = [w for w in retention.PRUNABLE if w.table == "delivery"]
        at.clock.advance(100 * 86_400)
        before = at.clock.now() - timedelta(days=90)
        found = await at.store.read(lambda db: retention.find(db, deliveries_of, 0, before))
        assert len(found.numbers) == 1
        await at.store.write(lambda tx: deliveries.redrive(tx, made, True, "operator"))
        unit = retention.remove
        gone = await at.store.write(lambda tx: unit(tx, deliveries_of, found.numbers, before))
        assert gone == 0
        shown = await at.store.read(lambda db: history.get(db, made))
        assert shown.state is DeliveryState.PENDING

    _run(folder, body)


def test_events_go_on_after_the_newest_number_and_old_watches_skip_what_is_gone(
    folder: Path,
) -> None:
    async def first(at: Opened) -> None:
        for n in range(20):
            await at.store.write(lambda tx, n=n: tx.emit("x.happened", f"{n}"))
        at.clock.advance(100 * 86_400)
        await _prune(at)

    async def then() -> None:
        async with opened(folder) as at:
            numbers = [r[0] for r in await _rows(at, "select number from event order by number")]
            kinds = [r[0] for r in await _rows(at, "select kind from event order by number")]
            assert kinds[:2] == ["x.happened", "history.pruned"]
            await at.store.write(lambda tx: tx.emit("x.happened", "later"))
            assert at.events[-1].number == numbers[-1] + 1
            found = await at.store.read(lambda db: events.read(db, 3, Wanted(), 100))
            assert [e.number for e in found.events] == [*numbers, numbers[-1] + 1]

    _run(folder, first)
    asyncio.run(then())


@pytest.mark.parametrize("days", [0, 90])
def test_nothing_is_told_when_nothing_goes(folder: Path, days: int) -> None:
    async def body(at: Opened) -> None:
        await _delivery(at, "a", DeliveryState.CONFIRMED)
        at.clock.advance(0 if days else 1e9)
        before = await _rows(at, "select number from event")
        await _prune(at, days)
        assert await _rows(at, "select number from event") == before
        assert await _count(at, "delivery") == 1

    _run(folder, body)


def test_a_backup_is_one_moment_of_a_store_that_is_written_to(folder: Path) -> None:
    async def body(at: Opened) -> None:
        for n in range(40):
            await at.store.write(lambda tx, n=n: tx.emit("x.filled", f"{n}", detail="x" * 50_000))
        target = folder / "backups" / "copy.db"
        copying = asyncio.create_task(at.store.read(lambda db: database.backup(db, target)))
        while not copying.done():
            await at.store.write(lambda tx: tx.emit("x.written", "meanwhile"))
        await copying
        assert target.stat().st_mode & 0o777 == 0o600
        copy = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READONLY)
        assert copy.execute("pragma integrity_check").get == "ok"
        assert copy.execute("select count(*) from event where kind = 'x.filled'").get == 40
        copy.close()
        await at.store.write(lambda tx: tx.emit("x.written", "after"))
        now = await at.store.read(events.newest)
        assert now == at.events[-1].number  # the reader is at no old moment any more
        with pytest.raises(FileExistsError):
            await at.store.read(lambda db: database.backup(db, target))
        assert target.exists()

    _run(folder, body)


def test_an_authorization_that_still_may_be_used_stays(folder: Path) -> None:
    async def body(at: Opened) -> None:
        await audit_log.ask(at, "a" * 12)
        await audit_log.decide(at, "a" * 12)
        at.clock.advance(400 * 86_400)
        await _prune(at)
        found = await at.store.read(lambda db: authorizations.get(db, "a" * 12))
        assert found.state == "APPROVED"
        await _holds_together(at)

    _run(folder, body)


@pytest.mark.parametrize("given", ["-1", "36501", '"90"'])
def test_how_long_history_is_kept_is_a_number_of_days(folder: Path, given: str) -> None:
    file = folder / "config.toml"
    environ = {"ORCH_CONFIG": str(file), "ORCH_HOME": "/nowhere"}
    for days in (0, 30):
        file.write_text(f"history_days = {days}\n")
        assert config.load(environ=environ).history_days == days
    file.write_text(f"history_days = {given}\n")
    with pytest.raises(StartupError, match="history_days is"):
        config.load(environ=environ)
