"""What the very agents that people run are shown as, through a day of work: by their hooks, by
their screens, by both."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.agents.cli import KINDS, Setup
from tests.agents.day import DAY, Step, ask, busy, children, leave, limited
from tests.agents.desk import Desk
from tests.agents.model import RESETS_AT, Answer
from tests.support import hold, liveness, until

pytestmark = pytest.mark.agents

OpenDesk = Callable[..., Desk]
BEAT = 1.0
SELDOM = 300.0  # a beat so long that no screen is looked at while the test lasts
NEWCOMER = Setup(trusted=False, shell=True)
#: In a shell, so that the pane stays: with a pane that is gone goes what was told of its agent.
UNDER_RUN = Setup(under=("orch-client", "run", "--"), shell=True)
SUBSCRIBED = Setup(account="subscription", shell=True)
LIMIT = Answer(status=429, resets_at=RESETS_AT)
LONG = pytest.mark.timeout(400)  # a day has some twenty steps, each with programs that start


def state(shown: dict[str, Any]) -> str:
    """The state in one word."""
    return str(shown.get("state", "")).removeprefix("AGENT_STATE_")


def told_by(shown: dict[str, Any]) -> str:
    """The source of the evidence in one word."""
    return str(shown["evidence"]["source"]).removeprefix("EVIDENCE_SOURCE_")


def becomes(desk: Desk, wanted: str, beats: int | None = None) -> dict[str, Any]:
    """Waits until the agent is shown in this state, when `beats` are given by so many of its
    client's at most; returns all that is shown then."""
    heard: list[float] = []

    def probe() -> dict[str, Any] | None:
        shown = desk.shown()
        at = datetime.fromisoformat(shown["last_check_in_time"]).timestamp()
        # One beat's time differs by a microsecond each time that it is asked for.
        if not heard or at > heard[-1] + BEAT / 2:
            heard.append(at)
        if state(shown) == wanted:
            return shown
        late = beats is not None and len(heard) > beats
        assert not late, f"not {wanted} but {state(shown)} after the beats at {heard}"
        return None

    return until(probe, f"{desk.kind} to be shown as {wanted}") or {}


def happens(desk: Desk, step: Step) -> None:
    """Has the step happen, and waits until the agent itself shows that it has."""
    step.act(desk)
    until(lambda: step.truth(desk), f"{desk.kind} to show the step '{step.name}'", 25.0)


def meets_limit(desk: Desk) -> None:
    """Has a subscriber's agent meet its usage limit."""
    before = _limits(desk)
    ask(LIMIT)(desk)
    until(lambda: _limits(desk) > before, f"a limit; {len(desk.model.turns)} turns", 25.0)


def opens_menu(desk: Desk) -> None:
    """Has it meet limits until one opens its menu: Claude Code gives a hint in place of the menu
    when another answer comes in just then."""
    for _ in range(3):
        meets_limit(desk)
        with contextlib.suppress(AssertionError):
            until(lambda: "Stop and wait for limit" in desk.pane.screen(), "the menu", 5.0)
            return
    raise AssertionError(f"no limit opened the menu:\n{desk.pane.screen()}")


def _limits(desk: Desk) -> int:
    return desk.pane.screen().count("hit your session limit")


@LONG
@pytest.mark.parametrize("hooks", [False, True], ids=["by screen", "by screen and hooks"])
@pytest.mark.parametrize("kind", KINDS)
def test_through_a_day_the_state_shown_is_right_within_one_beat(
    open_desk: OpenDesk, kind: str, hooks: bool
) -> None:
    desk = open_desk(kind, NEWCOMER, hooks=hooks and kind == "claude", beat=BEAT)
    for step in DAY:
        if kind in step.kinds:
            happens(desk, step)
            # The last one before it, one that had looked before, and the one that shows it.
            shown = becomes(desk, step.state, beats=3)
            assert step.detail in shown["evidence"].get("detail", ""), step.name


@LONG
def test_hooks_alone_tell_the_day_at_once_but_for_what_fires_none(open_desk: OpenDesk) -> None:
    desk = open_desk("claude", NEWCOMER, hooks=True, beat=SELDOM)
    for step in DAY:
        before = desk.shown()
        happens(desk, step)
        if step.silent:
            hold(0.5)
            assert desk.shown()["state"] == before["state"], step.name
        else:
            assert told_by(becomes(desk, step.state)) == "HOOK", step.name


@pytest.mark.parametrize("beat", [BEAT, SELDOM], ids=["by screen", "by hooks"])
def test_a_limit_is_shown_with_the_time_at_which_it_ends(open_desk: OpenDesk, beat: float) -> None:
    desk = open_desk("claude", SUBSCRIBED, hooks=beat == SELDOM, beat=beat)
    meets_limit(desk)
    evidence = becomes(desk, "USAGE_LIMITED")["evidence"]
    day = datetime.fromtimestamp(RESETS_AT, UTC)
    said = f"You've hit your session limit · resets {day:%b} {day.day}"
    assert evidence["detail"].startswith(said)
    assert datetime.fromisoformat(evidence["reset_time"]).timestamp() == RESETS_AT


