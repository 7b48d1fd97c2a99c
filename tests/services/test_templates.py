"""Templates of messages: which there are, and how they are filled."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from orch_server.config import load
from orch_server.core.errors import Conflict, InvalidInput, NotFound
from orch_server.services.templates import SHIPPED, Template, Templates


def _get(folder: Path, name: str) -> Template:
    return asyncio.run(Templates(folder).get(name))


def test_the_shipped_templates_are_there_and_can_be_filled(folder: Path) -> None:
    found = asyncio.run(Templates(folder / "none").all())
    assert [t.name for t in found] == ["briefing", "standup", "status-request", "wrap-up"]
    for template in found:
        assert not template.own
        assert template.parameters
        text = template.fill({name: f"<{name}>" for name in template.parameters})
        assert all(f"<{name}>" in text for name in template.parameters)
        assert "{" not in text


def test_a_users_own_template_hides_a_shipped_one_of_its_name(folder: Path) -> None:
    (folder / "standup.txt").write_text("Mine, {team}.\n")
    (folder / "new-one.txt").write_text("New.")
    (folder / "No Name.txt").write_text("left out")
    (folder / "notes.md").write_text("left out")
    found = {t.name: t for t in asyncio.run(Templates(folder).all())}
    assert (found["standup"].text, found["standup"].own) == ("Mine, {team}.", True)
    assert found["new-one"].parameters == ()
    assert len(found) == 5


def test_the_users_folder_is_beside_the_configuration(folder: Path) -> None:
    config = folder / "config.toml"
    config.write_text("")
    settings = load(str(folder / "home"), environ={"ORCH_CONFIG": str(config)})
    assert settings.templates == folder / "templates"


def test_values_are_data() -> None:
    template = Template("t", "{{{a}}} {b} {a} {not a name} {{b}} {", own=True)
    assert template.parameters == ("a", "b")
    filled = template.fill({"a": "{b} \\1 {{x}}", "b": "$(rm)"})
    assert filled == "{{b} \\1 {{x}}} $(rm) {b} \\1 {{x}} {not a name} {b} {"


def test_missing_and_unknown_parameters_are_all_named() -> None:
    template = Template("t", "{one} {two} {three}", own=True)
    with pytest.raises(InvalidInput) as caught:
        template.fill({"two": "", "four": "", "five": ""})
    assert caught.value.field == "parameters"
    for said in ("missing: one, three", "unknown: four, five", "it has: one, two, three"):
        assert said in caught.value.message


def test_an_unknown_template_lists_what_there_is(folder: Path) -> None:
    for name in ("nothing", "../passwd", "", "briefing.txt"):
        with pytest.raises(NotFound, match="briefing, standup, status-request, wrap-up"):
            _get(folder, name)


@pytest.mark.parametrize("fault", ["bytes", "folder", "fifo", "large", "dangling"])
def test_a_template_that_cannot_be_read_is_one_clear_sentence(folder: Path, fault: str) -> None:
    path = folder / "mine.txt"
    if fault == "bytes":
        path.write_bytes(b"\xff\xfe")
    elif fault == "folder":
        path.mkdir()
    elif fault == "fifo":
        os.mkfifo(path)
    elif fault == "large":
        path.write_text("x" * (256 * 1024 + 1))
    else:
        path.symlink_to(folder / "nowhere")
    with pytest.raises(Conflict) as caught:
        _get(folder, "mine")
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    with pytest.raises(Conflict):
        asyncio.run(Templates(folder).all())


def test_the_shipped_files_are_templates() -> None:
    assert {path.suffix for path in SHIPPED.iterdir()} == {".txt"}
