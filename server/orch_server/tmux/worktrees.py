"""Where agents work, from the files of this host: looked at on a thread, with a deadline, since a
file system may hang."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orch_server.tmux.bounded import Bounded, TmuxUnanswered
from orch_server.tmux.finder import is_absent

_TMUX = "tmux: server"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the files say: worktrees that are not there, the git folders that processes are in, and
    which of the tmux servers asked for run."""

    lost: frozenset[str] = frozenset()
    worktrees: Mapping[int, str] = field(default_factory=dict)
    servers: frozenset[int] = frozenset()


async def look(
    calls: Bounded, paths: Collection[str], pids: Collection[int], servers: Collection[int]
) -> Seen:
    """What the files say of these paths, processes and tmux servers; when they do not answer in
    time, that no path is lost and every server runs."""
    try:
        return await calls.run("files", lambda: _look(paths, pids, servers))
    except TmuxUnanswered:
        return Seen(servers=frozenset(servers))


def _look(paths: Collection[str], pids: Collection[int], servers: Collection[int]) -> Seen:
    found = {pid: _git_folder(pid) for pid in pids}
    return Seen(
        frozenset(path for path in paths if is_absent(path)),
        {pid: path for pid, path in found.items() if path},
        frozenset(pid for pid in servers if _is_tmux(pid)),
    )


def _git_folder(pid: int) -> str:
    """The top of the git worktree that the process is in; "" when there is none."""
    try:
        here = Path(f"/proc/{pid}/cwd").readlink()
        if not here.is_dir():  # what is around one that was deleted is another worktree
            return ""
    except OSError:
        return ""
    found = next((str(p) for p in (here, *here.parents) if os.path.lexists(p / ".git")), "")
    return found if _is_text(found) else ""


def _is_text(path: str) -> bool:
    """Whether the path is text that can be stored: a folder may have any bytes for a name."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_tmux(pid: int) -> bool:
    """Whether this is a tmux server that runs; one that ended and was not waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return f"({_TMUX})" in stat and stat.rpartition(") ")[2][:1] not in ("Z", "X")
