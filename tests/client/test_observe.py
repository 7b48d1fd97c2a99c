"""What a client sees of the agent in its pane, by its process and by its screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from orch.v1 import agent_pb2
from orch_client.courier import fixture, kinds
from orch_client.courier.programs import Program, Sort, classify
from orch_client.courier.tmux import PaneGone, TmuxDied, TmuxFailed, TmuxSilent
from orch_client.observe import Observer, Sight, Watch, key
from tests.client.stage import recorded
from tests.support import hold

CLAUDE = classify(["claude"])
BASH = classify(["bash"])
CAT = classify(["cat"])
FIXTURES = [path for kind in ("claude", "codex") for path in fixture.recorded(kind)]


@dataclass
class Pane:
    """What is in a pane; each look takes the next screen, and the last one again and again."""

    program: Program = CLAUDE
    screens: list[str | Exception] = field(default_factory=list)
    looks: int = 0

    def observer(self, kind: str = "", agent: str = "", started: str = "") -> Observer:
        return Observer(lambda: self.program, self._capture, kind, agent, lambda: started)

    def show(self, *screens: str | Exception) -> Pane:
        self.screens = list(screens)
        return self

    async def _capture(self, fresh: bool) -> str | None:
        self.looks += 1
        shown = self.screens.pop(0) if len(self.screens) > 1 else self.screens[0]
        if isinstance(shown, Exception):
            raise shown
        return shown


def look(observer: Observer) -> Sight:
    return asyncio.run(observer.look())


def told(sight: Sight) -> tuple[str, str, str] | None:
    """State, source and rule."""
    seen = sight.observation
    if seen is None:
        return None
    return (
        agent_pb2.AgentState.Name(seen.state).removeprefix("AGENT_STATE_"),
        agent_pb2.EvidenceSource.Name(seen.source).removeprefix("EVIDENCE_SOURCE_"),
        seen.rule,
    )


def screen(name: str, kind: str = "claude") -> str:
    return fixture.read(recorded(kind, name)).screen


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recorded_screen_is_told_as_what_it_shows(path: Path) -> None:
    want = fixture.read(path)
    pane = Pane(classify([want.kind])).show(want.screen)
    state = "WAITING_ANSWER" if want.state == "waiting_question" else want.state.upper()
    sight = look(pane.observer())
    assert sight.observation is not None
    assert told(sight) == (state, "SCREEN", sight.observation.rule)
    assert sight.observation.rule.split("/")[0] == want.kind
    assert len(sight.observation.detail) <= 200


def test_every_state_of_the_screen_rules_has_a_name_in_the_contract() -> None:
    from orch_client.observe import _STATES

    assert set(_STATES) == kinds.STATES


def test_the_line_that_told_it_goes_along_but_never_a_draft() -> None:
    limited = look(Pane().show(screen("limit")).observer()).observation
    assert limited is not None
    assert "limit" in limited.detail.lower()
    draft = look(Pane().show(screen("draft")).observer()).observation
    assert draft is not None
    assert (draft.rule, draft.detail) == ("claude/composer", "")


def test_a_spinner_that_counts_seconds_is_no_news_but_another_dialog_is() -> None:
    busy = look(Pane().show(screen("busy")).observer()).observation
    asking = look(Pane().show(screen("permission")).observer()).observation
    assert busy is not None
    assert asking is not None
    for seen, same in ((busy, True), (asking, False)):
        later = type(seen).FromString(seen.SerializeToString())
        later.detail = "something else"
        assert (key(later) == key(seen)) is same


def test_it_has_become_idle_only_when_a_second_look_finds_the_same_screen() -> None:
    pane = Pane().show(screen("busy"))
    observer = pane.observer()
    assert told(look(observer)) == ("WORKING", "SCREEN", "claude/spinner")
    pane.show(screen("done"), screen("busy"))
    assert told(look(observer)) == ("WORKING", "SCREEN", "claude/spinner")
    pane.show(*[screen("done"), screen("draft")] * 3)  # all idle, but it does not keep still
    assert look(observer) == Sight("claude", "claude")
    pane.show(screen("draft"), screen("done"))  # now it does
    assert told(look(observer)) == ("IDLE", "SCREEN", "claude/composer")
    pane.show(screen("busy"))
    look(observer)
    pane.show(screen("done"))
    pane.looks = 0
    assert told(look(observer)) == ("IDLE", "SCREEN", "claude/composer")
    assert pane.looks == 2
    assert told(look(observer)) == ("IDLE", "SCREEN", "claude/composer")
    assert pane.looks == 3, "what is idle already is looked at once"


def test_what_stands_still_is_quiet_and_a_change_of_colours_is_none() -> None:
    pane = Pane().show(screen("busy"))
    observer = pane.observer()
    look(observer)
    hold(0.5)
    pane.show(f"\x1b[31m{screen('busy')}")
    coloured = look(observer).quiet
    assert coloured is not None
    assert coloured >= 0.5
    pane.show(screen("busy").replace("…", "… 1"))
    began = time.monotonic()
    changed = look(observer).quiet
    assert changed is not None
    assert changed <= time.monotonic() - began


def test_a_screen_that_is_as_it_was_is_not_read_again() -> None:
    pane = Pane().show(screen("done"))
    observer = pane.observer()
    before = look(observer)
    pane.screens = [None]  # type: ignore[list-item]
    after = look(observer)
    assert told(after) == told(before)
    assert after.quiet is not None


@pytest.mark.parametrize("error", [PaneGone, TmuxSilent, TmuxDied, TmuxFailed])
def test_a_tmux_that_does_not_answer_leaves_the_screen_out(error: type[Exception]) -> None:
    assert look(Pane().show(error("no")).observer()) == Sight("claude", "claude")


def test_a_shell_where_an_agent_was_means_that_it_has_left() -> None:
    pane = Pane(BASH).show(screen("done"))
    observer = pane.observer()
    assert look(observer) == Sight("bash"), "a shell is no agent that has left"
    pane.program = CLAUDE
    look(observer)
    pane.program = BASH
    assert told(look(observer)) == ("SHELL", "PROCESS", "foreground")
    pane.program = CLAUDE
    assert told(look(observer)) == ("IDLE", "SCREEN", "claude/composer")


@pytest.mark.parametrize("kind", ["claude", "generic"])
def test_a_shell_where_a_kind_was_named_means_so_too(kind: str) -> None:
    assert told(look(Pane(BASH).observer(kind))) == ("SHELL", "PROCESS", "foreground")
    assert told(look(Pane(BASH).observer("", kind))) == ("SHELL", "PROCESS", "foreground")


def test_a_pane_that_was_registered_as_a_shell_shows_no_agent() -> None:
    assert look(Pane(BASH).observer("shell")) == Sight("bash")


def test_a_stopped_agent_hangs_until_it_goes_on() -> None:
    pane = Pane(replace(CLAUDE, stopped=True)).show(screen("busy"))
    observer = pane.observer()
    assert told(look(observer)) == ("HUNG", "PROCESS", "stopped")
    pane.program = CLAUDE
    assert told(look(observer)) == ("WORKING", "SCREEN", "claude/spinner")


def test_where_no_screen_is_read_the_process_takes_back_what_it_told() -> None:
    pane = Pane(CAT)
    observer = pane.observer("generic")
    assert look(observer) == Sight("cat")
    pane.program = replace(CAT, stopped=True)
    assert told(look(observer)) == ("HUNG", "PROCESS", "stopped")
    pane.program = CAT
    assert told(look(observer)) == ("UNKNOWN", "PROCESS", "foreground")


@pytest.mark.parametrize("sort", [Sort.OTHER, Sort.CLIENT])
def test_a_program_whose_screen_nobody_reads_tells_nothing(sort: Sort) -> None:
    assert look(Pane(Program("vim", sort, stopped=True)).observer()) == Sight("vim")


def test_of_what_was_started_at_least_that_is_told() -> None:
    seen = look(Pane(CAT).observer(started="cat"))
    assert told(seen) == ("UNKNOWN", "PROCESS", "started")
    assert seen.observation is not None
    assert seen.observation.detail == "cat"
    read = look(Pane(CLAUDE).show(screen("busy")).observer(started="claude"))
    assert told(read) == ("WORKING", "SCREEN", "claude/spinner")


def test_an_unknown_program_is_read_by_the_rules_of_the_kind_that_was_named() -> None:
    pane = Pane(classify(["wrapper"])).show(screen("busy"))
    sight = look(pane.observer("claude"))
    assert (told(sight), sight.agent) == (("WORKING", "SCREEN", "claude/spinner"), "")


# ---- one look for each beat ----


class Slow:
    """A pane whose tmux answers when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.asked = asyncio.Event()
        self.looks = 0

    async def capture(self, fresh: bool) -> str:
        self.looks += 1
        self.asked.set()
        await self.let.wait()
        return screen("busy")


