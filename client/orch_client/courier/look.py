"""One look at a pane: what tmux says of it, what its options hold, what its screen shows. One call,
so that all of it is of the same moment."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property

from orch_client.courier import kinds, programs, screen
from orch_client.courier.guard import Cursor, Guard, Status
from orch_client.courier.kinds import Kind
from orch_client.courier.offer import PaneAddress
from orch_client.courier.programs import Program, Sort
from orch_client.courier.screen import Line, Reading
from orch_client.courier.tmux import PaneGone, Tmux, TmuxDied

_UNREAD = Reading(screen.UNKNOWN, "", None)


@dataclass(frozen=True)
class Look:
    """What was seen. `reading` is by the rules of `kind`; of a program without rules it is unknown
    and without a draft. The screen, as it was `captured`, is taken apart when it is asked for."""

    status: Status
    pane_pid: int
    cursor: Cursor
    tty: str
    command: str
    program: Program
    kind: Kind | None
    captured: str
    reading: Reading

    @cached_property
    def lines(self) -> list[Line]:
        """The screen's lines."""
        return screen.parse(self.captured)


async def look(tmux: Tmux, guard: Guard, registered: str) -> Look:
    """Looks at the guard's pane; `registered` is the kind under which it is known.

    Raises PaneGone when it is gone or of another incarnation.
    """
    facts = (
        f"#{{pane_pid}} #{{cursor_x}} #{{cursor_y}} #{{pane_tty}} {guard.status()}"
        " #{pane_current_command}"
    )
    try:
        out = await tmux.run(
            *("display-message", "-p", "-t", guard.pane, facts, ";"),
            *("capture-pane", "-p", "-e", "-t", guard.pane),
        )
    except TmuxDied as exc:  # a mere question: nothing else was under way
        raise PaneGone(str(exc)) from exc
    head, _, captured = out.partition("\n")
    fields = head.split(" ", 12)
    if len(fields) < 13 or not fields[0]:  # for a missing pane tmux prints empty fields
        raise PaneGone(f"there is no pane {guard.pane}")
    status = Status.parse(" ".join(fields[4:12]))
    if status.incarnation != f"{guard.server_pid}.{guard.started}":
        raise PaneGone(f"pane {guard.pane} belongs to another tmux server now")
    pid, command = int(fields[0]), fields[12]
    program = await asyncio.to_thread(programs.foreground, pid, command)
    kind = _kind(program, registered)
    reading = _UNREAD
    if kind is not None and kind.composer is not None:
        reading = screen.read(kind, screen.parse(captured))
    cursor = (int(fields[1]), int(fields[2]))
    return Look(status, pid, cursor, fields[3], command, program, kind, captured, reading)


async def glimpse(tmux: Tmux, at: PaneAddress) -> str:
    """The pane's screen alone, as `screen.parse` takes it: for one who only wants to know.

    Raises PaneGone when the pane is gone, dead, or of another incarnation; also as Tmux.run.
    """
    out = await tmux.run(
        *("display-message", "-p", "-t", at.pane, "#{pid}.#{start_time}.#{pane_dead}", ";"),
        *("capture-pane", "-p", "-e", "-t", at.pane),
    )
    head, _, captured = out.partition("\n")
    if head != f"{at.server_pid}.{at.started}.0":
        raise PaneGone(f"there is no such pane {at.pane} any more")
    return captured


def _kind(program: Program, registered: str) -> Kind | None:
    """The rules for a program: its own, else those under which the pane was registered."""
    if program.sort is Sort.AGENT:
        return kinds.load().get(program.agent)
    return kinds.load().get(registered) if program.sort is Sort.OTHER else None
