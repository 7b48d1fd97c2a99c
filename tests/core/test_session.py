"""Changing a session: the mask, the version, and what stays as it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orch_server.core.errors import InvalidInput, VersionMismatch
from orch_server.core.session import MUTABLE, Phase, Session, check_version, update

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


@pytest.mark.parametrize("path", MUTABLE)
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
