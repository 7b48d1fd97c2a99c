"""One run: traffic and chaos, then peace, then the verdict."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from tests.faults import pane
from tests.faults.arena import Arena
from tests.faults.chaos import Chaos
from tests.faults.traffic import Traffic
from tests.faults.verdict import Verdict, judge
from tests.support import until


@dataclass(frozen=True)
class Options:
    """`deliveries` in the storm and, after it, `last` around the death of the tmux server; `pace`
    is the seconds between two kills of the server, `patience` those for what is open after each."""

    deliveries: int
    seed: int
    panes: int
    last: int
    pace: float
    patience: float
    lengthy: bool = True


@dataclass
class Result:
    """What came of it; `last` is None when the tmux server was left alone."""

    storm: Verdict
    last: Verdict | None
    kills: Counter[str]
    seconds: float


async def run(options: Options, arena: Arena) -> Result:
    """Runs in an arena that is open."""
    began = time.monotonic()
    store = arena.home.path / "orch.db"
    traffic = Traffic(arena.home.address, store, arena.agents, options.seed)
    chaos = Chaos(arena, options.pace)
    chaos.start()
    try:
        await chaos.beside(traffic.run(options.deliveries))
        await chaos.stop()
        await traffic.settle(options.patience)
        await _drained(arena)
        storm = judge(store, arena.agents, dict(traffic.sent))
        last = await _last(options, arena, traffic) if options.last else None
    finally:
        await chaos.leave()
    return Result(storm, last, chaos.kills, time.monotonic() - began)


async def _drained(arena: Arena) -> None:
    """Waits until the agents have taken all that is in their own queues."""

    def empty() -> bool:
        return not any(pane.queued(agent.record) for agent in arena.agents)

    await asyncio.to_thread(until, empty, "the agents' queues")


async def _last(options: Options, arena: Arena, traffic: Traffic) -> Verdict:
    """Some more deliveries, in the midst of which the tmux server dies."""
    before = set(traffic.sent)
    sending = asyncio.create_task(traffic.run(options.last))
    halfway = asyncio.create_task(traffic.accepted(len(before) + options.last // 2))
    await asyncio.wait([sending, halfway], return_when=asyncio.FIRST_COMPLETED)
    halfway.cancel()
    await asyncio.to_thread(arena.restart_tmux)
    _, late = await asyncio.wait([sending], timeout=options.patience)
    if late:  # somebody takes no more; what is open says who
        sending.cancel()
    else:
        sending.result()
        await traffic.settle(options.patience)
    await _drained(arena)
    store = arena.home.path / "orch.db"
    return judge(store, arena.agents, traffic.sent, earlier=before, queues_may_die=True)
