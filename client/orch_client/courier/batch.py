"""Speaks to tmux by a process for all calls that come together: the transport for many panes where
control mode is not safe.

While one process runs, the calls that come wait for the next one, so that a process is shared when
there is much to do and costs nobody a wait when there is little. `source-file -` reads the calls, a
line each: an error ends its own line only. After each call tmux prints an unguessable word to both
outputs (that it knows no buffer of this name, to the second), so that a call ends there and nowhere
else.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass

from orch_client.courier.quoting import command_line
from orch_client.courier.text_argument import loading
from orch_client.courier.tmux import (
    DEADLINE,
    PaneGone,
    Subprocess,
    TmuxDied,
    TmuxFailed,
    TmuxSilent,
    error,
    execute,
)

_AT_ONCE = 2  # processes: the second one is started while tmux works for the first
_MOST = 32  # calls of one process: more would keep the first of them waiting for the last


@dataclass(frozen=True, slots=True)
class _Call:
    """A command line that waits for its process, and for its answer."""

    args: tuple[str, ...]
    stdin: bytes | None
    deadline: float
    answer: asyncio.Future[str]


class Batch:
    """One tmux server. Calls of one moment share a process."""

    def __init__(self, socket: str) -> None:
        self._command = ["tmux", "-u", "-N", "-S", socket, "source-file", "-"]
        self._single = Subprocess(socket)
        self._waiting: deque[_Call] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, *args: str, stdin: bytes | None = None, deadline: float = DEADLINE) -> str:
        """As in Tmux. What may take long runs in a process of its own."""
        if any("run-shell" in arg for arg in args):
            return await self._single.run(*args, stdin=stdin, deadline=deadline)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(args, stdin, deadline, answer))
        self._start()
        try:
            async with asyncio.timeout(deadline):
                return await answer
        except TimeoutError as exc:
            raise TmuxSilent(f"tmux did not answer within {deadline:g} s") from exc

    async def close(self) -> None:
        """Waits for what is under way."""
        if self._running:
            await asyncio.wait(self._running)

    def _start(self) -> None:
        while self._waiting and len(self._running) < _AT_ONCE:
            calls: list[_Call] = []
            while self._waiting and len(calls) < _MOST:
                call = self._waiting.popleft()
                if not call.answer.done():  # else its caller has given up
                    calls.append(call)
            if calls:
                task = asyncio.create_task(self._serve(calls))
                self._running.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        task.result()
        self._start()

    async def _serve(self, calls: list[_Call]) -> None:
        lines: list[bytes] = []
        asked: list[_Call] = []
        with ExitStack() as files:
            for call in calls:
                try:
                    args = files.enter_context(loading(call.args, call.stdin))
                    lines.append(command_line(args).encode())
                except (TmuxSilent, ValueError) as exc:  # it cannot be written; the others can
                    _settle(call, exc)
                else:
                    asked.append(call)
            if not asked:
                return
            try:
                answers = await self._ask(lines, max(call.deadline for call in asked))
            except TmuxSilent as exc:
                answers = [exc] * len(asked)
        if answers is None:
            await asyncio.gather(*(self._alone(call) for call in asked))
            return
        for call, said in zip(asked, answers, strict=True):
            _settle(call, said)

    async def _alone(self, call: _Call) -> None:
        """tmux could not read the lines, so nothing of them was done: each call by itself."""
        try:
            said: str | Exception = await self._single.run(
                *call.args, stdin=call.stdin, deadline=call.deadline
            )
        except (PaneGone, TmuxDied, TmuxFailed, TmuxSilent) as exc:
            said = exc
        _settle(call, said)

    async def _ask(self, lines: list[bytes], deadline: float) -> list[str | Exception] | None:
        """What each line printed, or its error; None when nothing was begun. Raises TmuxSilent."""
        mark = f"orch-{os.urandom(12).hex()}"
        script = [f"display-message -p {mark}\n".encode()]
        for number, line in enumerate(lines):
            end = f"{mark}.{number}."
            script += [line, f"\ndisplay-message -p {end}\ndelete-buffer -b {end}\n".encode()]
        done = await asyncio.to_thread(execute, self._command, b"".join(script), deadline)
        printed, said = (
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )
        begun, printed = _cut(printed, mark)
        if begun is not None:
            return _answers(len(lines), mark, printed, said)
        if done.returncode < 0:  # perhaps in the midst of the first mark: nothing is known
            return [TmuxSilent("the tmux client was killed")] * len(lines)
        if printed.strip():  # it prints what it cannot read
            return None
        return [error(said.strip())] * len(lines)


def _answers(count: int, mark: str, printed: str, said: str) -> list[str | Exception]:
    """Cuts both outputs at the marks. A call whose mark is missing was not finished."""
    found: list[str | Exception] = []
    for number in range(count):
        out, printed = _cut(printed, f"{mark}.{number}.")
        wrong, said = _cut(said, f"{mark}.{number}.")
        if out is None or wrong is None:
            found += [error(said.strip())] * (count - number)
            break
        found.append(error(wrong.strip()) if wrong else out)
    return found


def _cut(text: str, mark: str) -> tuple[str | None, str]:
    """What stands before the line with the mark, and what after it; None when it is not there."""
    at = text.find(mark)
    if at < 0:
        return None, text
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    return text[:start], text[end + 1 :] if end >= 0 else ""


def _settle(call: _Call, said: str | Exception) -> None:
    if call.answer.done():
        return
    if isinstance(said, Exception):
        call.answer.set_exception(said)
    else:
        call.answer.set_result(said)
