"""What the rows of the old system's queue mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_server.core.legacy import Finding, LegacyMessage, LegacySession, LegacyTask, Refused
from orch_server.core.legacy_parse import StateFile, parse_session
from orch_server.core.legacy_queue import contradictions, parse_message, parse_row, parse_task
from tests.legacy.samples import EPOCH, session_state, task

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2025, 9, 3, 12, 0, tzinfo=UTC)
NAME = "atlas-impl-2265b1f5"


def session_of(completion: str) -> LegacySession:
    file = StateFile("x", "projects/x", session_state(NAME, completion_status=completion), "")
    return parse_session(file, NAME, False, BERLIN, NOW).session


def note(**changed: Any) -> tuple[LegacyTask | Refused, list[Finding]]:
    findings: list[Finding] = []
    row = {"id": 7, **task(NAME, "tester", 3), **changed}
    return parse_task(row, BERLIN, NOW, findings), findings


def message(**changed: Any) -> tuple[LegacyMessage | Refused, list[Finding]]:
    findings: list[Finding] = []
    row = {"id": 9, "agent_id": f"{NAME}:2", "message": "hello", "enqueued_at": EPOCH, **changed}
    return parse_message(row, BERLIN, NOW, findings), findings


def test_a_note_keeps_its_meaning() -> None:
    found, findings = note()
    assert isinstance(found, LegacyTask)
    assert (found.every, found.disabled, found.note) == (
        timedelta(minutes=30),
        False,
        "Standard check-in",
    )
    assert found.next_at == datetime.fromtimestamp(EPOCH + 86_400, UTC)
    assert not findings


@pytest.mark.parametrize(
    ("changed", "field", "expected"),
    [
        ({"interval_minutes": 0}, "every", None),
        ({"interval_minutes": 1.5}, "every", timedelta(seconds=90)),
        ({"retry_count": -1}, "disabled", True),
        ({"retry_count": None}, "disabled", False),
        ({"agent_role": "Project Manager"}, "role", "project_manager"),
        ({"agent_role": "PM"}, "role", "project_manager"),
        ({"next_run": "2025-09-02 08:00:00"}, "next_at", datetime(2025, 9, 2, 8, 0, tzinfo=UTC)),
        ({"next_run": "2025-09-02T08:00:00"}, "next_at", datetime(2025, 9, 2, 6, 0, tzinfo=UTC)),
        ({"last_run": None}, "last_at", None),
        ({"note": "--flag $(x) 進捗\nline"}, "note", "--flag $(x) 進捗\nline"),
        ({"note": 42}, "note", "42"),
    ],
    ids=str,
)
def test_a_notes_columns_are_understood(
    changed: dict[str, Any], field: str, expected: object
) -> None:
    found, findings = note(**changed)
    assert getattr(found, field) == expected
    assert not findings


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"note": None}, "note is empty"),
        ({"note": " \n"}, "note is empty"),
        ({"note": "Check in (credit backoff)"}, "orch-client reschedule ID --every"),
        ({"note": "a\x1bb"}, "control characters"),
        ({"next_run": None}, "due at once"),
        ({"next_run": -1}, "no time"),
        ({"window_index": "x"}, "window_index"),
    ],
    ids=str,
)
def test_a_note_with_a_fault_is_read_and_told(changed: dict[str, Any], said: str) -> None:
    found, findings = note(**changed)
    assert isinstance(found, LegacyTask)
    assert said in "".join(finding.text for finding in findings)


@pytest.mark.parametrize(
    "changed",
    [
        {"interval_minutes": -5},
        {"interval_minutes": 10**9},
        {"interval_minutes": None},
        {"interval_minutes": "30"},
        {"interval_minutes": 0.001},
        {"session_name": None},
        {"session_name": "a:b"},
        {"agent_role": ""},
        {"agent_role": None},
        {"note": "x" * 300_000},
        {"note": "\x1b\x07"},
        {"note": {"base64": "eA=="}},
        {"id": None},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_note_that_cannot_be_sent_is_refused(changed: dict[str, Any]) -> None:
    found, findings = note(**changed)
    assert isinstance(found, Refused)
    assert not findings


def test_a_notes_key_does_not_depend_on_what_changes() -> None:
    keys = {
        found.key
        for found, _ in (
            note(),
            note(next_run=0.0, last_run=None, retry_count=2),
            note(note="Standard check-in (credit backoff)", interval_minutes=60),
        )
        if isinstance(found, LegacyTask)
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, (NAME, "2", "pending", 0)),
        ({"status": "pulled", "priority": 100}, (NAME, "2", "pulled", 100)),
        ({"status": "Delivered"}, (NAME, "2", "delivered", 0)),
        ({"status": "lost"}, (NAME, "2", "pulled", 0)),
        ({"agent_id": f"{NAME}:Project Manager"}, (NAME, "Project Manager", "pending", 0)),
        ({"agent_id": None, "agent_session": f"{NAME}:1"}, (NAME, "1", "pending", 0)),
        ({"agent_id": NAME}, (NAME, "0", "pending", 0)),
        ({"priority": 700}, (NAME, "2", "pending", 0)),
    ],
    ids=str,
)
def test_a_message_is_read(changed: dict[str, Any], expected: tuple[object, ...]) -> None:
    found, _ = message(**changed)
    assert isinstance(found, LegacyMessage)
    assert (found.session, found.window, found.state, found.priority) == expected


@pytest.mark.parametrize("changed", [{"agent_id": None}, {"agent_id": ":1"}, {"message": ""}])
def test_a_message_for_nobody_or_without_text_is_refused(changed: dict[str, Any]) -> None:
    assert isinstance(message(**changed)[0], Refused)


def test_the_queue_and_the_registry_are_compared() -> None:
    row = {"main_session": NAME, "status": "FAILED", "error_message": "timeout\nx"}
    rows = [parse_row("project_queue", "1", row), parse_row("agents", "1", row)]
    found = list(contradictions(rows, {NAME: session_of("pending")}))
    assert [finding.record for finding in found] == [f"session:{NAME}"]
    assert "the queue says failed (timeout?x), the registry pending" in found[0].text
    ended = session_of("failed")
    assert not list(contradictions(rows, {NAME: ended}))


@settings(max_examples=50, deadline=None)
@given(
    changed=st.dictionaries(
        st.sampled_from([*sorted(task(NAME, "x", 1)), "id", "agent_id", "message", "status"]),
        st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=9),
    )
)
def test_no_value_in_a_row_stops_the_reading(changed: dict[str, Any]) -> None:
    findings: list[Finding] = []
    row = {"id": 1, "agent_id": "a:1", "message": "x"} | task(NAME, "tester", 1) | changed
    assert parse_task(row, BERLIN, NOW, findings)
    assert parse_message(row, BERLIN, NOW, findings)
    assert parse_row("t", "1", row)
