"""Opening the database: what it refuses, each in one clear sentence, and what it does first."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import apsw
import pytest

from orch_server.core.errors import StartupError
from orch_server.storage import database
from orch_server.storage.tables import MODELS
from tests.storage.parts import add_agent, agent, opened

#: Columns that a later migration added have a default, since there were rows already.
ADDED = {
    *("do_not_disturb", "courier", "sender", "header", "mode", "message_key", "reason", "attempts"),
    *("retry_at", "time_to_live", "reply_patience", "reply", "reply_complete", "credential"),
    *("form", "every", "cron", "time_zone", "jitter", "first_at", "look_at", "catch_up", "missed"),
    *("version", "note_key", "waited", "paused_by", "pause_note"),
    *("action_class", "approvers", "human", "reason_required", "lapse", "tool", "arguments", "cwd"),
    *("digest", "proof", "open", "passed_over"),
    *("project_size", "original_specification_path", "worktree_base_path", "batch_id"),
    *("orchestrator_window", "name_missing", "window_name", "worktree_path", "branch"),
    *("commit_hash", "imported_credit_reset", "worktree_learned"),
}
LATER = "0098_later.py"
_KINDS = {"AUTO": "INTEGER", "INT": "INTEGER", "BOOL": "INTEGER"}


def _fill(folder: Path) -> Path:
    """A database with some hundred pages of data."""

    async def body() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())
            for n in range(40):
                await at.store.write(
                    lambda tx, n=n: tx.emit("x.filled", f"{n}", detail="x" * 10_000)
                )

    asyncio.run(body())
    return folder / "orch.db"


def _refusal(folder: Path) -> str:
    """The one sentence with which the start is refused."""

    async def body() -> str:
        with pytest.raises(StartupError) as caught:
            async with opened(folder):
                pass
        return caught.value.message

    message = asyncio.run(body())
    assert "\n" not in message
    assert str(folder) in message
    assert "Traceback" not in message
    return message


def test_a_read_only_file_is_refused(folder: Path) -> None:
    path = _fill(folder)
    path.chmod(0o444)
    assert "is read-only; make it writable: chmod u+w" in _refusal(folder)


@pytest.mark.parametrize(
    "garbage", [b"this is no database at all\n" * 1000, b"\0" * 4096, b"x" * 100]
)
def test_a_file_that_is_no_database_is_refused(folder: Path, garbage: bytes) -> None:
    (folder / "orch.db").write_bytes(garbage)
    assert "is damaged" in _refusal(folder)
    assert (folder / "orch.db").read_bytes() == garbage


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = _fill(folder)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // 4096 * 4096)
    assert "is damaged" in _refusal(folder)


@pytest.mark.parametrize("page", [0, 2, 5, 20])
def test_a_file_with_a_broken_page_is_refused(folder: Path, page: int) -> None:
    path = _fill(folder)
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 4096)
    assert "is damaged" in _refusal(folder)


def test_a_folder_in_the_place_of_the_file_is_refused(folder: Path) -> None:
    (folder / "orch.db").mkdir()
    assert "cannot be written" in _refusal(folder)


def test_an_empty_file_is_a_new_database(folder: Path) -> None:
    (folder / "orch.db").touch()

    async def body() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent())

    asyncio.run(body())


def test_a_database_of_a_newer_version_is_refused(folder: Path) -> None:
    path = _fill(folder)
    connection = apsw.Connection(str(path))
    connection.execute(
        "insert into schema_migration (name, applied) values ('0099_from_the_future', '2030-01-01')"
    )
    connection.close()
    before = path.read_bytes()
    message = _refusal(folder)
    assert "newer version" in message
    assert "0099_from_the_future" in message
    assert path.read_bytes() == before
    assert not (folder / "backups").exists()


@pytest.fixture
def later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A filled database and the folder of migrations of a later version; put LATER there."""
    _fill(folder)
    migrations = folder / "migrations"
    shutil.copytree(database.MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(database, "MIGRATIONS", migrations)
    return migrations


def test_a_backup_is_made_before_the_schema_changes(folder: Path, later: Path) -> None:
    (later / LATER).write_text(
        "def up(migrator, db):\n    db.execute_sql('create table later (x text)')\n"
    )

    async def body() -> None:
        async with opened(folder) as at:
            await at.store.write(lambda tx: tx.execute("insert into later values ('x')"))

    asyncio.run(body())
    backups = list((folder / "backups").iterdir())
    assert [b.name for b in backups] == ["before-0098_later-20261121T120000Z.db"]
    copy = apsw.Connection(str(backups[0]))
    assert copy.execute("pragma integrity_check").get == "ok"
    assert copy.execute("select count(*) from event where kind = 'x.filled'").get == 40
    assert copy.execute("select count(*) from sqlite_schema where name = 'later'").get == 0
    copy.close()
    asyncio.run(body())
    assert len(list((folder / "backups").iterdir())) == 1


def test_a_new_database_and_an_unchanged_schema_need_no_backup(folder: Path) -> None:
    _fill(folder)
    _fill(folder)
    assert not (folder / "backups").exists()


@pytest.mark.parametrize(
    "fault",
    ["db.execute_sql('this is no sql')", "raise RuntimeError('a fault of the migration')"],
    ids=["bad sql", "an exception"],
)
def test_a_migration_that_fails_changes_nothing(folder: Path, later: Path, fault: str) -> None:
    (later / LATER).write_text(
        f"def up(migrator, db):\n    db.execute_sql('create table half (x text)')\n    {fault}\n"
    )
    _refusal(folder)
    connection = apsw.Connection(str(folder / "orch.db"))
    assert connection.execute("select count(*) from sqlite_schema where name = 'half'").get == 0
    assert connection.execute("select count(*) from event where kind = 'x.filled'").get == 40
    connection.close()


def test_a_backup_that_cannot_be_made_prevents_the_migration(folder: Path, later: Path) -> None:
    (later / LATER).write_text("def up(migrator, db):\n    pass\n")
    (folder / "backups").write_text("a file where the folder of backups should be")
    _refusal(folder)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.table_name)
