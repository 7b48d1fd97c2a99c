"""What an agent's screen says after a delivery."""

from __future__ import annotations

import asyncio

from orch_client.courier import screen
from orch_client.courier.look import Look
from orch_client.courier.offer import Reply
from orch_client.courier.work import Work

_LARGEST = 64 * 1024
_HISTORY = 3000  # lines of scrollback
_PAUSE = 0.2
_STILL_FOR = 1.0  # a screen without rules counts as at rest when it has not changed for so long
_MARK = 30  # so much of a text's beginning finds it on the screen


async def watch(work: Work) -> Reply:
    """Waits until the agent is at rest, or the offer's patience ends. Raises PaneGone."""
    clock = asyncio.get_running_loop().time
    end = clock() + work.offer.reply_patience
    complete = False
    try:
        async with asyncio.timeout_at(end):
            await _rest(work)
            complete = True
    except TimeoutError:
        pass
    captured = await work.tmux.run(
        "capture-pane", "-p", "-J", "-S", f"-{_HISTORY}", "-t", work.at.pane
    )
    seen = await work.look()
    text = extract(captured.split("\n"), work.offer.text, _composer_height(seen))
    return Reply(text, complete and bool(text))


async def _rest(work: Work) -> None:
    clock = asyncio.get_running_loop().time
    last, since = await work.look(), clock()
    while True:
        await asyncio.sleep(_PAUSE)
        seen = await work.look()
        if [line.text for line in seen.lines] != [line.text for line in last.lines]:
            last, since = seen, clock()
        readable = seen.kind is not None and seen.kind.composer is not None
        if readable and seen.reading.state != screen.IDLE:
            since = clock()
        if clock() - since >= (2 * _PAUSE if readable else _STILL_FOR):
            return


def extract(lines: list[str], sent: str, composer: int) -> str:
    """The lines below the last place where the text stands, without the composer's own lines."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    lines = lines[: len(lines) - composer]
    mark = screen.essence(sent)[:_MARK]
    found = [at for at, line in enumerate(lines) if mark and mark in screen.essence(line)]
    if not found:  # such as a long first line that is wrapped by the program itself
        found = [at for at in range(len(lines)) if _begins(lines[at : at + 3], mark)]
    if not found:
        return ""
    rest, meant = lines[found[-1] + 1 :], screen.essence(sent)
    while rest and (not rest[0].strip() or screen.essence(rest[0]) in meant):
        rest = rest[1:]
    return "\n".join(line.rstrip() for line in rest).strip("\n")[-_LARGEST:]


def _begins(lines: list[str], mark: str) -> bool:
    return bool(mark) and mark in screen.essence("".join(lines))


def _composer_height(seen: Look) -> int:
    """How many lines at the bottom of the screen belong to the composer."""
    if seen.kind is None or seen.kind.composer is None:
        return 0
    top = screen.composer_top(seen.kind.composer, seen.lines)
    if top is None:
        return 0
    framed = seen.kind.composer.above is not None
    return len(seen.lines) - top + (1 if framed else 0)
