"""What became of all that was sent: the store's word against what the agents wrote down."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.faults import pane
from tests.faults.arena import Agent
from tests.faults.traffic import Sent

_OPEN = ("PENDING", "OFFERED", "PASTED")
_SAID = ("CONFIRMED", "QUEUED_BY_AGENT")
_DOUBT = ("UNCONFIRMED", "REFUSED", "EXPIRED", "DEAD")


@dataclass
class Verdict:
    """The counts; `took` in seconds from accepted to CONFIRMED, `notes` for a person to read."""

    sent: int = 0
    delivered: int = 0
    doubled: int = 0
    lost: int = 0
    false_confirmed: int = 0
    false_lost: int = 0
    not_received: Counter[str] = field(default_factory=Counter)
    still_open: int = 0
    strange: int = 0
    out_of_order: int = 0
    answered: int = 0
    drafts_sent: int = 0
    states: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing was lost, doubled, garbled or pretended."""
        bad = (self.doubled, self.lost, self.false_confirmed, self.still_open, self.strange)
        return not any(bad)


def judge(
    store: Path,
    agents: Iterable[Agent],
    sent: dict[str, Sent],
    earlier: Container[str] = (),
    queues_may_die: bool = False,
) -> Verdict:
    """Compares; what is `earlier` was judged before. With `queues_may_die` an agent may have died
    with texts in its queue."""
    verdict = Verdict()
    rows = _rows(store)
    received: Counter[tuple[Agent, str]] = Counter()
    order: dict[Agent, list[str]] = {}
    for agent in agents:
        events = pane.read(agent.record)
        verdict.answered += sum(e["event"] == "answered" for e in events)
        order[agent] = [e["text"] for e in events if e["event"] == "submitted"]
        received.update((agent, text) for text in order[agent])
    for one in sent.values():
        count = received.pop((one.agent, _padded(one.text)), 0)
        if one.id not in earlier:
            _count(verdict, one, rows.get(one.id), count, queues_may_die)
    for agent in order:
        verdict.drafts_sent += received.pop((agent, pane.DRAFT), 0)
    verdict.strange = len(received)
    verdict.notes += [
        f"strange {a.address} x{n}: {t[:80]!r}…{t[-40:]!r}" for (a, t), n in received.items()
    ]
    verdict.out_of_order = _out_of_order(order, sent, rows)
    return verdict


def lines(verdict: Verdict) -> Iterator[str]:
    """The table."""
    doubt = ", ".join(f"{n} × {why}" for why, n in verdict.not_received.most_common())
    states = ", ".join(f"{n} {state}" for state, n in verdict.states.most_common())
    rows: list[tuple[str, Any, str]] = [
        ("sent", verdict.sent, states),
        ("delivered", verdict.delivered, "received by the model, once"),
        ("doubled", verdict.doubled, ""),
        ("lost", verdict.lost, "without a word"),
        ("false-confirmed", verdict.false_confirmed, "said to be taken, never received"),
        ("false-lost", verdict.false_lost, "said to be in doubt, but received"),
        ("in doubt", verdict.not_received.total(), f"and not received: {doubt}"),
        ("still open", verdict.still_open, ""),
        ("strange", verdict.strange, "received, but never sent so"),
        ("out of order", verdict.out_of_order, ""),
        ("dialogs answered", verdict.answered, "by an Enter of ours"),
        ("drafts sent", verdict.drafts_sent, "a person's, by an Enter of ours"),
    ]
    for name, count, what in rows:
        yield f"{name:<18}{count:>7}  {what}".rstrip()
    took = sorted(verdict.took)
    if took:
        p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
        yield f"accepted → CONFIRMED: p50 {p50:.2f} s, p99 {p99:.2f} s"
    yield from verdict.notes[:40]


def _count(
    verdict: Verdict, one: Sent, row: sqlite3.Row | None, count: int, queues_may_die: bool
) -> None:
    verdict.sent += 1
    state = row["state"] if row is not None else "missing"
    detail = row["detail"] if row is not None else ""
    verdict.states[state] += 1
    note = f"{one.agent.address} {one.id} {state} x{count} {one.text[:40]!r}: {detail}"
    if state in _OPEN:
        verdict.still_open += 1
        verdict.notes.append(f"still open {note} ({row['reason']})")
    if row is not None and state == "CONFIRMED":
        verdict.took.append((row["updated_at"] - row["created_at"]) / 1e6)
    if count == 1:
        verdict.delivered += 1
        verdict.false_lost += state in _DOUBT
    elif count > 1:
        verdict.doubled += 1
        verdict.notes.append(f"doubled {note}")
    elif state == "QUEUED_BY_AGENT" and queues_may_die:
        verdict.not_received["The agent died with it in its queue."] += 1
    elif state in _SAID:
        verdict.false_confirmed += 1
        verdict.notes.append(f"false-confirmed {note}")
    elif state in _DOUBT:
        verdict.not_received[detail] += 1
    elif state not in _OPEN:
        verdict.lost += 1
        verdict.notes.append(f"lost {note}")


def _out_of_order(
    order: dict[Agent, list[str]], sent: dict[str, Sent], rows: dict[str, sqlite3.Row]
) -> int:
    """How many were received before one that was accepted earlier."""
    numbers: dict[Agent, dict[str, int]] = defaultdict(dict)
    for one in sent.values():
        if one.id in rows:
            numbers[one.agent][_padded(one.text)] = rows[one.id]["number"]
    count = 0
    for agent, texts in order.items():
        known = [numbers[agent][text] for text in texts if text in numbers[agent]]
        count += sum(after < before for before, after in pairwise(known))
    return count


def _rows(store: Path) -> dict[str, sqlite3.Row]:
    db = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)
    db.row_factory = sqlite3.Row
    try:
        found = db.execute(
            "select id, number, state, detail, reason, created_at, updated_at from delivery"
        )
        return {row["id"]: row for row in found}
    finally:
        db.close()


def _padded(text: str) -> str:
    """What an agent gets, so that it takes neither the first nor the last character for more."""
    before = " " if text[0] in "!#" else ""
    return before + text + (" " if text.endswith("\\") else "")