def test_the_models_match_the_migrated_schema(folder: Path, model: type) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            table = model._meta.table_name
            columns = await at.store.read(
                lambda db: db.execute_sql(f"pragma table_info({table})").fetchall()
            )
            unique = await at.store.read(lambda db: _unique_columns(db, table))
        fields = model._meta.sorted_fields
        assert [c[1] for c in columns] == [f.column_name for f in fields]
        for column, field in zip(columns, fields, strict=True):
            _, name, kind, not_null, default, key = column
            assert bool(key) == field.primary_key, name
            assert default is None or name in ADDED, name
            if not key:
                assert bool(not_null) != field.null, name
                assert (name in unique) == field.unique, name
            expected = _KINDS.get(field.field_type, field.field_type)
            assert kind.upper() == expected, name

    asyncio.run(body())


def _unique_columns(db: database.Database, table: str) -> set[str]:
    """The columns that are unique by themselves."""
    found = set()
    for index in db.execute_sql(f"pragma index_list({table})").fetchall():
        columns = db.execute_sql(f"pragma index_info({index[1]})").fetchall()
        if index[2] and len(columns) == 1:
            found.add(columns[0][2])
    return found


def test_every_table_of_the_schema_has_a_model(folder: Path) -> None:
    async def body() -> None:
        async with opened(folder) as at:
            sql = "select name from sqlite_schema where type = 'table'"
            found = await at.store.read(lambda db: {r[0] for r in db.execute_sql(sql).fetchall()})
        own = {"schema_migration", "sqlite_sequence"}
        own |= {name for name in found if name.startswith("delivery_search")}
        assert found - own == {m._meta.table_name for m in MODELS}

    asyncio.run(body())
