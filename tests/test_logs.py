"""Logs: each event one line, and what is printed can be read, and pasted, as it is."""

from __future__ import annotations

import logging

import pytest

from orch_server.logs import LineFormatter


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("ünï", "ünï"),
        ("tmux -s 'ünï çödé'", "\"tmux -s 'ünï çödé'\""),
        ("", '""'),
        ("two\nlines", '"two\\nlines"'),
        ('a "b"', '"a \\"b\\""'),
        (
            "a\x1b[2J b\x85\u2028\u202e\U000e0001",
            '"a\\u001b[2J b\\u0085\\u2028\\u202e\\udb40\\udc01"',
        ),
        ("lone \udce4", '"lone \\udce4"'),
    ],
)
def test_a_value_is_printed_as_it_is_but_what_would_break_the_line(text: str, shown: str) -> None:
    record = logging.makeLogRecord({"msg": "happened", "levelname": "INFO", "value": text})
    assert LineFormatter().format(record).endswith(f" info happened value={shown}")
