"""Messages to the very agents that people run: what the model was told, and what we say of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.agents.cli import KINDS, Setup
from tests.agents.desk import Desk, steps, word
from tests.agents.model import Answer
from tests.support import hold, until

pytestmark = pytest.mark.agents

LONG = "\n".join(f"line {number} of a long text" for number in range(9_000)) + "\nend"
TEXTS = {
    "a word": "hello",
    "lines": "first line\n\n  second line, indented\nthird",
    "many lines": "\n".join(f"row {number}" for number in range(60)),
    "256 KiB": LONG + "." * (262_144 - len(LONG)),
    "one long line": "word " * 5_000 + "end",
    "signs and pictures": "👩‍👩‍👧‍👦 é ẽ̃ 日本語 ❯ › ─── \xa0 end",
    "only pictures": "🙂🙂",
    "final semicolon": "do this; then that;",
    "leading dash": "-x --plain -- -l",
    "a format of tmux": "#(touch made) #{pane_id} $HOME `touch made` $(touch made)",
    "final backslash": "the path is C:\\",
    "final file name": "please read @READ",
    "final skill name": "please use $ski",
    "what a dialog says": "Do you want to proceed?\n❯ 1. Yes\n  2. No\nEsc to cancel",
    "what a busy line says": "✻ Brewing… (3s · esc to interrupt)",
    "the tag of a paste": "it said [Pasted text #1 +39 lines] and [Pasted Content 1200 chars]",
}
PLAIN = {
    "a shell command": "!touch made",
    "a shell command of two lines": "!touch made\ntouch made",
    "a note to its memory": "# remember this",
    "a leading dash": "-h",
}


def is_told_once(desk: Desk, whole: str) -> bool:
    """Whether the model was told this text, white space at its ends aside, exactly once."""
    return [said.strip() for said in desk.model.said].count(whole.strip()) == 1


@pytest.mark.parametrize("name", TEXTS)
def test_an_idle_agent_is_told_exactly_the_text_once(desk: Desk, name: str) -> None:
    sent = desk.send(TEXTS[name], wait="30s")
    assert word(sent, "state") == "CONFIRMED", sent["detail"]
    assert sent["header"] == f"[message {sent['id'][:8]} from operator]"
    until(lambda: is_told_once(desk, desk.received(sent)), f"the text; {desk.model.said[-1:]}")
    assert desk.model.count(sent["header"]) == 1
    assert not (desk.pane.work / "made").exists()


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_text_is_never_run(desk: Desk, name: str) -> None:
    sent = desk.send(PLAIN[name], "--plain", wait="30s")
    assert word(sent, "state") == "CONFIRMED", sent["detail"]
    until(lambda: is_told_once(desk, PLAIN[name]), f"the text; {desk.model.said[-1:]}")
    assert not (desk.pane.work / "made").exists()


def test_messages_arrive_in_their_order(desk: Desk) -> None:
    sent = [desk.send(f"number {number}") for number in range(5)]
    for one in sent:
        desk.becomes(one, "CONFIRMED")
    told = [said for said in desk.model.said if "number " in said]
    assert told == [desk.received(one) for one in sent]


def test_a_busy_agent_is_not_disturbed_before_its_turn_ends(desk: Desk) -> None:
    desk.keep_busy()
    sent = desk.send("when you have time")
    desk.is_held(sent, "AGENT_BUSY")
    assert desk.pane.composer == ""
    assert desk.model.count(sent["header"]) == 0
    desk.model.release()
    desk.becomes(sent, "CONFIRMED")
    until(lambda: is_told_once(desk, desk.received(sent)), "the text")


def test_a_busy_agent_queues_what_is_urgent(desk: Desk) -> None:
    desk.keep_busy()
    sent = desk.send("at once", "--mode", "immediate")
    # Codex breaks off what it does, and so may be done before anybody looks.
    desk.becomes(sent, "QUEUED_BY_AGENT", *(["CONFIRMED"] if desk.kind == "codex" else []))
    desk.model.release()
    until(lambda: is_told_once(desk, desk.received(sent)), "the text")
    desk.settle()
    assert desk.model.count(sent["header"]) == 1


def test_a_dialog_is_not_typed_into(desk: Desk) -> None:
    desk.model.then(Answer(command="sleep 0.1; echo made > asked"))
    desk.send("please work", wait="20s")
    desk.pane.shows("1. Yes")
    before = desk.pane.screen()
    sent = desk.send("y")
    desk.is_held(sent, "DIALOG_OPEN")
    assert desk.pane.screen() == before
    assert not (desk.pane.work / "asked").exists()
    desk.pane.keys("Enter")
    desk.becomes(sent, "CONFIRMED")
    until(lambda: is_told_once(desk, desk.received(sent)), "the text")
    assert (desk.pane.work / "asked").exists()
    assert desk.model.count(sent["header"]) == 1


@pytest.mark.parametrize("mode", ["wait-idle", "immediate"])
def test_a_draft_is_left_alone(desk: Desk, mode: str) -> None:
    desk.pane.write("half typed")
    until(lambda: desk.pane.composer == "half typed", "the draft")
    sent = desk.send("the message", "--mode", mode)
    desk.is_held(sent, "DRAFT_IN_COMPOSER")
    assert desk.pane.composer == "half typed"
    desk.pane.keys("C-u")
    desk.becomes(sent, "CONFIRMED")
    until(lambda: is_told_once(desk, desk.received(sent)), "the text")


def test_copy_mode_is_left_alone(desk: Desk) -> None:
    desk.tmux.run("copy-mode", "-t", desk.pane.pane)
    sent = desk.send("the message")
    desk.is_held(sent, "COPY_MODE")
    desk.tmux.run("send-keys", "-t", desk.pane.pane, "-X", "cancel")
    desk.becomes(sent, "CONFIRMED")
    until(lambda: is_told_once(desk, desk.received(sent)), "the text")


@pytest.mark.parametrize("kind", KINDS)
def test_the_shell_behind_an_agent_that_left_runs_nothing(
    kind: str, open_desk: Callable[..., Desk]
) -> None:
    desk = open_desk(kind, Setup(shell=True))
    desk.pane.write("/exit")
    until(lambda: desk.pane.composer == "/exit", "the command")
    hold(0.5)
    desk.pane.keys("Enter")
    until(lambda: "bash" in desk.pane.screen().rstrip().splitlines()[-1], "the shell")
    sent = desk.send("touch made", "--plain")
    until(lambda: word(desk.delivery(sent), "reason") == "AGENT_EXITED", "the refusal")
    found = desk.delivery(sent)
    assert word(found, "state") in ("PENDING", "REFUSED")
    assert "PASTED" not in steps(found)
    assert "touch" not in desk.pane.screen()
    assert not (desk.pane.work / "made").exists()


def test_a_hook_takes_what_waits_for_the_end_of_the_turn(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk("claude", hooks=True)
    desk.keep_busy()
    sent = desk.send("one more thing", "--mode", "turn-boundary")
    hold(1.0)
    assert desk.state(sent) == "PENDING"
    desk.model.release()
    found = desk.becomes(sent, "CONFIRMED")
    assert "PASTED" not in steps(found)
    assert f"Stop hook feedback:\n{desk.received(sent)}" in desk.model.said
    desk.settle()
    assert desk.model.count(sent["header"]) == 1
    # An idle agent has no turn whose end could be waited for: there it is typed.
    sent = desk.send("and another", "--mode", "turn-boundary", wait="20s")
    assert word(sent, "state") == "CONFIRMED"
    until(lambda: is_told_once(desk, desk.received(sent)), "the text")
    assert desk.model.count(sent["header"]) == 1
