"""The background loops: they end when they are told to, and die loudly otherwise."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orch.v1 import scheduler_pb2
from orch_server import app
from orch_server.core.clock import ManualClock, SystemClock
from orch_server.core.errors import StoreUnavailable
from orch_server.loops.clock_watch import ClockTimer, watch_clock
from orch_server.loops.deadlines import serve_deadlines
from orch_server.loops.pause import seconds_until
from orch_server.loops.supervisor import Loop, LoopDied, supervise
from tests.transport.harness import PATIENCE, START, Serving, run

_NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


async def _ends(task: asyncio.Task[object]) -> bool:
    """Whether the task ends after the one cancellation it was given."""
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    if not done:
        for _ in range(3):
            task.cancel()
            await asyncio.wait({task}, timeout=0.5)
    return bool(done)


@pytest.mark.parametrize(
    "name",
    [
        *("clock", "leases", "pulse", "mailbox", "firing", "authorization"),
        *("supervision", "credit", "waiting", "alerts"),
    ],
)
@pytest.mark.parametrize("event", ["nothing", "a wake-up at the same moment"])
def test_a_loop_ends_when_it_is_cancelled(folder: Path, name: str, event: str) -> None:
    """The server waits for its loops when it stops: one that goes on keeps it from ending."""

    async def body(at: object) -> None:
        core = at.core  # type: ignore[attr-defined]
        (loop,) = (one for one in app._loops(core, SystemClock()) if one.name == name)
        task = asyncio.ensure_future(loop.run())
        for _ in range(5):
            await core.store.write(lambda tx: None)
        if event != "nothing":
            core.mailbox.wake("somebody")
            core.heartbeat.changed.set()
            core.scheduler.changed.set()
            core.authorization.changed.set()
            core.supervisor.changed.set()
            core.credit.changed.set()
            core.waiting.changed.set()
        task.cancel()
        assert await _ends(task), f"the loop {name} went on"

    run(folder, body, loops=())


def test_the_death_of_one_loop_ends_all_and_is_told() -> None:
    ended: list[str] = []

    async def lives() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("lives")

    async def dies() -> None:
        raise ValueError("a fault")

    async def body() -> None:
        with pytest.raises(LoopDied, match="dies") as caught:
            await supervise([Loop("lives", lives), Loop("dies", dies)])
        assert isinstance(caught.value.__cause__, ValueError)

    asyncio.run(asyncio.wait_for(body(), PATIENCE))
    assert ended == ["lives"]


def test_a_loop_that_returns_has_died_too() -> None:
    async def returns() -> None:
        pass

    async def body() -> None:
        with pytest.raises(LoopDied, match="returns"):
            await supervise([Loop("returns", returns)])

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (None, None),
        (_NOW, 0.0),
        (_NOW - timedelta(days=1), 0.0),
        (_NOW + timedelta(seconds=3), 3.0),
        (_NOW + timedelta(days=400), 400 * 86_400.0),
    ],
)
def test_a_loop_sleeps_until_it_is_due_and_for_ever_when_nothing_is(
    at: datetime | None, seconds: float | None
) -> None:
    assert seconds_until(at, ManualClock(_NOW)) == seconds


def _deadlines(do_due: Callable[[], Awaitable[datetime | None]], changed: asyncio.Event) -> object:
    return serve_deadlines(do_due, changed, ManualClock(START))


def test_a_change_wakes_the_loop_before_its_deadline() -> None:
    async def body() -> None:
        changed, calls = asyncio.Event(), asyncio.Queue[int]()

        async def do_due() -> datetime:
            calls.put_nowait(1)
            return START + timedelta(seconds=20)

        task = asyncio.ensure_future(_deadlines(do_due, changed))  # type: ignore[arg-type]
        await asyncio.wait_for(calls.get(), PATIENCE)
        changed.set()
        await asyncio.wait_for(calls.get(), PATIENCE)
        assert calls.empty()
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(body())


def test_a_change_during_the_work_is_not_forgotten() -> None:
    async def body() -> None:
        changed, calls = asyncio.Event(), asyncio.Queue[int]()

        async def do_due() -> datetime | None:
            calls.put_nowait(1)
            if calls.qsize() == 1:
                changed.set()  # something came while the store was read
            return None

        task = asyncio.ensure_future(_deadlines(do_due, changed))  # type: ignore[arg-type]
        async with asyncio.timeout(PATIENCE):
            while calls.qsize() < 2:  # noqa: ASYNC110 - the loop under test runs meanwhile
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(body())


def test_a_store_that_is_away_for_a_while_does_not_end_the_loop() -> None:
    async def body() -> None:
        changed, calls = asyncio.Event(), asyncio.Queue[int]()

        async def do_due() -> datetime | None:
            calls.put_nowait(1)
            if calls.qsize() < 2:
                changed.set()
                raise StoreUnavailable("away")
            return None

        task = asyncio.ensure_future(_deadlines(do_due, changed))  # type: ignore[arg-type]
        async with asyncio.timeout(PATIENCE):
            while calls.qsize() < 2:  # noqa: ASYNC110 - the loop under test runs meanwhile
                await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(body())


class _Adjustment(ctypes.Structure):
    """struct timex of clock_adjtime(2): its modes, the shift, and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_long),
        ("between", ctypes.c_long * 8),
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("rest", ctypes.c_char * 512),
    )


