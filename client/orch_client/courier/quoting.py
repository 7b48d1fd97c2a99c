"""Writes an argument list as one line for tmux's own parser, as control mode wants it."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r'[\\"$~\x00-\x1f\x7f]')


def command_line(args: tuple[str, ...]) -> str:
    """The line that means the same to tmux's parser as these arguments mean on a command line.

    An argument that ends in ";" ends its command, one that ends in "\\;" stands for itself.
    """
    commands: list[list[str]] = [[]]
    for arg in args:
        if arg.endswith("\\;"):
            commands[-1].append(arg[:-2] + ";")
        elif arg.endswith(";"):
            commands[-1] += [arg[:-1]] if arg != ";" else []
            commands.append([])
        else:
            commands[-1].append(arg)
    return " ; ".join(" ".join(map(_quote, command)) for command in commands if command)


def _quote(arg: str) -> str:
    return f'"{_SPECIAL.sub(_escape, arg)}"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char == "\0":
        raise ValueError("embedded null byte")
    if char in '\\"$~':
        return f"\\{char}"
    return "\\n" if char == "\n" else f"\\{ord(char):03o}"
