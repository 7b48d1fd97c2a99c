"""The tables of docs/reference/agent-state.md say what the code does."""

from __future__ import annotations

import re

import pytest

from orch_server.core.agent_state import (
    AgentState,
    Exit,
    HookReport,
    told_by_exit,
    told_by_hook,
)
from tests.docs.markdown import DOCS

PAGE = (DOCS / "reference" / "agent-state.md").read_text()
OTHER = "something_else"


def _rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    text = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def _words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_state_has_its_row() -> None:
    assert [_words(row[0]) for row in _rows("States")] == [[state] for state in AgentState]


@pytest.mark.parametrize("row", _rows("From hooks"), ids=" ".join)
def test_a_hook_tells_what_its_row_says(row: list[str]) -> None:
    event, details, told = row
    state = AgentState(_words(told)[0]) if _words(told) else None
    for detail in _words(details) or [OTHER]:
        report = HookReport((_words(event) or ["PreToolUse"])[0], detail=detail)
        assert told_by_hook(report, AgentState.WORKING) is state


@pytest.mark.parametrize("row", _rows("From an exit")[:3], ids=" ".join)
def test_an_exit_tells_what_its_row_says(row: list[str]) -> None:
    numbers = [int(n) for n in re.findall(r"\d+", row[0])] or [1, 2, 137]
    for status in numbers:
        state, _ = told_by_exit(Exit(status, 0, None, False))
        assert state == _words(row[1])[0]
