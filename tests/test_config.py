"""Settings: what is refused is told without what may be a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from orch_server import config
from orch_server.core.errors import StartupError


def _webhook(folder: Path, given: str) -> str:
    file = folder / "config.toml"
    file.write_text(f'alert_webhook = "{given}"\n')
    environ = {"ORCH_CONFIG": str(file), "ORCH_HOME": "/nowhere"}
    return config.load(environ=environ).alert_webhook


@pytest.mark.parametrize(
    "given",
    [
        "http://user:secret@secret:99999/secret?secret",
        "http://user:secret@secret:0/secret",
        "http://user:secret@secret:secret/secret",
        "http://user:secret@[secret/secret",
        "http://user:secret@/secret",
        "ftp://user:secret@secret/secret",
        "secret",
    ],
)
def test_a_wrong_webhook_is_told_without_its_url(tmp_path: Path, given: str) -> None:
    with pytest.raises(StartupError) as error:
        _webhook(tmp_path, given)
    assert error.value.message == (
        "alert_webhook is no URL; use one such as https://example.org/hook, or leave it away."
    )


def test_a_webhook_may_hold_user_and_password(tmp_path: Path) -> None:
    given = "https://user:secret@example.org:8443/hook?x=y"
    assert _webhook(tmp_path, given) == given
    assert _webhook(tmp_path, "") == ""
