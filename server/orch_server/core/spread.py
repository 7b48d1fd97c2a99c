"""Notes that are overdue, and messages that wait, when the server first starts after an import get
times that do not fall together. Pure; docs/decisions/0024-an-import-proves-itself.md."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

#: Overdue notes that are sent once: not before this, so far apart, and for one agent so far apart.
FIRST = timedelta(minutes=1)
APART = timedelta(seconds=5)
APART_FOR_ONE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Overdue:
    """An overdue note; `every` is 0 for one that is sent once."""

    id: str
    agent_id: str
    every: timedelta


def spread(tasks: Sequence[Overdue], start: datetime) -> dict[str, datetime]:
    """The new time of each task, by its id. Those that repeat come within their own interval, at
    even distances of all with that interval, in the order given."""
    return _repeating([t for t in tasks if t.every], start) | _single(
        [t for t in tasks if not t.every], start
    )


def paced(messages: Mapping[str, str], start: datetime) -> dict[str, datetime]:
    """The time of each message, by its id; given is the agent that it is for. Each agent has one a
    minute, in the order given; the agents come at even distances within the minute."""
    turn = {agent: n for n, agent in enumerate(dict.fromkeys(messages.values()))}
    seen: Counter[str] = Counter()
    times = {}
    for message, agent in messages.items():
        first = start + FIRST + APART_FOR_ONE * turn[agent] / len(turn)
        times[message] = first + APART_FOR_ONE * seen[agent]
        seen[agent] += 1
    return times


def _repeating(tasks: Sequence[Overdue], start: datetime) -> dict[str, datetime]:
    count = Counter(task.every for task in tasks)
    seen: Counter[timedelta] = Counter()
    times = {}
    for task in tasks:
        seen[task.every] += 1
        times[task.id] = start + task.every * seen[task.every] / count[task.every]
    return times


def _single(tasks: Sequence[Overdue], start: datetime) -> dict[str, datetime]:
    """The first of each agent, then the second of each, and so on."""
    rounds: Counter[str] = Counter()
    turns: dict[int, list[Overdue]] = defaultdict(list)
    for task in tasks:
        turns[rounds[task.agent_id]].append(task)
        rounds[task.agent_id] += 1
    times: dict[str, datetime] = {}
    free: dict[str, datetime] = {}
    at = start + FIRST
    for turn in sorted(turns):
        for task in turns[turn]:
            at = max(at, free.get(task.agent_id, at))
            times[task.id] = at
            free[task.agent_id] = at + APART_FOR_ONE
            at += APART
    return times
