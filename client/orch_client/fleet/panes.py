"""The panes of one tmux server, as one call lists them. all.py asks about once a second."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from orch_client.courier.offer import PaneAddress
from orch_client.courier.tmux import Tmux

# tmux allows no ":" in a session's name, so the command, which may hold anything, comes after it.
_FORMAT = (
    "#{pid} #{start_time} #{pane_id} #{pane_pid} #{pane_dead} #{window_activity} #{session_name}"
    ":#{pane_current_command}"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A living pane, at the monotonic time `when`. `pid` is its first process, `command` what tmux
    sees in its foreground, `activity` the second in which its window last wrote something."""

    at: PaneAddress
    pid: int
    session: str
    command: str
    activity: int
    when: float


async def list_panes(tmux: Tmux, socket: str, session: str) -> dict[PaneAddress, Seen]:
    """The panes with a living program, of one session or, with "", of all.

    A pane that several sessions show is listed once. Raises what Tmux.run raises.
    """
    found: dict[PaneAddress, Seen] = {}
    when = time.monotonic()
    out = await tmux.run("list-panes", "-a", "-F", _FORMAT)
    for line in out.splitlines():
        head, _, command = line.partition(":")
        server, started, pane, pid, dead, activity, name = head.split(" ", 6)
        at = PaneAddress(socket, int(server), int(started), pane)
        if dead != "1" and session in ("", name):
            found.setdefault(at, Seen(at, int(pid), name, command, int(activity), when))
    return found


def ancestors() -> set[int]:
    """The ids of this process and its parents."""
    found: set[int] = set()
    pid = "self"
    while pid != "0":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            break
        found.add(int(stat.partition(" ")[0]))
        pid = stat.rpartition(")")[2].split()[1]
    return found
