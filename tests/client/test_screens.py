"""Screen rules: recorded screens are read rightly, and a user's own rules only when they do so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orch_client.courier import fixture, kinds, screen
from orch_client.courier.kinds import BadRules, Kind

FIXTURES = sorted(Path(kinds.SHIPPED).glob("fixtures/*/*.screen"))
AGENTS = ("claude", "codex")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the user's own rules, in a configuration folder of its own."""
    monkeypatch.setenv("ORCH_CONFIG", str(tmp_path / "config.toml"))
    folder = tmp_path / "screens"
    folder.mkdir()
    kinds.load.cache_clear()
    yield folder
    kinds.load.cache_clear()


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_recorded_screen_reads_as_it_was_recorded(path: Path) -> None:
    want = fixture.read(path)
    kind = kinds.load()[path.parent.name]
    got = screen.read(kind, screen.parse(want.screen))
    assert got.state == want.state, f"by the rule {got.rule!r}"
    assert screen.same_draft(got.draft, want.draft), got.draft


@pytest.mark.parametrize("kind", AGENTS)
def test_there_are_recorded_screens_for_each_state_that_matters(kind: str) -> None:
    states = {fixture.read(path).state for path in fixture.recorded(kind)}
    assert states >= {"idle", "working", "waiting_permission"}


def test_the_user_s_own_kind_is_known_by_its_program(own: Path) -> None:
    (own / "gemini.toml").write_text(
        'kind = "gemini"\nversion = "1"\nway = "type"\nprograms = ["gemini"]\n'
        "[composer]\nfirst = '^ > (.*)$'\n"
    )
    found = kinds.agent_named("gemini")
    assert found is not None
    assert screen.read(found, screen.parse(" > hello")).draft == "hello"


def test_own_rules_that_read_every_recorded_screen_replace_the_shipped_ones(own: Path) -> None:
    shutil.copy(Path(kinds.SHIPPED) / "claude.toml", own)
    text = (own / "claude.toml").read_text()
    (own / "claude.toml").write_text(text.replace('version = "', 'version = "mine-', 1))
    assert kinds.load()["claude"].version.startswith("mine-")


