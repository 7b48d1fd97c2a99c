"""The kinds of programs that live in panes, read from data: screens/KIND.toml.

A file says by which names a kind is known and, for agents, how to read its screen. The user's own
files in the folder `screens` beside config.toml replace shipped ones and add new kinds. One that
replaces a shipped file is used only when it reads every recorded screen of its kind rightly.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

SHIPPED = os.path.join(os.path.dirname(__file__), "screens")
STATES = frozenset(
    {"starting", "working", "idle", "waiting_permission", "waiting_question", "usage_limited"}
    | {"auth_failed", "unknown"}
)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
_WAYS = ("type", "show")
_KEYS = ("Escape", "Enter")
_PLACES = ("screen", "below", "instead", "last")

logger = logging.getLogger(__name__)


class BadRules(Exception):
    """A file of screen rules cannot be used; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A line that matches among the last `lines` of the screen that hold something tells the
    state. `where`: on the whole "screen", only "below" the composer, only where something else
    stands "instead" of a composer, or only in the "last" thing said, its lines taken as one. Lines
    that only quote are left out unless `quoted`. `coloured`: what matches must be of one colour
    that is no grey, as the program paints its own errors and never what it only shows. `tells`: the
    lowest line of the screen that matches says more to people than the one that was found."""

    id: str
    state: str
    pattern: re.Pattern[str]
    lines: int
    where: str
    quoted: bool
    coloured: bool
    tells: re.Pattern[str] | None


@dataclass(frozen=True, slots=True)
class Composer:
    """Where a person's text stands before it is sent. `first` is its first line, group 1 the text;
    it counts only below a line that matches `above`. It ends before a line that matches `end`, or
    else before the last blank line. What matches `placeholder` is no draft; `collapsed` stands for
    a paste that is not shown whole."""

    first: re.Pattern[str]
    above: re.Pattern[str] | None
    end: re.Pattern[str] | None
    placeholder: re.Pattern[str] | None
    collapsed: re.Pattern[str] | None


@dataclass(frozen=True, slots=True)
class Menu:
    """Stands in the place of the composer until this key, by tmux's name, closes it; nothing is
    lost by that. A line that matches `pattern` is the menu's own."""

    pattern: re.Pattern[str]
    key: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `way` "show": text is displayed and never typed. `queues`: while it works, it takes
    text into a queue of its own. `block` begins each thing that was said or done. A text that
    matches `pad_before` or `pad_after` gets a blank in front or at its end, since the program would
    take what stands there for a command."""

    name: str
    version: str
    way: str
    programs: frozenset[str]
    paths: tuple[str, ...]
    queues: bool
    composer: Composer | None
    menu: Menu | None
    rules: tuple[Rule, ...]
    skip: re.Pattern[str] | None
    block: re.Pattern[str] | None
    pad_before: re.Pattern[str] | None
    pad_after: re.Pattern[str] | None
    words: Mapping[str, frozenset[str]]


def own_folder() -> str:
    """The folder of the user's own screen rules."""
    if os.environ.get("ORCH_CONFIG"):
        return os.path.join(os.path.dirname(os.environ["ORCH_CONFIG"]), "screens")
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(base, "orch", "screens")


@cache
def load() -> Mapping[str, Kind]:
    """Every kind by its name; read once in a process. A bad file of the user's is logged and left
    out, so that the shipped one stays in force."""
    kinds = {kind.name: kind for kind in (parse(path) for path in _files(SHIPPED))}
    for path in _files(own_folder()):
        try:
            own = parse(path)
            check_recorded(own)
        except BadRules as exc:
            logger.warning("screen rules not used", extra={"file": path, "error": str(exc)})
        else:
            kinds[own.name] = own
    return kinds


def agent_named(name: str, paths: str = "") -> Kind | None:
    """The kind of agent that has this program name, or one of whose paths occurs in `paths`."""
    for kind in load().values():
        if kind.way == "type" and (name in kind.programs or any(p in paths for p in kind.paths)):
            return kind
    return None


