"""Delivers offers into panes, exactly as the guard in the tmux server lets it.

Into an agent: compose.py. Into another program that is registered for it: paste by compare-and-set,
Enter by a second one. Over a shell: show.py. Whatever is killed between, the same offer may be
tried again: the guard tells what was already done. A pane that cannot take text now is refused at
once and watched until it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from orch_client.courier import reply, screen
from orch_client.courier.compose import STILL, compose
from orch_client.courier.look import Look
from orch_client.courier.obstacle import NOT_NOW, is_shown, obstacle
from orch_client.courier.offer import (
    CONFIRMED,
    PASTED,
    QUEUED_BY_AGENT,
    REFUSED,
    UNCONFIRMED,
    Listener,
    Offer,
    Outcome,
    PaneAddress,
    Reply,
)
from orch_client.courier.show import show
from orch_client.courier.tmux import (
    PaneGone,
    Subprocess,
    Tmux,
    TmuxDied,
    TmuxFailed,
    TmuxSilent,
)
from orch_client.courier.work import Work, why

__all__ = ["Courier", "Listener", "Offer", "Outcome", "PaneAddress", "Reply"]

_SILENT_PAUSE = 0.5
_WATCH_PAUSE, _LATER_PAUSE, _LATER = 0.1, 0.25, 10.0
_SHARE = 0.02  # seconds between two looks for each pane that is watched: so much work at most

logger = logging.getLogger(__name__)


class Courier:
    """Serves the panes of one process. One delivery at a time for each pane."""

    def __init__(self, tmux: Callable[[str], Tmux] = Subprocess) -> None:
        self._open = tmux
        self._tmux: dict[str, Tmux] = {}
        self._locks: dict[PaneAddress, asyncio.Lock] = {}
        self._watches: dict[PaneAddress, asyncio.Task[None]] = {}
        self._replies: set[asyncio.Task[None]] = set()

    async def serve(self, offer: Offer, at: PaneAddress, listener: Listener) -> None:
        """Works on one offer until its outcome is known and reported; then watches the pane.

        REFUSED means that nothing entered the pane and that this number never will. While tmux does
        not answer nothing is known, so the same offer is tried again; cancel this to give it up.
        """
        self._forget_watch(at)
        tmux = self._tmux.get(at.socket)
        if tmux is None:
            tmux = self._tmux[at.socket] = self._open(at.socket)
        work = Work(tmux, at, offer, lambda outcome: listener.report(offer, outcome))
        async with self._locks.setdefault(at, asyncio.Lock()):
            outcome = await _until_known(work)
            await listener.report(offer, outcome)
        if outcome.state == REFUSED and outcome.reason in NOT_NOW:
            self._forget_watch(at)
            watch = asyncio.create_task(self._until_ready(work, listener))
            self._watches[at] = watch
            watch.add_done_callback(lambda ended: self._watch_ended(at, ended))
        elif outcome.state in (CONFIRMED, QUEUED_BY_AGENT) and offer.reply_patience > 0:
            self._in_background(_reply(work, listener))

    async def close(self) -> None:
        """Ends the watches and the connections to tmux."""
        tasks = [*self._watches.values(), *self._replies]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for tmux in self._tmux.values():
            await tmux.close()
        self._tmux.clear()

    def _forget_watch(self, at: PaneAddress) -> None:
        watch = self._watches.pop(at, None)
        if watch is not None:
            watch.cancel()

    def _watch_ended(self, at: PaneAddress, ended: asyncio.Task[None]) -> None:
        if self._watches.get(at) is ended:
            del self._watches[at]

    async def _until_ready(self, work: Work, listener: Listener) -> None:
        """Says that the pane can take the text, or is to be refused for another reason."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            soon = _WATCH_PAUSE if clock() < began + _LATER else _LATER_PAUSE
            await asyncio.sleep(max(soon, _SHARE * len(self._watches)))
            with contextlib.suppress(TmuxSilent, TmuxFailed):
                if not await _hinders(work):
                    await listener.ready(work.at)
                    return

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)


