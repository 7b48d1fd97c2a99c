"""The page on supervision says what the rules do."""

from __future__ import annotations

import re

import pytest

from orch.v1 import supervision_pb2
from orch_server.core import credit, supervision
from orch_server.core.session import Phase, Plan
from orch_server.core.supervision import LADDER, MINUTE, Matter, NotSent, policy
from orch_server.services import operations
from tests.docs.markdown import DOCS

PAGE = (DOCS / "reference" / "supervision.md").read_text()
FLAT = " ".join(PAGE.split())


@pytest.mark.parametrize("phase", Phase)
def test_the_table_of_phases_is_that_of_the_policy(phase: Phase) -> None:
    found = policy(phase, Plan.UNSET, 0, 1)
    idle, cooldown = (int(seconds // MINUTE) for seconds in (found.idle_after, found.cooldown))
    assert f"| `{phase}` | {idle} min | {cooldown} min |" in PAGE


def test_the_tables_name_every_matter_and_every_count() -> None:
    assert {m for m in Matter if f"\n| `{m}` |" in PAGE} == set(Matter)
    counts = set(supervision_pb2.NudgeCounts.DESCRIPTOR.fields_by_name) - {"sent", "false_alarms"}
    assert {word.lower() for word in NotSent} == counts
    assert {name for name in counts if f"\n| `{name}` |" in PAGE} == counts


def test_the_levels_are_those_of_the_ladder() -> None:
    rows = re.findall(r"^\| ([123]) \| (\d+) \|", PAGE, re.M)
    assert [int(minutes) * MINUTE for _, minutes in rows] == list(LADDER)


@pytest.mark.parametrize(
    "said",
    [
        f"for {supervision.ACTIVE_WITHIN:.0f} s",
        f"more than {supervision.REAL_WORK:.0f} s after the nudge",
        f"lost for {supervision.LOST_FOR / MINUTE:.0f} min",
        f"lasts {credit.FIRST_GUESS.seconds // 60} min",
        f"within {credit.TOO_EARLY.seconds // 60} min after the release",
        f"{credit.LONGEST_GUESS.seconds // 3600} h at most",
        f"{credit.STAGGER.seconds} s apart",
        f"for {credit.MAX_HOLD.days} days at most",
        f"At most {operations.LONGEST.seconds // 3600} h at a time",
        f"up to {operations.CAP.seconds // 3600} h from the beginning",
    ],
)
def test_the_numbers_are_those_of_the_rules(said: str) -> None:
    assert said in FLAT
