"""What the tests of the import use: the real commands, in this process, on homes of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from orch_server import cli
from tests.legacy.samples import write_state

DATA = Path(__file__).parent / "data"


class Place:
    """An old system, a home and folders for exports, all below one folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.old = folder / "old"
        self.old.mkdir()
        self.home = folder / "home"
        self.status = 0
        self.err = ""
        self._capsys = capsys

    @property
    def database(self) -> Path:
        return self.home / "orch.db"

    def command(self, *args: str | Path, home: Path | None = None) -> str:
        """Runs `orch-server …`; returns what it printed."""
        before = os.umask(0o022)
        try:
            self.status = cli.main([*map(str, args), "--home", str(home or self.home)])
        finally:
            os.umask(before)
        out, self.err = self._capsys.readouterr()
        return out

    def bring(self, *flags: str, source: Path | None = None) -> dict[str, Any]:
        """Imports, and returns what --json says."""
        told: dict[str, Any] = json.loads(
            self.command("import", source or self.old, "--json", *flags)
        )
        return told

    def export(self, name: str = "out") -> Path:
        """Exports into a new folder."""
        target = self.folder / name
        self.command("export", target)
        assert self.status == 0, self.err
        return target

    def state(self, directory: str, state: object) -> None:
        """Writes a session_state.json of the old system."""
        write_state(self.old, directory, state)

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """What the store says."""
        with closing(apsw.Connection(str(self.database))) as db:
            return db.execute(sql, params).fetchall()

    def dump(self) -> list[tuple[Any, ...]]:
        """All rows of all tables."""
        names = self.rows("select name from sqlite_schema where type = 'table' order by name")
        return [
            (name, *row)
            for (name,) in names
            if not name.startswith(("sqlite_", "delivery_search"))
            for row in self.rows(f'select * from "{name}"')
        ]


def states(folder: Path) -> dict[str, dict[str, Any]]:
    """The whole session files below a folder, by directory."""
    found = {}
    for path in sorted((folder / "registry" / "projects").glob("*/session_state.json")):
        try:
            found[path.parent.name] = json.loads(path.read_text())
        except ValueError:
            continue
    return found


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a table of task_queue.db."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    uri = f"{(folder / 'task_queue.db').as_uri()}?immutable=1"
    with closing(apsw.Connection(uri, flags=flags)) as db:
        if not db.execute("select 1 from sqlite_schema where name = ?", (name,)).fetchall():
            return []
        cursor = db.execute(f'select * from "{name}"')
        rows = cursor.fetchall()
        columns = [row[1] for row in db.execute(f'pragma table_info("{name}")')]
    return [dict(zip(columns, row, strict=True)) for row in rows]


def listing(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Every file with its size and when it was changed."""
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        yield str(path), status.st_size, status.st_mtime_ns
