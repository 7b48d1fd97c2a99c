"""Fixtures of the transport's tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """An ORCH_HOME with a short path, since a socket's path is limited."""
    made = Path(tempfile.mkdtemp(prefix="orch-g-", dir="/tmp"))
    yield made
    shutil.rmtree(made)
