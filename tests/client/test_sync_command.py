"""`sync`: what people read of the differences between the store and tmux."""

from __future__ import annotations

import pytest

from orch.v1 import session_state_pb2 as pb
from tests.client.terminal import Terminal


def _lost(number: int, advice: str = "Put it back.", repaired: bool = False) -> pb.Mismatch:
    return pb.Mismatch(
        kind=pb.MISMATCH_KIND_WORKTREE_MISSING,
        subject=f"atlas:dev{number}",
        detail=f"Its worktree /w/{number} is not there.",
        advice=advice,
        repaired=repaired,
    )


def _gone(name: str) -> pb.Mismatch:
    kind = pb.MISMATCH_KIND_SESSION_GONE
    return pb.Mismatch(kind=kind, subject=name, detail="Gone.", advice=f"start {name}")


def _shown(terminal: Terminal, capsys: pytest.CaptureFixture[str], *found: pb.Mismatch) -> str:
    answer = pb.SynchronizeSessionsResponse(mismatches=found)
    terminal.run("SynchronizeSessions", answer, "sync")
    return capsys.readouterr().out


def test_what_many_have_in_common_is_told_once_and_counted(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = _shown(terminal, capsys, *(_lost(n) for n in range(46)))
    assert shown.count("Put it back.") == 1
    assert "\n46 worktree-missing:\n  Put it back.\n" in shown
    rows = [line.split()[:4] for line in shown.splitlines() if line.startswith("worktree-")]
    assert [row[1] for row in rows[:-1]] == [f"atlas:dev{n}" for n in range(10)]
    assert rows[-1][1:] == ["and", "36", "more"]


def test_each_command_is_shown_with_what_it_is_for(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"s{n}" for n in range(20)]
    shown = _shown(terminal, capsys, *map(_gone, names), _lost(1), _lost(2, repaired=True))
    for name in names:
        assert f"\n{name}:\n  start {name}\n" in shown
    assert "more" not in shown
    assert "\natlas:dev1:\n  Put it back.\n" in shown
    assert "atlas:dev2:" not in shown
