"""What a person can do about a difference between store and tmux: a command where there is one.

Each command is one line for a POSIX shell. Names of others are quoted for the shell, and so that
tmux takes them as they are; a tmux session is named by its id, which no odd name can break.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

from orch_server.core.sync_view import tmux_spelling

PANE_GONE = "Repaired by itself: its role and its mail stay, and go to the role's next pane."
PANE_GONE_BUT_HEARD = (
    "Its client is, or may still be, there: end that one, and the rest is repaired by itself."
)
WINDOW_CHANGED = "Repaired by itself: the store takes what tmux says."
WORKTREE_MOVED = "Repaired by itself: the store takes the git folder that its pane is in."
WORKTREE_MISSING = (
    "Put the worktree back (git worktree add), or tell the agent's new one by UpdateAgentState"
    " (docs/howto/grpcurl.md)."
)


def take_name(name: str) -> str:
    """The store will call a session by the only name that fits."""
    return f"Repaired by itself: the only name that fits is {shlex.quote(name)}."


def look_again(name: str) -> str:
    """How to have a name looked for that was not found, when only one fits by then."""
    return (
        "Once exactly one tmux session fits, have it looked for again: orch-client state --set"
        f" completion=pending -- {shlex.quote(name)} && orch-client sync"
    )


def start_again(socket: str, name: str, path: str) -> str:
    """How to start a session's tmux session again, or to end the session."""
    folder = f" -c {_word(path)}" if path else ""
    start = f"{_tmux(socket)} new-session -d -s {_word(tmux_spelling(name))}{folder}"
    return (
        f"Start it again: {start} and 'orch-client heartbeat' in its panes; or end it:"
        f" orch-client state --set completion=failed -- {shlex.quote(name)}"
    )


def rename_back(socket: str, session_id: str, name: str) -> str:
    """Gives the tmux session the name that the store has."""
    return f"{_tmux(socket)} rename-session -t {_word(session_id)} -- {_word(tmux_spelling(name))}"


def set_role(socket: str, pane: str, role: str) -> str:
    """Puts the pane's option back; the other way is to register the pane anew."""
    back = f"{_tmux(socket)} set-option -p -t {_word(pane)} @orch_role {_word(role)}"
    return f"Put it back: {back}; or run 'orch-client heartbeat --take-over' in the pane."


def back_up_and_end(socket: str, pid: int, session_id: str, created: int, backups: str) -> str:
    """Writes what the panes of a tmux session show into files, then ends it; nothing is done when
    the session is another one by now, or when a step fails."""
    tmux, session = _tmux(socket), _word(session_id)
    stamp = datetime.fromtimestamp(created, UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = shlex.quote(f"{backups}/orphans/{stamp}-{pid}-{session_id.lstrip('$')}")
    steps = (
        "set -e",
        f"test \"$({tmux} display-message -p -t {session} '#{{pid}}.#{{session_created}}')\""
        f" = {pid}.{created}",
        f"mkdir -p -m 700 {folder}",
        f"cd {folder}",
        f"{tmux} list-panes -s -t {session} -F '#{{pane_id}}' > panes",
        f'while read -r p; do {tmux} capture-pane -p -S - -t "$p" > "$p.txt"; done < panes',
        f"{tmux} kill-session -t {session}",
    )
    return f"( {'; '.join(steps)} )"


def _tmux(socket: str) -> str:
    return f"tmux -u -S {shlex.quote(socket)}"


def _word(text: str) -> str:
    """One argument of a tmux command: tmux itself would take a last ";" as the command's end."""
    escaped = f"{text[:-1]}\\;" if text.endswith(";") else text
    return shlex.quote(escaped)
