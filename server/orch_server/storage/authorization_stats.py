"""How long decisions took, over a window of time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter

from orch_server.core.authorization import AuthorizationState
from orch_server.core.policy import AuthorizationPriority
from orch_server.storage.columns import from_span, micros
from orch_server.storage.database import Database

_YES = (AuthorizationState.APPROVED, AuthorizationState.CONSUMED, AuthorizationState.LAPSED)
_DECIDED = (*_YES, AuthorizationState.DENIED)
_SELECT = """select z.priority, z.resolver, z.state, z.resolved_at - z.created_at,
        exists (select 1 from authorization_level l
            where l.authorization_id = z.id and l.told_at is not null)
    from authorization z where z.created_at >= ? and (? = '' or z.session = ?)"""


@dataclass(frozen=True, slots=True)
class Stats:
    """What became of some requests. The times to the decision are None when there was none."""

    name: str
    requests: int
    approved: int
    denied: int
    expired: int
    cancelled: int
    pending: int
    escalated: int
    mean: timedelta | None
    median: timedelta | None
    p95: timedelta | None


@dataclass(frozen=True, slots=True)
class Report:
    """The counts of a window: all, by priority (the highest first), by who decided (the busiest
    first)."""

    all: Stats
    by_priority: list[Stats]
    by_resolver: list[Stats]


@dataclass(frozen=True, slots=True)
class _One:
    priority: AuthorizationPriority
    resolver: str
    state: AuthorizationState
    took: int
    is_escalated: bool


def report(db: Database, session: str, since: datetime) -> Report:
    """The counts of the requests that came since then, of one session or all."""
    found = [
        _One(AuthorizationPriority(priority), resolver, AuthorizationState(state), took, bool(told))
        for priority, resolver, state, took, told in db.execute_sql(
            _SELECT, (micros(since), session, session)
        ).fetchall()
    ]
    decided = [one for one in found if one.state in _DECIDED]
    by_resolver = _grouped(decided, attrgetter("resolver"))
    return Report(
        _stats("all", found),
        sorted(
            _grouped(found, lambda one: one.priority.name.lower()),
            key=lambda one: -AuthorizationPriority[one.name.upper()],
        ),
        sorted(by_resolver, key=lambda one: (-one.requests, one.name)),
    )


def _grouped(found: list[_One], name: Callable[[_One], str]) -> list[Stats]:
    groups: dict[str, list[_One]] = {}
    for one in found:
        groups.setdefault(name(one), []).append(one)
    return [_stats(key, its) for key, its in groups.items()]


def _stats(name: str, found: list[_One]) -> Stats:
    states = [one.state for one in found]
    took = sorted(one.took for one in found if one.state in _DECIDED)
    return Stats(
        name=name,
        requests=len(found),
        approved=sum(states.count(state) for state in _YES),
        denied=states.count(AuthorizationState.DENIED),
        expired=states.count(AuthorizationState.EXPIRED),
        cancelled=states.count(AuthorizationState.CANCELLED),
        pending=states.count(AuthorizationState.PENDING),
        escalated=sum(one.is_escalated for one in found),
        mean=from_span(round(statistics.fmean(took))) if took else None,
        median=from_span(round(statistics.median(took))) if took else None,
        # the nearest rank: a time that was really seen
        p95=from_span(took[-(-95 * len(took) // 100) - 1]) if took else None,
    )
