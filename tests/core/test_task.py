"""Which tasks may be made, changed, paused and resumed."""

from __future__ import annotations

import pytest

from orch_server.core.errors import Conflict, LimitReached, RepeatedNote
from orch_server.core.task import (
    OPEN,
    SAME_OPEN,
    SAME_RECENT,
    Standing,
    TaskState,
    admit,
    check_open,
    check_pause,
    check_resume,
    note_key,
)

NOTHING = Standing(0, 0, 0, "", "")


@pytest.mark.parametrize("state", list(TaskState))
def test_what_is_over_cannot_be_changed(state: TaskState) -> None:
    if state in OPEN:
        check_open("abc", state)
        return
    for check in (check_open, check_pause, check_resume):
        with pytest.raises(Conflict, match="abc"):
            check("abc", state)


def test_a_pause_is_begun_and_ended_once() -> None:
    check_pause("abc", TaskState.PENDING)
    check_resume("abc", TaskState.PAUSED)
    with pytest.raises(Conflict, match="paused already"):
        check_pause("abc", TaskState.PAUSED)
    with pytest.raises(Conflict, match="not paused"):
        check_resume("abc", TaskState.PENDING)


def test_an_agent_has_as_many_tasks_as_it_may_have() -> None:
    admit("atlas:dev", Standing(9, 0, 0, "", ""), repeats=False, most=10)
    with pytest.raises(LimitReached, match="10 open tasks") as caught:
        admit("atlas:dev", Standing(10, 0, 0, "", ""), repeats=False, most=10)
    assert caught.value.metadata["field"] == "target"


@pytest.mark.parametrize(
    ("standing", "repeats", "earlier"),
    [
        (Standing(1, 1, 1, "abc", "abc"), True, "abc"),
        (Standing(1, 1, 1, "abc", "abc"), False, ""),
        (Standing(1, 1, 1, "abc", ""), True, ""),
        (Standing(5, SAME_OPEN - 1, 5, "abc", ""), False, ""),
        (Standing(5, SAME_OPEN, 5, "abc", ""), False, "abc"),
        (Standing(0, 0, SAME_RECENT - 1, "abc", ""), False, ""),
        (Standing(0, 0, SAME_RECENT, "abc", ""), False, "abc"),
    ],
)
def test_the_same_note_again_and_again_is_a_loop(
    standing: Standing, repeats: bool, earlier: str
) -> None:
    if not earlier:
        admit("atlas:dev", standing, repeats, most=1000)
        return
    with pytest.raises(RepeatedNote, match=earlier) as caught:
        admit("atlas:dev", standing, repeats, most=1000)
    assert caught.value.metadata == {"field": "note", "task_id": earlier}


def test_notes_are_told_apart() -> None:
    assert note_key("a") == note_key("a") != note_key("b")
    assert 0 <= note_key("x") < 2**63
