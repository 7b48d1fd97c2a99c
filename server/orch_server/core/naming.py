"""Session names from what a project is called: `<project>-impl`, `<project>-impl-<8 hex>`.

The old system spelled a project's name in three ways, so a name is never guessed: it is taken from
names that exist, and only when exactly one of them fits. Used by the synchroniser, over what tmux
has, and by the import, over what the old queue has.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_SESSION = re.compile(r"(?P<project>.+?)-impl(?:-(?:[0-9a-f]{8}|[0-9]+))?\Z", re.DOTALL)


def sanitised(label: str) -> frozenset[str]:
    """The ways in which the old system wrote this project's name in a session's name."""
    lower = label.strip().lower()
    ways = (
        lower,
        lower.replace(" ", "-"),
        lower.replace(" ", "_"),
        lower.replace(" ", "-").replace("_", "-"),
        re.sub(r"[^\w-]+", "-", lower).strip("-"),
        re.sub(r"[^a-z0-9]+", "-", lower).strip("-"),
    )
    return frozenset(way for way in ways if way)


def project_of(name: str) -> str | None:
    """The part of a session's name before "-impl", in lower case; None when it has no such form."""
    match = _SESSION.match(name.lower())
    return match["project"] if match else None


def candidates_for(labels: Collection[str], names: Iterable[str]) -> list[str]:
    """The distinct names that a session of a project with one of these labels may have had, in the
    order of `names`."""
    spellings = frozenset[str]().union(*(sanitised(label) for label in labels))
    return [name for name in dict.fromkeys(names) if project_of(name) in spellings]


def repair_name(project_names: Iterable[str], candidates: Iterable[str]) -> str | None:
    """The one candidate that fits one of the project's names; None when none or several do."""
    found = candidates_for(tuple(project_names), candidates)
    return found[0] if len(found) == 1 else None