async def _until_known(work: Work) -> Outcome:
    """Tries until tmux has answered."""
    while True:
        try:
            return await _try(work)
        except TmuxSilent as exc:
            logger.warning("tmux was silent", extra={"pane": work.at.pane, "error": str(exc)})
            work = replace(work, offer=replace(work.offer, tried_before=True))
            await asyncio.sleep(_SILENT_PAUSE)


async def _try(work: Work) -> Outcome:
    pane = work.at.pane
    told: list[Outcome] = []

    async def tell(outcome: Outcome) -> None:
        told.append(outcome)
        await work.told(outcome)

    try:
        return await _deliver(replace(work, told=tell))
    except PaneGone:
        if told or work.offer.tried_before:
            return Outcome(UNCONFIRMED, f"Pane {pane} ended while it was tried.")
        return Outcome(REFUSED, f"Pane {pane} is gone.", "PANE_GONE")
    except TmuxDied:
        return Outcome(UNCONFIRMED, "The tmux server died while it had the text.")
    except TmuxFailed as exc:
        if told:
            return Outcome(UNCONFIRMED, f"The text is in the pane, but tmux refused: {exc}.")
        return Outcome(REFUSED, f"tmux refused: {exc}.", "TMUX_FAILED")


async def _deliver(work: Work) -> Outcome:
    seen = await work.look()
    offer = work.offer
    if seen.status.pasted != offer.sequence:
        way = obstacle(seen, work.at.pane, offer.kind, offer.mode, offer.text)
        if way is not None:
            key = screen.menu_key(seen.kind, seen.lines) if seen.kind is not None else ""
            if key:  # once for each offer; the pane is then watched, as after any refusal
                await work.close_menu(seen, key)
            return await work.refuse(way.reason, way.sentence)
    if is_shown(seen, offer.kind):
        return await show(work, seen)
    if seen.kind is not None and seen.kind.composer is not None:
        return await compose(work, seen.kind, seen)
    return await _type(work, seen)


async def _type(work: Work, seen: Look) -> Outcome:
    """Types into a program of whose screen nothing is known, so that there is nothing to wait for
    between the text and Enter. An earlier attempt may have come as far as the text."""
    name = seen.program.name or "the program"
    pasted = seen.status.pasted == work.offer.sequence
    if pasted and seen.program.image != seen.status.owner:
        return Outcome(UNCONFIRMED, "The program that got the text is not there any more.")
    if not pasted:
        status = await work.paste_and_enter(seen, work.offer.text)
        if status is None:
            return Outcome(CONFIRMED, f"Typed into {name}.")
        if status.pasted != work.offer.sequence:
            refused = why(status, work.guard)
            return await work.refuse(refused.reason, refused.detail)
    await work.told(Outcome(PASTED, f"The text is in {name}."))
    try:
        status = await work.enter(seen, None)
    except (PaneGone, TmuxFailed) as exc:
        return Outcome(UNCONFIRMED, f"The text is in {name}, Enter was not sent: {exc}.")
    if status is not None and status.entered < work.offer.sequence:
        detail = why(status, work.guard).detail
        return Outcome(UNCONFIRMED, f"The text is in {name}, Enter was not sent: {detail}")
    return Outcome(CONFIRMED, f"Typed into {name}.")


async def _hinders(work: Work) -> bool:
    """Whether two looks find something that will pass by itself; what is for good does not."""
    offer = work.offer
    for pause in (0.0, STILL):
        await asyncio.sleep(pause)
        try:
            seen = await work.look()
        except PaneGone:  # the next attempt says so
            return False
        way = obstacle(seen, work.at.pane, offer.kind, offer.mode, offer.text)
        if way is not None and way.reason in NOT_NOW:
            return True
    return False


async def _reply(work: Work, listener: Listener) -> None:
    try:
        said = await reply.watch(work)
    except (PaneGone, TmuxDied, TmuxFailed, TmuxSilent):
        said = Reply("", complete=False)
    await listener.reply(work.offer, said)