def test_after_a_limit_a_message_closes_its_menu_and_the_agent_goes_on(open_desk: OpenDesk) -> None:
    desk = open_desk("claude", SUBSCRIBED, beat=BEAT)
    opens_menu(desk)
    becomes(desk, "USAGE_LIMITED")
    sent = desk.send("go on")
    hold(2.0)
    assert desk.state(sent) == "PENDING"
    assert "Stop and wait for limit" in desk.pane.screen()
    (held,) = desk.home.json("credit")
    assert desk.home.client("credit", "release", held["credential"]).returncode == 0
    desk.becomes(sent, "CONFIRMED")
    until(lambda: desk.model.count("go on") == 1, "the text")
    becomes(desk, "IDLE")


def test_codex_says_when_its_limit_ends(open_desk: OpenDesk) -> None:
    desk = open_desk("codex", beat=BEAT)
    ask(LIMIT)(desk)
    until(lambda: limited(desk), "the limit")
    evidence = becomes(desk, "USAGE_LIMITED")["evidence"]
    assert datetime.fromisoformat(evidence["reset_time"]).timestamp() == RESETS_AT


def test_an_answer_that_quotes_a_limit_is_none_when_hooks_tell_too(open_desk: OpenDesk) -> None:
    desk = open_desk("claude", hooks=True, beat=BEAT)
    ask(Answer("You've hit your session limit · resets 7pm (UTC)"))(desk)
    until(desk.is_idle, "the end of the turn")
    becomes(desk, "IDLE")
    hold(2 * BEAT + 0.5)  # the screen is read twice
    assert (state(desk.shown()), told_by(desk.shown())) == ("IDLE", "HOOK")


def test_a_question_stays_one_when_its_notification_comes(open_desk: OpenDesk) -> None:
    desk = open_desk("claude", hooks=True, beat=SELDOM)
    ask(Answer(question="Which colour?"))(desk)
    becomes(desk, "WAITING_ANSWER")
    hold(7.0)  # Claude Code calls it a permission after 6 s
    assert state(desk.shown()) == "WAITING_ANSWER"
    assert not desk.home.path.joinpath("logs", "hook.log").exists()


def test_an_inner_claude_code_changes_neither_state_nor_mailbox(open_desk: OpenDesk) -> None:
    desk = open_desk("claude", hooks=True, beat=SELDOM)
    inner = "claude -p 'inner words' < /dev/null > out"
    ask(Answer(command=inner), Answer("inner answer"), Answer(held=True))(desk)
    until(lambda: "Do you want to proceed?" in desk.pane.screen(), "the dialog")
    sent = desk.send("for the outer one", "--mode", "turn-boundary")
    desk.pane.keys("Enter")
    until(lambda: len(desk.model.turns) == 3, "the inner turn and the next one", 30.0)
    assert (desk.pane.work / "out").read_text() == "inner answer\n"
    assert state(desk.shown()) == "WAITING_PERMISSION"  # the last that the outer one has told
    assert desk.state(sent) == "PENDING"
    desk.model.release()
    desk.becomes(sent, "CONFIRMED")
    until(lambda: desk.model.count("for the outer one") == 1, "the text; a hook gave it")


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_that_is_stopped_hangs_until_it_goes_on(open_desk: OpenDesk, kind: str) -> None:
    desk = open_desk(kind, Setup(under=("sh", "-c", '"$@"; true', "sh")), beat=BEAT)
    becomes(desk, "IDLE")
    # tmux lets the pane's own process go on, and a shell with jobs takes the terminal back.
    (agent,) = children(str(_process(desk)))
    os.kill(int(agent), signal.SIGSTOP)
    assert told_by(becomes(desk, "HUNG")) == "PROCESS"
    os.kill(int(agent), signal.SIGCONT)
    becomes(desk, "IDLE")


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_whose_pane_ends_with_it_is_dead(open_desk: OpenDesk, kind: str) -> None:
    desk = open_desk(kind, beat=BEAT)
    desk.tmux.pane("other", "one")  # the tmux server stays
    ask(Answer(held=True))(desk)
    until(lambda: busy(desk), "the turn")
    os.kill(_process(desk), signal.SIGKILL)
    # Once that the pane is gone is known, so is nothing more of its agent: what was told stays.
    until(lambda: "DEAD" in _told(desk), f"that {kind} is dead; {_told(desk)}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_under_run_is_told_as_one(open_desk: OpenDesk, kind: str) -> None:
    desk = open_desk(kind, UNDER_RUN, beat=BEAT)
    ask(Answer(held=True))(desk)
    until(lambda: busy(desk), "the turn")
    becomes(desk, "WORKING")
    (run,) = children(str(_process(desk)))
    (agent,) = children(run)
    os.kill(int(agent), signal.SIGKILL)
    evidence = becomes(desk, "DEAD")["evidence"]
    assert (evidence["source"], evidence["rule"]) == ("EVIDENCE_SOURCE_PROCESS", "exit")


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_that_leaves_under_run_has_not_crashed(open_desk: OpenDesk, kind: str) -> None:
    desk = open_desk(kind, UNDER_RUN, beat=BEAT)
    becomes(desk, "IDLE")
    leave(desk)
    becomes(desk, "SHELL")
    gone = ("UNMANAGED", "ENDED")
    until(lambda: liveness(desk.home, desk.address) in gone, "the end of its client")
    assert state(desk.shown()) == "SHELL"
    assert desk.home.json("alerts") == []


def _process(desk: Desk) -> int:
    pid = desk.tmux.run("display-message", "-p", "-t", desk.pane.pane, "#{pane_pid}")
    return int(pid)


def _told(desk: Desk) -> list[str]:
    """The states that were told of the agent, one after the other."""
    return [e["detail"].split()[0] for e in desk.home.json("events", "--kind", "agent.state")]
