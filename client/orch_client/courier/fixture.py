"""Recorded screens, by which screen rules are tested: KIND/VERSION-NAME.screen.

A head of `key: value` lines, a line `---`, then the screen as `tmux capture-pane -p -e` printed it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orch_client.courier import kinds

_SPLIT = "\n---\n"


@dataclass(frozen=True, slots=True)
class Fixture:
    """One recorded screen and what it shows. `draft` None: no composer is to be seen."""

    kind: str
    version: str
    state: str
    draft: str | None
    cursor: str
    size: str
    about: str
    screen: str


def recorded(kind: str) -> Iterator[Path]:
    """The shipped fixtures of a kind, then the user's own."""
    for folder in (kinds.SHIPPED, kinds.own_folder()):
        yield from sorted((Path(folder) / "fixtures" / kind).glob("*.screen"))


def read(path: Path) -> Fixture:
    """Reads a fixture. Raises BadRules when it is none."""
    head, split, screen = path.read_text("utf-8").partition(_SPLIT)
    try:
        fields = dict(line.split(": ", 1) for line in head.splitlines())
        draft = json.loads(fields["draft"])
        if not split or not isinstance(draft, str | None):
            raise ValueError
        return Fixture(
            kind=fields["kind"],
            version=fields["version"],
            state=fields["state"],
            draft=draft,
            cursor=fields["cursor"],
            size=fields["size"],
            about=fields["about"],
            screen=screen,
        )
    except (ValueError, KeyError) as exc:
        raise kinds.BadRules(f"{path.name} is no recorded screen.") from exc


def write(path: Path, made: Fixture) -> None:
    """Writes a fixture; a file that exists is not touched. Raises FileExistsError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = [
        f"kind: {made.kind}",
        f"version: {made.version}",
        f"state: {made.state}",
        f"draft: {json.dumps(made.draft, ensure_ascii=False)}",
        f"cursor: {made.cursor}",
        f"size: {made.size}",
        f"about: {made.about}",
    ]
    with path.open("x", encoding="utf-8") as file:
        file.write("\n".join(head) + _SPLIT + made.screen)
