"""Whatever the text: the bytes that a program in a pane reads are the text's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orch_client.courier.control import Control
from orch_client.courier.deliver import Courier, Offer
from orch_client.courier.tmux import Subprocess
from orch_server.core.errors import InvalidInput
from orch_server.core.text import clean_text
from tests.client.conftest import Recorded, served

GENERATION = "0a1b2c3d"
_MEAN = ";$~\\\"'#{}%@-!*?`()[]<>|&^\t\n "
any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
mean_text = st.text(st.sampled_from(_MEAN + "aOK0é漢👍\u0301\u200d"), min_size=1, max_size=60)
long_text = st.builds(lambda word, times: (word * times)[:70_000], any_text, st.integers(50, 2_000))
texts = st.one_of(any_text, mean_text, long_text)
thorough = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("transport", [Subprocess, Control])
def test_a_program_reads_exactly_the_bytes_of_the_text(
    recorded: Recorded, transport: Callable[[str], Subprocess | Control]
) -> None:
    """One courier delivers one text after the other into one raw pane."""
    numbers = count(1)
    expected = bytearray()
    with asyncio.Runner() as runner:
        courier = Courier(transport)

        @thorough
        @given(texts)
        @example(";")
        @example("\\;")
        @example("-x;")
        @example("x" * 16_384 + ";")
        @example("\\" * 5_000)
        @example("%end 1 1 0\n%exit")
        def arrives(raw: str) -> None:
            try:
                text, _ = clean_text("text", raw)
            except InvalidInput:
                return
            offer = Offer(next(numbers), GENERATION, text, "generic")
            outcome = runner.run(served(courier, offer, recorded.at))
            assert outcome.state == "CONFIRMED", outcome
            expected.extend(text.encode() + b"\r")
            begin = len(expected) - len(text.encode()) - 1
            assert recorded.typed(len(expected))[begin:] == bytes(expected[begin:])

        try:
            arrives()
        finally:
            runner.run(courier.close())
    assert recorded.settled() == bytes(expected)
