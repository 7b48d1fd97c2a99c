"""Types into an agent whose screen can be read: waits for a composer that keeps still, and pastes.
What follows is in submit.py."""

from __future__ import annotations

import asyncio

from orch_client.courier import screen
from orch_client.courier.kinds import Kind
from orch_client.courier.look import Look
from orch_client.courier.obstacle import obstacle
from orch_client.courier.offer import PASTED, Outcome
from orch_client.courier.submit import Submission
from orch_client.courier.work import Work, why

STILL = 0.05  # between two looks that must agree
_MOST_TRIES = 20


async def compose(work: Work, kind: Kind, seen: Look) -> Outcome:
    """Delivers into the composer. Raises what tmux raises."""
    text = padded(kind, work.offer.text)
    pasted = seen.status.pasted == work.offer.sequence
    if not pasted:
        refused = await _paste(work, seen, text)
        if refused is not None:
            return refused
    name = seen.program.name
    await work.told(Outcome(PASTED, f"The text is in {name}."))
    queued = not pasted and seen.reading.state == screen.WORKING
    return await Submission(work, kind, text, name, queued).run(resumed=pasted)


def padded(kind: Kind, text: str) -> str:
    """The text with a blank where the program would take its first or last character for more than
    text."""
    before = " " if kind.pad_before is not None and kind.pad_before.search(text) else ""
    after = " " if kind.pad_after is not None and kind.pad_after.search(text) else ""
    return f"{before}{text}{after}"


async def _paste(work: Work, seen: Look, text: str) -> Outcome | None:
    """Pastes once the screen keeps still; None when done, else the refusal."""
    offer = work.offer
    for _ in range(_MOST_TRIES):
        way = obstacle(seen, work.at.pane, offer.kind, offer.mode, offer.text)
        if way is not None:
            return await work.refuse(way.reason, way.sentence)
        await asyncio.sleep(STILL)
        again = await work.look()
        busy = seen.reading.state == screen.WORKING
        if again.reading == seen.reading and (busy or again.cursor == seen.cursor):
            status = await work.paste(again, text, None if busy else again.cursor)
            if status is None or status.pasted == offer.sequence:
                return None
            refused = why(status, work.guard)
            if refused.reason in ("PANE_GONE", "NUMBER_USED"):
                return await work.refuse(refused.reason, refused.detail)
        seen = again
    return await work.refuse("NOT_READY", f"The screen of pane {work.at.pane} does not keep still.")
