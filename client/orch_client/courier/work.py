"""One attempt to deliver one offer: the offer, its pane, its guard, and the guarded steps."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orch_client.courier.guard import Cursor, Guard, Status
from orch_client.courier.look import Look, look
from orch_client.courier.offer import REFUSED, UNCONFIRMED, Offer, Outcome, PaneAddress
from orch_client.courier.tmux import PaneGone, Tmux, TmuxFailed, TmuxSilent

SEEN = "OK"


@dataclass(frozen=True, slots=True)
class Work:
    """One attempt. `told` hears that the text was pasted."""

    tmux: Tmux
    at: PaneAddress
    offer: Offer
    told: Callable[[Outcome], Awaitable[None]]

    @property
    def guard(self) -> Guard:
        """The guard of the offer's number."""
        at = self.at
        return Guard(at.server_pid, at.started, at.pane, self.offer.generation, self.offer.sequence)

    async def look(self) -> Look:
        """Raises PaneGone."""
        return await look(self.tmux, self.guard, self.offer.kind)

    async def paste(self, seen: Look, text: str, cursor: Cursor | None) -> Status | None:
        """Pastes if the guard lets it. None: pasted; else what the guard saw."""
        return await self._paste(seen, text, cursor, "")

    async def paste_and_enter(self, seen: Look, text: str) -> Status | None:
        """Pastes and sends Enter, as one, if the guard lets it. None: done; else what it saw."""
        enter = (
            f"send-keys -t {self.at.pane} Enter ; {set_number(self.guard.entered, self.guard)} ; "
        )
        return await self._paste(seen, text, None, enter)

    async def _paste(
        self, seen: Look, text: str, cursor: Cursor | None, then: str
    ) -> Status | None:
        guard, pane = self.guard, self.at.pane
        buffer = f"orch-{os.urandom(8).hex()}"
        paste = (
            f"paste-buffer -p -r -d -b {buffer} -t {pane}"
            f" ; {set_number(guard.used, guard)} ; {set_number(guard.pasted, guard)}"
            f" ; set-option -p -t {pane} {guard.owner} {seen.program.image}"
            f" ; {then}display-message -p -t {pane} {SEEN}"
        )
        drop = f"delete-buffer -b {buffer} ; {self._print()}"
        try:
            out = await self.tmux.run(
                *("load-buffer", "-b", buffer, "-", ";"),
                *self.expect(seen.command),
                *("if-shell", "-F", "-t", pane, guard.may_paste(cursor), paste, drop),
                stdin=text.encode(),
            )
        except (PaneGone, TmuxFailed):
            with contextlib.suppress(PaneGone, TmuxFailed, TmuxSilent):
                await self.tmux.run("delete-buffer", "-b", buffer)
            raise
        return answer(out)

    async def enter(self, seen: Look, cursor: Cursor | None) -> Status | None:
        """Sends Enter if the guard lets it. None: sent; else what the guard saw."""
        return await self._enter(seen, self.guard.may_enter(cursor), self.guard.entered)

    async def enter_again(self, seen: Look) -> Status | None:
        """Sends the one Enter more that is allowed. None: sent; else what the guard saw."""
        return await self._enter(seen, self.guard.may_rescue(seen.cursor), self.guard.rescued)

    async def close_menu(self, seen: Look, key: str) -> None:
        """Presses the key if nothing has changed since the look."""
        pane = self.at.pane
        may = self.guard.may_paste(seen.cursor)
        press = f"send-keys -t {pane} {key}"
        await self.tmux.run(*self.expect(seen.command), "if-shell", "-F", "-t", pane, may, press)

    async def refuse(self, reason: str, why: str) -> Outcome:
        """Burns the number, so that no late twin of this attempt can still use it."""
        out = await self.tmux.run(
            "if-shell", "-F", "-t", self.at.pane, self.guard.may_burn(), self.burn(), self._print()
        )
        if Status.parse(last_line(out)).pasted == self.offer.sequence:
            return Outcome(UNCONFIRMED, f"The text was pasted before; now: {why}")
        return Outcome(REFUSED, why, reason)

    def expect(self, command: str) -> tuple[str, ...]:
        """Tells the guard which command was seen; an option's value is not expanded."""
        # A ';' at the end of an argument would end the tmux command, so it is escaped.
        value = command[:-1] + "\\;" if command.endswith(";") else command
        return ("set-option", "-p", "-t", self.at.pane, "--", self.guard.expected, value, ";")

    def burn(self) -> str:
        """tmux commands: print the status, and use the number up unless it was used before."""
        use = f'if-shell -F -t {self.at.pane} "{self.guard.may_burn()}"'
        return f'{self._print()} ; {use} "{set_number(self.guard.used, self.guard)}"'

    async def _enter(self, seen: Look, may: str, option: str) -> Status | None:
        pane = self.at.pane
        enter = (
            f"send-keys -t {pane} Enter ; {set_number(option, self.guard)}"
            f" ; display-message -p -t {pane} {SEEN}"
        )
        out = await self.tmux.run(
            *self.expect(seen.command), "if-shell", "-F", "-t", pane, may, enter, self._print()
        )
        return answer(out)

    def _print(self) -> str:
        return f'display-message -p -t {self.at.pane} "{self.guard.status()}"'


def answer(out: str) -> Status | None:
    """None when tmux printed that it was done, else the status that it printed."""
    line = last_line(out)
    return None if line == SEEN else Status.parse(line)


def last_line(out: str) -> str:
    """What tmux printed last. Raises TmuxSilent when it printed nothing."""
    lines = [line for line in out.splitlines() if line]
    if not lines:
        raise TmuxSilent("tmux gave no answer")
    return lines[-1]


def set_number(option: str, guard: Guard) -> str:
    """A tmux command: the option gets the guard's number."""
    return f"set-option -p -t {guard.pane} {option} {guard.sequence}"


def why(status: Status, guard: Guard) -> Outcome:
    """The refusal for a guard that said no."""
    pane = guard.pane
    if status.incarnation != f"{guard.server_pid}.{guard.started}":
        return Outcome(REFUSED, f"Pane {pane} belongs to another tmux server now.", "PANE_GONE")
    if status.dead:
        return Outcome(REFUSED, f"The program in pane {pane} has ended.", "PANE_GONE")
    if status.used >= guard.sequence:
        detail = f"Offer {guard.sequence} was refused by an earlier attempt."
        return Outcome(REFUSED, detail, "NUMBER_USED")
    if status.in_mode:
        return Outcome(REFUSED, f"Pane {pane} is in copy mode.", "COPY_MODE")
    if not status.same_command:
        detail = f"Another program took the foreground of pane {pane} meanwhile."
        return Outcome(REFUSED, detail, "NOT_READY")
    return Outcome(REFUSED, f"The screen of pane {pane} does not keep still.", "NOT_READY")
