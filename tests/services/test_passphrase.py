"""The operator's passphrase."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import pytest

from orch_server.core.errors import LimitReached, NotAllowed, PassphraseRequired
from orch_server.services import passphrase as module
from orch_server.services.passphrase import Passphrase
from tests.support import PATIENCE


@pytest.fixture
def passphrase(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Passphrase:
    """None is set; hashing and the penalty are made quick."""
    monkeypatch.setitem(module._COST, "n", 2**4)
    monkeypatch.setattr(module, "PENALTY", 0.01)
    return Passphrase(folder / "passphrase")


def test_without_one_the_mode_is_open(passphrase: Passphrase) -> None:
    assert not passphrase.is_set()
    asyncio.run(passphrase.demand("", "do it"))
    asyncio.run(passphrase.demand("anything", "do it"))


def test_the_right_one_passes_and_no_other(passphrase: Passphrase) -> None:
    passphrase.set("correct horse ß")
    assert passphrase.is_set()
    asyncio.run(passphrase.demand("correct horse ß", "do it"))
    for wrong in ("Correct horse ß", "correct horse", " correct horse ß", "x"):
        with pytest.raises(NotAllowed, match="wrong; it is needed to do it") as caught:
            asyncio.run(passphrase.demand(wrong, "do it"))
        assert not isinstance(caught.value, PassphraseRequired)
    with pytest.raises(PassphraseRequired, match="needed to do it"):
        asyncio.run(passphrase.demand("", "do it"))


def test_a_new_one_replaces_the_old(passphrase: Passphrase) -> None:
    passphrase.set("old")
    passphrase.set("new")
    assert (passphrase.matches("new"), passphrase.matches("old")) == (True, False)


def test_the_file_is_private_and_salted(passphrase: Passphrase, folder: Path) -> None:
    path = folder / "passphrase"
    passphrase.set("same")
    first = path.read_text()
    passphrase.set("same")
    assert path.read_text() != first
    assert "same" not in first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in folder.iterdir()] == ["passphrase"]


@pytest.mark.parametrize("content", ["", "scrypt", "scrypt zz zz", "a b c d", "scrypt 00 00\n"])
def test_a_damaged_file_lets_nobody_pass(
    passphrase: Passphrase, folder: Path, content: str
) -> None:
    (folder / "passphrase").write_text(content)
    with pytest.raises(NotAllowed):
        asyncio.run(passphrase.demand("anything", "do it"))


class Gated(Passphrase):
    """Each check waits to be let through, and says what it was given."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun: list[str] = []
        self.gate = threading.Semaphore(0)

    def matches(self, given: str) -> bool:
        self.begun.append(given)
        assert self.gate.acquire(timeout=PATIENCE)
        return super().matches(given)


class Warped(asyncio.SelectorEventLoop):
    """A loop whose clock stands still until it is put forward, however long a turn takes."""

    skipped = 0.0

    def time(self) -> float:
        return self.skipped

    async def skip(self, seconds: float) -> None:
        """Lets what is due by then happen."""
        self.skipped += seconds
        await _turns()

    async def skip_until(self, is_over: Callable[[], bool]) -> None:
        """Lets penalties end until then."""
        while not is_over():
            await self.skip(0.5)
            await asyncio.to_thread(lambda: None)

    async def penalty(self) -> None:
        """Waits until there is a timer."""
        await _until(lambda: any(not t.cancelled() for t in self._scheduled))  # type: ignore[attr-defined]