def watched(body: Callable[[Slow, Watch], Awaitable[None]]) -> None:
    """Runs the body with a watch on a slow pane."""

    async def inner() -> None:
        slow = Slow()
        watch = Watch(Observer(lambda: CLAUDE, slow.capture))
        try:
            await asyncio.wait_for(body(slow, watch), 10)
        finally:
            watch.give_up()

    asyncio.run(inner())


def test_a_tmux_that_hangs_holds_a_beat_up_for_a_moment_and_the_next_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from orch_client import observe

    async def body(slow: Slow, watch: Watch) -> None:
        began = time.monotonic()
        assert await watch.sight() == Sight()
        assert time.monotonic() - began > 0.29
        monkeypatch.setattr(observe, "_PATIENCE", 3600.0)  # who waits now, waits for too long
        for _ in range(50):
            assert await watch.sight(3600.0) == Sight()
        assert slow.looks == 1, "one look at a time"

    watched(body)


def test_a_look_that_comes_late_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from orch_client import observe

    monkeypatch.setattr(observe, "_OLD", 3600.0)

    async def body(slow: Slow, watch: Watch) -> None:
        came = asyncio.Event()
        watch.on_late = came.set
        await watch.sight(0.01)
        assert not watch.late
        slow.let.set()
        await came.wait()
        assert watch.late
        assert told(await watch.sight()) == ("WORKING", "SCREEN", "claude/spinner")
        assert not watch.late
        assert slow.looks == 1

    watched(body)


def test_a_look_that_came_long_ago_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from orch_client import observe

    monkeypatch.setattr(observe, "_OLD", 0.0)

    async def body(slow: Slow, watch: Watch) -> None:
        came = asyncio.Event()
        watch.on_late = came.set
        await watch.sight(0.01)
        slow.let.set()
        await came.wait()
        assert told(await watch.sight()) == ("WORKING", "SCREEN", "claude/spinner")
        assert slow.looks == 2

    watched(body)


def test_a_look_that_was_given_up_is_not_told() -> None:
    async def body(slow: Slow, watch: Watch) -> None:
        asking = asyncio.create_task(watch.sight())
        await slow.asked.wait()
        watch.give_up()
        assert await asking == Sight()
        assert not watch.late
        slow.let.set()
        assert told(await watch.sight()) == ("WORKING", "SCREEN", "claude/spinner")
        assert slow.looks == 2

    watched(body)


def test_a_look_in_time_is_not_late() -> None:
    async def body(slow: Slow, watch: Watch) -> None:
        slow.let.set()
        assert told(await watch.sight()) == ("WORKING", "SCREEN", "claude/spinner")
        assert not watch.late

    watched(body)
