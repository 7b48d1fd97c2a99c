"""The old system's queue, in each of its variants, written to, damaged, or no queue at all."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orch_server.legacy.files import Folder, Stamp
from orch_server.legacy.queue import read_queue
from tests.legacy.reading import contents, findings, reading, reasons
from tests.legacy.samples import (
    CREATED,
    EPOCH,
    MESSAGE_QUEUE_OLDER,
    PROJECT_QUEUE,
    PROJECT_QUEUE_STATUS,
    TASKS,
    TASKS_OLDER,
    session_state,
    task,
    write_queue,
    write_registry,
    write_state,
)

NAME = "atlas-impl-2265b1f5"


def test_what_is_only_in_the_wal_is_read_and_left_there(tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "old", 1, tasks=0)
    with closing(sqlite3.connect(folder / "task_queue.db")) as writer:
        writer.execute("pragma wal_autocheckpoint = 0")
        writer.execute(
            "insert into tasks (session_name, agent_role, window_index, next_run,"
            " interval_minutes, note) values ('a', 'tester', 1, 5, 5, 'in the wal')"
        )
        writer.commit()
        before = contents(folder)
        source = reading(folder)
        assert contents(folder) == before
    assert [note.note for note in source.tasks] == ["in the wal"]
    assert "task_queue.db-wal" in source.files


def test_a_queue_that_is_written_to_is_read_whole_or_refused(tmp_path: Path) -> None:
    folder = write_registry(tmp_path / "old", 1, tasks=0)
    ended = threading.Event()
    begun = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(folder / "task_queue.db")) as writer:
            writer.execute("pragma wal_autocheckpoint = 2")
            while not ended.is_set():
                with writer:
                    for role in ("tester", "devops"):
                        row = task(NAME, role, 1)
                        marks = ", ".join("?" * len(row))
                        writer.execute(
                            f"insert into tasks ({', '.join(row)}) values ({marks})",
                            tuple(row.values()),
                        )
                begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert begun.wait(10)
        sources = [reading(folder) for _ in range(5)]
    finally:
        ended.set()
        thread.join(10)
    for source in sources:
        assert len(source.sessions) == 1
        assert len(source.tasks) % 2 == 0
        assert bool(source.tasks) != ("task_queue.db" in reasons(source))
    assert reading(folder).tasks


class Busy(Folder):
    """A folder whose queue is written to right after each of the first copies of it."""

    writes = 0

    def copy(self, name: str, target: Path, limit: int) -> Stamp:
        found = super().copy(name, target, limit)
        if name == "task_queue.db" and self.writes:
            self.writes -= 1
            with closing(sqlite3.connect(f"/proc/self/fd/{self._fd}/{name}")) as db, db:
                db.execute("update tasks set note = note || '.'")
        return found


@pytest.mark.parametrize(("writes", "note"), [(0, ""), (2, ".."), (3, None)])
def test_a_queue_that_changed_while_it_was_copied_is_copied_again(
    tmp_path: Path, writes: int, note: str | None
) -> None:
    write_registry(tmp_path, 1, tasks=1)
    with Busy.at(tmp_path) as folder:
        folder.writes = writes
        queue = read_queue(folder)
    if note is None:
        assert not queue.tables
        assert "it is written to all the time" in queue.refused[0].why
    else:
        assert queue.tables["tasks"]["1"]["note"] == f"Standard check-in{note}"
        assert not queue.refused


def test_two_rows_of_one_id_are_told(tmp_path: Path) -> None:
    row = {"id": 1, **task(NAME, "tester", 1)}
    without_key = TASKS.replace("PRIMARY KEY AUTOINCREMENT", "")
    write_queue(tmp_path, {"tasks": (without_key, [row, row | {"note": "second"}])})
    source = reading(tmp_path)
    assert [found.note for found in source.tasks] == ["Standard check-in"]
    assert reasons(source) == {"task:1": "another row has the same id"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty (0 bytes)"),
        (b"no database at all", "no SQLite database"),
        (b"SQLite format 3\0" + b"\xff" * 4096, "damaged"),
    ],
    ids=["empty", "text", "torn"],
)
def test_a_queue_that_is_none_is_refused_and_the_sessions_read(
    tmp_path: Path, content: bytes, why: str
) -> None:
    write_state(tmp_path, "atlas", session_state(NAME))
    (tmp_path / "task_queue.db").write_bytes(content)
    source = reading(tmp_path)
    assert len(source.sessions) == 1
    assert reasons(source)["task_queue.db"].startswith(why)


def test_damage_is_found_also_where_no_row_is(tmp_path: Path) -> None:
    folder = write_registry(tmp_path, 1)
    with closing(sqlite3.connect(folder / "task_queue.db")) as db, db:
        db.execute("create index merged on tasks (note)")
        page = db.execute("select rootpage from sqlite_master where name = 'merged'").fetchone()[0]
    with (folder / "task_queue.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    source = reading(folder)
    assert reasons(source)["task_queue.db"].startswith("damaged")
    assert not source.tasks
    assert not source.rows


def test_an_unfinished_change_of_the_queue_is_refused(tmp_path: Path) -> None:
    folder = write_registry(tmp_path, 1)
    journal = folder / "task_queue.db-journal"
    journal.write_bytes(bytes.fromhex("d9d505f920a163d7") + bytes(504))
    assert "unfinished" in reasons(reading(folder))["task_queue.db"]
    journal.write_bytes(bytes(512))
    assert reading(folder).tasks


def test_the_copy_of_the_queue_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_registry(tmp_path / "old", 1)
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    assert reading(folder).tasks
    assert not list(private.iterdir())


def test_each_variant_of_the_queue_is_read(tmp_path: Path) -> None:
    older = {k: v for k, v in task(NAME, "tester", 3).items() if not k.endswith("retries")}
    older = {k: v for k, v in older.items() if k != "retry_count"}
    row = {"spec_path": "/s", "status": "COMPLETED", "session_name": NAME, "merged_at": 1.5}
    write_state(tmp_path, "atlas", session_state(NAME))
    write_queue(
        tmp_path,
        {
            "tasks": (TASKS_OLDER, [older, older | {"next_run": "2025-09-02 08:00:00"}]),
            "project_queue": (
                PROJECT_QUEUE_STATUS,
                [row | {"enqueued_at": EPOCH}, {"spec_path": "/t"}],
            ),
            "message_queue": (
                MESSAGE_QUEUE_OLDER,
                [{"agent_session": f"{NAME}:2", "message": "hello", "enqueued_at": CREATED}],
            ),
            'odd "name"': (
                'create table "odd ""name""" ("a ""b""" text primary key, c blob) without rowid',
                [{'a "b"': "k", "c": b"\xff"}],
            ),
        },
    )
    source = reading(tmp_path)
    assert not source.refused
    assert [note.next_at.hour for note in source.tasks] == [7, 8]
    assert source.messages[0].queued_at == datetime(2025, 9, 1, 6, 0, 0, 408795, tzinfo=UTC)
    rows = {row.record: row for row in source.rows}
    assert rows["project_queue:1"].session == NAME
    assert rows["project_queue:1"].raw["merged_at"] == 1.5
    assert rows['odd "name":k'].raw == {'a "b"': "k", "c": {"base64": "/w=="}}
    assert "the queue says completed, the registry pending" in findings(source)