def _in_warped_time(body: Callable[[Warped], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=Warped) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Warped)
        runner.run(body(loop))  # type: ignore[arg-type]


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def _until(probe: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not probe():
        assert time.monotonic() < end
        await asyncio.to_thread(lambda: None)


@pytest.fixture
def gated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Gated:
    """The passphrase is "right"; the penalty is the real one, the hashing quick."""
    monkeypatch.setitem(module._COST, "n", 2**4)
    made = Gated(folder / "passphrase")
    made.set("right")
    return made


def _open(gated: Gated) -> None:
    for _ in range(100):
        gated.gate.release()


def test_one_is_checked_at_a_time(gated: Gated) -> None:
    async def body(loop: Warped) -> None:
        tries = [asyncio.create_task(gated.demand(f"guess {n}", "x")) for n in range(3)]
        for number, one in enumerate(tries):
            await _until(lambda: len(gated.begun) > number)  # noqa: B023
            await _turns()
            assert gated.begun == [f"guess {n}" for n in range(number + 1)]
            gated.gate.release()
            await loop.skip_until(one.done)
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert all(isinstance(result, NotAllowed) for result in results)

    _in_warped_time(body)


def test_a_wrong_one_costs_a_second_and_the_right_one_nothing(gated: Gated) -> None:
    async def body(loop: Warped) -> None:
        _open(gated)
        await gated.demand("right", "x")
        assert loop.skipped == 0
        wrong = asyncio.create_task(gated.demand("wrong", "x"))
        after = asyncio.create_task(gated.demand("right", "x"))
        await _until(lambda: gated.begun == ["right", "wrong"])
        await loop.penalty()
        await loop.skip(0.9)
        assert not wrong.done()
        assert gated.begun == ["right", "wrong"]
        await loop.skip(0.1)
        with pytest.raises(NotAllowed, match="wrong"):
            await wrong
        await after

    _in_warped_time(body)


def test_who_comes_when_three_are_waiting_is_refused_at_once(gated: Gated) -> None:
    async def body(loop: Warped) -> None:
        waiting = [asyncio.create_task(gated.demand("wrong", "x")) for _ in range(3)]
        await _until(lambda: len(gated.begun) == 1)
        for given in ("wrong", "right"):
            with pytest.raises(LimitReached, match="Too many") as caught:
                await gated.demand(given, "x")
            assert caught.value.reason == "LIMIT_REACHED"
        assert gated.begun == ["wrong"]
        _open(gated)
        await loop.skip_until(lambda: all(one.done() for one in waiting))
        await asyncio.gather(*waiting, return_exceptions=True)
        await gated.demand("right", "x")

    _in_warped_time(body)


def test_a_wrong_one_is_told_and_nothing_else_is(gated: Gated) -> None:
    told: list[str] = []

    async def on_wrong(what: str) -> None:
        told.append(what)

    async def body(loop: Warped) -> None:
        _open(gated)
        gated.on_wrong = on_wrong
        await gated.demand("right", "let in")
        with pytest.raises(PassphraseRequired):
            await gated.demand("", "be asked")
        wrong = asyncio.create_task(gated.demand("wrong", "decide it"))
        await loop.skip_until(wrong.done)
        with pytest.raises(NotAllowed):
            await wrong
        assert told == ["decide it"]

    _in_warped_time(body)


@pytest.mark.parametrize("when", ["while it is checked", "in the penalty"])
def test_who_hangs_up_pays_as_well_and_is_told(gated: Gated, when: str) -> None:
    told: list[str] = []

    async def on_wrong(what: str) -> None:
        told.append(what)

    async def body(loop: Warped) -> None:
        gated.on_wrong = on_wrong
        guess = asyncio.create_task(gated.demand("wrong", "decide it"))
        await _until(lambda: gated.begun == ["wrong"])
        if when == "in the penalty":
            _open(gated)
            await loop.penalty()
        guess.cancel()
        with pytest.raises(asyncio.CancelledError):
            await guess
        after = asyncio.create_task(gated.demand("right", "x"))
        await _turns()
        assert gated.begun == ["wrong"]
        _open(gated)
        await loop.skip_until(after.done)
        await after
        assert told == ["decide it"]

    _in_warped_time(body)


def test_a_wrong_first_and_a_wrong_last_letter_take_the_same_path(passphrase: Passphrase) -> None:
    """Not a measurement: the same lines run, and the digests, of one length whatever was given, go
    through the comparison that does not stop at the first difference."""
    passphrase.set("correct horse")

    def path(given: str) -> tuple[bool, list[str]]:
        steps: list[str] = []

        def watch(frame: FrameType, event: str, argument: object) -> None:
            if event == "c_call":
                steps.append(getattr(argument, "__name__", ""))
            elif event == "call":
                steps.append(frame.f_code.co_qualname)

        gc.disable()  # what it would end in between is no step of this
        sys.setprofile(watch)
        try:
            return passphrase.matches(given), steps
        finally:
            sys.setprofile(None)
            gc.enable()

    ways = [path(given) for given in ("Xorrect horse", "correct horsX", "", "x" * 5000)]
    assert {matched for matched, _ in ways} == {False}
    assert all(steps == ways[0][1] for _, steps in ways)
    assert path("correct horse") == (True, ways[0][1])
    assert ways[0][1].count("compare_digest") == 1
