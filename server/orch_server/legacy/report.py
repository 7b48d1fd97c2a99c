"""What an import tells: a table for people, and the same as data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from orch_server.core.text import printable
from orch_server.legacy.compare import Proof
from orch_server.legacy.plan import (
    ALREADY,
    CHANGED,
    DELETED,
    IMPORTABLE,
    IMPORTED,
    REFUSED,
    Count,
    Entry,
    Plan,
)

_SHOWN = 50
_CELL = 40
_LINE = 300
_WHOLE = 4096  # what is looked for elsewhere, or typed again, is not cut
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


def counted(number: int, what: str) -> str:
    """A number of things, such as "1 task" or "1,200 tasks"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def as_text(plan: Plan, outcome: Outcome, command: str) -> Iterator[str]:
    """The lines for a terminal; `command` is what does it after a dry run. What others wrote is
    shown on one line, without control characters."""
    warnings = plan.warnings()
    if plan.entries:
        rows = [_row(entry, warnings[entry.session]) for entry in plan.entries]
        yield from _table([_HEAD, *rows])
        yield ""
    yield _counts("directories", _directories(plan))
    for kind, count in plan.counts.items():
        if count.found:
            yield _counts(kind, count)
    others = [one for one in plan.refused if not one.where.startswith("projects/")]
    for one in others[:_SHOWN]:
        yield f"refused: {printable(one.where, _WHOLE)}: {printable(one.why, _LINE)}"
    yield from _more(len(others))
    for name, times in sorted(plan.unknown_fields().items())[:_SHOWN]:
        yield f"unknown field: {printable(name)}, {counted(times, 'time')}; kept as it is"
    for finding in plan.findings[:_SHOWN]:
        text = printable(finding.text, _LINE)
        yield f"warning: {printable(finding.record, _WHOLE)}: {text}"
    yield from _more(len(plan.findings))
    yield from _last(plan, outcome, command)


def _directories(plan: Plan) -> Count:
    found = Counter(entry.result for entry in plan.entries)
    already = found[ALREADY] + found[CHANGED]
    new = found[IMPORTABLE], found[IMPORTED]
    return Count(plan.source.found, *new, already, found[DELETED], found[REFUSED])


def _counts(kind: str, count: Count) -> str:
    """A line with how many were found, and what became of them."""
    new = ((count.importable, IMPORTABLE), (count.imported, IMPORTED))
    rest = ((count.already, ALREADY), (count.deleted, DELETED), (count.refused, REFUSED))
    said = (f"{number:,} {result}" for number, result in (*new, *rest) if number)
    return ", ".join((f"{kind}: {count.found:,} found", *said))


def _last(plan: Plan, outcome: Outcome, command: str) -> Iterator[str]:
    proof = outcome.proof
    if proof is not None:
        yield f"imported: {', '.join(_imported(plan))}"
        yield f"backup: {outcome.backup}"
        if outcome.database_backup:
            yield f"backup: {outcome.database_backup}"
        yield (
            f"proved: {counted(proof.records, 'record')}, {counted(proof.fields, 'field')} equal,"
            f" {proof.kept:,} kept"
            " as they were written"
        )
    elif plan.is_empty:
        yield "nothing is new; nothing was written"
    elif not outcome.executed:
        yield f"dry run; nothing was written. To do it: {printable(command, _WHOLE)}"


def _imported(plan: Plan) -> Iterator[str]:
    """What of each kind is new; also what no record of its own stood for."""
    yield counted(len(plan.told), "session")
    yield counted(len(plan.rows.get("agent", ())), "agent")
    yield counted(plan.counts["tasks"].imported, "task")
    yield counted(plan.counts["messages"].imported, "message")
    if rows := plan.counts["rows"].imported:
        yield counted(rows, "other row")


def _row(entry: Entry, warnings: int) -> tuple[str, ...]:
    result = entry.result
    if result in (REFUSED, CHANGED) or entry.why:
        result = entry.why if result == CHANGED else f"{result}: {entry.why}"
    elif result in (IMPORTABLE, IMPORTED) and warnings:
        result = f"{result}, {counted(warnings, 'warning')}"
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
