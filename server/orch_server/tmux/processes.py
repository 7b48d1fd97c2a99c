"""The kernel's word on processes of this host, from /proc."""

from __future__ import annotations

import socket
from pathlib import Path

_DEPTH = 64


def ancestors(pid: int) -> list[int]:
    """The process and its parents, up to init. Ends early where the kernel tells no more."""
    chain: list[int] = []
    while pid > 1 and len(chain) < _DEPTH:
        chain.append(pid)
        pid = parent(pid)
    return chain


def parent(pid: int) -> int:
    """The process's parent, 0 when it cannot be told."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def terminal(pid: int) -> int:
    """The number of the process's controlling terminal, 0 when it has none."""
    fields = _stat(pid)
    return int(fields[4]) if fields else 0


def started(pid: int) -> int:
    """When the process began, in ticks since the boot; 0 when it is gone. Tells it from a later one
    of the same number."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, group, session, terminal, …"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return stat.rpartition(")")[2].split()


def host_name() -> str:
    """This host, as panes are named by it."""
    return socket.gethostname()
