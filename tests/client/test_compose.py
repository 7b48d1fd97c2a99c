"""The courier before an agent that misbehaves in one way at a time: what the model received, and
whether the outcome says so."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest

from orch_client.courier import programs, submit
from orch_client.courier.deliver import Courier, Offer, Outcome, PaneAddress
from tests.client.conftest import Heard, served
from tests.client.conftest import deliver as send
from tests.faults.pane import DRAFT, FakePane, opened
from tests.support import Tmux, until

GENERATION = "0a1b2c3d"
DIALOG, BUSY = "Do you want to proceed?", "esc to interrupt"
PATIENCE = 15.0


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The courier gives up sooner, so that a test need not wait for it."""
    monkeypatch.setattr(submit, "_LANDS_WITHIN", 1.5)
    monkeypatch.setattr(submit, "_EMPTY_FOR", 1.0)
    monkeypatch.setattr(submit, "_RESCUE_AFTER", 0.4)
    monkeypatch.setattr(submit, "_TAKEN_WITHIN", 1.5)


def offer(sequence: int, text: str, mode: str = "WAIT_IDLE", kind: str = "claude") -> Offer:
    return Offer(sequence, GENERATION, text, kind, mode=mode)


def with_courier(body: Callable[[Courier], Awaitable[None]]) -> None:
    """Runs the body with one courier."""

    async def run() -> None:
        courier = Courier()
        try:
            await body(courier)
        finally:
            await courier.close()

    asyncio.run(run())


def refused_then_ready(
    fake: FakePane, reason: str, clear: Callable[[], object] = lambda: None
) -> None:
    """The first offer is refused for this reason; once the pane is ready the second arrives. What
    hinders passes by itself, or `clear` ends it."""

    async def body(courier: Courier) -> None:
        heard = Heard()
        await courier.serve(offer(1, "hello there"), fake.at, heard)
        assert [(o.state, o.reason) for o in heard.outcomes] == [("REFUSED", reason)]
        clear()
        async with asyncio.timeout(PATIENCE):
            await heard.is_ready.wait()
        outcome = await served(courier, offer(2, "hello there"), fake.at)
        assert outcome.state == "CONFIRMED", outcome

    with_courier(body)
    assert fake.received() == ["hello there"]
    assert fake.count("answered") == 0


def test_an_idle_agent_gets_the_text_once(tmux: Tmux) -> None:
    fake = opened(tmux, "claude")
    assert send(fake.at, offer(1, "hello there")).state == "CONFIRMED"
    assert send(fake.at, offer(1, "hello there")).state == "CONFIRMED"
    assert fake.received() == ["hello there"]


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "?",
        "…",
        "two\nlines",
        "a\n" * 40 + "end",
        "x" * 800,
        "y" * 801,
        "tab\tin it",
        "äöü ß € 日本語 👩‍👩‍👧‍👦 e\u0301",
        "[Pasted text #1 +39 lines]",
        "❯ not the composer",
        "─" * 120,
        '{"json": ["with", {"brackets": true}]}',
        "    indented\n\n\n        more",
    ],
)
def test_text_of_every_shape_is_received_as_it_is(tmux: Tmux, text: str) -> None:
    fake = opened(tmux, "claude")
    outcome = send(fake.at, offer(1, text))
    assert outcome.state == "CONFIRMED", outcome
    assert fake.received() == [text]


def test_256_kib_are_received_as_they_are(tmux: Tmux) -> None:
    fake = opened(tmux, "claude")
    text = "".join(f"{n:07d}\n" for n in range(256 * 1024 // 8))
    assert len(text) == 256 * 1024
    assert send(fake.at, offer(1, text)).state == "CONFIRMED"
    assert fake.received() == [text]


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("a backslash at the end\\", "a backslash at the end\\ "),
        ("!a command", " !a command"),
        ("#a memory", " #a memory"),
        ("/help is a word", "/help is a word"),
    ],
)
def test_what_the_agent_would_take_for_a_command_is_kept_from_it(
    tmux: Tmux, text: str, received: str
) -> None:
    fake = opened(tmux, "claude")
    assert send(fake.at, offer(1, text)).state == "CONFIRMED"
    assert fake.received() == [received]


