"""The screen of `status` and `top`: what it says, and that it fits."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import agent_pb2
from orch.v1 import session_state_pb2 as pb
from orch_client import lines as text
from orch_client import view

NOW = 1_800_000_000.0
WORK = pb.COMPLETION_PENDING


def _ago(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(NOW - seconds))


def _agent(role: str, state: str = "WORKING", seen: float = 1, **more: Any) -> agent_pb2.Agent:
    return agent_pb2.Agent(
        role=role,
        state=agent_pb2.AgentState.Value(f"AGENT_STATE_{state}"),
        state_change_time=_ago(180),
        evidence=agent_pb2.Evidence(observe_time=_ago(seen)),
        **{"liveness": agent_pb2.LIVENESS_ALIVE, **more},
    )


def _session(name: str, *agents: agent_pb2.Agent, **more: Any) -> pb.Session:
    known = {"phase": pb.PHASE_ACTIVE, "completion": WORK, **more}
    return pb.Session(name=name, agents=agents, **known)


def _answer(*sessions: pb.Session, **more: Any) -> pb.GetStatusResponse:
    return pb.GetStatusResponse(sessions=sessions, server_version="0.1.0", **more)


def _many(count: int, needy: int = 0) -> pb.GetStatusResponse:
    """So many sessions of five agents; the last ones have one that needs somebody."""
    return _answer(
        *(
            _session(
                f"s{number:03}",
                _agent("tester", "HUNG" if number >= count - needy else "IDLE"),
                *(_agent(role) for role in ("pm", "developer", "reviewer", "writer")),
            )
            for number in range(count)
        )
    )


def _shown(answer: pb.GetStatusResponse, *size: int) -> list[str]:
    return [text.plain(line) for line in view.screen(answer, NOW, *size)]


def test_each_agent_has_a_line_with_its_state_and_all_that_is_special_about_it() -> None:
    waits = agent_pb2.WaitingFor(
        role="pm", reason="authorization", authorization_id="3fa8c1d2e0b7", since=_ago(120)
    )
    busy = agent_pb2.Operation(reason="migrations", end_time=_ago(-600))
    report = pb.StatusReport(
        role="tester", topic="deployment", status="COMPLETE", report_time=_ago(300)
    )
    lost = {"liveness": agent_pb2.LIVENESS_LOST, "liveness_change_time": _ago(240)}
    answer = _answer(
        _session(
            "atlas",
            _agent("developer", waiting_for=waits, operation=busy),
            _agent("tester", "IDLE", seen=61, do_not_disturb=True),
            _agent("writer", "UNKNOWN", **lost),
            plan=pb.PLAN_MAX20,
            completed_phases=[pb.CompletedPhase(name="design", end_time=_ago(7200))],
            status_reports=[report],
        )
    )
    assert _shown(answer) == [
        "tmux-orchestrator 0.1.0  1 session  3 agents  1 working  1 idle  1 unknown",
        "",
        "atlas  active  max20  design done 2h ago",
        "  developer  working 3m  waits for pm: authorization 3fa8c1d2 2m"
        "  busy with migrations, ends in 10m",
        "  tester     idle? 3m    do not disturb  deployment COMPLETE 5m ago",
        "  writer     unknown     client lost 4m",
    ]


@pytest.mark.parametrize(
    "state",
    [
        "WAITING_PERMISSION",
        "WAITING_ANSWER",
        "USAGE_LIMITED",
        "AUTH_FAILED",
        "DEAD",
        "HUNG",
    ],
)
def test_who_needs_somebody_comes_first_and_is_marked_in_words_too(state: str) -> None:
    well = _session("alpha", _agent("pm"))
    answer = _answer(well, _session("beta", _agent("developer"), _agent("writer", state)))
    for size in ((100, 40), (100, 6), (100, 1)):
        shown = _shown(answer, *size)
        assert "1 needs somebody:" in shown[0]
        body = "\n".join(shown[2:])
        assert body.index("beta") < body.index("alpha")
        assert "!" in body
        word = state.lower().replace("_", "-")
        assert word in body
        assert body.index(word) < body.index("working")


def test_the_server_s_own_matters_are_in_the_head() -> None:
    answer = _answer(
        open_mode=True,
        pending_authorizations=3,
        pending_for_human=1,
        recent_alerts=2,
        mismatches=4,
        ended_sessions=5,
        scheduler_paused=True,
    )
    assert _shown(answer)[1:3] == [
        "2 alerts within the hour  3 requests pending  1 for a human  4 differ from tmux"
        "  all notes are paused  5 ended, see --all",
        "OPEN MODE: anyone local may approve; close it with 'orch-server passphrase set'",
    ]


def test_ended_sessions_are_one_line_each_at_the_end_and_need_nobody() -> None:
    ended = _session(
        "alpha",
        _agent("pm", "DEAD"),
        completion=pb.COMPLETION_FAILED,
        failure_reason="no budget",
        completion_time=_ago(7200),
    )
    head, _, *body = _shown(_answer(ended, _session("beta", _agent("pm"))))
    assert "needs" not in head
    assert head.endswith("1 session  1 agent  1 working")
    assert body == ["beta  active", "  pm  working 3m", "alpha  failed 2h ago  no budget"]


def test_the_layout_is_the_most_telling_that_fits_the_height() -> None:
    answer = _many(6, needy=1)
    rows = _shown(answer, 120, 38)
    assert "! tester     hung 3m" in rows
    assert len(rows) == 2 + 6 * 6
    cells = _shown(answer, 120, 37)
    assert cells[2].startswith("s005  !tester:hung  developer:working  pm:working")
    assert len(cells) == 2 + 6
    wrapped = _shown(answer, 33, 37)
    assert wrapped[5:7] == ["s005  !tester:hung", "  developer:working  pm:working"]
    assert not any("…" in line for line in wrapped)
    short = _shown(answer, 120, 7)
    assert short[2:] == [
        "s005  !tester:hung  4 working",
        "s000 4 working 1 idle  s001 4 working 1 idle  s002 4 working 1 idle"
        "  s003 4 working 1 idle  s004 4 working 1 idle",
    ]


def test_a_hundred_sessions_of_five_agents_fit_on_one_screen() -> None:
    shown = _shown(_many(100, needy=10), 120, 40)
    assert len(shown) <= 40
    joined = "\n".join(shown)
    assert all(f"s{number:03}" in joined for number in range(100))
    assert [line[:18] for line in shown[2:12]] == [f"s{n:03}  !tester:hung" for n in range(90, 100)]


def test_what_does_not_fit_even_so_ends_with_the_command_that_shows_all() -> None:
    lines = view.screen(_many(100, needy=50), NOW, 80, 24)
    cut = text.cut(lines, 80, 24)
    assert len(cut) == 24
    last = text.plain(cut[-1])
    assert last == f"… {len(lines) - 23} more lines; all of it: orch-client status | less"


_HOSTILE = (
    "\x1b[31mred\x1b]0;title\x07",
    "a\nb\rc\td",
    "日本語のセッション",
    "e\u0301" * 30,
    "👩\u200d💻 ❤\ufe0f ok",
    "\u202eright to left",
    "x" * 200,
)


@pytest.mark.parametrize("width", [20, 21, 33, 40, 80, 200])
@pytest.mark.parametrize("height", [5, 24, 1000])
def test_no_line_is_wider_than_the_terminal_whatever_the_names_are(width: int, height: int) -> None:
    sessions = [
        _session(
            name,
            _agent(name, "HUNG", operation=agent_pb2.Operation(reason=name)),
            _agent("developer", waiting_for=agent_pb2.WaitingFor(role=name, reason=name)),
            failure_reason=name,
            completed_phases=[pb.CompletedPhase(name=name)],
        )
        for name in _HOSTILE
    ]
    answer = _answer(*sessions, open_mode=True, pending_authorizations=7, recent_alerts=1)
    for line in text.cut(view.screen(answer, NOW, width, height), width, height):
        shown = text.plain(line)
        assert text.cells(shown) <= width
        assert shown.isprintable()
        if width >= 40:
            assert text.ansi(line).count("\x1b[") % 2 == 0


def test_a_text_is_measured_in_cells_and_never_cut_within_a_character() -> None:
    assert text.cells("日本") == 4
    assert text.cells("e\u0301") == 1
    assert text.plain(text.clip([("", "日本語")], 4)) == "日…"
    assert text.plain(text.clip([("bad", "ab"), ("", "cdef")], 4)) == "abc…"
    assert text.clip([("", "abcd")], 4) == [("", "abcd")]


def test_colours_are_by_state() -> None:
    answer = _answer(_session("atlas", _agent("pm"), _agent("tester", "HUNG")))
    drawn = "\n".join(text.ansi(line) for line in view.screen(answer, NOW))
    assert "\x1b[1;31mhung 3m" in drawn
    assert "\x1b[32mworking 3m" in drawn
    assert "\x1b[1matlas" in drawn


def test_nobody_yet_is_said_with_the_command_that_changes_it() -> None:
    assert _shown(_answer())[-1] == "No sessions yet; run 'orch-client heartbeat' in a tmux pane."


def test_a_state_of_a_newer_server_is_unknown_here() -> None:
    newer = agent_pb2.Agent(role="pm", state=99, liveness=99)  # type: ignore[arg-type]
    answer = _answer(_session("atlas", newer, phase=99, plan=99, completion=99))
    assert _shown(answer)[-1] == "  pm  unknown"
