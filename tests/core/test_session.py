"""Changing a session and what is known of an agent; phases, and what a dependency may be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orch_server.core.errors import AlreadyExists, InvalidInput, LimitReached, VersionMismatch
from orch_server.core.session import (
    DETAILS,
    MAX_PHASES,
    MUTABLE,
    NO_DETAIL,
    AgentDetail,
    CompletedPhase,
    Phase,
    Session,
    check_dependencies,
    check_line,
    check_version,
    complete,
    update,
    update_detail,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
OLD = Session("atlas", NOW, NOW, version=3, project_name="Atlas", parent_branch="main")


def test_only_the_fields_of_the_mask_change() -> None:
    changes: dict[str, object] = {"phase": Phase.REVIEW, "project_name": "never"}
    new = update(OLD, changes, ("phase",), expected=3, now=LATER)
    assert (new.phase, new.project_name, new.parent_branch) == (Phase.REVIEW, "Atlas", "main")
    assert (new.version, new.created_at, new.updated_at) == (4, NOW, LATER)
    assert OLD.version == 3


def test_a_field_of_the_mask_can_be_emptied() -> None:
    assert update(OLD, {"project_name": ""}, ("project_name",), 0, LATER).project_name == ""


@pytest.mark.parametrize("path", sorted(set(MUTABLE) - {"role_dependencies"}))
def test_each_mutable_field_can_be_changed_alone(path: str) -> None:
    changed = update(OLD, {path: "new"}, (path,), 0, LATER)
    assert getattr(changed, path) == "new"


@pytest.mark.parametrize(
    "path", ["name", "version", "created_at", "updated_at", "agents", "__class__", "", "*", "Phase"]
)
def test_other_fields_are_refused_with_the_list_of_those_that_can(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        update(OLD, {path: "x", "phase": Phase.IDLE}, ("phase", path), 0, LATER)
    assert caught.value.field == "update_mask"
    assert "specification_path" in caught.value.message


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        update(OLD, {}, (), 0, LATER)


@pytest.mark.parametrize("expected", [1, 2, 4, -3])
def test_another_version_is_refused_and_the_present_one_is_told(expected: int) -> None:
    with pytest.raises(VersionMismatch) as caught:
        update(OLD, {"phase": Phase.IDLE}, ("phase",), expected, LATER)
    assert caught.value.metadata == {"current_version": "3"}


@pytest.mark.parametrize("expected", [0, 3])
def test_no_version_and_the_present_one_are_taken(expected: int) -> None:
    check_version(OLD, expected)


# ---- agents ----


@pytest.mark.parametrize("path", DETAILS)
def test_each_field_of_an_agent_can_be_changed_alone(path: str) -> None:
    wanted = AgentDetail(0, 1, "w", NOW, "/w", "b", "c")
    changed = update_detail(AgentDetail(version=4, imported_alive=True), wanted, (path,), "a:b")
    name = DETAILS[path]
    assert changed == AgentDetail(version=5, imported_alive=True, **{name: getattr(wanted, name)})


def test_another_version_of_an_agent_is_refused() -> None:
    with pytest.raises(VersionMismatch) as caught:
        update_detail(NO_DETAIL, AgentDetail(version=2), ("branch",), "atlas:tester")
    assert caught.value.metadata == {"current_version": "0"}
    assert "atlas:tester" in caught.value.message


def test_a_line_says_whether_it_is_too_long_or_several() -> None:
    assert check_line("name", " design ", 6) == "design"
    with pytest.raises(InvalidInput, match="has a line break"):
        check_line("name", "a\nb", 6)
    with pytest.raises(InvalidInput, match="too long"):
        check_line("name", "designs", 6)


# ---- phases ----


def test_the_first_phase_begins_with_the_session() -> None:
    assert complete(OLD, (), "a", LATER) == CompletedPhase("a", NOW, LATER, timedelta(hours=1))


def test_a_phase_begins_when_the_one_before_ended() -> None:
    then = NOW + timedelta(minutes=20)
    done = (CompletedPhase("a", None, None, None), CompletedPhase("b", NOW, then, None))
    assert complete(OLD, done, "c", LATER).length == timedelta(minutes=40)


def test_nobody_knows_how_long_a_phase_took_after_one_whose_end_nobody_knows() -> None:
    done = (CompletedPhase("a", NOW, NOW, None), CompletedPhase("b", None, None, None))
    assert complete(OLD, done, "c", LATER) == CompletedPhase("c", None, LATER, None)


def test_a_phase_whose_beginning_is_yet_to_come_took_no_time() -> None:
    done = (CompletedPhase("a", NOW, LATER + timedelta(days=1), None),)
    assert complete(OLD, done, "b", LATER) == CompletedPhase("b", LATER, LATER, timedelta(0))


def test_a_phase_is_completed_once() -> None:
    done = (CompletedPhase("a", NOW, NOW, None), CompletedPhase("b", None, None, None))
    with pytest.raises(AlreadyExists, match="12:00:00 UTC"):
        complete(OLD, done, "a", LATER)
    with pytest.raises(AlreadyExists, match="was completed;"):
        complete(OLD, done, "b", LATER)


def test_a_session_has_so_many_phases_at_most() -> None:
    done = tuple(CompletedPhase(f"{n}", NOW, NOW, None) for n in range(MAX_PHASES))
    with pytest.raises(LimitReached):
        complete(OLD, done, "one more", LATER)
    assert complete(OLD, done[1:], "one more", LATER).name == "one more"


@pytest.mark.parametrize("text", ["", " ", "\x1b", "a\nb", "a\rb", "x" * 6])
def test_a_line_is_one_line_of_some_length(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_line("topic", text, 5)
    assert caught.value.field == "topic"


def test_a_line_is_kept_without_blanks_around_it() -> None:
    assert check_line("topic", " a \x1bb \n", 5) == "a b"


# ---- dependencies ----


def test_roles_have_one_spelling_and_each_is_there_once() -> None:
    given = (("Lead Dev", ("tester",)), ("tester", ("lead_dev",)), ("lead_dev", ("qa", "tester")))
    assert check_dependencies(given) == (("lead_dev", ("tester", "qa")), ("tester", ("lead_dev",)))


@pytest.mark.parametrize("given", [("a", ("A",)), ("a", ()), ("a!", ("b",)), ("a", ("",))])
def test_a_dependency_is_of_one_role_on_another(given: tuple[str, tuple[str, ...]]) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_dependencies((("c", ("d",)), given))
    assert caught.value.field == "session.role_dependencies"


def test_there_are_so_many_dependencies_at_most() -> None:
    with pytest.raises(InvalidInput, match="more than 1,000"):
        check_dependencies(tuple((f"r{n}", ("a",)) for n in range(1001)))