@pytest.mark.parametrize(
    "line",
    [
        "Do you want to proceed?",
        "Esc to cancel · Tab to amend",
        "press esc to interrupt",
        "✻ Pondering… (3s · esc to interrupt)",
        "─" * 40,
        "❯ 1. Yes",
        "Yes, I trust this folder",
        "Press Enter to continue",
    ],
)
def test_a_text_that_speaks_of_screens_is_no_screen(tmux: Tmux, line: str) -> None:
    fake = opened(tmux, "claude", "--turn", "0.05", "0.05")
    texts = [f"The screen says:\n{line}", "and the next text"]

    async def body(courier: Courier) -> None:
        for number, text in enumerate(texts, 1):
            sequence, outcome = 10 * number, Outcome("REFUSED", "")
            while outcome.state == "REFUSED":
                heard = Heard()
                await courier.serve(offer(sequence, text), fake.at, heard)
                outcome = heard.outcomes[-1]
                sequence += 1
                if outcome.state == "REFUSED":
                    async with asyncio.timeout(PATIENCE):
                        await heard.is_ready.wait()
            assert outcome.state == "CONFIRMED", outcome

    with_courier(body)
    assert fake.received() == texts


def test_a_swallowed_enter_is_sent_once_more(tmux: Tmux) -> None:
    fake = opened(tmux, "claude", "--script", "enter:swallow")
    assert send(fake.at, offer(1, "hello there")).state == "CONFIRMED"
    assert fake.received() == ["hello there"]


def test_enter_is_not_sent_a_third_time(tmux: Tmux, hasty: None) -> None:
    fake = opened(tmux, "claude", "--script", "enter:swallow,enter:swallow")
    outcome = send(fake.at, offer(1, "hello there"))
    assert (outcome.state, fake.received()) == ("UNCONFIRMED", [])
    assert fake.screen().count("hello there") == 1
    again = send(fake.at, offer(1, "hello there"))
    assert (again.state, fake.received()) == ("UNCONFIRMED", [])
    assert fake.screen().count("hello there") == 1
    assert send(fake.at, offer(2, "another")).reason == "DRAFT_IN_COMPOSER"


@pytest.mark.parametrize("script", ["paste:late=1.2", "submit:late=1.2", "submit:late=2.5"])
def test_an_agent_that_draws_late_is_waited_for(tmux: Tmux, script: str) -> None:
    fake = opened(tmux, "claude", "--script", script)
    assert send(fake.at, offer(1, "hello there")).state == "CONFIRMED"
    assert fake.received() == ["hello there"]


def test_a_dialog_is_not_typed_into(tmux: Tmux) -> None:
    fake = opened(tmux, "claude", "--script", "start:dialog=4", shows=DIALOG)
    refused_then_ready(fake, "DIALOG_OPEN")


