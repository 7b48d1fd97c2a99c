"""Which delays make sense, and which tasks can be withdrawn."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orch_server.core.errors import Conflict, InvalidInput
from orch_server.core.schedule import MAX_DELAY, Task, TaskState, check_cancel, due_time

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TASK = Task("3fa8", "a1", "atlas", "developer", "x", NOW, TaskState.PENDING, "operator", NOW)


@pytest.mark.parametrize(
    "delay", [timedelta(0), timedelta(microseconds=1), timedelta(minutes=15), MAX_DELAY]
)
def test_a_sensible_delay_is_added_to_now(delay: timedelta) -> None:
    assert due_time(NOW, delay) == NOW + delay


@pytest.mark.parametrize(
    "delay",
    [
        timedelta(microseconds=-1),
        timedelta(days=-1),
        MAX_DELAY + timedelta(microseconds=1),
        timedelta.max,
        timedelta.min,
    ],
)
def test_other_delays_are_refused(delay: timedelta) -> None:
    with pytest.raises(InvalidInput) as caught:
        due_time(NOW, delay)
    assert caught.value.field == "delay"
    assert "527,040 minutes (366 days)" in caught.value.message


def test_only_a_pending_task_can_be_withdrawn() -> None:
    check_cancel(TASK)
    with pytest.raises(Conflict, match="already fired"):
        check_cancel(replace(TASK, state=TaskState.FIRED))
    with pytest.raises(Conflict, match="already cancelled"):
        check_cancel(replace(TASK, state=TaskState.CANCELLED))
