"""How long decisions took, against a computation that goes one request after the other."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

from orch_server.core.authorization import Action, Authorization, AuthorizationState, Requester, ask
from orch_server.core.policy import AuthorizationPriority, default_policy
from orch_server.storage import authorizations
from orch_server.storage.authorization_stats import Report, Stats, report
from orch_server.storage.lookup import new_id
from tests.storage.parts import PANE, START, Opened, add_agent, agent, opened

_POLICY = default_policy(("orchestrator",))
_LOW, _MEDIUM, _HIGH = AuthorizationPriority
_STATE = AuthorizationState
_YES = (_STATE.APPROVED, _STATE.CONSUMED, _STATE.LAPSED)
_EVER = START - timedelta(days=400)


def _run(folder: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def with_store() -> None:
        async with opened(folder) as at:
            await add_agent(at.store, agent("dev"))
            await body(at)

    asyncio.run(with_store())


async def _add(
    at: Opened,
    state: AuthorizationState = _STATE.PENDING,
    took: timedelta = timedelta(0),
    resolver: str = "",
    priority: AuthorizationPriority = _LOW,
    session: str = "atlas",
    escalated: int = 0,
) -> Authorization:
    """A request that comes now, what became of it so much later, and how it is then."""
    requester = Requester("dev", session, "dev", PANE, 4242)
    words, now = Action("", "tidy", ""), at.clock.now()
    of = _POLICY.routine
    asked = ask(new_id(), requester, "tidy", words, "pm", of, priority, None, _POLICY, now)
    await at.store.write(lambda tx: authorizations.insert(tx, asked, ""))
    for index in range(escalated):
        await at.store.write(
            lambda tx, index=index: authorizations.tell_level(
                tx, asked, index, "", passed_over=False
            )
        )
    if state is _STATE.PENDING:
        return asked
    at.clock.advance(took.total_seconds())
    is_closed = state in (_STATE.CONSUMED, _STATE.LAPSED)
    first = _STATE.APPROVED if is_closed else state
    last = await at.store.write(lambda tx: authorizations.resolve(tx, asked, first, resolver, ""))
    if is_closed:
        at.clock.advance(60)
        last = await at.store.write(lambda tx: authorizations.close(tx, last, state, "", ""))
    return last


async def _report(at: Opened, session: str = "", since: datetime = _EVER) -> Report:
    return await at.store.read(lambda db: report(db, session, since))


# ---- the straightforward way ----


def _by_hand(name: str, found: Iterable[Authorization]) -> Stats:
    of = list(found)
    counts = {state: sum(one.state is state for one in of) for state in _STATE}
    took = sorted(
        round((one.resolved_at - one.created_at) / timedelta(microseconds=1))
        for one in of
        if one.resolved_at and one.state in (*_YES, _STATE.DENIED)
    )
    mean = median = p95 = None
    if took:
        half = len(took) // 2
        middle = took[half : half + 1] if len(took) % 2 else took[half - 1 : half + 1]
        mean, median = Fraction(sum(took), len(took)), Fraction(sum(middle), len(middle))
        within = [t for t in took if sum(u <= t for u in took) >= math.ceil(0.95 * len(took))]
        p95 = Fraction(within[0])

    def span(micros: Fraction | None) -> timedelta | None:
        return None if micros is None else timedelta(microseconds=round(micros))

    return Stats(
        name=name,
        requests=len(of),
        approved=sum(counts[state] for state in _YES),
        denied=counts[_STATE.DENIED],
        expired=counts[_STATE.EXPIRED],
        cancelled=counts[_STATE.CANCELLED],
        pending=counts[_STATE.PENDING],
        escalated=sum(any(level.told_at for level in one.levels) for one in of),
        mean=span(mean),
        median=span(median),
        p95=span(p95),
    )


def _all_by_hand(of: list[Authorization]) -> Report:
    decided = [one for one in of if one.state in (*_YES, _STATE.DENIED)]
    resolvers = [
        _by_hand(name, (one for one in decided if one.resolver == name))
        for name in {one.resolver for one in decided}
    ]
    return Report(
        _by_hand("all", of),
        [
            _by_hand(priority.name.lower(), (one for one in of if one.priority is priority))
            for priority in (_HIGH, _MEDIUM, _LOW)
            if any(one.priority is priority for one in of)
        ],
        sorted(resolvers, key=lambda one: (-one.requests, one.name)),
    )


# ---- the tests ----


def test_figures_are_those_of_a_straightforward_computation(folder: Path) -> None:
    dice = random.Random(5)

    async def body(at: Opened) -> None:
        ids: list[str] = []
        begins = []
        for _ in range(120):
            at.clock.advance(dice.uniform(0, 3600))
            begins.append(at.clock.now())
            state = dice.choice(list(_STATE))
            resolver = dice.choice(["atlas:pm", "operator", "atlas:orchestrator"])
            has_resolver = state not in (_STATE.PENDING, _STATE.EXPIRED)
            made = await _add(
                at,
                state,
                timedelta(seconds=dice.expovariate(1 / 300)),
                resolver if has_resolver else "",
                dice.choice(list(AuthorizationPriority)),
                dice.choice(["atlas", "apollo"]),
                dice.randrange(3),
            )
            ids.append(made.id)
        found = [
            await at.store.read(lambda db, name=name: authorizations.get(db, name)) for name in ids
        ]
        for session in ("", "atlas", "apollo", "nowhere"):
            for since in (_EVER, begins[60], begins[-1], begins[-1] + timedelta(days=1)):
                fits = [
                    one for one in found if one.created_at >= since and session in ("", one.session)
                ]
                assert await _report(at, session, since) == _all_by_hand(fits)

    _run(folder, body)


def test_without_requests_all_is_0_and_there_is_no_time(folder: Path) -> None:
    async def body(at: Opened) -> None:
        nothing = Stats("all", 0, 0, 0, 0, 0, 0, 0, None, None, None)
        assert await _report(at) == Report(nothing, [], [])

    _run(folder, body)


def test_a_time_is_that_of_a_decision_and_not_of_an_expiry_or_a_use(folder: Path) -> None:
    async def body(at: Opened) -> None:
        hour = timedelta(hours=1)
        for state in (_STATE.EXPIRED, _STATE.CANCELLED, _STATE.PENDING):
            await _add(at, state, hour, resolver="atlas:dev")
        only = (await _report(at)).all
        assert (only.requests, only.mean, only.median, only.p95) == (3, None, None, None)
        assert (await _report(at)).by_resolver == []
        for state, seconds in ((_STATE.DENIED, 10), (_STATE.CONSUMED, 20), (_STATE.LAPSED, 60)):
            await _add(at, state, timedelta(seconds=seconds), resolver="operator")
        (operator,) = (await _report(at)).by_resolver
        assert (operator.mean, operator.median, operator.p95) == (
            timedelta(seconds=30),
            timedelta(seconds=20),
            timedelta(seconds=60),
        )
        assert (operator.approved, operator.denied) == (2, 1)

    _run(folder, body)


def test_95_of_100_decisions_came_within_the_95th_percentile(folder: Path) -> None:
    async def body(at: Opened) -> None:
        order = list(range(1, 101))
        random.Random(7).shuffle(order)
        for seconds in order:
            await _add(at, _STATE.APPROVED, timedelta(seconds=seconds), resolver="operator")
        found = (await _report(at)).all
        assert (found.mean, found.median, found.p95) == (
            timedelta(seconds=50.5),
            timedelta(seconds=50.5),
            timedelta(seconds=95),
        )
        for _ in range(100):
            await _add(at, _STATE.APPROVED, timedelta(0), resolver="operator")
        assert (await _report(at)).all.p95 == timedelta(seconds=90)

    _run(folder, body)


def test_the_window_is_that_of_the_requests_and_begins_with_its_first_moment(folder: Path) -> None:
    async def body(at: Opened) -> None:
        first = at.clock.now()
        await _add(at, _STATE.DENIED, timedelta(minutes=5), resolver="operator")
        moment = timedelta(microseconds=1)
        assert (await _report(at, since=first)).all.requests == 1
        assert (await _report(at, since=first + moment)).all.requests == 0
        assert (await _report(at, session="atlas", since=first)).all.requests == 1
        assert (await _report(at, session="atl", since=first)).all.requests == 0

    _run(folder, body)
