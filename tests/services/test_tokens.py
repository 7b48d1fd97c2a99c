"""Token files: made, read, revoked, and useless to who tampers with them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from orch_server.core.errors import NotFound, Unidentified
from orch_server.services.tokens import TokenFiles


def _read(files: TokenFiles, token: str) -> tuple[str, str] | None:
    return asyncio.run(files.read(token))


def _file(folder: Path) -> Path:
    (found,) = (folder / "tokens").glob("*.json")
    return found


@pytest.fixture
def files(folder: Path) -> TokenFiles:
    """An empty folder of tokens."""
    return TokenFiles(folder / "tokens")


def test_a_token_names_its_role_and_without_one_the_operator(files: TokenFiles) -> None:
    assert _read(files, files.create("atlas", "developer", "now")) == ("atlas", "developer")
    assert _read(files, files.create("", "", "now")) is None


def test_the_secret_is_not_kept_and_the_files_are_private(files: TokenFiles, folder: Path) -> None:
    token = files.create("atlas", "developer", "now")
    secret = token.split("_", 2)[2]
    assert secret not in _file(folder).read_text()
    assert _file(folder).stat().st_mode & 0o777 == 0o600
    assert (folder / "tokens").stat().st_mode & 0o777 == 0o700


def test_tokens_are_listed_without_their_secrets(files: TokenFiles) -> None:
    assert files.list() == []
    token = files.create("atlas", "developer", "2026-11-21")
    (kept,) = files.list()
    assert (kept.session, kept.role, kept.created) == ("atlas", "developer", "2026-11-21")
    assert token.startswith(f"orch_{kept.id}_")


def test_a_revoked_token_is_over_at_once(files: TokenFiles) -> None:
    first, second = files.create("atlas", "a", "now"), files.create("atlas", "b", "now")
    files.revoke(first.split("_")[1])
    with pytest.raises(Unidentified):
        _read(files, first)
    assert _read(files, second) == ("atlas", "b")
    with pytest.raises(NotFound):
        files.revoke(first.split("_")[1])


@pytest.mark.parametrize("token_id", ["", "..", "../../etc/passwd", "*", "0" * 12])
def test_what_is_no_token_cannot_be_revoked(files: TokenFiles, folder: Path, token_id: str) -> None:
    files.create("atlas", "a", "now")
    with pytest.raises(NotFound):
        files.revoke(token_id)
    assert _file(folder).exists()


def test_a_wrong_secret_is_refused(files: TokenFiles) -> None:
    token = files.create("atlas", "developer", "now")
    changed = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (changed, token[:-1], token + "x", token.upper(), "", "orch_", "orch_../x_y"):
        with pytest.raises(Unidentified):
            _read(files, wrong)


def test_a_token_of_another_file_does_not_open_this_one(files: TokenFiles) -> None:
    first, second = files.create("atlas", "a", "now"), files.create("atlas", "b", "now")
    mixed = "_".join((*first.split("_", 2)[:2], second.split("_", 2)[2]))
    with pytest.raises(Unidentified):
        _read(files, mixed)


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", "5", '"x"', "{}", '{"sha256": 5}', '{"sha256": "x", "role": "r"}'],
)
def test_a_damaged_file_opens_nothing(files: TokenFiles, folder: Path, content: str) -> None:
    token = files.create("atlas", "developer", "now")
    _file(folder).write_text(content)
    with pytest.raises(Unidentified):
        _read(files, token)


def test_a_file_without_role_and_session_is_not_promoted_to_the_operators(
    files: TokenFiles, folder: Path
) -> None:
    """An operator's token says so; a file that lost its role opens nothing."""
    token = files.create("atlas", "developer", "now")
    kept = json.loads(_file(folder).read_text())
    del kept["session"], kept["role"]
    _file(folder).write_text(json.dumps(kept))
    with pytest.raises(Unidentified):
        _read(files, token)


def test_a_damaged_file_does_not_hide_or_keep_the_others(files: TokenFiles, folder: Path) -> None:
    token = files.create("atlas", "developer", "now")
    (folder / "tokens" / "000000000000.json").write_text("{")
    assert [t.role for t in files.list() if t.role] == ["developer"]
    files.revoke(token.split("_")[1])
    with pytest.raises(Unidentified):
        _read(files, token)