def check_recorded(kind: Kind) -> int:
    """Reads every recorded screen of the kind and returns how many there were.

    Raises BadRules when one of them is not read as it was recorded.
    """
    from orch_client.courier import fixture, screen  # they need this module

    count = 0
    for path in fixture.recorded(kind.name):
        want = fixture.read(path)
        got = screen.read(kind, screen.parse(want.screen))
        if got.state != want.state or not screen.same_draft(got.draft, want.draft):
            raise BadRules(
                f"{path.name} reads as {got.state} with the draft {got.draft!r}, but was recorded"
                f" as {want.state} with {want.draft!r}."
            )
        count += 1
    return count


def parse(path: str | os.PathLike[str]) -> Kind:
    """Reads one file. Raises BadRules."""
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            return _kind(name.removesuffix(".toml"), tomllib.load(file))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise BadRules(f"{name} cannot be read: {exc}.") from exc
    except re.error as exc:
        raise BadRules(f"{name}: '{exc.pattern!r}' is no pattern ({exc.msg}).") from exc
    except (KeyError, TypeError, AttributeError) as exc:
        raise BadRules(f"{name} lacks or misuses a key ({exc}).") from exc


def _kind(stem: str, data: dict[str, Any]) -> Kind:
    name, way = data["kind"], data["way"]
    if name != stem or not _NAME.match(name):
        raise BadRules(f"{stem}.toml is for the kind '{name}'; name the file after its kind.")
    if way not in _WAYS:
        raise BadRules(f"{stem}.toml has the way '{way}'; use one of: {', '.join(_WAYS)}.")
    typing = data.get("typing", {})
    rules = tuple(_rule(stem, given) for given in data.get("rule", ()))
    if "block" not in data and any(rule.where == "last" for rule in rules):
        raise BadRules(f"{stem}.toml has a rule for the \"last\" block, but no 'block'.")
    return Kind(
        name=name,
        version=str(data["version"]),
        way=way,
        programs=frozenset(data.get("programs", ())),
        paths=tuple(data.get("paths", ())),
        queues=bool(typing.get("queues", False)),
        composer=_composer(data["composer"]) if "composer" in data else None,
        menu=_menu(stem, data["menu"]) if "menu" in data else None,
        rules=rules,
        skip=_pattern(data.get("skip")),
        block=_pattern(data.get("block")),
        pad_before=_pattern(typing.get("pad_before")),
        pad_after=_pattern(typing.get("pad_after")),
        words={key: frozenset(words.split()) for key, words in data.get("words", {}).items()},
    )


def _rule(stem: str, given: dict[str, Any]) -> Rule:
    if given["state"] not in STATES:
        known = ", ".join(sorted(STATES))
        raise BadRules(f"{stem}.toml has the state '{given['state']}'; use one of: {known}.")
    if given.get("where", "screen") not in _PLACES:
        raise BadRules(f"{stem}.toml: '{given['where']}' is none of: {', '.join(_PLACES)}.")
    return Rule(
        id=given["id"],
        state=given["state"],
        pattern=re.compile(given["pattern"]),
        lines=int(given.get("lines", 12)),
        where=given.get("where", "screen"),
        quoted=bool(given.get("quoted", False)),
        coloured=bool(given.get("coloured", False)),
        tells=_pattern(given.get("tells")),
    )


def _menu(stem: str, given: dict[str, Any]) -> Menu:
    if given["key"] not in _KEYS:
        raise BadRules(
            f"{stem}.toml: the menu's key is '{given['key']}'; use one of: {', '.join(_KEYS)}."
        )
    return Menu(re.compile(given["pattern"]), given["key"])


def _composer(given: dict[str, Any]) -> Composer:
    return Composer(
        first=re.compile(given["first"]),
        above=_pattern(given.get("above")),
        end=_pattern(given.get("end")),
        placeholder=_pattern(given.get("placeholder")),
        collapsed=_pattern(given.get("collapsed")),
    )


def _pattern(given: str | None) -> re.Pattern[str] | None:
    return re.compile(given) if given else None


def _files(folder: str) -> Iterator[str]:
    names = os.listdir(folder) if os.path.isdir(folder) else ()
    yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(".toml"))
