"""The home of a story: its clients beat once a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Home


@pytest.fixture
def home() -> Iterator[Home]:
    """An empty ORCH_HOME. A lease there lasts 3 s, so that no busy machine ends one; a test that is
    about leases sets its own pace."""
    made = Home(beat=1)
    yield made
    made.remove()
