"""Puts the text for a buffer into a line of commands, or into a file that the line names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orch_client.courier.tmux import TmuxSilent

_INLINE = 16 * 1024  # bytes; a larger text goes through a private file


@contextmanager
def loading(args: tuple[str, ...], stdin: bytes | None) -> Iterator[tuple[str, ...]]:
    """The same command with the text in it, or in a file of its own that lives as long as this."""
    if stdin is None:
        yield args
        return
    if args[:2] != ("load-buffer", "-b") or args[3] != "-":
        raise ValueError("only 'load-buffer -b NAME -' takes text")
    if len(stdin) <= _INLINE:
        text = stdin.decode()
        text = text[:-1] + "\\;" if text.endswith(";") else text
        yield ("set-buffer", "-b", args[2], "--", text, *args[4:])
        return
    import tempfile  # 0.3 MB that a client without large texts does without

    try:
        with tempfile.NamedTemporaryFile(prefix="orch-") as file:
            file.write(stdin)
            file.flush()
            yield (*args[:3], file.name.replace("#", "##"), *args[4:])  # tmux expands formats
    except OSError as exc:
        raise TmuxSilent(f"no temporary file ({exc.strerror})") from exc
