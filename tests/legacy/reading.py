"""Reads an old system for a test, at one time and in one zone, and tells what came of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from orch_server.core.legacy import Source
from orch_server.legacy.read import read

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def reading(folder: Path) -> Source:
    return read(folder, BERLIN, NOW)


def reasons(source: Source) -> dict[str, str]:
    return {refused.where: refused.why for refused in source.refused}


def findings(source: Source) -> str:
    return "\n".join(f"{finding.record}: {finding.text}" for finding in source.findings)


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that lies below a folder, with its times."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in [folder, *sorted(folder.rglob("*"))]
    }
