"""From the paste to the outcome: sees the text land in the composer, sends Enter, sees it taken.

Nothing is ever typed again but Enter, and that twice at most, each time only while the very text
stands in the composer. The agent that took the text must be the one that got it, and must show that
it has it: an empty composer alone could have been emptied by a person.
"""

from __future__ import annotations

import asyncio

from orch_client.courier import screen
from orch_client.courier.kinds import Kind
from orch_client.courier.look import Look
from orch_client.courier.offer import CONFIRMED, QUEUED_BY_AGENT, UNCONFIRMED, Outcome
from orch_client.courier.work import Work

_LANDS_WITHIN = 30.0
_EMPTY_FOR = 10.0  # nothing is painted later than this by an agent that runs
_RESUMED = 3  # an attempt that finds the text pasted has so many times less patience
_RESCUE_AFTER = 2.5
_TAKEN_WITHIN = 10.0
_SHOWN_WITHIN = 3.0
_LETTERS_PER_SECOND = 40_000  # Codex 0.169 takes 5.5 s for 256 KiB in one line
_FAST, _SLOW, _FAST_FOR = 0.02, 0.1, 1.0


class Submission:
    """One text that was pasted. `queued`: the agent was at work when it was."""

    def __init__(self, work: Work, kind: Kind, text: str, name: str, queued: bool) -> None:
        self._work = work
        self._kind = kind
        self._text = text
        self._name = name
        self._queued = queued
        self._worked = False
        self._clock = asyncio.get_running_loop().time
        self._digestion = len(text) / _LETTERS_PER_SECOND

    async def run(self, resumed: bool) -> Outcome:
        """The outcome. `resumed`: another attempt had pasted it. Raises what tmux raises."""
        haste = _RESUMED if resumed else 1
        began = changed = self._clock()
        while True:
            seen = await self._work.look()
            if seen.status.entered == self._work.offer.sequence:
                return await self._taken()
            if (lost := self._lost(seen)) is not None:
                return lost
            if self._holds_text(seen) and not seen.status.in_mode:
                status = await self._work.enter(seen, self._cursor(seen))
                if status is None:
                    return await self._taken()
            elif _is_covered(seen):  # the text waits behind what has opened after the paste
                changed = self._clock()
            elif self._clock() > changed + _patience(seen) / haste:
                what = "other text" if seen.reading.draft else "nothing of the text"
                return self._doubt(
                    f"was pasted, but {self._composer} shows {what}; Enter was not sent"
                )
            await self._pause(began)

    async def _taken(self) -> Outcome:
        """Enter was sent."""
        began = self._clock()
        rescue_at = began + _RESCUE_AFTER + self._digestion
        patience = _TAKEN_WITHIN + 2 * self._digestion
        end, times, gone = began + patience, "once", 0.0
        while True:
            seen = await self._work.look()
            self._worked |= seen.reading.state == screen.WORKING
            if (lost := self._lost(seen)) is not None:
                return lost
            if seen.reading.draft == "":
                if self._shows_it(seen):
                    return self._success(seen)
                gone = gone or self._clock()
                if self._clock() > gone + _SHOWN_WITHIN + 2 * self._digestion:
                    return self._doubt(f"is not in {self._composer} any more, nor shown elsewhere")
            elif _is_asking(seen) and self._shows_it(seen):
                return self._success(seen)  # its turn has begun, and asks for leave already
            elif _is_covered(seen):
                end = self._clock() + patience
            elif self._clock() > end:
                what = "it" if self._holds_text(seen) else "other text"
                return self._doubt(
                    f"was pasted, Enter sent {times}, but {what} stands in {self._composer}"
                )
            elif times == "once" and self._clock() > rescue_at and self._holds_text(seen):
                times = "twice" if await self._work.enter_again(seen) is None else times
            await self._pause(began)

    def _lost(self, seen: Look) -> Outcome | None:
        """The outcome when the program that got the text is not the one that is there now."""
        if seen.status.dead or seen.program.image != seen.status.owner:
            entered = seen.status.entered == self._work.offer.sequence
            when = "after Enter was sent" if entered else "before Enter was sent"
            return self._doubt(f"was in {self._composer} when it ended, {when}")
        return None

    def _holds_text(self, seen: Look) -> bool:
        return screen.landed(self._kind, seen.reading.draft, self._text)

    def _shows_it(self, seen: Look) -> bool:
        """Whether the agent shows that it has the text, of which the composer has let go: it works,
        or the text stands above the composer. A command of the agent's own shows nothing."""
        began_work = self._worked and not self._queued
        command = self._text.startswith("/")
        return began_work or command or screen.echoed(self._kind, seen.lines, self._text)

    def _cursor(self, seen: Look) -> tuple[int, int] | None:
        return None if seen.reading.state == screen.WORKING else seen.cursor

    def _success(self, seen: Look) -> Outcome:
        if self._queued and seen.reading.state == screen.WORKING:
            detail = f"{self._name} is at work and has the text in its queue."
            return Outcome(QUEUED_BY_AGENT, detail)
        return Outcome(CONFIRMED, f"{self._name} took the text.")

    @property
    def _composer(self) -> str:
        return f"the composer of {self._name}"

    def _doubt(self, what: str) -> Outcome:
        return Outcome(UNCONFIRMED, f"The text {what}.")

    async def _pause(self, began: float) -> None:
        await asyncio.sleep(_FAST if self._clock() < began + _FAST_FOR else _SLOW)


def _patience(seen: Look) -> float:
    """How long the text may take to show up where other text stands, or nothing."""
    return _LANDS_WITHIN if seen.reading.draft else _EMPTY_FOR


def _is_asking(seen: Look) -> bool:
    """Whether a dialog of the agent's own stands where the composer was."""
    covered = seen.program.stopped or seen.status.in_mode
    return not covered and seen.reading.state in screen.ASKING


def _is_covered(seen: Look) -> bool:
    """Whether the composer cannot be judged now: something else stands in its place, or the program
    is stopped, or a person reads what has scrolled by."""
    return seen.reading.draft is None or seen.program.stopped or seen.status.in_mode
