"""What text may be, and what is done to it before it goes anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_server.core.errors import InvalidInput
from orch_server.core.text import (
    MAX_NAME_LENGTH,
    MAX_TEXT_BYTES,
    check_name,
    check_role,
    clean_text,
    one_line,
    printable,
)


@pytest.mark.parametrize(
    ("given_text", "cleaned", "removed"),
    [
        ("plain", "plain", 0),
        ("a\r\nb", "a\nb", 0),
        ("a\rb\r", "a\nb\n", 0),
        ("a\r\r\nb", "a\n\nb", 0),
        ("tab\tand\nline", "tab\tand\nline", 0),
        ("\x1b[201~evil\x1b[200~", "[201~evil[200~", 2),
        ("nul\x00here", "nulhere", 1),
        ("\x07bell\x08\x0b\x0c\x7f", "bell", 5),
        ("c1\x80\x85\x9b31m\x9f", "c131m", 4),
        ("above c1\xa0\xad", "above c1\xa0\xad", 0),
        ("e\u0301 combining", "e\u0301 combining", 0),
        ("👩‍👩‍👧‍👦 🇩🇪 👍🏽", "👩‍👩‍👧‍👦 🇩🇪 👍🏽", 0),
        ("שלום \u202eabc", "שלום \u202eabc", 0),
        ("  kept  ", "  kept  ", 0),
        ("\x1b\x1b\x1bx", "x", 3),
    ],
)
def test_text_is_cleaned_and_says_how_much_was_removed(
    given_text: str, cleaned: str, removed: int
) -> None:
    assert clean_text("note", given_text) == (cleaned, removed)


@pytest.mark.parametrize("empty", ["", " ", "\n\t \r\n", "\x1b", "\x00\x07\x1b\x9b", " \x1b \n"])
def test_text_with_nothing_to_see_is_refused(empty: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        clean_text("note", empty)
    assert caught.value.field == "note"
    assert "empty" in caught.value.message


def test_text_of_exactly_256_kib_is_taken_and_one_byte_more_is_not() -> None:
    assert MAX_TEXT_BYTES == 256 * 1024
    assert clean_text("note", "x" * MAX_TEXT_BYTES) == ("x" * MAX_TEXT_BYTES, 0)
    with pytest.raises(InvalidInput) as caught:
        clean_text("note", "x" * (MAX_TEXT_BYTES + 1))
    assert "262,145 bytes" in caught.value.message
    assert "262,144" in caught.value.message


def test_the_limit_counts_bytes_and_not_characters() -> None:
    most = "€" * (MAX_TEXT_BYTES // 3)
    assert clean_text("note", most)[0] == most
    with pytest.raises(InvalidInput):
        clean_text("note", most + "€")


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=200))
def test_cleaned_text_has_no_control_characters_and_stays_as_it_is(text: str) -> None:
    try:
        cleaned, removed = clean_text("note", text)
    except InvalidInput:
        assert not "".join(c for c in text if c.isprintable()).strip()
        return
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in cleaned)
    assert len(cleaned) + removed == len(text) - text.count("\r\n")
    assert clean_text("note", cleaned) == (cleaned, 0)


@pytest.mark.parametrize(
    ("spelled", "role"),
    [
        ("developer", "developer"),
        ("Project Manager", "project_manager"),
        ("  QA-2 \n", "qa-2"),
        ("0", "0"),
        ("a" * 64, "a" * 64),
    ],
)
def test_a_role_has_one_spelling(spelled: str, role: str) -> None:
    assert check_role("role", spelled) == role


@pytest.mark.parametrize(
    "wrong",
    ["", " ", "-x", "_x", "a" * 65, "a:b", "a;b", "#(id)", "ä", "a\nb", "%5", "\x1b"],
)
def test_what_is_no_role_is_refused_in_one_printable_line(wrong: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_role("role", wrong)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", ["atlas", "a b", "ä.ö", "#(id)", "x" * MAX_NAME_LENGTH])
def test_what_tmux_allows_is_a_session_name(name: str) -> None:
    assert check_name("session", name) == name


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a\tb", "a\x1b", "\x9b", "x" * 201])
def test_other_session_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_name("session", name)
    assert caught.value.field == "session"
    assert caught.value.message.isprintable()


def test_text_in_an_error_is_short_and_printable() -> None:
    assert printable("a\x1b[31m\nb") == "a?[31m?b"
    assert printable("x" * 100) == "x" * 79 + "…"
    assert one_line(" a \n\n b\tc ") == "a b c"
    assert one_line("word " * 50, 12) == "word word w…"
