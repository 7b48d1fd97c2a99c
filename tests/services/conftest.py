"""Fixtures of the services' tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a short path."""
    made = Path(tempfile.mkdtemp(prefix="orch-v-", dir="/tmp"))
    yield made
    shutil.rmtree(made)
