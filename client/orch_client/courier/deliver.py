"""Delivers one offer into one pane, exactly as the guard in the tmux server lets it.

Into a program: load the text into a buffer of its own, paste it by compare-and-set, send Enter by a
second one. Over a shell: show it on the pane's terminal by the same compare-and-set. Whatever is
killed between, the same offer may be tried again: the guard tells what was already done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from orch_client.courier import programs, terminal, tmux
from orch_client.courier.guard import Guard, Status
from orch_client.courier.programs import Program, Sort

PASTED, CONFIRMED, UNCONFIRMED, REFUSED = "PASTED", "CONFIRMED", "UNCONFIRMED", "REFUSED"
_SEEN = "OK"
_SILENT_PAUSE = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PaneAddress:
    """The incarnation of a pane on this host."""

    socket: str
    server_pid: int
    started: int
    pane: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What to deliver. `kind` is the one under which the pane was registered, "" for none;
    `tried_before` says that another attempt with this number may have come before."""

    sequence: int
    generation: str
    text: str
    kind: str
    tried_before: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """PASTED, CONFIRMED, UNCONFIRMED or REFUSED, and one sentence on what was seen."""

    state: str
    detail: str


class Courier:
    """Serves the panes of one process. One delivery at a time for each pane."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    async def deliver(
        self, offer: Offer, at: PaneAddress, progress: Callable[[Outcome], Awaitable[None]]
    ) -> Outcome:
        """Works on one offer until its outcome is known. `progress` hears that text was pasted.

        REFUSED means that nothing entered the pane and that this number never will. While tmux does
        not answer nothing is known, so the same offer is tried again; cancel this to give it up.
        """
        lock = self._locks.setdefault(f"{at.socket} {at.pane}", asyncio.Lock())
        async with lock:
            while True:
                try:
                    return await self._try(offer, at, progress)
                except tmux.TmuxSilent as exc:
                    logger.warning("tmux was silent", extra={"pane": at.pane, "error": str(exc)})
                    offer = replace(offer, tried_before=True)
                    await asyncio.sleep(_SILENT_PAUSE)

    async def _try(
        self, offer: Offer, at: PaneAddress, progress: Callable[[Outcome], Awaitable[None]]
    ) -> Outcome:
        try:
            return await self._deliver(offer, at, progress)
        except tmux.PaneGone:
            if offer.tried_before:
                return Outcome(UNCONFIRMED, f"Pane {at.pane} ended while it was tried.")
            return Outcome(REFUSED, f"Pane {at.pane} is gone.")
        except tmux.TmuxDied:
            return Outcome(UNCONFIRMED, "The tmux server died while it had the text.")
        except tmux.TmuxFailed as exc:
            return Outcome(REFUSED, f"tmux refused: {exc}.")

    async def _deliver(
        self, offer: Offer, at: PaneAddress, progress: Callable[[Outcome], Awaitable[None]]
    ) -> Outcome:
        facts = await tmux.pane_facts(at.socket, at.pane)
        guard = Guard(at.server_pid, at.started, at.pane, offer.generation, offer.sequence)
        if (facts.server_pid, facts.started) != (at.server_pid, at.started):
            raise tmux.PaneGone(f"pane {at.pane} belongs to another tmux server now")
        if facts.dead:
            ended = f"The program in pane {at.pane} has ended."
            return await self._refuse(at, guard, facts.command, ended)
        program = await asyncio.to_thread(programs.foreground, facts.pane_pid, facts.command)
        if program.sort is Sort.CLIENT or (
            program.sort is Sort.PROMPT and offer.kind in ("", "shell")
        ):
            return await self._show(offer, at, guard, facts.command)
        obstacle = _obstacle(offer.kind, program) or await asyncio.to_thread(
            _left_to_a_shell, program, facts
        )
        if obstacle:
            return await self._refuse(at, guard, facts.command, obstacle)
        return await self._type(offer, at, guard, facts.command, program, progress)

    async def _type(
        self,
        offer: Offer,
        at: PaneAddress,
        guard: Guard,
        command: str,
        program: Program,
        progress: Callable[[Outcome], Awaitable[None]],
    ) -> Outcome:
        buffer = f"orch-{os.urandom(8).hex()}"
        paste = (
            f"paste-buffer -p -r -d -b {buffer} -t {at.pane}"
            f" ; set-option -p -t {at.pane} {guard.used} {guard.sequence}"
            f" ; set-option -p -t {at.pane} {guard.pasted} {guard.sequence}"
            f" ; display-message -p -t {at.pane} {_SEEN}"
        )
        drop = f"delete-buffer -b {buffer} ; {_burn(guard, at.pane)}"
        try:
            out = await tmux.run(
                at.socket,
                *("load-buffer", "-b", buffer, "-", ";"),
                *_expect(guard, at.pane, command),
                *("if-shell", "-F", "-t", at.pane, guard.may_paste(), paste, drop),
                stdin=offer.text.encode(),
            )
        except (tmux.PaneGone, tmux.TmuxFailed):
            await self._forget(at.socket, buffer)
            raise
        if (seen := _last_line(out)) != _SEEN:
            status = Status.parse(seen)
            if status.pasted != guard.sequence:
                return Outcome(REFUSED, _why(status, guard, at.pane))
        await progress(Outcome(PASTED, f"The text is in {program.name or 'the program'}."))
        return await self._enter(at, guard, command, program)

    async def _enter(
        self, at: PaneAddress, guard: Guard, command: str, program: Program
    ) -> Outcome:
        enter = (
            f"send-keys -t {at.pane} Enter"
            f" ; set-option -p -t {at.pane} {guard.entered} {guard.sequence}"
            f" ; display-message -p -t {at.pane} {_SEEN}"
        )
        name = program.name or "the program"
        try:
            out = await tmux.run(
                at.socket,
                *_expect(guard, at.pane, command),
                *("if-shell", "-F", "-t", at.pane, guard.may_enter(), enter),
                _print(guard, at.pane),
            )
        except (tmux.PaneGone, tmux.TmuxFailed) as exc:
            return Outcome(UNCONFIRMED, f"The text is in {name}, Enter was not sent: {exc}.")
        if (seen := _last_line(out)) != _SEEN:
            status = Status.parse(seen)
            if status.entered < guard.sequence:
                why = _why(status, guard, at.pane)
                return Outcome(UNCONFIRMED, f"The text is in {name}, Enter was not sent: {why}")
        if program.sort is Sort.AGENT:
            return Outcome(UNCONFIRMED, f"Typed into {name}; its screen is not read yet.")
        return Outcome(CONFIRMED, f"Typed into {name}.")

    async def _show(self, offer: Offer, at: PaneAddress, guard: Guard, command: str) -> Outcome:
        """Shows the text on the pane's terminal. The shell in it does not see it."""
        with _temporary_folder() as folder:
            note = Path(folder) / "note"
            done = Path(folder) / "done"
            note.write_bytes(_for_terminal(offer.text))
            # The folder's name has no character that a shell or a tmux format knows.
            show = f"cat '{note}' > '#{{pane_tty}}' 2>/dev/null && : > '{done}' || :"
            act = (
                f"set-option -p -t {at.pane} {guard.used} {guard.sequence}"
                f" ; set-option -p -t {at.pane} {guard.pasted} {guard.sequence}"
                f' ; run-shell -t {at.pane} "{show}"'
                f" ; display-message -p -t {at.pane} {_SEEN}"
            )
            out = await tmux.run(
                at.socket,
                *_expect(guard, at.pane, command),
                *("if-shell", "-F", "-t", at.pane, guard.may_paste(), act, _burn(guard, at.pane)),
            )
            if (seen := _last_line(out)) != _SEEN:
                status = Status.parse(seen)
                if status.pasted == guard.sequence:
                    return Outcome(CONFIRMED, "Displayed by an earlier attempt.")
                return Outcome(REFUSED, _why(status, guard, at.pane))
            if not done.exists():
                return Outcome(UNCONFIRMED, "The pane's terminal did not take the text.")
        return Outcome(CONFIRMED, "Displayed; a shell is never typed into.")

    async def _refuse(self, at: PaneAddress, guard: Guard, command: str, why: str) -> Outcome:
        """Burns the number, so that no late twin of this attempt can still use it."""
        out = await tmux.run(
            at.socket,
            *_expect(guard, at.pane, command),
            *("if-shell", "-F", "-t", at.pane, guard.may_burn()),
            *(_burn(guard, at.pane), _print(guard, at.pane)),
        )
        status = Status.parse(_last_line(out))
        if status.pasted == guard.sequence:
            return Outcome(UNCONFIRMED, f"The text was pasted before; now: {why}")
        return Outcome(REFUSED, why)

    async def _forget(self, socket: str, buffer: str) -> None:
        with contextlib.suppress(tmux.PaneGone, tmux.TmuxFailed, tmux.TmuxSilent):
            await tmux.run(socket, "delete-buffer", "-b", buffer)


