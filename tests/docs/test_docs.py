"""The documentation stays true: what it names exists, and what exists is named."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path, PurePosixPath

import pytest
from google.rpc import code_pb2

import orch_server.app  # noqa: F401 - loads every class of errors
from orch_client import cli as client_cli
from orch_client.cli import COMMANDS
from orch_server import cli as server_cli
from orch_server import config
from orch_server.core.errors import OrchError, StartupError
from orch_server.transport.errors import code_of
from tests.docs.markdown import DOCS, ROOT, anchors, blocks, links, pages

REFERENCE = DOCS / "reference"
_SECTION = re.compile(
    r"^### (orch-(?:client|server)(?: [a-z-]+)+)\n(.*?)(?=^#{2,3} |\Z)", re.M | re.S
)
_FLAG = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]*|-[a-z](?![\w-]))")
_BOUNDARY = "();<>|&\n"
_BEFORE_COMMAND = re.compile(r"\w+=.*|exec|export|time|env|sudo|!")


def _rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    text = (REFERENCE / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def _named(cell: str) -> str:
    return cell.strip().strip("`")


# ---- commands ----


def _client_parser(name: str) -> argparse.ArgumentParser:
    module = import_module(f"orch_client.commands.{COMMANDS[name][0]}")
    parser = argparse.ArgumentParser(prog=f"orch-client {name}")
    module.configure(parser, name)
    return parser


def _leaves(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands of a parser that have no further ones below."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, sub in action.choices.items():
            yield from _leaves(sub, f"{name} {word}")


def _parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command of both programs."""
    client = [_leaves(_client_parser(name), f"orch-client {name}") for name in COMMANDS]
    return dict(chain(*client, _leaves(server_cli._parser(), "orch-server")))


def _sections() -> dict[str, str]:
    return dict(_SECTION.findall((REFERENCE / "cli.md").read_text()))


def test_the_reference_names_every_command_and_no_other() -> None:
    assert sorted(_sections()) == sorted(_parsers())


@pytest.mark.parametrize("command", _parsers())
def test_the_reference_names_every_argument_and_no_other(command: str) -> None:
    section = _sections()[command]
    usage = section.strip().splitlines()[0]
    assert usage.startswith(f"`{command}")
    actions = [a for a in _parsers()[command]._actions if a.dest != "help"]
    flags = {o for action in actions for o in action.option_strings}
    assert set(_FLAG.findall(usage)) == flags
    places = [str(a.metavar or a.dest) for a in actions if not a.option_strings]
    assert all(place in usage for place in places), places
    outside_code = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert set(_FLAG.findall(outside_code)) <= flags


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each orch-client and orch-server command in a block of shell."""
    text = re.sub(r"<<'(\w+)'.*?^\1$", "", text, flags=re.M | re.S).replace("\\\n", " ")
    text = re.sub(r"(^|\s)#\s.*$", "", text, flags=re.M)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=_BOUNDARY)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if not set(word) <= set(_BOUNDARY):
            words.append(word)
            continue
        while words and _BEFORE_COMMAND.fullmatch(words[0]):
            words.pop(0)
        if words and PurePosixPath(words[0]).name in ("orch-client", "orch-server"):
            yield [PurePosixPath(words[0]).name, *words[1:]]
        words = []


def _parses(words: list[str]) -> bool:
    """Whether the program itself would take these words."""
    program, *rest = words
    if program == "orch-client" and rest in (["--help"], ["--version"]):
        return True
    if program == "orch-client" and (not rest or rest[0] not in COMMANDS):
        return False
    if program == "orch-client":
        module = import_module(f"orch_client.commands.{COMMANDS[rest[0]][0]}")
        mixed = getattr(module, "WORDS", False)
        return not isinstance(client_cli._parsed(_client_parser(rest[0]), rest[1:], mixed), int)
    try:
        server_cli._parser().parse_args(rest)
    except SystemExit as exc:
        return exc.code == 0
    return True


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_shown_command_parses(page: Path) -> None:
    for block in blocks(page):
        for words in _commands(block.text) if block.language in ("bash", "sh") else ():
            assert _parses(words), f"{page.name}:{block.line}: {shlex.join(words)}"


def test_shown_commands_are_found_wherever_they_stand() -> None:
    block = """make report | orch-client schedule 5 -   # a comment