def test_own_rules_that_misread_a_recorded_screen_are_not_used(
    own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = (Path(kinds.SHIPPED) / "claude.toml").read_text()
    (own / "claude.toml").write_text(text[: text.index("[[rule]]")].replace("2.1", "mine-2.1"))
    assert not kinds.load()["claude"].version.startswith("mine-")
    assert "screen rules not used" in caplog.text


def test_own_rules_must_also_read_the_user_s_own_recorded_screens(own: Path) -> None:
    shutil.copy(Path(kinds.SHIPPED) / "claude.toml", own)
    made = fixture.Fixture("claude", "9", "working", "", "0,0", "10x2", "mine", "nothing known")
    fixture.write(own / "fixtures" / "claude" / "9-mine.screen", made)
    with pytest.raises(BadRules, match=r"9-mine\.screen reads as unknown"):
        kinds.check_recorded(kinds.parse(own / "claude.toml"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind = ", "cannot be read"),
        ('kind = "other"\nversion = "1"\nway = "type"', "name the file after its kind"),
        ('kind = "x"\nversion = "1"\nway = "shout"', "use one of: type, show"),
        ('kind = "x"\nway = "type"', "lacks or misuses a key"),
        ('kind = "x"\nversion = "1"\nway = "type"\n[composer]\nfirst = "("', "is no pattern"),
        (
            'kind = "x"\nversion = "1"\nway = "type"\n'
            '[[rule]]\nid = "a"\nstate = "happy"\npattern = "a"',
            "'happy'; use one of",
        ),
        (
            'kind = "x"\nversion = "1"\nway = "type"\n[menu]\npattern = "a"\nkey = "C-c"',
            "the menu's key is 'C-c'; use one of: Escape, Enter",
        ),
        (
            'kind = "x"\nversion = "1"\nway = "type"\n'
            '[[rule]]\nid = "a"\nstate = "idle"\npattern = "a"\nwhere = "last"',
            "but no 'block'",
        ),
    ],
)
def test_a_bad_file_of_rules_is_told_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(BadRules, match=says) as told:
        kinds.parse(path)
    assert "\n" not in str(told.value)


def test_a_fixture_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = fixture.Fixture("claude", "1", "idle", "two\nlines", "1,2", "80x24", "x", "a\n---\nb\n")
    fixture.write(tmp_path / "f.screen", made)
    assert fixture.read(tmp_path / "f.screen") == made
    with pytest.raises(FileExistsError):
        fixture.write(tmp_path / "f.screen", made)


@pytest.mark.parametrize(
    "text", ["", "kind: claude\n---\nx", "no head at all", "draft: [1]\n---\n"]
)
def test_what_is_no_fixture_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.screen").write_text(text)
    with pytest.raises(BadRules, match=r"f\.screen is no recorded screen"):
        fixture.read(tmp_path / "f.screen")


def _claude() -> Kind:
    return kinds.load()["claude"]


@pytest.mark.parametrize(
    ("draft", "text", "is_in"),
    [
        ("hello world", "hello world", True),
        ("hello\n  world", "hello world", True),
        ("", "hello", False),
        (None, "hello", False),
        ("hello", "hello world, this is longer than the draft", False),
        ("this is longer than the draft", "hello world, this is longer than the draft", True),
        ("[message 0123abcd from atlas:pm]", "[message 0123abcd from atlas:pm]\nhello", False),
        ("mine hello world", "hello world", False),
        ("[Pasted text #3 +40 lines]", "a\n" * 41, True),
        ("mine [Pasted text #3 +40 lines]", "a\n" * 41, False),
        ("see [Pasted text #1 +39 lines] there", "see [Pasted text #1 +39 lines] there", True),
        ("👍🏽", "👍🏽", True),
        ("👍", "👍🏽", True),
        ("why", "👍🏽", False),
        ("\u00e9t\u00e9", "e\u0301te\u0301", True),
    ],
)
def test_a_text_has_landed_when_the_composer_shows_it(
    draft: str | None, text: str, is_in: bool
) -> None:
    assert screen.landed(_claude(), draft, text) is is_in


@pytest.mark.parametrize(
    ("above", "is_there"),
    [
        ("  the file, please read it all\n" + "  ......\n" * 5, True),
        ("  \n" + "  ........................................\n" * 12 + "● Read.", True),
        ("  .........................\n" * 12 + "● Read.", False),
        ("─" * 200 + "\n● Read.", False),
    ],
)
def test_a_text_is_shown_by_its_letters_or_by_many_signs(above: str, is_there: bool) -> None:
    text = "Here is the file, please read it all\n" + "." * 5_000
    lines = screen.parse(f"{above}\n\n{BOX}")
    assert screen.echoed(_claude(), lines, text) is is_there


def test_dim_text_and_the_letter_under_the_cursor_before_it_are_a_placeholder() -> None:
    lines = "─" * 20, "❯\xa0\x1b[7m\x1b[39mP\x1b[0;2mress up to edit\x1b[0m", "─" * 20
    assert screen.read(_claude(), screen.parse("\n".join(lines))).draft == ""


def test_a_colour_that_has_a_two_in_it_is_not_dim() -> None:
    lines = "─" * 20, "❯\xa0\x1b[38;5;2mhello\x1b[38;2;2;2;2m you\x1b[0m", "─" * 20
    assert screen.read(_claude(), screen.parse("\n".join(lines))).draft == "hello you"


def test_a_draft_of_several_lines_loses_the_margin_only() -> None:
    lines = "─" * 20, "❯ one", "", "    two", "─" * 20
    assert screen.read(_claude(), screen.parse("\n".join(lines))).draft == "one\n\n  two"


# ---- what told it ----


def _recorded(name: str) -> screen.Reading:
    path = Path(kinds.SHIPPED) / "fixtures" / f"{name}.screen"
    return screen.read(kinds.load()[path.parent.name], screen.parse(fixture.read(path).screen))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("claude/2.1.197-permission", "Do you want to proceed?"),
        ("claude/2.1.197-permission-write", "Do you want to create made?"),
        ("claude/2.1.197-question", "Which colour?"),
        ("claude/2.1.197-question-several", "Which?"),
        ("codex/0.169.0-permission", "Would you like to run the following command?"),
        ("claude/2.1.197-unauthorized", "Invalid API key · Fix external API key"),
        (
            "claude/2.1.197-limit-menu",
            "You've hit your session limit · resets Nov 23, 3:05pm (UTC)",
        ),
        (
            "claude/2.1.197-narrow-limit-menu",
            "You've hit your session limit · resets Nov 23, 3:05pm (UTC)",
        ),
        (
            "codex/0.169.0-limit-dated",
            "You’ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro), visit"
            " https://chatgpt.com/settings/ usage to purchase more credits or try again at"
            " Nov 23rd, 2026 3:05 PM.",
        ),
        ("claude/2.1.197-start", ""),
    ],
)
def test_a_reading_carries_the_words_that_told_the_state(name: str, line: str) -> None:
    assert _recorded(name).line == line
    assert len(line) <= 200