def _obstacle(kind: str, program: Program) -> str:
    """Why nothing may be typed into this program; "" when it may."""
    if program.sort is Sort.PROMPT:
        return f"The agent has exited; {program.name} has the pane."
    if program.sort is Sort.OTHER and kind in ("", "shell"):
        return (
            f"{program.name or 'The program'} is no known agent; register the pane with"
            " 'orch-client heartbeat --kind generic' to have text typed into it."
        )
    return ""


def _left_to_a_shell(program: Program, facts: tmux.PaneFacts) -> str:
    """Why text for this program could end in the shell behind it; "" when it could not.

    A program that reads keys has its terminal in a mode of its own. One that leaves the terminal as
    the shell set it (sleep, make, git) may never read, and then the shell would run the text.
    """
    if program.sort is Sort.AGENT or not programs.is_prompt(facts.pane_pid):
        return ""
    if terminal.takes_keys(facts.tty):
        return ""
    return f"{program.name} reads no keys, and what it leaves unread the shell behind it would run."


def _expect(guard: Guard, pane: str, command: str) -> tuple[str, ...]:
    """Tells the guard which command the courier saw; an option's value is not expanded."""
    # A ';' at the end of an argument would end the tmux command, so it is escaped.
    value = command[:-1] + "\\;" if command.endswith(";") else command
    return ("set-option", "-p", "-t", pane, "--", guard.expected, value, ";")