def _shift_the_clock(microseconds: int) -> None:
    """Sets the wall clock so much ahead, or back. Raises PermissionError where that takes more
    rights than the tests have."""
    libc, set_offset = ctypes.CDLL(None, use_errno=True), 0x0100
    seconds, rest = divmod(microseconds, 1_000_000)
    shift = _Adjustment(modes=set_offset, seconds=seconds, microseconds=rest)
    if libc.clock_adjtime(time.CLOCK_REALTIME, ctypes.byref(shift)) < 0:
        raise PermissionError(ctypes.get_errno(), "clock_adjtime")


def test_loops_look_anew_each_time_that_the_wall_clock_is_set() -> None:
    async def body() -> None:
        looks = asyncio.Queue[int]()
        task = asyncio.ensure_future(watch_clock(lambda: looks.put_nowait(1)))
        try:
            for shift in (1, -1):
                await asyncio.wait_for(looks.get(), PATIENCE)
                _shift_the_clock(shift)
            await asyncio.wait_for(looks.get(), PATIENCE)
        except PermissionError as exc:
            pytest.skip(f"this user may not set the clock ({exc})")
        finally:
            task.cancel()
            await asyncio.wait({task})

    asyncio.run(body())


def test_a_clock_that_is_set_before_the_timer_is_armed_is_no_fault() -> None:
    timer = ClockTimer()
    try:
        timer.arm()
        _shift_the_clock(1)
        timer.arm()
        assert not timer.was_set()
        _shift_the_clock(-1)
        assert timer.was_set()
    except PermissionError as exc:
        pytest.skip(f"this user may not set the clock ({exc})")
    finally:
        timer.close()


def test_a_clock_that_goes_on_as_ever_wakes_nobody() -> None:
    timer = ClockTimer()
    try:
        timer.arm()
        assert not timer.was_set()
    finally:
        timer.close()


def test_a_note_fires_when_the_clock_is_set_past_its_time(folder: Path) -> None:
    async def body(at: Serving) -> None:
        stream = await at.alive("dev", "%1", kind="generic")
        note = scheduler_pb2.CreateTaskRequest(note="later", target="atlas:dev")
        note.delay.FromTimedelta(timedelta(minutes=30))
        await at.scheduler.CreateTask(note)
        at.clock.set(START + timedelta(minutes=31))
        at.core.scheduler.changed.set()  # what the clock's loop does
        assert (await stream.read()).offer.text == "later"

    run(folder, body, loops=("firing", "mailbox"))
