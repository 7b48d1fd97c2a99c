"""The import: what comes of the old system's state, and that nothing of it is lost."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from orch_server import cli_import
from orch_server.core.clock import ManualClock, SystemClock
from orch_server.core.spread import APART, APART_FOR_ONE, Overdue, spread
from orch_server.storage import mismatches, sessions
from orch_server.storage.audit_check import verify
from tests.legacy.parts import DATA, Place, listing, states, table
from tests.legacy.samples import (
    EPOCH,
    MESSAGE_QUEUE,
    TASKS,
    agent_state,
    session_name,
    session_state,
    task,
    waiting_for,
    write_queue,
    write_registry,
    write_state,
)
from tests.transport.harness import START, Serving, run

ATLAS = "atlas-impl-1a2b3c4d"
SECOND = timedelta(seconds=1)


def _sample(place: Place) -> None:
    shutil.rmtree(place.old)
    shutil.copytree(DATA, place.old)


def _queue(place: Place, *tasks: dict[str, Any], messages: tuple[dict[str, Any], ...] = ()) -> None:
    write_queue(place.old, {"tasks": (TASKS, tasks), "message_queue": (MESSAGE_QUEUE, messages)})


def _count(told: dict[str, int]) -> dict[str, int]:
    return {what: number for what, number in told.items() if number}


def test_a_dry_run_writes_nothing_anywhere(place: Place) -> None:
    _sample(place)
    before = list(listing(place.folder))
    told = place.bring()
    assert place.status == 0
    assert list(listing(place.folder)) == before  # the home was not even made
    assert {s["result"] for s in told["sessions"]} == {"importable", "refused"}
    assert not told["executed"]
    place.bring("--execute")
    before = list(listing(place.folder))
    told = place.bring()
    assert {s["result"] for s in told["sessions"]} == {"already there", "refused"}
    assert list(listing(place.folder)) == before


def test_every_field_of_the_sample_comes_back_as_it_was_written(place: Place) -> None:
    _sample(place)
    told = place.bring("--execute")
    assert place.status == 0, place.err
    assert told["proof"]["fields"] > 1000
    out = place.export()
    written, came_back = states(place.old), states(out)
    assert set(written) == set(came_back)
    for directory, state in written.items():
        agents = state.pop("agents", {})
        assert state.items() <= came_back[directory].items()
        for role, agent in agents.items():
            assert agent.items() <= came_back[directory]["agents"][role].items()
    for name in ("tasks", "project_queue", "scheduler_state"):
        assert table(place.old, name) == table(out, name)


def test_a_second_import_changes_nothing_at_all(place: Place) -> None:
    _sample(place)
    place.bring("--execute")
    before = place.dump()
    told = place.bring("--execute")
    assert place.status == 0
    assert place.dump() == before
    assert {s["result"] for s in told["sessions"]} == {"already there", "refused"}
    assert _count(told["tasks"]) == {"found": 25, "already": 25}
    assert len(list((place.home / "backups").iterdir())) == 1


def test_what_changed_after_its_import_is_told_and_ours_stays(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    place.bring("--execute")
    place.state("atlas", session_state(ATLAS, completion_status="failed"))
    told = place.bring("--execute")
    assert [s["result"] for s in told["sessions"]] == ["changed"]
    assert place.rows("select completion from session") == [("PENDING",)]


def test_what_comes_later_is_added(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    place.bring("--execute")
    place.state("next", session_state("next-impl-2"))
    told = place.bring("--execute")
    assert [s["result"] for s in told["sessions"]] == ["already there", "imported"]
    assert place.rows("select count(*) from session") == [(2,)]
    backups = [path.suffix for path in sorted((place.home / "backups").iterdir())]
    assert sorted(backups) == [".db", ".tar", ".tar"]  # ours was backed up, too


def test_our_own_session_of_that_name_keeps_what_it_has(place: Place) -> None:
    async def connect(at: Serving) -> None:
        await at.alive("developer", "%1", session=ATLAS)

    place.home.mkdir(mode=0o700)
    run(place.home, connect)
    place.rows("update session set specification_path = 'mine.md'")
    place.state("atlas", session_state(ATLAS, roles=("developer", "tester"), parent_branch="old"))
    told = place.bring("--execute")
    assert [s["result"] for s in told["sessions"]] == ["imported"]
    agents = place.rows("select role, pane from agent order by role")
    assert agents == [("developer", "%1"), ("tester", "")]
    assert place.rows("select parent_branch, specification_path from session") == [
        ("old", "mine.md")
    ]
    assert any("ours is kept of: specification_path" in f["text"] for f in told["findings"])
    assert states(place.export())["atlas"]["parent_branch"] == "old"


def test_notes_keep_their_meaning(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    place.state("done", session_state("done-impl-1", completion_status="completed"))
    _queue(
        place,
        task(ATLAS, "orchestrator", 0, interval_minutes=20, note="again and again"),
        task(ATLAS, "developer", 2, interval_minutes=0, note="once"),
        task(ATLAS, "tester", 3, retry_count=-1, note="given up"),
        task("done-impl-1", "tester", 3, note="of an ended session"),
        task("nowhere-impl-1", "tester", 3, note="of no session"),
        task(ATLAS, "stranger", 2, note="by its window"),
    )
    told = place.bring("--execute")
    sql = """select t.note, t.state, t.form, t.every, a.role
        from task t join agent a on a.id = t.agent_id"""
    found = {note: rest for note, *rest in place.rows(sql)}
    minutes = 60_000_000
    assert found == {
        "again and again": ["PENDING", "EVERY", 20 * minutes, "orchestrator"],
        "once": ["PENDING", "ONCE", 0, "developer"],
        "given up": ["PAUSED", "EVERY", 30 * minutes, "tester"],
        "of an ended session": ["EXPIRED", "EVERY", 30 * minutes, "tester"],
        "of no session": ["PENDING", "EVERY", 30 * minutes, "tester"],
        "by its window": ["PENDING", "EVERY", 30 * minutes, "developer"],
    }
    assert any("no session nowhere-impl-1" in f["text"] for f in told["findings"])
    assert table(place.old, "tasks") == table(place.export(), "tasks")

    async def prune(at: Serving) -> None:
        await at.core.retention.run_due()

    run(place.home, prune, clock=SystemClock())
    assert place.rows("select count(*) from task") == [(6,)]  # what ended did so just now


def test_messages_keep_their_state(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    sent = [
        {"agent_id": f"{ATLAS}:2", "message": word, "status": word, "enqueued_at": EPOCH}
        for word in ("pending", "pulled", "delivered")
    ]
    _queue(place, messages=tuple(sent))
    place.bring("--execute")
    found = place.rows(
        "select d.text, d.state, a.role, d.sender from delivery d join agent a on a.id = d.agent_id"
    )
    assert found == [
        ("pending", "PENDING", "developer", "import"),
        ("pulled", "UNCONFIRMED", "developer", "import"),
        ("delivered", "CONFIRMED", "developer", "import"),
    ]
    assert table(place.old, "message_queue") == table(place.export(), "message_queue")


def test_what_is_over_is_as_old_as_its_import(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    states = ("pending", "pulled", "delivered")
    sent = [{"agent_id": f"{ATLAS}:2", "message": s, "status": s} for s in states]
    _queue(place, messages=tuple(one | {"enqueued_at": EPOCH} for one in sent))
    place.bring("--execute")

    async def prune(at: Serving) -> None:
        await at.core.retention.run_due()

    run(place.home, prune, clock=SystemClock())
    assert place.rows("select count(*) from delivery") == [(3,)]
    later = datetime.now(UTC) + timedelta(days=89)
    run(place.home, prune, clock=ManualClock(later))
    assert place.rows("select count(*) from delivery") == [(3,)]
    run(place.home, prune, clock=ManualClock(later + timedelta(days=2)))
    assert place.rows("select distinct state from delivery") == [("EXPIRED",)]  # two days ago


def test_each_row_of_the_queue_is_counted_once(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    good = [task(ATLAS, "developer", 2, note=f"{n}") for n in range(5)]
    bad = [task(ATLAS, "developer", 2, interval_minutes=-1), task(ATLAS, "../x", 2)]
    _queue(place, *good, *bad, messages=({"agent_id": f"{ATLAS}:2", "message": "\t"},))
    told = place.bring()
    assert _count(told["tasks"]) == {"found": 7, "importable": 5, "refused": 2}
    assert _count(told["messages"]) == {"found": 1, "refused": 1}
    out = place.command("import", place.old, "--execute")
    assert "\ntasks: 7 found, 5 imported, 2 refused\n" in out
    told = place.bring("--execute")
    assert _count(told["tasks"]) == {"found": 7, "already": 5, "refused": 2}


def test_who_waits_for_leave_still_does_unless_it_is_overdue(place: Place) -> None:
    now = datetime.now().astimezone().replace(microsecond=0, tzinfo=None)
    waits = {
        "developer": waiting_for(since=now.isoformat(), timeout_minutes=600, request_id="R-1"),
        "tester": waiting_for(request_id="R-2"),
        "devops": waiting_for("devops", request_id="R-3"),
        "researcher": waiting_for("securityops", request_id="R-4"),
    }
    agents = {
        role: agent_state(role, at, waiting_for=wait)
        for at, (role, wait) in enumerate(waits.items())
    }
    place.state("atlas", session_state(ATLAS, agents=agents))
    told = place.bring("--execute")
    found = place.rows("select requester_role, state from authorization order by requester_role")
    assert found == [("developer", "PENDING"), ("tester", "EXPIRED")]
    assert sum("is only kept" in f["text"] for f in told["findings"]) == 2
    report = verify(place.database)
    assert (report.faults, report.links) == (0, 4)
    came_back = states(place.export())["atlas"]["agents"]
    assert {role: agent["waiting_for"] for role, agent in came_back.items()} == waits


def test_a_value_that_changed_here_wins_over_the_one_that_was_kept(place: Place) -> None:
    place.state("atlas", session_state(ATLAS, project_size="Enormous", mood="fine"))
    place.bring("--execute")
    assert states(place.export("one"))["atlas"]["project_size"] == "Enormous"
    place.rows("update session set project_size = 'LARGE'")
    state = states(place.export("two"))["atlas"]
    assert (state["project_size"], state["mood"]) == ("large", "fine")


def test_the_proof_fails_aloud_and_nothing_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orch_server.legacy import compare

    place.state("atlas", session_state(ATLAS, mood="fine"))
    kept = compare.kept
    monkeypatch.setattr(compare, "kept", lambda *of: [k for k in kept(*of) if k.field != "mood"])
    place.command("import", place.old, "--execute")
    assert place.status == 1
    assert f"session:{ATLAS} mood" in place.err
    assert place.rows("select count(*) from session") == [(0,)]


def test_without_its_backup_nothing_is_imported(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    place.home.mkdir(mode=0o700)
    (place.home / "backups").write_text("in the way")
    place.command("import", place.old, "--execute")
    assert place.status == 1
    assert "so nothing was imported" in place.err
    assert place.rows("select count(*) from session") == [(0,)]


def test_a_file_that_changed_after_it_was_read_stops_the_import(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.state("atlas", session_state(ATLAS))
    read = cli_import.read

    def then_changed(*of: Any) -> Any:
        found = read(*of)
        place.state("atlas", session_state(ATLAS, parent_branch="new"))
        return found

    monkeypatch.setattr(cli_import, "read", then_changed)
    place.command("import", place.old, "--execute")
    assert place.status == 1
    assert "was changed meanwhile" in place.err
    assert place.rows("select count(*) from session") == [(0,)]
    assert list((place.home / "backups").iterdir()) == []


def test_what_was_imported_and_deleted_stays_deleted(place: Place) -> None:
    write_registry(place.old, 1)
    place.bring("--execute")

    async def delete(at: Serving) -> None:
        await at.core.store.write(lambda tx: sessions.delete(tx, session_name(0), "operator"))

    run(place.home, delete)
    told = place.bring("--execute")
    assert [s["result"] for s in told["sessions"]] == ["deleted here"]
    assert _count(told["tasks"]) == {"found": 2, "deleted": 2}
    assert _count(told["rows"]) == {"found": 2, "deleted": 1, "already": 1}
    out = place.command("import", place.old)
    assert "directories: 1 found, 1 deleted here\n" in out
    assert place.rows("select count(*) from session") == [(0,)]
    assert table(place.export(), "project_queue") == []


def test_a_session_that_got_its_name_since_is_not_taken_for_deleted(place: Place) -> None:
    place.state("atlas", session_state(None))
    told = place.bring("--execute")
    label = told["sessions"][0]["session"]

    async def rename(at: Serving) -> None:
        await at.core.store.write(lambda tx: mismatches.rename_session(tx, label, "found"))

    run(place.home, rename)
    (now,) = place.bring("--execute")["sessions"]
    assert (now["result"], now["why"]) == ("already there", "")


def test_after_an_import_a_pane_takes_its_role_and_has_its_notes(place: Place) -> None:
    write_registry(place.old, 1, tasks=1)
    place.bring("--execute")
    name = session_name(0)
    made = place.rows("select id from agent where role = 'developer'")[0][0]

    async def connect(at: Serving) -> None:
        await at.alive("developer", "%1", session=name)
        agent = await at.agent(f"{name}:developer")
        assert agent.id == made
        assert agent.epoch == 1

    run(place.home, connect)


def test_a_thousand_overdue_notes_do_not_come_at_once(place: Place) -> None:
    write_registry(place.old, 50, tasks=20, next_run=EPOCH)  # 30 minutes each
    place.bring("--execute")
    fired: list[int] = []

    async def hour(at: Serving) -> None:
        for _ in range(30):
            at.clock.advance(60)
            before = place.rows("select count(*) from task where fired_at > ?", _start)[0][0]
            while (due := await at.core.scheduler.fire_due()) and due <= at.clock.now():
                pass
            after = place.rows("select count(*) from task where fired_at > ?", _start)[0][0]
            fired.append(after - before)

    async def nothing(at: Serving) -> None:
        assert await at.core.scheduler.fire_due() is not None

    _start = int(START.timestamp() * 1_000_000)
    times = "select id, next_at from task order by id"
    run(place.home, nothing, clock=ManualClock(START), loops=())
    before = place.rows(times)
    run(place.home, nothing, clock=ManualClock(START), loops=())
    assert place.rows(times) == before  # a restart keeps them
    run(place.home, hour, clock=ManualClock(START), loops=())
    assert sum(fired) == 1000
    assert max(fired) <= 35
    assert place.rows("select distinct outcome from occurrence") == [("FIRED",)]
    assert place.rows("select distinct state, every from task") == [("PENDING", 1_800_000_000)]


def test_what_is_not_overdue_at_the_first_start_keeps_its_time(place: Place) -> None:
    later = START.timestamp() + 90_000
    write_registry(place.old, 1, tasks=2, next_run=later)
    place.bring("--execute")

    async def nothing(_: Serving) -> None:
        return

    run(place.home, nothing, clock=ManualClock(START), loops=())
    run(place.home, nothing, clock=ManualClock(START + timedelta(days=9)), loops=())
    assert place.rows("select distinct next_at from task") == [(int(later * 1_000_000),)]


def test_overdue_notes_that_are_sent_once_keep_apart() -> None:
    tasks = [Overdue(f"{n}", f"agent {n % 7}", timedelta(0)) for n in range(100)]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = spread(tasks, start)
    ordered = sorted(times.values())
    assert ordered[0] == start + timedelta(minutes=1)
    assert all(b - a >= APART for a, b in pairwise(ordered))
    for agent in range(7):
        mine = sorted(times[t.id] for t in tasks if t.agent_id == f"agent {agent}")
        assert all(b - a >= APART_FOR_ONE for a, b in pairwise(mine))


def test_hostile_text_is_only_data(place: Place) -> None:
    nasty = "\x1b[2J'; drop table session; -- #{pane_id} %s \u202e"
    place.state("atlas", session_state(ATLAS, parent_branch=nasty, **{'"x\u202e': nasty}))
    write_state(place.old, "..weird\nname", session_state("weird-impl-1"))
    text = place.command("import", place.old, "--execute")
    assert place.status == 0, place.err
    assert "\x1b" not in text
    came_back = states(place.export())
    assert came_back["atlas"]["parent_branch"] == nasty
    assert came_back["atlas"]['"x\u202e'] == nasty
    assert len(came_back) == 2
