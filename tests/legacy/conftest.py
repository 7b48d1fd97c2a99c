"""Fixtures of the tests of the old system's state."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.legacy.parts import Place


@pytest.fixture
def place(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An old system's folder and a home, with short paths and no configuration."""
    folder = Path(tempfile.mkdtemp(prefix="orch-l-", dir="/tmp"))
    for name in ("ORCH_CONFIG", "ORCH_HOME", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    yield Place(folder, capsys)
    shutil.rmtree(folder)
