"""Templates of messages: the shipped ones and the user's own, in text files.

`{name}` stands for a parameter, `{{` and `}}` for braces; any other brace is just a brace. Values
are put in in one pass, so nothing in them is taken for a parameter. Files are read when they are
used, on a thread: a changed one is in effect at once.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from orch_server.core.errors import Conflict, InvalidInput, NotFound
from orch_server.core.text import MAX_TEXT_BYTES, printable

SHIPPED = Path(__file__).parent.parent / "templates"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A template; `own`: the user's."""

    name: str
    text: str
    own: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in it, each once, in order."""
        return tuple(dict.fromkeys(m[1] for m in _FIELD.finditer(self.text) if m[1]))

    def fill(self, values: dict[str, str]) -> str:
        """The text with the values. Raises InvalidInput naming all that is missing or unknown."""
        missing = [name for name in self.parameters if name not in values]
        unknown = [name for name in values if name not in self.parameters]
        if missing or unknown:
            wrong = [
                f"{what}: {printable(', '.join(names), 300)}"
                for what, names in (("missing", missing), ("unknown", unknown))
                if names
            ]
            known = ", ".join(self.parameters) or "none"
            raise InvalidInput(
                "parameters",
                f"The parameters of template {self.name} are wrong ({'; '.join(wrong)}); it has:"
                f" {known}. Give each with -v NAME=VALUE.",
            )
        return _FIELD.sub(lambda m: values[m[1]] if m[1] else m[0][0], self.text)


class Templates:
    """The folders with templates; one of the user's hides a shipped one of the same name."""

    def __init__(self, own: Path) -> None:
        self._own = own

    async def get(self, name: str) -> Template:
        """The template with this name. Raises NotFound, Conflict when it cannot be read."""
        return await asyncio.to_thread(self._get, name)

    async def all(self) -> list[Template]:
        """All templates by name. Raises Conflict when one cannot be read."""
        return await asyncio.to_thread(self._all)

    def _get(self, name: str) -> Template:
        files = self._files()
        if name not in files:
            raise NotFound(
                f"There is no template '{printable(name)}'; there are: {', '.join(sorted(files))}."
            )
        return _read(name, *files[name])

    def _all(self) -> list[Template]:
        return [_read(name, *where) for name, where in sorted(self._files().items())]

    def _files(self) -> dict[str, tuple[Path, bool]]:
        """Where each template is, and whether it is the user's own."""
        return {
            path.stem: (path, own)
            for folder, own in ((SHIPPED, False), (self._own, True))
            for path in folder.glob("*.txt")
            if _NAME.match(path.stem)
        }


def _read(name: str, path: Path, own: bool) -> Template:
    try:
        if not path.is_file():
            raise OSError("it is no file")
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise OSError(f"it has more than {MAX_TEXT_BYTES:,} bytes")
        return Template(name, path.read_text(encoding="utf-8").strip("\n"), own)
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise Conflict(
            f"The template {name} ({path}) cannot be read ({why}); mend it or remove it."
        ) from exc