def _burn(guard: Guard, pane: str) -> str:
    """Prints the status, and uses the number up unless it was used before."""
    use = f"set-option -p -t {pane} {guard.used} {guard.sequence}"
    return f'{_print(guard, pane)} ; if-shell -F -t {pane} "{guard.may_burn()}" "{use}"'


def _print(guard: Guard, pane: str) -> str:
    return f'display-message -p -t {pane} "{guard.status()}"'


def _last_line(out: str) -> str:
    """What tmux printed last. Raises TmuxSilent when it printed nothing."""
    lines = [line for line in out.splitlines() if line]
    if not lines:
        raise tmux.TmuxSilent("tmux gave no answer")
    return lines[-1]


def _why(status: Status, guard: Guard, pane: str) -> str:
    if status.incarnation != f"{guard.server_pid}.{guard.started}":
        return f"Pane {pane} belongs to another tmux server now."
    if status.dead:
        return f"The program in pane {pane} has ended."
    if status.in_mode:
        return f"Pane {pane} is in copy mode."
    if not status.same_command:
        return f"Another program took the foreground of pane {pane} meanwhile."
    return f"Offer {guard.sequence} was refused by an earlier attempt."


def _for_terminal(text: str) -> bytes:
    """The text on lines of its own, whatever mode the terminal is in."""
    return ("\r\n" + text.replace("\n", "\r\n") + "\r\n").encode()


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    """A private folder for one text. Raises TmuxSilent when there is no room for it."""
    import tempfile  # 0.3 MB that a client without anything to show does without

    usual = tempfile.gettempdir()
    safe = re.fullmatch(r"[\w./-]+", usual, re.ASCII)  # a name that no shell can misread
    try:
        with tempfile.TemporaryDirectory(prefix="orch-", dir=usual if safe else "/tmp") as folder:  # noqa: S108
            yield folder
    except OSError as exc:
        raise tmux.TmuxSilent(f"no temporary file ({exc.strerror})") from exc
