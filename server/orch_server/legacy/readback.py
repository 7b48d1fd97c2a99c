"""Reads an export back, to be compared with what was imported: the files, not what made them."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import tzinfo
from pathlib import Path
from typing import Any

import apsw

from orch_server.core.errors import StartupError
from orch_server.legacy import ddl
from orch_server.legacy.export import QUEUE, Place, agent_keys, state_files, write
from orch_server.legacy.layout import Fields
from orch_server.storage.exports import Snapshot


def exported(store: Snapshot, zone: tzinfo, raw: Mapping[str, Fields]) -> dict[str, Fields]:
    """What an export says of each record of sessions and agents, and of those of the queue in
    `raw`: it is written into a private folder, read back and removed.

    Raises StartupError when it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="orch-import-") as private:
            target = Path(private) / "export"
            _, places = write(store, target, zone)
            return _states(store, target) | _rows(target / QUEUE, places, raw)
    except (OSError, StartupError) as exc:
        raise StartupError(
            f"The proof could not be made: {exc} So nothing was imported; TMPDIR may name another"
            " folder for it."
        ) from exc


def _states(store: Snapshot, target: Path) -> dict[str, Fields]:
    found: dict[str, Fields] = {}
    for name, path in state_files(store, target):
        state = json.loads(path.read_bytes())
        agents = state.pop("agents")
        roles = [agent.role for agent in store.agents.get(name, [])]
        found[f"session:{name}"] = state
        for role, key in zip(roles, agent_keys(name, roles, store), strict=True):
            found[f"agent:{name}:{role}"] = agents.get(key, {})
    return found


def _rows(path: Path, places: Mapping[str, Place], raw: Mapping[str, Fields]) -> dict[str, Fields]:
    """The fields as `raw` names them, since SQLite does not tell a from A."""
    found: dict[str, Fields] = {}
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        tables = {table: _table(db, table) for table in {place.table for place in places.values()}}
    for record, place in places.items():
        if record not in raw:
            continue
        row = tables[place.table].get(place.number, {})
        names = ((name, ddl.folded(name)) for name in raw[record])
        found[record] = {name: row[folded] for name, folded in names if folded in row}
        if not place.has_own_id and "id" in raw[record]:  # another row of the export has that id
            found[record]["id"] = raw[record]["id"]
    return found


def _table(db: apsw.Connection, table: str) -> dict[int, Fields]:
    """The rows of a table by their number, each with its fields by `ddl.folded`."""
    named = db.execute("select name from pragma_table_info(?) order by cid", (table,)).fetchall()
    names = [str(name) for (name,) in named]
    low = [ddl.folded(name) for name in names]
    number = next((name for name in ("_rowid_", "oid") if name not in low), "rowid")
    sql = f"select {number}, {ddl.listed(names)} from {ddl.quoted(table)}"  # noqa: S608 - quoted
    return {row[0]: dict(zip(low, map(_value, row[1:]), strict=True)) for row in db.execute(sql)}


def _value(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
