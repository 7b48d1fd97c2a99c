"""From rows of task_queue.db to notes, messages and rows that are only kept.

A row is a dict from column to value as JSON has it; any column may be missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any

from orch_server.core.errors import InvalidInput
from orch_server.core.legacy import (
    Finding,
    LegacyMessage,
    LegacyRow,
    LegacySession,
    LegacyTask,
    Raw,
    Refused,
)
from orch_server.core.legacy_fields import Fields, read_role
from orch_server.core.legacy_json import kind
from orch_server.core.session import Completion
from orch_server.core.text import MAX_TEXT_BYTES, check_name, clean_text, printable

_CHECK_IN = "Standard check-in"
_BACK_OFF = " (credit backoff)"
_LONGEST_INTERVAL = 366 * 24 * 60  # minutes
_GIVEN_UP = -1
_MAX_ID = 2**63 - 1
_STATES = frozenset({"pending", "pulled", "delivered"})
_ENDED = {
    "completed": Completion.COMPLETED,
    "failed": Completion.FAILED,
    "permanently_failed": Completion.FAILED,
}


def parse_task(
    raw: Raw, zone: tzinfo, now: datetime, findings: list[Finding]
) -> LegacyTask | Refused:
    """A row of `tasks`. A note that cannot be sent is refused: without a session, a role, or an
    interval that makes sense."""
    told: list[Finding] = []
    fields = Fields(f"task:{printable(str(raw.get('id')), 20)}", raw, zone, told)
    try:
        found = _task(fields, now)
    except InvalidInput as exc:
        return Refused(fields.record, exc.message)
    findings.extend(told)
    return found


def _task(fields: Fields, now: datetime) -> LegacyTask:
    raw = fields.raw
    next_at, created = fields.time("next_run"), fields.time("created_at")
    if next_at is None:
        fields.tell("next_run is not known; it is due at once")
    return LegacyTask(
        id=_id(fields),
        # Not of its note, which the old system changed when credit ran out.
        key=_key(raw, ("id", "session_name", "agent_role", "created_at")),
        session=_session(raw.get("session_name")),
        role=read_role(raw.get("agent_role")),
        window_index=fields.whole("window_index", 0) or 0,
        note=_note(fields),
        every=_every(fields),
        next_at=next_at or now,
        last_at=fields.time("last_run"),
        created_at=created or min(next_at or now, now),
        disabled=raw.get("retry_count") == _GIVEN_UP,
        raw=raw,
    )


def _every(fields: Fields) -> timedelta | None:
    """How often it repeats; None for once. Raises InvalidInput for what is no interval."""
    minutes = fields.raw.get("interval_minutes")
    if (
        isinstance(minutes, bool)
        or not isinstance(minutes, int | float)
        or not 0 <= minutes <= _LONGEST_INTERVAL
        or 0 < minutes < 1 / 60
    ):
        said = printable(str(minutes), 40)
        raise InvalidInput(
            "interval_minutes",
            f"its interval is {said} minutes; only 0 (once) to {_LONGEST_INTERVAL:,} make sense",
        )
    return timedelta(minutes=minutes) if minutes else None


def _note(fields: Fields) -> str:
    value = fields.raw.get("note")
    if value is None or (isinstance(value, str) and not value.strip()):
        fields.tell(f"its note is empty; '{_CHECK_IN}' is sent, as the old system did")
        return _CHECK_IN
    note, removed = clean_text("note", _words("note", value), MAX_TEXT_BYTES)
    if removed:
        fields.tell("its note holds control characters; sent without them")
    if note.endswith(_BACK_OFF):
        fields.tell(
            "the old system doubled its interval when credit ran out, and never set it back;"
            " set it with: orch-client reschedule ID --every DURATION"
        )
    return note


def parse_message(
    raw: Raw, zone: tzinfo, now: datetime, findings: list[Finding]
) -> LegacyMessage | Refused:
    """A row of `message_queue`. A message without text or agent is refused."""
    told: list[Finding] = []
    fields = Fields(f"message:{printable(str(raw.get('id')), 20)}", raw, zone, told)
    try:
        found = _message(fields, now)
    except InvalidInput as exc:
        return Refused(fields.record, exc.message)
    findings.extend(told)
    return found


def _message(fields: Fields, now: datetime) -> LegacyMessage:
    raw = fields.raw
    agent = agent_of(raw)
    session, colon, window = agent.rpartition(":") if ":" in agent else (agent, "", "")
    if not colon or not window:
        fields.tell("names no window; it goes to window 0")
    text, removed = clean_text("message", _words("message", raw.get("message")), MAX_TEXT_BYTES)
    if removed:
        fields.tell("its text holds control characters; sent without them")
    queued = fields.time("enqueued_at")
    if queued is None:
        fields.tell("enqueued_at is not known; the time of this import is used")
    return LegacyMessage(
        id=_id(fields),
        key=_key(raw, ("id", "agent_id", "agent_session", "message", "enqueued_at")),
        session=_session(session),
        window=window or "0",
        text=text,
        priority=fields.whole("priority", 0, top=100) or 0,
        state=_state(fields),
        queued_at=queued or now,
        delivered_at=fields.time("delivered_at"),
        raw=raw,
    )


def _state(fields: Fields) -> str:
    """Its state; an unknown one counts as pulled, so that nothing is sent twice."""
    said = fields.raw.get("status")
    if said is None:
        return "pending"
    state = said.strip().lower() if isinstance(said, str) else ""
    if state in _STATES:
        return state
    fields.tell(f"its status is '{printable(str(said), 40)}'; it counts as pulled")
    return "pulled"


def parse_row(table: str, key: str, raw: Raw) -> LegacyRow:
    """A row of any other table, with the session it names. Its record has the table's name with
    "%25" for "%" and "%3A" for ":"."""
    named = (raw.get("main_session"), raw.get("session_name"), agent_of(raw).rpartition(":")[0])
    session = next((name for name in named if isinstance(name, str) and name), "")
    safe = table.replace("%", "%25").replace(":", "%3A")
    return LegacyRow(f"{safe}:{key}", session, raw)


def agent_of(raw: Raw) -> str:
    """The agent that a row names as "session:window", "" when it names none."""
    named = (raw.get("agent_id"), raw.get("agent_session"))
    return next((name for name in named if isinstance(name, str) and name), "")


def contradictions(
    rows: Iterable[LegacyRow], sessions: Mapping[str, LegacySession]
) -> Iterator[Finding]:
    """Where the queue says that a project has ended and the registry that it has not."""
    for row in rows:
        session = sessions.get(row.session)
        status = row.raw.get("status")
        if not row.record.startswith("project_queue:") or session is None:
            continue
        said = _ENDED.get(status.strip().lower()) if isinstance(status, str) else None
        if said and session.session.completion is Completion.PENDING:
            error = row.raw.get("error_message")
            why = f" ({printable(error)})" if isinstance(error, str) and error else ""
            yield Finding(
                session.record,
                f"the queue says {said.value.lower()}{why}, the registry pending; the registry's"
                " word is kept",
            )


def _id(fields: Fields) -> int:
    found = fields.whole("id", None, top=_MAX_ID)
    if found is None:
        raise InvalidInput("id", "it has no id")
    return found


def _session(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput("session_name", f"its session's name is {kind(value)}, not text")
    return check_name("session_name", value)


def _words(field: str, value: object) -> str:
    """Text; a number is what it looks like."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InvalidInput(field, f"its {field} is {kind(value)}, not text")


def _key(raw: Raw, columns: tuple[str, ...]) -> str:
    values: list[Any] = [raw.get(column) for column in columns]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