def test_text_that_is_none_is_mended_and_told(tmp_path: Path) -> None:
    path = write_queue(tmp_path, {"tasks": (TASKS, [task(NAME, "tester", 1)])})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("update tasks set note = cast(x'61ff62' as text), last_run = 9e999")
    source = reading(tmp_path)
    assert source.tasks[0].note == "a\ufffdb"
    assert source.tasks[0].last_at is None
    assert "task:1: last_run: 'Infinity' is no time" in findings(source)
    assert "task:1: note holds text that is no Unicode" in findings(source)
    assert "task:1: last_run holds an infinite number; kept as the text 'Infinity'" in findings(
        source
    )


def test_a_queue_in_utf_16_is_read(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "task_queue.db")) as db, db:
        db.execute("pragma encoding = 'UTF-16le'")
        db.execute(TASKS)
        db.execute(
            "insert into tasks (session_name, agent_role, window_index, next_run,"
            " interval_minutes, note) values ('a', 'tester', 1, 5, 5, '進捗')"
        )
    assert [note.note for note in reading(tmp_path).tasks] == ["進捗"]


def test_what_the_queues_schema_says_is_not_run(tmp_path: Path) -> None:
    path = write_queue(tmp_path, {"project_queue": (PROJECT_QUEUE, [])})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create view tasks as select 1 as id")
        db.execute("create virtual table words using fts5(text)")
    source = reading(tmp_path)
    assert not source.tasks
    assert not source.refused
    assert not source.rows
