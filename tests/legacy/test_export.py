"""The export: what comes out can be imported again, and says the same."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orch_server.core.clock import ManualClock
from orch_server.legacy import ddl
from orch_server.storage import tasks
from tests.legacy.parts import Place, states, table
from tests.legacy.samples import (
    EPOCH,
    PROJECT_QUEUE_STATUS,
    TASKS,
    TASKS_OLDER,
    agent_state,
    session_state,
    task,
    waiting_for,
    write_queue,
    write_registry,
)
from tests.transport.harness import START, Serving, run

_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
_ODD = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), _WORDS)
_JSON = st.one_of(_ODD, st.lists(_ODD, max_size=3), st.dictionaries(_WORDS, _ODD, max_size=3))
_FIELDS = sorted(set(session_state("x")) - {"session_name", "agents"})
_OF_AGENTS = sorted(set(agent_state("x", 0)) - {"role"})
_CHANGES = st.dictionaries(st.one_of(st.sampled_from(_FIELDS), _WORDS), _JSON, max_size=6).map(
    lambda found: {k: v for k, v in found.items() if k not in ("session_name", "agents")}
)
_AGENT = st.dictionaries(st.one_of(st.sampled_from(_OF_AGENTS), _WORDS), _JSON, max_size=4).map(
    lambda found: {k: v for k, v in found.items() if k != "role"}
)
_RARELY = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _content(folder: Path) -> dict[str, Any]:
    """All that an export says, byte for byte where it is text."""
    files = {p.parent.name: p.read_bytes() for p in folder.rglob("session_state.json")}
    names = ("tasks", "message_queue", "project_queue", "scheduler_state", "odd")
    return {"files": files, "tables": {name: table(folder, name) for name in names}}


def _again(place: Place) -> tuple[Path, Path]:
    """Imports and exports, twice; returns both exports."""
    for left in ("home", "home2", "one", "two"):
        shutil.rmtree(place.folder / left, ignore_errors=True)
    place.command("import", place.old, "--execute")
    assert place.status == 0, place.err
    one = place.export("one")
    second = place.folder / "home2"
    place.command("import", one, "--execute", home=second)
    assert place.status == 0, place.err
    two = place.folder / "two"
    place.command("export", two, home=second)
    assert place.status == 0, place.err
    return one, two


def test_what_was_exported_and_imported_is_exported_alike(place: Place) -> None:
    place.state("Ätlas", session_state("atlas-impl-1", subscription_plan="max5"))
    place.state("two", session_state("two-impl-1", agents={"PM": agent_state("pm", 1)}))
    odd = [{"a": b"\0\xff", "b": None}, {"a": "'; --", "b": 2**40}]
    rows = [
        task("atlas-impl-1", "Project Manager", 1, retry_count=-1),
        task("atlas-impl-1", "developer", 2, interval_minutes=0, last_run=None),
    ]
    queue = {
        "tasks": (TASKS, rows),
        "project_queue": (PROJECT_QUEUE_STATUS, [{"spec_path": "/x", "fresh_start": 1}]),
        "odd": ("CREATE TABLE odd (a, b)", odd),
    }
    write_queue(place.old, queue)
    one, two = _again(place)
    assert _content(one) == _content(two)
    assert list(states(one)["two"]["agents"]) == ["PM"]
    assert table(one, "odd") == table(place.old, "odd")
    was, is_now = (table(at, "project_queue")[0] for at in (place.old, one))
    assert was.items() <= is_now.items()


def test_an_older_queue_comes_back_too(place: Place) -> None:
    place.state("atlas", session_state("atlas-impl-1"))
    row = task("atlas-impl-1", "developer", 2, created_at="2025-09-01 08:00:00")
    del row["retry_count"], row["max_retries"]
    write_queue(place.old, {"tasks": (TASKS_OLDER, [row])})
    one, two = _again(place)
    assert table(place.old, "tasks")[0].items() <= table(one, "tasks")[0].items()
    assert _content(one) == _content(two)


@_RARELY
@given(_CHANGES, _AGENT, st.booleans())
def test_whatever_the_fields_say_it_comes_back(
    place: Place, changes: dict[str, Any], agent: dict[str, Any], waits: bool
) -> None:
    wait = {"waiting_for": waiting_for()} if waits else {}
    agents = {"developer": agent_state("developer", 0) | wait | agent}
    shutil.rmtree(place.old)
    place.state("atlas", session_state("atlas-impl-1", agents=agents) | changes)
    one, two = _again(place)
    assert _content(one) == _content(two)
    written, came_back = states(place.old)["atlas"], states(one)["atlas"]
    of_agent = written.pop("agents")["developer"]
    came_back_agent = came_back.pop("agents")["developer"]
    for before, after in ((written, came_back), (of_agent, came_back_agent)):
        assert {k: repr(after[k]) for k in before} == {k: repr(v) for k, v in before.items()}


def test_what_is_only_ours_is_exported_in_the_old_layout(place: Place) -> None:
    place.home.mkdir(mode=0o700)

    async def live(at: Serving) -> None:
        for session in ("a-impl-1", "../b"):
            await at.alive("developer", f"%{len(session)}", session=session)
        await at.core.store.write(lambda tx: tx.execute("update session set project_id = null"))

    run(place.home, live)
    found = states(place.export())
    assert set(found) == {"a-impl-1", "session--b"}
    assert found["a-impl-1"]["agents"]["developer"]["is_alive"] is True


def test_two_sessions_never_share_a_directory(place: Place) -> None:
    write_registry(place.old, 2, tasks=0)
    place.bring("--execute")
    evil = "update legacy_value set value = ? where number = (select {}(number) from legacy_value"
    where = " where record like 'directory:%')"
    place.rows(evil.format("min") + where, '"../evil"')
    place.rows(evil.format("max") + where, '"a/../../evil"')
    place.rows("update project set name = 'Same Name'")
    assert set(states(place.export())) == {"same-name", "same-name-2"}


def test_a_text_that_has_not_arrived_comes_with_it_whatever_sent_it(place: Place) -> None:
    place.state("atlas", session_state("atlas-impl-1"))
    rows = [task("atlas-impl-1", "developer", 2, interval_minutes=0, note="once")]
    later = START.timestamp() + 60
    write_queue(place.old, {"tasks": (TASKS, [row | {"next_run": later} for row in rows])})
    place.bring("--execute")

    async def fire(at: Serving) -> None:
        at.clock.advance(120)
        await at.core.scheduler.fire_due()

    run(place.home, fire, clock=ManualClock(START), loops=())
    assert place.rows("select state from task") == [("FIRED",)]
    out = place.export()
    assert table(out, "tasks") == []
    found = [
        (row["agent_id"], row["message"], row["status"]) for row in table(out, "message_queue")
    ]
    assert found == [("atlas-impl-1:2", "once", "pending")]


def test_a_note_that_moved_on_is_exported_as_it_is_now(place: Place) -> None:
    write_registry(place.old, 1, tasks=2, next_run=EPOCH)
    place.bring("--execute")

    async def cancel(at: Serving) -> None:
        first = place.rows("select id from task order by number")[0][0]
        await at.core.store.write(lambda tx: tasks.cancel(tx, first, "operator"))

    run(place.home, cancel)
    rows = table(place.export(), "tasks")
    assert [row["id"] for row in rows] == [2]
    assert rows[0]["next_run"] > EPOCH  # the first start gave it another time
    assert rows[0]["interval_minutes"] == 30


def test_an_export_that_fails_leaves_nothing_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_registry(place.old, 2)
    place.bring("--execute")
    monkeypatch.setattr(ddl, "create", lambda _table, _rows: "no statement")
    ready = place.folder / "ready"
    ready.mkdir()
    for target in (place.folder / "made", ready):
        place.command("export", target)
        assert place.status == 1
        assert f"The export to {target} failed" in place.err
    assert list(ready.iterdir()) == []
    assert not (place.folder / "made").exists()


def test_an_import_whose_export_cannot_be_written_is_none(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_registry(place.old, 1)
    monkeypatch.setattr(ddl, "create", lambda _table, _rows: "no statement")
    place.command("import", place.old, "--execute")
    assert place.status == 1
    assert "So nothing was imported" in place.err
    assert place.rows("select count(*) from session") == [(0,)]


def test_times_come_back_as_they_were_written_wherever_the_export_runs(place: Place) -> None:
    write_registry(place.old, 1, tasks=0)
    place.bring("--execute")
    place.rows("update import_run set zone = 'Asia/Tokyo'")
    created = place.rows("select created_at from session")[0][0] / 1_000_000
    state = states(place.export())["project-0"]
    there = datetime.fromtimestamp(created, ZoneInfo("Asia/Tokyo"))
    assert state["created_at"] == there.replace(tzinfo=None).isoformat()
