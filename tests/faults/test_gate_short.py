"""The faults around the gate in short, each kind once; `make faults` runs them in full."""

from __future__ import annotations

import random

import pytest

from tests.faults import gate
from tests.faults.gate_kinds import KINDS, RUNS

#: Beside a busy machine all of it takes several times as long as alone.
pytestmark = pytest.mark.timeout(300)
OPTIONS = gate.Options(0, seed=7)


def test_nothing_runs_that_was_not_approved_whatever_is_broken() -> None:
    kinds = list(KINDS)
    random.Random(OPTIONS.seed).shuffle(kinds)
    result = gate.run(OPTIONS, kinds)
    table = "\n".join(gate.table(result))
    assert not result.unapproved, table
    assert not result.wrong, table
    assert result.runs.total() == len(KINDS), table


def test_a_plan_has_as_many_faults_as_were_asked_for_and_every_kind() -> None:
    for count in (1000, 2345):
        drawn = gate.plan(count, random.Random(count))
        assert sum(one.expects != RUNS for one in drawn) == count
        assert set(drawn) == set(KINDS)
