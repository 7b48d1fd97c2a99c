"""Reads Markdown as far as the tests of the documentation need it: fenced blocks and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and the line where it begins."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    page = path.read_text()
    return [
        Block(match[2], match[3], page.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(page)
    ]


def links(path: Path) -> list[str]:
    """The targets of the links of a page, outside of code."""
    return _LINK.findall(_CODE.sub("", _prose(path)))


def anchors(path: Path) -> set[str]:
    """The names under which the headings of a page can be linked to."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(_prose(path))
    }


def pages() -> list[Path]:
    """Every page of the documentation, and the README."""
    return [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]


def _prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text())