ERROR = "  ⎿ \xa0{}You've hit your session limit · resets 7pm (UTC)\x1b[0m"
BOX = f"{'─' * 20}\n❯\xa0\n{'─' * 20}"


@pytest.mark.parametrize(
    ("colour", "state"),
    [
        ("\x1b[38;5;211m", "usage_limited"),
        ("\x1b[31m", "usage_limited"),
        ("\x1b[91m", "usage_limited"),
        ("\x1b[38;2;255;107;128m", "usage_limited"),
        ("", "idle"),
        ("\x1b[38;5;246m", "idle"),
        ("\x1b[38;2;90;90;90m", "idle"),
        ("\x1b[37m", "idle"),
        ("\x1b[31m\x1b[39m", "idle"),
        ("\x1b[48;5;211m", "idle"),
        ("\x1b[31mYou've hit your \x1b[32m", "idle"),
    ],
)
def test_a_limit_is_believed_only_in_the_colour_of_an_error(colour: str, state: str) -> None:
    captured = f"\x1b[34m❯\x1b[0m please work\n{ERROR.format(colour)}\n\n{BOX}"
    assert screen.read(_claude(), screen.parse(captured)).state == state


def test_where_nothing_has_a_colour_a_limit_needs_none() -> None:
    captured = f"❯ please work\n{ERROR.format('')}\n\n{BOX}"
    assert screen.read(_claude(), screen.parse(captured)).state == "usage_limited"


@pytest.mark.parametrize("after", ["❯ again", "● Noted.", "  ⎿ \xa0Done", "⏺ Noted."])
def test_a_limit_counts_only_while_it_is_the_last_thing_said(after: str) -> None:
    limit = ERROR.format("\x1b[31m")
    assert screen.read(_claude(), screen.parse(f"{limit}\n\n{BOX}")).state == "usage_limited"
    assert screen.read(_claude(), screen.parse(f"{limit}\n\n{after}\n\n{BOX}")).state == "idle"


def test_the_same_limit_said_again_is_another_one() -> None:
    limit = ERROR.format("\x1b[31m")
    said = f"❯ please work\n{limit}"
    contexts = [
        screen.read(_claude(), screen.parse(text)).context
        for text in (
            f"{said}\n\n{BOX}",
            f"❯ please\n  work\n{limit}\n\n\n{BOX.replace('❯', '❯ a draft')}",
            f"{said}\n\n❯ go on\n{limit}\n\n{BOX}",
        )
    ]
    assert contexts[0] == contexts[1] != contexts[2]
    assert 0 not in contexts


def test_a_limit_is_the_same_when_its_menu_is_closed() -> None:
    recorded = Path(kinds.SHIPPED) / "fixtures/claude/2.1.197-limit-menu.screen"
    opened = fixture.read(recorded).screen
    rows = opened.split("\n")
    menu = next(at for at, row in enumerate(rows) if "/rate-limit-options" in row)
    left = "\n".join(rows[:menu]) + f"\n{BOX}"
    shown = [screen.read(_claude(), screen.parse(text)) for text in (opened, left)]
    assert [reading.draft for reading in shown] == [None, ""]
    assert shown[0].context == shown[1].context != 0


@pytest.mark.parametrize("captured", ["", "\n\n\n", "   \n\x1b[0m  "])
def test_a_screen_that_is_blank_still_starts(captured: str) -> None:
    assert screen.read(_claude(), screen.parse(captured)).state == "starting"


@pytest.mark.parametrize(
    "line", ["     loading", "• Starting MCP servers (0/2): a, b (3s • esc to interrupt)"]
)
def test_codex_starts_while_it_loads(line: str) -> None:
    codex = kinds.load()["codex"]
    captured = f"  >_ OpenAI Codex (v0.169.0)\n{line}\n\n› \x1b[2mAsk Codex\x1b[0m\n\n  ? for"
    assert screen.read(codex, screen.parse(captured)).state == "starting"
    said = f"  {line}" if line.startswith("•") else f"      {line}"
    assert screen.read(codex, screen.parse(captured.replace(line, said))).state == "idle"


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_only_the_menu_of_a_limit_may_be_closed_by_a_key(path: Path) -> None:
    lines = screen.parse(fixture.read(path).screen)
    key = screen.menu_key(kinds.load()[path.parent.name], lines)
    assert key == ("Escape" if path.stem.endswith("limit-menu") else "")


def test_a_menu_that_is_only_quoted_above_the_composer_is_none() -> None:
    menu = "  ❯ 1. Stop and wait for limit to reset"
    assert screen.menu_key(_claude(), screen.parse(menu)) == "Escape"
    assert screen.menu_key(_claude(), screen.parse(f"{menu}\n{BOX}")) == ""
