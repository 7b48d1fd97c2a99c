"""Writes a plan in one transaction, and proves it before the commit: what an export would say now
is compared with what was read, field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import tzinfo

from orch_server.core.errors import StartupError
from orch_server.legacy import compare
from orch_server.legacy.compare import Proof
from orch_server.legacy.layout import Fields, layout
from orch_server.legacy.plan import Plan
from orch_server.legacy.readback import exported
from orch_server.storage import imports
from orch_server.storage.exports import Snapshot, kept_values, snapshot
from orch_server.storage.store import Transaction

#: Written before what refers to them; the others come after in the order of imports.COLUMNS.
_LATE = ("imported", "legacy_value")
#: Names that stood outside of the records themselves.
_BESIDE = ("directory:", "key:")


def load(tx: Transaction, plan: Plan, source: str, backup: str, zone: tzinfo) -> Proof:
    """A unit of work. Raises StartupError, so that nothing is written, when the proof fails. `zone`
    is that of the old system's times."""
    run = imports.begin(tx, plan.now, source, backup, str(zone))
    for table in imports.COLUMNS:
        if table not in _LATE:
            imports.put(tx, table, plan.rows.get(table, ()))
    for session in plan.fills:
        imports.change(tx, session)
    for row in plan.takeovers:
        imports.take_over(tx, row)
    for name in plan.endings:
        imports.end(tx, name, plan.now)
    imports.see(tx, plan.seen)
    for asked, request_id, why in plan.waits:
        imports.wait(tx, asked, request_id, why)
    imports.put(tx, "imported", ((run, *one) for one in plan.imported))
    _tell(tx, plan)
    store = snapshot(tx.db)
    columns = layout(store, zone).fields
    kept = _keep(tx, plan, columns)
    proof = _prove(plan, replace(store, kept=kept_values(tx.db)), zone, kept)
    said = f"{len(plan.told)} sessions, {len(plan.created)} tasks, {len(plan.queued)} messages"
    imports.tell_done(tx, run, said)
    return proof


def _tell(tx: Transaction, plan: Plan) -> None:
    for name, detail in plan.told:
        imports.tell_session(tx, name, detail)
    for task, agent, session in plan.created:
        imports.tell_created(tx, task, agent, session)
    for delivery, agent, session, origin in plan.queued:
        imports.tell_queued(tx, delivery, agent, session, origin)


def _keep(tx: Transaction, plan: Plan, columns: Mapping[str, Fields]) -> int:
    """Keeps what the columns do not say as it was written; returns how many values."""
    lost = [record for record in plan.raw if record not in columns]
    if lost:
        raise _unproved(lost)
    values = [
        (session, *one)
        for record, (session, raw) in plan.raw.items()
        for one in compare.kept(record, raw, columns[record])
    ]
    imports.put(tx, "legacy_value", values)
    imports.put(tx, "legacy_value", ((*one, None) for one in plan.values))
    return len(values) + sum(not one[1].startswith(_BESIDE) for one in plan.values)


def _prove(plan: Plan, store: Snapshot, zone: tzinfo, kept: int) -> Proof:
    """Compares what was read with what an export says, which is written and read back. Names that
    stood outside of their records need not fit into a folder; they have to be kept."""
    raw: dict[str, Fields] = {record: dict(one) for record, (_, one) in plan.raw.items()}
    whole: dict[str, Fields] = {}
    for _, record, name, value in plan.values:
        whole.setdefault(record, {})[compare.field_name(name)] = json.loads(value)
    raw |= whole
    records = [record for record in raw if not record.startswith(_BESIDE)]
    beside = {
        record: compare.overlay({}, store.kept.get(record, ()))
        for record in raw.keys() - set(records)
    }
    found = compare.differences(raw, exported(store, zone, raw) | beside)
    if found:
        raise _unproved(found)
    return Proof(len(records), sum(len(raw[record]) for record in records), kept)


def _unproved(found: list[str]) -> StartupError:
    return StartupError(
        f"An export would not give back what was read ({compare.shown(found)}), so nothing was"
        " imported; please report this."
    )
