"""What an import tells: a table for people, and the same as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from orch_server.core.text import printable
from orch_server.legacy.compare import Proof
from orch_server.legacy.plan import CHANGED, IMPORTABLE, REFUSED, Entry, Plan

_SHOWN = 50
_CELL = 40
_LINE = 300
_HEAD = ("DIRECTORY", "SESSION", "AGENTS", "TASKS", "RESULT")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done; without `executed` nothing was. The paths are those of the backups, "" for
    none; `proof` is None when nothing was written."""

    executed: bool = False
    backup: str = ""
    database_backup: str = ""
    proof: Proof | None = None


def as_data(plan: Plan, outcome: Outcome) -> str:
    """One JSON object; any text in it is ASCII."""
    warnings = plan.warnings()
    return json.dumps(
        {
            "source": plan.source.root,
            "found": plan.source.found,
            "sessions": [{**asdict(e), "warnings": warnings[e.session]} for e in plan.entries],
            **{kind: asdict(count) for kind, count in plan.counts.items()},
            "refused": [asdict(one) for one in plan.refused],
            "findings": [asdict(one) for one in plan.findings],
            "unknown_fields": dict(plan.unknown_fields()),
            "daemons": list(plan.source.daemons),
            **asdict(outcome),
        },
        indent=2,
    )


def as_text(plan: Plan, outcome: Outcome) -> Iterator[str]:
    """The lines for a terminal. What others wrote is shown on one line, without control
    characters."""
    warnings = plan.warnings()
    if plan.entries:
        rows = [_row(entry, warnings[entry.session]) for entry in plan.entries]
        yield from _table([_HEAD, *rows])
        yield ""
    yield _first(plan)
    for kind, count in plan.counts.items():
        if count.found:
            already = f", {count.already:,} already there" if count.already else ""
            yield f"{kind}: {count.found:,} found, {count.importable:,} importable{already}"
    others = [one for one in plan.refused if not one.where.startswith("projects/")]
    for one in others[:_SHOWN]:
        yield f"refused: {printable(one.where, _CELL)}: {printable(one.why, _LINE)}"
    yield from _more(len(others))
    for name, times in sorted(plan.unknown_fields().items())[:_SHOWN]:
        yield f"unknown field: {printable(name)}, {times:,} times; kept as it is"
    for finding in plan.findings[:_SHOWN]:
        text = printable(finding.text, _LINE)
        yield f"warning: {printable(finding.record, _CELL)}: {text}"
    yield from _more(len(plan.findings))
    yield from _last(plan, outcome)


def _first(plan: Plan) -> str:
    sessions = sum(entry.result == IMPORTABLE for entry in plan.entries)
    refused = sum(entry.result == REFUSED for entry in plan.entries)
    already = len(plan.entries) - sessions - refused
    said = f"directories: {plan.source.found:,} found, {sessions:,} importable"
    said += f", {already:,} already there" if already else ""
    return f"{said}, {refused:,} refused" if refused else said


def _last(plan: Plan, outcome: Outcome) -> Iterator[str]:
    proof = outcome.proof
    if proof is not None:
        yield f"backup: {outcome.backup}"
        if outcome.database_backup:
            yield f"backup: {outcome.database_backup}"
        yield (
            f"proved: {proof.records:,} records, {proof.fields:,} fields equal, {proof.kept:,} kept"
            " as they were written"
        )
    elif plan.is_empty:
        yield "nothing is new; nothing was written"
    elif not outcome.executed:
        yield "dry run; nothing was written. 'orch-server import DIR --execute' does it"


def _row(entry: Entry, warnings: int) -> tuple[str, ...]:
    result = entry.result
    if result in (REFUSED, CHANGED) or entry.why:
        result = entry.why if result == CHANGED else f"{result}: {entry.why}"
    elif result == IMPORTABLE and warnings:
        result = f"{result}, {warnings} warning{'s' * (warnings > 1)}"
    shown = (printable(text, _CELL) for text in (entry.directory, entry.session or "-"))
    return (*shown, str(entry.agents), str(entry.tasks), printable(result, _LINE))


def _table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _more(count: int) -> Iterator[str]:
    if count > _SHOWN:
        yield f"and {count - _SHOWN:,} more; see --json"
