"""The old system's processes. They write to the registry and delete from it, so whoever imports
must hear of them."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

from orch_server.core.text import printable
from orch_server.tmux.processes import ancestors

SCRIPTS = frozenset(
    {
        "scheduler.py",
        "checkin_monitor.py",
        "heartbeat_monitor.py",
        "state_synchronizer.py",
        "credit_monitor.py",
        "agent_health_monitor.py",
        "project_failure_handler.py",
        "concurrent_orchestration.py",
        "auto_orchestrate.py",
        "tmux_orchestrator_cli.py",
        "check_queue.py",
    }
)
_RUNNER = re.compile(r"(python[\d.]*|uv|bash|dash|sh|env|nohup|timeout)\Z")
_LOOKED_AT = 8  # words of a command line, until the script must have come


def daemons(queue: Path) -> tuple[str, ...]:
    """The processes, of any user, that run one of the old scripts or hold the queue at `queue`
    open, one line each. What another user's process holds open is known to root alone. Not among
    them: this process and those that started it. Empty where there is no /proc."""
    ours = set(ancestors(os.getpid()))
    return tuple(
        f"process {pid}{_of(user)}: {printable(' '.join(words), 120)}"
        f"{' (holds task_queue.db open)' * held}"
        for pid, user, words in _processes()
        if pid not in ours
        for held in (_holds(pid, queue),)
        if held or _runs_script(words)
    )


def _processes() -> Iterator[tuple[int, int, list[str]]]:
    """The number, the user and the command line of each process."""
    for place in sorted(Path("/proc").glob("[0-9]*"), key=lambda place: place.name.zfill(10)):
        try:
            user = place.stat().st_uid
            line = (place / "cmdline").read_bytes()
        except OSError:
            continue
        yield int(place.name), user, os.fsdecode(line).rstrip("\0").split("\0")


def _of(user: int) -> str:
    """Whose it is, when it is another user's."""
    if user == os.getuid():
        return ""
    try:
        return f" of {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f" of user {user}"


def _runs_script(words: list[str]) -> bool:
    program, *rest = (word.rpartition("/")[2] for word in words[:_LOOKED_AT])
    if program in SCRIPTS:
        return True
    return _RUNNER.match(program) is not None and not SCRIPTS.isdisjoint(rest)


def _holds(pid: int, queue: Path) -> bool:
    wanted = {str(queue), f"{queue}-wal"}
    try:
        with os.scandir(f"/proc/{pid}/fd") as found:
            return any(_target(entry.path) in wanted for entry in found)
    except OSError:
        return False


def _target(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - a link of the kernel, often to no path
    except OSError:
        return ""
