"""The old system's times and its JSON, whole, odd and broken."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from orch_server.core.legacy_json import Unreadable, decode
from orch_server.core.legacy_times import read_time

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("2025-09-02T08:00:00", "2025-09-02T06:00:00+00:00"),
        ("2025-09-02T08:00:00.123456", "2025-09-02T06:00:00.123456+00:00"),
        ("2025-09-02T08:00:00+00:00", "2025-09-02T08:00:00+00:00"),
        ("2025-09-02T08:00:00Z", "2025-09-02T08:00:00+00:00"),
        ("2025-09-02 08:00:00", "2025-09-02T08:00:00+00:00"),
        ("2025-09-02 08:00:00+02:00", "2025-09-02T06:00:00+00:00"),
        ("2025-09-02", "2025-09-01T22:00:00+00:00"),
        ("2025-10-26T02:30:00", "2025-10-26T00:30:00+00:00"),
        ("2025-03-30T02:30:00", "2025-03-30T01:30:00+00:00"),
        (1756796400, "2025-09-02T07:00:00+00:00"),
        (1756796400.5, "2025-09-02T07:00:00.500000+00:00"),
        ("1756796400.5", "2025-09-02T07:00:00.500000+00:00"),
        (0, "1970-01-01T00:00:00+00:00"),
    ],
)
def test_a_time_is_understood_in_each_form(value: object, expected: str | None) -> None:
    found = read_time(value, BERLIN)
    assert (found and found.isoformat()) == expected


@pytest.mark.parametrize(
    "value",
    [
        -1,
        True,
        float("nan"),
        float("inf"),
        1e300,
        10**400,
        1756796400000,
        "tomorrow",
        "11pm",
        "2025-13-01T00:00:00",
        "9999-12-31T23:59:59",
        "0001-01-01T00:00:00",
        "NaN",
        "-5",
        "\u0662\u0660\u0662\u0665-09-02",
        [],
        {},
    ],
    ids=repr,
)
def test_nonsense_is_no_time(value: object) -> None:
    with pytest.raises(ValueError, match="no time"):
        read_time(value, BERLIN)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty (0 bytes)"),
        (b" \n ", "empty (3 bytes)"),
        (b'{"a": 1', "not whole JSON"),
        (b"[1]", "holds a list"),
        (b"null", "holds null"),
        (b'"x"', "holds text"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", "nested more than"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_json_that_cannot_be_read_says_why(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable) as caught:
        decode(data)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("data", "value", "note"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}, ""),
        (b'{"a": NaN}', {"a": "NaN"}, "NaN is no number"),
        (b'{"a": -Infinity, "b": 1e999}', {"a": "-Infinity", "b": "1e999"}, "no number"),
        (b'{"a": 1, "a": 2}', {"a": 2}, "'a' stands there more than once"),
        (b'{"a": "x\\ud800y"}', {"a": "x\ufffdy"}, "half a character"),
        (b'{"\\ud800": 1}', {"\ufffd": 1}, "half a character"),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}, ""),
        (
            b'{"k\\ud800": 1, "k\\udc00": 2, "k\xef\xbf\xbd~2": 3, "k\xef\xbf\xbd": 4}',
            {"k\ufffd~3": 1, "k\ufffd~4": 2, "k\ufffd~2": 3, "k\ufffd": 4},
            "read as 'k\ufffd~4'",
        ),
    ],
)
def test_json_that_is_odd_is_read_and_told(data: bytes, value: object, note: str) -> None:
    found = decode(data)
    assert found.value == value
    assert note in "".join(found.notes)
    assert bool(note) == bool(found.notes)


def test_of_very_many_keys_the_one_that_stands_twice_is_found_in_one_pass() -> None:
    keys = ", ".join(f'"key-{number}": 0' for number in range(150_000))
    found = decode(f'{{{keys}, "key-149999": 1}}'.encode())
    assert found.value["key-149999"] == 1
    assert found.notes == ("'key-149999' stands there more than once; the last one counts",)
