"""`orch-server import` and `export` as processes: exit statuses, other processes, sudden deaths."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import apsw
import pytest

from tests.legacy.parts import DATA, listing, states
from tests.legacy.samples import session_state, write_registry, write_state
from tests.support import BIN, Home, Server, hold, until


@pytest.fixture
def home() -> Iterator[Home]:
    made = Home()
    yield made
    made.remove()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old"


def _start(home: Home, *args: str | Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "orch-server"), *map(str, args)],
        env=home.env() | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(home: Home, *args: str | Path) -> tuple[int, str, str]:
    """The exit status, what it printed and what it complained of."""
    process = _start(home, *args)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def _count(home: Home, *tables: str) -> tuple[int, ...]:
    """How many rows there are; 0 while there is no such table."""
    path = home.path / "orch.db"
    if not path.exists():
        return tuple(0 for _ in tables)
    with closing(apsw.Connection(str(path))) as db:
        names = {name for (name,) in db.execute("select name from sqlite_schema")}
        return tuple(
            db.execute(f"select count(*) from {table}").get if table in names else 0
            for table in tables
        )


def test_people_get_a_table_and_a_proof(home: Home) -> None:
    status, out, err = _run(home, "import", DATA, "--execute")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].split() == ["DIRECTORY", "SESSION", "AGENTS", "TASKS", "RESULT"]
    assert "refused: empty (0 bytes)" in out
    assert "unknown field: session.not_a_known_field, 1 time;" in out
    assert "importable" not in out
    assert "\nimported: 9 sessions, 56 agents, 25 tasks, 0 messages, 7 other rows\n" in out
    assert "warning: agent:billing-service-impl-5fec898f:devops: " in out
    assert "proved: 97 records" in out
    backup = Path(out.split("backup: ")[1].splitlines()[0])
    assert backup.stat().st_mode & 0o777 == 0o600
    with tarfile.open(backup) as tar:
        held = {i.name: tar.extractfile(i).read() for i in tar}  # type: ignore[union-attr]
    files = {str(p.relative_to(DATA)): p.read_bytes() for p in DATA.rglob("*") if p.is_file()}
    assert held == files


def test_while_the_server_runs_nothing_is_imported_but_all_can_be_looked_at(home: Home) -> None:
    server = Server(home).start()
    try:
        status, _, err = _run(home, "import", DATA, "--execute")
        assert status == 6
        assert f"The server runs on {home.path}; stop it first" in err
        status, out, _ = _run(home, "import", DATA, "--json")
        assert status == 0
        assert {s["result"] for s in json.loads(out)["sessions"]} == {"importable", "refused"}
        target = home.path / "orch-out"
        status, out, _ = _run(home, "export", target, "--json")
        assert status == 0
        assert json.loads(out) == {
            "sessions": 0,
            "tasks": 0,
            "messages": 0,
            "directory": str(target),
        }
    finally:
        server.end()


def test_a_folder_of_something_else_is_not_found(home: Home, tmp_path: Path) -> None:
    status, out, err = _run(home, "import", tmp_path)
    assert (status, out) == (4, "")
    assert "holds neither registry/ nor task_queue.db" in err


def test_no_projects_are_no_failure_and_nothing_but_refused_ones_are(home: Home, old: Path) -> None:
    write_registry(old, 0)
    status, out, _ = _run(home, "import", old)
    assert status == 0
    assert "directories: 0 found" in out
    shutil.rmtree(old)
    write_state(old, "broken", "{")
    status, out, _ = _run(home, "import", old, "--execute")
    assert status == 1
    assert "1 refused" in out


def test_the_command_that_is_named_does_it(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "old system's ünïcode"
    write_state(folder, "atlas", session_state("atlas-impl-1"))
    other = tmp_path / "a home"
    _, out, _ = _run(home, "import", folder, "--home", other)
    command = out.split("nothing was written. To do it: ")[1]
    program, *args = shlex.split(command)
    assert program == "orch-server"
    status, out, err = _run(home, *args)
    assert (status, err) == (0, "")
    assert "directories: 1 found, 1 imported\n" in out
    assert (other / "orch.db").exists()


def test_a_locale_without_the_characters_stops_nothing(home: Home) -> None:
    process = _start(home, "import", DATA, "--execute", PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "?n?code-projekt" in out
    assert "proved: " in out


@pytest.mark.parametrize("zone", ["CET-1CEST,M3.5.0,M10.5.0/3", "EST5EDT", "Europe/Berln"])
def test_in_a_zone_without_a_known_name_it_is_only_looked_at(
    home: Home, old: Path, zone: str
) -> None:
    write_state(old, "atlas", session_state("atlas-impl-1"))
    process = _start(home, "import", old, "--json", TZ=zone)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    first = json.loads(out)["findings"][0]
    assert first["record"] == "time zone"
    assert "TZ=Europe/Berlin orch-server import" in first["text"]
    process = _start(home, "import", old, "--execute", TZ=zone)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert "TZ=Europe/Berlin orch-server import" in err
    assert _count(home, "session") == (0,)


def test_an_old_daemon_that_runs_is_told_of_aloud(home: Home, old: Path) -> None:
    write_state(old, "atlas", session_state("atlas-impl-1"))
    script = old / "scheduler.py"
    script.write_text("import sys; print('up', flush=True); sys.stdin.read()")
    daemon = subprocess.Popen(
        [sys.executable, str(script), "--daemon"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "up\n"
        status, out, err = _run(home, "import", old, "--json")
        assert status == 0
        assert (
            f"WARNING: the old system still runs and may change what is read: process {daemon.pid}"
            in err
        )
        assert any(str(daemon.pid) in line for line in json.loads(out)["daemons"])
    finally:
        daemon.kill()
        daemon.communicate()


@pytest.mark.parametrize("after", [0.02, 0.15])
def test_killed_at_any_moment_it_has_written_all_or_nothing(
    home: Home, old: Path, after: float
) -> None:
    write_registry(old, 150, tasks=2)
    before = list(listing(old))
    process = _start(home, "import", old, "--execute")
    try:
        backups = home.path / "backups"
        until(lambda: list(backups.glob("import-*.tar")) or process.poll() is not None, "a backup")
        hold(after)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()
    tables = ("session", "agent", "task", "import_run")
    assert _count(home, *tables) in {(0, 0, 0, 0), (150, 1050, 300, 1)}
    status, _, err = _run(home, "import", old, "--execute")
    assert (status, err) == (0, "")
    assert _count(home, *tables) == (150, 1050, 300, 1)
    assert list(listing(old)) == before


def test_an_export_goes_into_a_new_folder_alone(home: Home, tmp_path: Path) -> None:
    status, _, err = _run(home, "export", tmp_path / "out")
    assert status == 4
    assert "There is no database" in err
    assert _run(home, "import", DATA, "--execute")[0] == 0
    (tmp_path / "mine").write_text("kept")
    status, _, err = _run(home, "export", tmp_path)
    assert status == 6
    assert "is not empty" in err
    for there in ("mine", "mine/below"):
        status, _, err = _run(home, "export", tmp_path / there)
        assert status == 6
        assert "is no folder" in err
        assert "remove" not in err
    status, _, err = _run(home, "export", os.fsdecode(bytes(tmp_path) + b"/\xff"))
    assert (status, err.count("\n")) == (1, 1)
    assert "is not UTF-8" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    status, out, _ = _run(home, "export", tmp_path / "out")
    assert status == 0
    assert out == f"9 sessions, 25 tasks and 0 messages written to {tmp_path / 'out'}\n"
    assert len(states(tmp_path / "out")) == 9
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "out").rglob("*")}
    assert modes == {0}
