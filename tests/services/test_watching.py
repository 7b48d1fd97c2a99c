"""What the synchroniser asks the host: calls that may hang, processes that end, folders."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from pathlib import Path

import pytest

from orch_server.tmux import worktrees
from orch_server.tmux.bounded import Bounded, TmuxUnanswered
from orch_server.tmux.watch import ProcessWatch
from tests.support import PATIENCE


def test_while_a_call_hangs_no_other_of_its_key_is_begun() -> None:
    released, begun = threading.Event(), threading.Semaphore(0)

    def hang() -> str:
        begun.release()
        assert released.wait(PATIENCE)
        return "late"

    async def body() -> None:
        calls = Bounded(deadline=0.05)
        for _ in range(5):
            with pytest.raises(TmuxUnanswered):
                await calls.run("a", hang)
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
        assert not begun.acquire(blocking=False)
        calls._deadline = PATIENCE  # what does not hang has all the time it needs
        assert await calls.run("b", lambda: "another") == "another"
        released.set()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    assert await calls.run("a", lambda: "again") == "again"
                    break
                except TmuxUnanswered:
                    await asyncio.to_thread(released.wait)

    asyncio.run(body())


def test_a_process_that_is_gone_already_has_ended_once() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    ended: list[int] = []

    async def body() -> None:
        watch = ProcessWatch(lambda: ended.append(1))
        for _ in range(3):
            watch.follow([child.pid])
        assert ended == [1]
        watch.follow([])
        watch.follow([child.pid])
        assert ended == [1, 1], "it may be another one's number by now"
        watch.close()

    asyncio.run(body())


@pytest.mark.parametrize(("name", "found"), [(b"tree", True), (b"tr\xff\xfee", False)])
def test_a_folder_whose_name_is_no_text_is_not_learned(
    tmp_path: Path, name: bytes, found: bool
) -> None:
    folder = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(folder), ".git").mkdir(parents=True)
    child = subprocess.Popen(["sleep", "1000"], cwd=folder)
    try:
        seen = asyncio.run(worktrees.look(Bounded(), (), {child.pid}, ()))
    finally:
        child.kill()
        child.wait()
    assert seen.worktrees == ({child.pid: os.fsdecode(folder)} if found else {})