@pytest.mark.parametrize("script", ["paste:dialog=5", "enter:dialog=5", "enter:hold=5"])
def test_a_dialog_that_opens_mid_send_is_waited_for(
    tmux: Tmux, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    for limit in ("_LANDS_WITHIN", "_EMPTY_FOR", "_TAKEN_WITHIN"):
        monkeypatch.setattr(submit, limit, 4.0)  # less than the dialog lasts
    fake = opened(tmux, "claude", "--script", script)
    outcome = send(fake.at, offer(1, "hello there"))
    assert outcome.state == "CONFIRMED", outcome
    assert (fake.received(), fake.count("answered")) == (["hello there"], 0)


def test_a_text_that_a_dialog_devoured_is_in_doubt(tmux: Tmux, hasty: None) -> None:
    fake = opened(tmux, "claude", "--script", "paste:devour=0.5")
    assert send(fake.at, offer(1, "hello there")).state == "UNCONFIRMED"
    assert (fake.received(), fake.count("answered")) == ([], 0)


def test_a_dialog_that_opens_in_the_turn_does_not_hide_that_the_text_was_taken(
    tmux: Tmux,
) -> None:
    fake = opened(tmux, "claude", "--script", "submit:dialog=60")

    async def body(courier: Courier) -> None:
        async with asyncio.timeout(PATIENCE):
            outcome = await served(courier, offer(1, "[message 0123abcd from pm]\nhello"), fake.at)
        assert outcome.state == "CONFIRMED", outcome

    with_courier(body)
    assert fake.count("answered") == 0


@pytest.mark.parametrize("how", ["restart", "relaunch"])
@pytest.mark.parametrize("moment", ["paste", "enter"])
def test_a_text_that_an_agent_lost_is_in_doubt(
    tmux: Tmux, hasty: None, moment: str, how: str
) -> None:
    fake = opened(tmux, "claude", "--script", f"{moment}:{how}")
    outcome = send(fake.at, offer(1, "hello there"))
    assert (outcome.state, fake.received()) == ("UNCONFIRMED", []), outcome


def test_a_swallowed_enter_before_a_new_beginning_is_in_doubt(tmux: Tmux, hasty: None) -> None:
    fake = opened(tmux, "claude", "--script", "enter:swallow,enter:restart")
    outcome = send(fake.at, offer(1, "hello there"))
    assert (outcome.state, fake.received()) == ("UNCONFIRMED", []), outcome


def test_a_persons_draft_is_not_touched(tmux: Tmux) -> None:
    fake = opened(tmux, "claude", "--script", "start:draft=4", shows=DRAFT.strip())
    refused_then_ready(fake, "DRAFT_IN_COMPOSER")


def test_what_a_person_types_behind_the_text_is_not_sent_with_it(tmux: Tmux) -> None:
    fake = opened(tmux, "claude", "--script", "paste:draft=1")
    assert send(fake.at, offer(1, "hello there")).state == "CONFIRMED"
    assert fake.received() == ["hello there"]


def test_a_busy_agent_is_waited_for(tmux: Tmux) -> None:
    fake = opened(tmux, "claude", "--script", "start:busy=4", shows=BUSY)
    refused_then_ready(fake, "AGENT_BUSY")


def test_a_busy_agent_takes_what_is_immediate_into_its_queue(tmux: Tmux) -> None:
    fake = opened(tmux, "claude", "--script", "start:busy=8", shows=BUSY)

    async def body(courier: Courier) -> None:
        for sequence, text in enumerate(["first", "second\nof two", "third " * 200], 1):
            outcome = await served(courier, offer(sequence, text, "IMMEDIATE"), fake.at)
            assert outcome.state == "QUEUED_BY_AGENT", outcome
        assert fake.received() == []
        heard = Heard()
        await courier.serve(offer(4, "last"), fake.at, heard)
        assert heard.outcomes[-1].reason == "AGENT_BUSY"
        async with asyncio.timeout(PATIENCE):
            await heard.is_ready.wait()
        assert (await served(courier, offer(5, "last"), fake.at)).state == "CONFIRMED"

    with_courier(body)
    assert fake.received() == ["first", "second\nof two", "third " * 200, "last"]


def test_a_stopped_agent_is_waited_for(tmux: Tmux) -> None:
    fake = opened(tmux, "claude")
    pane_pid = int(tmux.run("display-message", "-p", "-t", fake.at.pane, "#{pane_pid}"))
    (started,) = fake.events()
    os.kill(started["pid"], signal.SIGSTOP)
    until(lambda: programs.foreground(pane_pid, "").stopped, "the agent to be stopped")
    refused_then_ready(fake, "STOPPED", lambda: os.kill(started["pid"], signal.SIGCONT))


@pytest.mark.parametrize("script", ["paste:stop=1", "enter:stop=1", "submit:stop=1"])
def test_an_agent_that_is_stopped_mid_send_is_waited_for(tmux: Tmux, script: str) -> None:
    fake = opened(tmux, "claude", "--script", script)
    outcome = send(fake.at, offer(1, "hello there"))
    assert outcome.state == "CONFIRMED", outcome
    assert fake.received() == ["hello there"]


@pytest.mark.parametrize("moment", ["paste", "submit"])
def test_text_that_scrolls_by_does_not_matter(tmux: Tmux, moment: str) -> None:
    fake = opened(tmux, "claude", "--script", f"{moment}:scroll")
    assert send(fake.at, offer(1, "hello there")).state == "CONFIRMED"
    assert fake.received() == ["hello there"]


def test_a_pane_in_copy_mode_is_waited_for(tmux: Tmux) -> None:
    fake = opened(tmux, "claude")
    fake.tmux.run("copy-mode", "-t", fake.pane)
    leave = ("send-keys", "-t", fake.pane, "-X", "cancel")
    refused_then_ready(fake, "COPY_MODE", lambda: fake.tmux.run(*leave))


def test_a_pane_that_enters_copy_mode_mid_send_is_waited_for(tmux: Tmux) -> None:
    fake = opened(tmux, "claude")

    class Scroller(Heard):
        async def report(self, given: Offer, outcome: Outcome) -> None:
            await super().report(given, outcome)
            if outcome.state == "PASTED":
                leave = f"send-keys -t {fake.pane} -X cancel"
                fake.tmux.run("copy-mode", "-t", fake.pane)
                fake.tmux.run("run-shell", "-d", "1", "-b", "-C", leave)

    async def body(courier: Courier) -> None:
        heard = Scroller()
        await courier.serve(offer(1, "hello there"), fake.at, heard)
        assert [o.state for o in heard.outcomes] == ["PASTED", "CONFIRMED"]

    with_courier(body)
    assert fake.received() == ["hello there"]


@pytest.mark.parametrize(("width", "height"), [(40, 14), (60, 10), (200, 60)])
def test_panes_of_every_size_are_read(tmux: Tmux, width: int, height: int) -> None:
    fake = opened(tmux, "claude")
    fake.tmux.run("resize-window", "-t", fake.pane, "-x", str(width), "-y", str(height))
    text = " ".join(f"word{n}" for n in range(100))
    outcome = send(fake.at, offer(1, text))
    assert outcome.state == "CONFIRMED", outcome
    assert fake.received() == [text]


@pytest.mark.parametrize("script", ["", "enter:swallow", "paste:late=0.5", "submit:late=0.5"])
def test_a_courier_that_is_killed_after_the_paste_leaves_nothing_doubled(
    tmux: Tmux, script: str
) -> None:
    fake = opened(tmux, "claude", "--script", script)

    class Killed(Exception):
        pass

    class Killer(Heard):
        async def report(self, given: Offer, outcome: Outcome) -> None:
            raise Killed

    async def body(courier: Courier) -> None:
        with pytest.raises(Killed):
            await courier.serve(offer(1, "hello there"), fake.at, Killer())

    with_courier(body)
    again = Offer(1, GENERATION, "hello there", "claude", tried_before=True)
    assert send(fake.at, again).state == "CONFIRMED"
    assert fake.received() == ["hello there"]


def test_an_agent_that_is_gone_is_said_to_be_gone(tmux: Tmux) -> None:
    fake = opened(tmux, "claude")
    fake.tmux.pane("atlas", "other")
    fake.tmux.run("kill-pane", "-t", fake.pane)
    gone: PaneAddress = fake.at
    assert send(gone, offer(1, "hello there")).reason == "PANE_GONE"
