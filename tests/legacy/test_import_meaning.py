"""What the import makes of what does not fit: present agents, earlier imports, live writers."""

from __future__ import annotations

import tarfile
from contextlib import closing
from datetime import datetime
from typing import Any

import apsw
import pytest

from orch_server import cli_import
from tests.legacy.parts import Place, states, table
from tests.legacy.samples import (
    EPOCH,
    MESSAGE_QUEUE,
    SCHEDULER_STATE,
    TASKS,
    agent_state,
    session_state,
    task,
    waiting_for,
    write_queue,
)
from tests.transport.harness import Serving, run

ATLAS = "atlas-impl-1a2b3c4d"


def _queue(place: Place, *tasks: dict[str, Any], messages: tuple[dict[str, Any], ...] = ()) -> None:
    (place.old / "task_queue.db").unlink(missing_ok=True)
    write_queue(place.old, {"tasks": (TASKS, tasks), "message_queue": (MESSAGE_QUEUE, messages)})


def _message(window: int, text: str) -> dict[str, Any]:
    return {"agent_id": f"{ATLAS}:{window}", "message": text, "enqueued_at": EPOCH}


def _live(place: Place, role: str, window: int) -> None:
    """An agent of ours in the session, with its window."""

    async def connect(at: Serving) -> None:
        await at.alive(role, f"%{window}", session=ATLAS)

    place.home.mkdir(mode=0o700, exist_ok=True)
    run(place.home, connect)
    put = "insert into agent_detail (agent_id, updated_at, window_index) select id, 0, ?"
    place.rows(f"{put} from agent where role = ?", window, role)


def test_a_window_is_that_of_the_imported_file_and_only_else_ours(place: Place) -> None:
    _live(place, "devops", 2)
    roles = ("orchestrator", "project_manager", "developer")  # whose window is 2
    place.state("atlas", session_state(ATLAS, roles=roles))
    _queue(place, task(ATLAS, "stranger", 2, note="n"), messages=(_message(2, "m"),))
    place.bring("--execute")
    owner = "from {} x join agent a on a.id = x.agent_id where x.{} = ?"
    assert place.rows(f"select a.role {owner.format('task', 'note')}", "n") == [("developer",)]
    assert place.rows(f"select a.role {owner.format('delivery', 'text')}", "m") == [("developer",)]


def test_a_window_that_the_file_lacks_is_ours_also_in_a_later_import(place: Place) -> None:
    _live(place, "devops", 9)
    place.state("atlas", session_state(ATLAS, roles=("orchestrator", "tester")))
    _queue(place, messages=(_message(9, "first"),))
    place.bring("--execute")
    _queue(place, messages=(_message(9, "first"), _message(1, "second")))
    _live(place, "researcher", 1)
    place.bring("--execute")
    sql = "select d.text, a.role from delivery d join agent a on a.id = d.agent_id"
    assert place.rows(sql) == [("first", "devops"), ("second", "tester")]


@pytest.mark.parametrize("completion", ["pending", "completed"])
def test_a_session_made_for_its_notes_is_taken_over_when_its_file_is_whole(
    place: Place, completion: str
) -> None:
    place.state("atlas", "")
    _queue(place, task(ATLAS, "developer", 2))
    place.bring("--execute")
    state = session_state(ATLAS, completion_status=completion)
    place.state("atlas", state)
    told = place.bring("--execute")
    assert place.status == 0, place.err
    assert [s["result"] for s in told["sessions"]] == ["imported"]
    assert not any("ours is kept" in f["text"] for f in told["findings"])
    row = place.rows("select completion, created_at = updated_at, version from session")
    assert row == [(completion.upper(), 0, 2)]
    expected = "EXPIRED" if completion == "completed" else "PENDING"
    assert place.rows("select state from task") == [(expected,)]
    detail = "select branch, worktree_path from agent_detail join agent a on a.id = agent_id"
    assert place.rows(f"{detail} where role = 'developer'") == [
        ("developer-work", "/home/dev/worktrees/developer")
    ]
    heard = place.rows("select last_check_in_at is null from agent where role = 'developer'")
    assert heard == [(0,)]
    out = place.export()
    came_back = states(out)["atlas"]
    assert {field: came_back[field] for field in state} == state
    assert table(out, "tasks") == table(place.old, "tasks")


