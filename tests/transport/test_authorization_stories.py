"""Of everything that can happen to authorizations at once, nothing is against the rules; and the
oracle that says so sees it when something is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from orch_server.core import authorization as rules
from orch_server.core.authorization import Authorization, AuthorizationState, Verdict
from orch_server.services import authorization_steps as steps
from orch_server.services import authorization_texts as texts
from orch_server.storage import authorizations as table
from orch_server.storage.lookup import new_id
from tests import authorization_stories as stories

SEED = 20261122
_Patch = Callable[[Any, str, object], None]


@pytest.mark.parametrize("seed", [SEED, SEED + 1, SEED + 2])
def test_no_decision_is_late_double_or_by_one_who_may_not(folder: Path, seed: int) -> None:
    """`python -m bench authorization` runs a hundred thousand."""
    tally, faults = asyncio.run(stories.run(folder, seed, 500, every=100))
    assert faults == [], f"seed {seed}: {faults[0]}"
    assert tally.restarts >= 4
    for kind in ("approved", "denied", "expired", "cancelled", "consumed", "lapsed", "escalated"):
        assert tally.events[kind] >= 5, kind


# ---- faults that are planted ----


def _at_the_deadline(patch: _Patch) -> None:
    """`>` where `>=` belongs: a decision exactly at the deadline is taken."""
    real = rules.resolve

    def faulty(asked: Authorization, verdict: Verdict, now: datetime) -> AuthorizationState:
        in_time = min(now, asked.deadline_at - stories.TICK) if now == asked.deadline_at else now
        decision = verdict in (Verdict.APPROVE, Verdict.DENY)
        return real(asked, verdict, in_time if decision else now)

    patch(rules, "resolve", faulty)


def _at_the_end(patch: _Patch) -> None:
    """The same at the end of an approval."""
    real = rules.resolve

    def faulty(asked: Authorization, verdict: Verdict, now: datetime) -> AuthorizationState:
        if verdict is Verdict.CONSUME and now == asked.lapses_at:
            return real(asked, verdict, now - stories.TICK)
        return real(asked, verdict, now)

    patch(rules, "resolve", faulty)


def _whatever_state(patch: _Patch) -> None:
    """An approval is used whatever its state is."""

    def faulty(tx: Any, asked: Authorization, request_id: str) -> Authorization:
        return table.close(tx, asked, AuthorizationState.CONSUMED, asked.requester, request_id)

    patch(steps, "consume", faulty)


def _from_anywhere(patch: _Patch) -> None:
    """Nobody looks at who uses an approval, where and for what."""
    patch(rules, "check_consumer", lambda *given: None)


def _by_anyone(patch: _Patch) -> None:
    """Nobody looks at who decides."""
    patch(rules, "check_decider", lambda *given: None)


def _for_no_reason(patch: _Patch) -> None:
    """Nobody looks whether there is a reason."""
    patch(rules, "check_reason", lambda *given: None)


def _told_again(patch: _Patch) -> None:
    """That a level was told is forgotten now and then."""
    real = texts.next_level

    def faulty(tx: Any, asked: Authorization, actor: str) -> Any:
        given = real(tx, asked, actor)
        if asked.id < "2":
            tx.execute(
                "update authorization_level set told_at = null, open = 1"
                " where authorization_id = ? and level = 1",
                (asked.id,),
            )
        return given

    patch(texts, "next_level", faulty)
    _mailed_twice(patch, share="")


def _mailed_twice(patch: _Patch, share: str = "4") -> None:
    """Nothing keeps a text from being put into the mailbox again."""
    real = texts.mail

    def faulty(
        tx: Any, about: Any, agent: str, text: str, key: str, *more: Any, **how: Any
    ) -> None:
        for _ in range(2 if about.id < share else 1):
            real(tx, about, agent, text, f"{key}{new_id()}", *more, **how)

    patch(texts, "mail", faulty)


def _told_nobody(patch: _Patch) -> None:
    """The requester does not hear what was decided."""
    patch(texts, "mail", lambda *given, **how: None)


def _too_early(patch: _Patch) -> None:
    """What is not due yet expires, too."""
    patch(table, "overdue", lambda tx: table._read(tx.db, "state = 'PENDING'"))


def _disk_that_lies(patch: _Patch) -> None:
    """What was acknowledged was not on the disk."""
    real = stories.copy_disk

    def faulty(old: Path, new: Path) -> None:
        real(old, new)
        for path in new.glob("*-wal"):
            path.unlink()

    patch(stories, "copy_disk", faulty)


def _other_pane(patch: _Patch) -> None:
    """An approval goes with the agent to another pane."""
    real = rules.digest
    patch(
        rules,
        "digest",
        lambda action, who: real(action, replace(who, incarnation=None, pane_pid=0)),
    )


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        (_at_the_deadline, "at or after the deadline"),
        (_at_the_end, "at or after its end"),
        (_whatever_state, "without an approval before|used up"),
        (_from_anywhere, "used for something else|by no call that fits"),
        (_by_anyone, "the requester himself"),
        (_for_no_reason, "no reason"),
        (_told_again, "the levels .* were told as"),
        (_mailed_twice, "2 texts tell of the decision|were asked, and not"),
        (_told_nobody, "0 texts tell of the decision"),
        (_too_early, "expired before its deadline"),
        (_disk_that_lies, "is lost|is not in the log"),
        (_other_pane, "another place"),
    ],
    ids=lambda given: getattr(given, "__name__", "").strip("_"),
)
def test_the_oracle_sees_a_planted_fault(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[_Patch], None],
    seen: str,
) -> None:
    plant(monkeypatch.setattr)
    for seed in range(30):
        _, faults = asyncio.run(stories.run(folder / f"{seed}", SEED + seed, 160, every=60))
        if any(re.search(seen, fault.partition("\n")[0]) for fault in faults):
            return
    pytest.fail(f"the oracle saw nothing, or other faults: {faults[:1]}")