export T=$(orch-server token create) && .venv/bin/orch-client \\
  pending --session "a b"; cat <<'EOF'
orch-client not-a-command
EOF
orch-client heartbeat &
"""
    assert list(_commands(block)) == [
        ["orch-client", "schedule", "5", "-"],
        ["orch-server", "token", "create"],
        ["orch-client", "pending", "--session", "a b"],
        ["orch-client", "heartbeat"],
    ]


# ---- errors ----


def _errors(base: type[OrchError] = OrchError) -> Iterator[type[OrchError]]:
    """Every class of errors below the base."""
    for error in base.__subclasses__():
        yield error
        yield from _errors(error)


def test_every_reason_is_explained_with_its_status_and_no_other() -> None:
    table = {_named(row[0]): _named(row[1]) for row in _rows("errors.md", "Reasons")}
    there = {
        error.reason: "none" if error is StartupError else code_pb2.Code.Name(code_of(error))
        for error in _errors()
    }
    assert table == {**there, "INTERNAL": "INTERNAL"}


def test_every_exit_status_is_explained() -> None:
    from orch_client import errors

    numbers = {v for k, v in vars(errors).items() if k.isupper() and isinstance(v, int)}
    table = {int(row[0]) for row in _rows("errors.md", "Exit statuses of orch-client")}
    assert table == numbers | {0, 130}


def test_status_codes_give_the_exit_statuses_of_the_table() -> None:
    from orch_client.channel import _EXIT

    shown = {
        code: int(row[0])
        for row in _rows("errors.md", "Exit statuses of orch-client")
        for code in re.findall(r"`([A-Z_]+)`", row[2] if len(row) > 2 else "")
    }
    assert shown == {code.name: status for code, status in _EXIT.items()}


# ---- configuration ----


def test_every_key_of_the_configuration_is_explained_and_no_other() -> None:
    assert [_named(row[0]) for row in _rows("configuration.md", "config.toml")] == [*config._KEYS]


def test_the_defaults_of_the_configuration_are_as_explained(tmp_path: Path) -> None:
    rows = _rows("configuration.md", "config.toml")
    lines = [f"{_named(row[0])} = {_named(row[2])}" for row in rows]
    explained = tmp_path / "config.toml"
    explained.write_text("\n".join(lines).replace("ORCH_HOME", "/srv/orch"))
    empty = tmp_path / "empty.toml"
    empty.touch()
    assert config.load("/srv/orch", environ={"ORCH_CONFIG": str(explained)}) == config.load(
        "/srv/orch", environ={"ORCH_CONFIG": str(empty)}
    )


def test_the_shown_configuration_is_accepted(tmp_path: Path) -> None:
    (shown,) = [b.text for b in blocks(REFERENCE / "configuration.md") if b.language == "toml"]
    path = tmp_path / "config.toml"
    path.write_text(shown)
    config.load("/srv/orch", environ={"ORCH_CONFIG": str(path)})


def test_every_variable_that_is_read_is_explained_and_no_other() -> None:
    sources = [*(ROOT / "server").rglob("*.py"), *(ROOT / "client").rglob("*.py")]
    read = {
        name
        for source in sources
        for name in re.findall(
            r"env(?:iron)?(?:\.get\(|\[)\"(ORCH_\w+|TMUX_TMPDIR)\"", source.read_text()
        )
    }
    assert {_named(row[0]) for row in _rows("configuration.md", "Environment")} == read


# ---- pages ----


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(path), f"{page.name} links to {link}"


def test_every_decision_is_listed() -> None:
    folder = DOCS / "decisions"
    records = {path.name for path in folder.glob("[0-9]*.md")}
    assert records == set(links(folder / "README.md"))
    for name in records:
        text = (folder / name).read_text()
        for part in ("**Context.**", "**Decision.**", "**Consequences.**"):
            assert part in text, f"{name} has no {part}"
