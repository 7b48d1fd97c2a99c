"""What keeps a text out of a pane. Some of it passes by itself: then the text is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from orch_client.courier import programs, screen, terminal
from orch_client.courier.look import Look
from orch_client.courier.programs import Sort

#: Reasons that pass by themselves; see RefusalReason in delivery.proto.
NOT_NOW = frozenset(
    {"AGENT_BUSY", "DIALOG_OPEN", "DRAFT_IN_COMPOSER", "COPY_MODE", "NOT_READY", "STOPPED"}
)
_LONGEST_LINE = 4095  # what a terminal that reads lines takes; the rest is lost (termios(3))
_WAITING = {
    "waiting_permission": ("DIALOG_OPEN", "waits for a permission"),
    "waiting_question": ("DIALOG_OPEN", "asks a question"),
    "starting": ("NOT_READY", "is starting"),
    screen.UNKNOWN: ("NOT_READY", "shows no composer"),
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A RefusalReason without its prefix, and one sentence."""

    reason: str
    sentence: str


def is_shown(seen: Look, registered: str) -> bool:
    """Whether text is displayed on this pane rather than typed."""
    return seen.program.sort is Sort.CLIENT or (
        seen.program.sort is Sort.PROMPT and registered in ("", "shell")
    )


def obstacle(seen: Look, pane: str, registered: str, mode: str, text: str) -> Obstacle | None:
    """What keeps the text out now; None when it may enter."""
    if seen.status.dead:
        return Obstacle("PANE_GONE", f"The program in pane {pane} has ended.")
    if seen.status.in_mode:
        return Obstacle("COPY_MODE", f"Pane {pane} is in copy mode.")
    name = seen.program.name or "The program"
    if seen.program.stopped:
        return Obstacle("STOPPED", f"{name} is stopped.")
    if is_shown(seen, registered):
        return None
    if seen.program.sort is Sort.PROMPT:
        return Obstacle("AGENT_EXITED", f"The agent has exited; {name} has the pane.")
    if seen.program.sort is Sort.OTHER and registered in ("", "shell"):
        return Obstacle(
            "NOT_REGISTERED",
            f"{name} is no known agent; register the pane with 'orch-client heartbeat --kind"
            " generic' to have text typed into it.",
        )
    if seen.kind is not None and seen.kind.composer is not None:
        return _on_screen(seen, name, mode)
    return _unread(seen, name, text)


def _on_screen(seen: Look, name: str, mode: str) -> Obstacle | None:
    """What the screen of an agent says."""
    reading = seen.reading
    busy = reading.state == screen.WORKING
    if busy and not (mode == "IMMEDIATE" and seen.kind is not None and seen.kind.queues):
        return Obstacle("AGENT_BUSY", f"{name} is at work ({reading.rule}).")
    if reading.state in _WAITING:
        reason, what = _WAITING[reading.state]
        rule = f" ({reading.rule})" if reading.rule else ""
        return Obstacle(reason, f"{name} {what}{rule}.")
    if reading.draft is None:
        return Obstacle("NOT_READY", f"{name} shows no composer.")
    if reading.draft:
        return Obstacle("DRAFT_IN_COMPOSER", f"Text that was not sent stands before {name}.")
    return None


def _unread(seen: Look, name: str, text: str) -> Obstacle | None:
    """What the terminal says of a program whose screen nobody can read.

    A program that reads keys has its terminal in a mode of its own. One that leaves the terminal as
    the shell set it (sleep, make, git) may never read, and then the shell would run the text.
    """
    if seen.program.sort is Sort.AGENT or terminal.takes_keys(seen.tty):
        return None
    if programs.is_prompt(seen.pane_pid):
        return Obstacle(
            "NOT_REGISTERED",
            f"{name} reads no keys, and what it leaves unread the shell behind it would run.",
        )
    longest = max(len(line.encode()) for line in text.split("\n"))
    if longest > _LONGEST_LINE:
        return Obstacle(
            "UNREADABLE",
            f"{name} reads lines, of which its terminal keeps {_LONGEST_LINE:,} bytes; one of the"
            f" text's has {longest:,}.",
        )
    return None