def test_of_a_live_agent_what_is_empty_is_filled(place: Place) -> None:
    _live(place, "developer", 7)
    place.rows("update agent_detail set branch = 'ours'")
    place.state("atlas", session_state(ATLAS, roles=("developer",)))
    place.bring("--execute")
    found = place.rows("select window_index, branch, worktree_path, version from agent_detail")
    assert found == [(7, "ours", "/home/dev/worktrees/developer", 2)]
    assert place.rows("select briefed_at is null from agent_detail") == [(0,)]


def test_who_waited_when_its_session_ended_does_not_wait(place: Place) -> None:
    now = datetime.now().astimezone().replace(microsecond=0, tzinfo=None)
    wait = waiting_for(since=now.isoformat(), timeout_minutes=600)
    agents = {"developer": agent_state("developer", 0, waiting_for=wait)}
    place.state("atlas", session_state(ATLAS, agents=agents, completion_status="failed"))
    place.bring("--execute")
    assert place.rows("select state, reason from authorization") == [
        ("EXPIRED", "Its session was over when it was imported.")
    ]
    assert states(place.export())["atlas"]["agents"]["developer"]["waiting_for"] == wait


def test_a_queue_that_changed_after_it_was_read_stops_the_import(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.state("atlas", session_state(ATLAS))
    _queue(place, task(ATLAS, "developer", 2))
    read = cli_import.read

    def then_written(*of: Any) -> Any:
        found = read(*of)
        with closing(apsw.Connection(str(place.old / "task_queue.db"))) as db:
            db.execute("update tasks set note = 'later'")
        return found

    with monkeypatch.context() as changed:
        changed.setattr(cli_import, "read", then_written)
        place.command("import", place.old, "--execute")
    assert place.status == 1
    assert "was changed meanwhile" in place.err
    assert place.rows("select count(*) from session") == [(0,)]


def test_a_queue_that_is_refused_is_in_the_backup_all_the_same(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    (place.old / "task_queue.db").write_text("")
    told = place.bring("--execute")
    with tarfile.open(told["backup"]) as tar:
        assert "task_queue.db" in tar.getnames()


def test_what_a_killed_import_left_of_its_backup_goes_with_the_next(place: Place) -> None:
    backups = place.home / "backups"
    backups.mkdir(parents=True, mode=0o700)
    place.home.chmod(0o700)
    (backups / "import-20260101T000000.000000Z.tar.part").write_text("half")
    place.state("atlas", session_state(ATLAS))
    place.bring("--execute")
    assert [path.suffix for path in backups.iterdir()] == [".tar"]


def test_a_queue_of_another_shape_comes_back_as_it_was(place: Place) -> None:
    place.state("atlas", session_state(ATLAS))
    loose = "create table {} (id, session_name, agent_role, window_index, next_run, {})"
    columns = "interval_minutes, note, created_at, retry_count"
    note = task(ATLAS, "developer", 2, id=1, next_run=None, window_index=None)
    odd = task(ATLAS, "tester", 3, id=2, interval_minutes=5.0, note="two", next_run="1756796400")
    for one in (note, odd):
        del one["last_run"], one["max_retries"]
    specs = "create table project_queue (id integer, spec_path text, status text)"
    twice = {"id": 1, "spec_path": None, "status": 7}
    tables = {
        "tasks": (loose.format("tasks", columns), [note, odd]),
        "project_queue": (specs, [twice, twice]),
        "scheduler_state": (SCHEDULER_STATE, [{"key": None, "value": "a"}]),
    }
    write_queue(place.old, tables)
    with closing(apsw.Connection(str(place.old / "task_queue.db"))) as db:
        db.execute("""create table "we:ird%3A" (_rowid_, Ä, ä);
            insert into "we:ird%3A" values ('x', 1, 2)""")
        db.execute("create table message_Queue (a); insert into message_Queue values (1)")
    told = place.bring("--execute")
    assert place.status == 0, place.err
    assert told["tasks"]["imported"] == 2
    out = place.export()
    for name in tables:
        for was, is_now in zip(table(place.old, name), table(out, name), strict=True):
            again = {field: (type(is_now[field]), is_now[field]) for field in was}
            assert again == {field: (type(value), value) for field, value in was.items()}
    assert table(out, "we:ird%3A") == table(place.old, "we:ird%3A")
    assert table(out, "message_queue")[0]["a"] == 1
