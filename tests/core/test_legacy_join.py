"""Which file is which session: names, copies, and what is repaired."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from orch_server.core.legacy import Raw, Refused
from orch_server.core.legacy_join import Hints, Joined, join
from orch_server.core.legacy_parse import StateFile
from orch_server.core.naming import candidates_for, repair_name
from tests.legacy.samples import session_state

BERLIN = ZoneInfo("Europe/Berlin")
NAME = "atlas-impl-2265b1f5"


def test_a_name_is_repaired_only_when_exactly_one_fits() -> None:
    names = ["my-app-impl-0a1b2c3d", "other-impl-1", "my-app", "my-app-impl-xyz"]
    assert repair_name(["My App"], names) == "my-app-impl-0a1b2c3d"
    assert repair_name(["my_app"], names) == "my-app-impl-0a1b2c3d"
    assert repair_name(["my"], names) is None
    assert repair_name(["My App"], [*names, "my-app-impl"]) is None
    assert candidates_for(["my app", "other"], names * 2) == [
        "my-app-impl-0a1b2c3d",
        "other-impl-1",
    ]


def joined(
    files: dict[str, dict[str, Any]],
    *,
    metadata: dict[str, str] | None = None,
    projects: list[Raw] | None = None,
    names: tuple[str, ...] = (),
) -> Joined:
    states = [
        StateFile(directory, f"projects/{directory}", state, json.dumps(state))
        for directory, state in files.items()
    ]
    return join(states, Hints(metadata or {}, projects or [], names), BERLIN)


def test_of_two_directories_of_one_session_the_one_updated_last_is_read() -> None:
    newer = session_state(NAME, updated_at=1_756_900_000)
    older = session_state(NAME, updated_at="2025-09-03T08:00:00")
    unknown = session_state(NAME, updated_at="never")
    found = joined({"a": unknown, "b": newer, "c": older, "d": newer})
    assert [named.file.directory for named in found.named] == ["b"]
    assert {(r.where, r.why) for r in found.refused} == {
        ("projects/a", "same session as projects/b, older"),
        ("projects/c", "same session as projects/b, older"),
        ("projects/d", "same session as projects/b, an identical copy"),
    }


NAMELESS = session_state(None, project_name="My App", spec_path="/s", project_path="/p")
QUEUED: Raw = {"spec_path": "/s", "main_session": "queued-impl-1"}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"names": ("my-app-impl-1", "other-impl-2")}, "my-app-impl-1"),
        ({"names": ("dir-impl",)}, "dir-impl"),
        ({"metadata": {"dir": "meta-impl-1"}}, "meta-impl-1"),
        ({"projects": [QUEUED]}, "queued-impl-1"),
        ({"projects": [{"project_path": "/p", "session_name": "queued-impl-1"}]}, "queued-impl-1"),
        ({"projects": [{"spec_path": {"base64": ""}, "main_session": {"base64": ""}}]}, None),
        ({"names": ("my-app-impl-1", "my-app-impl-2")}, None),
        ({"names": ("my-app-impl-1",), "projects": [QUEUED]}, None),
        ({"names": ("my-app-impl-1", "dir-impl-2"), "metadata": {"dir": "dir-impl-2"}}, None),
        ({"names": ("my-app-impl-9", "my-app-impl-1")}, "my-app-impl-1"),
        ({"metadata": {"dir": "my-app-impl-9"}}, None),
        ({"projects": [QUEUED | {"main_session": "my-app-impl-9"}]}, None),
        ({}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("said", [None, "", 7, ["x"]], ids=repr)
def test_a_missing_name_is_found_elsewhere_or_the_session_is_only_labelled(
    known: dict[str, Any], expected: str | None, said: object
) -> None:
    files = {
        "dir": NAMELESS | {"session_name": said},
        "taken": session_state("my-app-impl-9"),
    }
    named = joined(files, **known).named[0]
    assert (named.name, named.missing) == (expected or "dir", expected is None)
    assert "session_name is " in named.note


def test_a_name_that_two_files_may_claim_goes_to_neither() -> None:
    found = joined({"a": NAMELESS, "b": NAMELESS}, projects=[QUEUED])
    assert [(named.name, named.missing) for named in found.named] == [("a", True), ("b", True)]


def test_a_label_is_no_name_that_is_taken() -> None:
    found = joined({"x": session_state("a"), "a": session_state(None), "b:c": session_state(None)})
    assert sorted(named.name for named in found.named) == ["a", "a-2", "b_c"]


def test_a_name_that_tmux_cannot_have_is_repaired_or_refused() -> None:
    files = {"dir": NAMELESS | {"session_name": "my:app"}}
    assert joined(files, names=("my-app-impl-1",)).named[0].name == "my-app-impl-1"
    assert joined(files).refused == [
        Refused("projects/dir", "session_name is 'my:app': tmux cannot have it")
    ]
