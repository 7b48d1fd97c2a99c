"""The mode of a pane's terminal, as the kernel has it."""

from __future__ import annotations

import os
import termios

_LOCAL_FLAGS = 3  # where tcgetattr has them


def takes_keys(path: str) -> bool:
    """Whether the program in the foreground reads keys rather than lines; False when unknown."""
    try:
        terminal = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        flags: int = termios.tcgetattr(terminal)[_LOCAL_FLAGS]
    except termios.error:
        return False
    finally:
        os.close(terminal)
    return not flags & termios.ICANON
