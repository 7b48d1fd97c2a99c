"""`orch-server import` and `orch-server export`: the way here from the old system, and back."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
from contextlib import closing
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import apsw
from peewee import PeeweeException

from orch_server import config
from orch_server.config import Settings
from orch_server.core.clock import SystemClock
from orch_server.core.errors import Conflict, InvalidInput, NotFound, StartupError
from orch_server.core.legacy import Finding, Source
from orch_server.core.text import printable
from orch_server.legacy import backup, report
from orch_server.legacy.build import plan
from orch_server.legacy.compare import Proof
from orch_server.legacy.export import export
from orch_server.legacy.load import load
from orch_server.legacy.plan import Plan
from orch_server.legacy.read import read
from orch_server.legacy.report import Outcome
from orch_server.local_zone import find_zone, local_zone
from orch_server.locks import held
from orch_server.storage import database
from orch_server.storage.exports import Snapshot, snapshot
from orch_server.storage.imports import Known, known, known_at
from orch_server.storage.store import Store

_OLDER = (
    "The database here is of an earlier version, or in use in a way that cannot be read without"
    " writing; what of this is there already cannot be told."
)
_NO_ZONE = (
    "This machine's time zone has no name that is known here, and the old system's times need it;"
    " name it: TZ=Europe/Berlin orch-server import …"
)


def run_import(args: argparse.Namespace) -> int:
    """Reads the old system and shows what there is; writes it, when told to. Returns the exit
    status. Raises NotFound when the directory holds no old system, Conflict while the server runs,
    StartupError when nothing could be written, or in which zone its times are cannot be told."""
    settings = config.load(args.home)
    clock = SystemClock()
    zone, unknown = find_zone(clock.now())
    if unknown and args.execute:
        raise StartupError(_NO_ZONE)
    source = _read(Path(args.directory), zone, clock.now())
    if unknown:
        told = Finding("time zone", f"Local times are taken as UTC. {_NO_ZONE}")
        source = replace(source, findings=(told, *source.findings))
    for daemon in source.daemons:
        print(
            f"orch-server: WARNING: the old system still runs and may change what is read:"
            f" {printable(daemon, 200)}; end it first.",
            file=sys.stderr,
        )
    if args.execute:
        made, outcome = _execute(settings, source, zone, clock)
    else:
        made, outcome = _look(settings, source, clock.now()), Outcome()
    if args.json:
        print(report.as_data(made, outcome))
    else:
        for line in report.as_text(made, outcome, _command(args, bool(unknown))):
            print(line)
    return int(made.failed)


def run_export(args: argparse.Namespace) -> int:
    """Writes the old system's files. Raises NotFound without a database, Conflict when the folder
    is not empty, StartupError when something cannot be read or written."""
    settings = config.load(args.home)
    zone = local_zone(SystemClock().now())
    target = Path(args.directory).absolute()
    written = export(_snapshot(settings.database), target, zone)
    if args.json:
        print(json.dumps({**asdict(written), "directory": str(target)}))
    else:
        sessions = report.counted(written.sessions, "session")
        tasks = report.counted(written.tasks, "task")
        messages = report.counted(written.messages, "message")
        print(f"{sessions}, {tasks} and {messages} written to {target}")
    return 0


def _command(args: argparse.Namespace, needs_zone: bool) -> str:
    home = ("--home", args.home) if args.home else ()
    command = shlex.join(("orch-server", "import", args.directory, "--execute", *home))
    return f"TZ=REGION/CITY {command}" if needs_zone else command


def _read(directory: Path, zone: ZoneInfo, now: datetime) -> Source:
    try:
        return read(directory, zone, now)
    except InvalidInput as exc:
        raise NotFound(exc.message) from exc


def _look(settings: Settings, source: Source, now: datetime) -> Plan:
    """The plan, beside a database that is only read."""
    there = known_at(settings.database)
    made = plan(source, there or Known(), settings.policy, now)
    if there is None:
        made.findings.insert(0, Finding("database", _OLDER))
    return made


def _execute(
    settings: Settings, source: Source, zone: ZoneInfo, clock: SystemClock
) -> tuple[Plan, Outcome]:
    os.umask(0o077)
    config.check_home(settings)
    running = Conflict(
        f"The server runs on {settings.home}; stop it first, then import, then start it again."
    )
    with held(settings, running):
        return asyncio.run(_written(settings, source, zone, clock))


async def _written(
    settings: Settings, source: Source, zone: ZoneInfo, clock: SystemClock
) -> tuple[Plan, Outcome]:
    """Backup, one transaction, proof. What is not new is not written again."""
    existed = settings.database.exists()
    store = Store(settings.database, clock, lambda _events: None)
    await store.open()
    try:
        there = await store.read(known)
        made = plan(source, there, settings.policy, clock.now())
        if made.is_empty:
            return made, Outcome(executed=True)
        stamp = clock.now().strftime("%Y%m%dT%H%M%S.%fZ")
        tar = settings.backups / f"import-{stamp}.tar"
        await asyncio.to_thread(backup.write, source, tar)
        ours = settings.backups / f"before-import-{stamp}.db" if existed else None
        if ours is not None:
            await _back_up(store, ours)
        unit = partial(load, plan=made, source=source.root, backup=str(tar), zone=zone)
        proof: Proof = await store.write(unit)
        made.done()
        return made, Outcome(True, str(tar), str(ours or ""), proof)
    finally:
        await store.close()


async def _back_up(store: Store, target: Path) -> None:
    try:
        await store.read(lambda db: database.backup(db, target))
    except OSError as exc:
        raise StartupError(
            f"The backup {target} could not be made ({exc}), so nothing was imported."
        ) from exc


def _snapshot(path: Path) -> Snapshot:
    if not path.exists():
        raise NotFound(f"There is no database {path}; --home names another folder.")
    try:
        with closing(database.reader(path)) as db:
            db.connect()
            db.execute_sql("begin").fetchall()
            return snapshot(db)
    except (apsw.Error, PeeweeException) as exc:
        raise StartupError(
            f"The database {path} cannot be read ({exc}); when it is of an earlier version, start"
            " the server once."
        ) from exc
