"""Which evidence tells an agent's state: rule by rule, then against a second reading of the rules.

A `Story` is the evidence of one agent as it comes in; times are seconds after its beginning.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_server.core import fusion
from orch_server.core.agent_state import AgentState, EvidenceSource, Observation
from orch_server.core.fusion import LIMIT_OVER, Seen, Sign, Verdict

S, Source = AgentState, EvidenceSource
WALL = datetime(2026, 11, 21, 12, tzinfo=UTC)
SCREENS = tuple(sorted(fusion.TELLS[Source.SCREEN] - {S.UNKNOWN}))


class Story:
    """What comes in, told one after the other; each returns the story."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.now = 0.0

    def at(self, seconds: float) -> Self:
        """Time goes on."""
        assert seconds >= self.now
        self.now = seconds
        return self

    def hook(self, state: AgentState, event: str = "Stop", reset: datetime | None = None) -> Self:
        self.seen = fusion.after_hook(self.seen, self._sign(Source.HOOK, state, event, "", reset))
        return self

    def screen(self, state: AgentState, quiet: float | None = 0.0, line: str = "") -> Self:
        return self._look(Observation(Source.SCREEN, state, f"claude/{state}", line), quiet)

    def process(self, state: AgentState) -> Self:
        return self._look(Observation(Source.PROCESS, state, "foreground", "bash"), None)

    def started(self) -> Self:
        """A client tells that `run` has started the agent."""
        return self._look(Observation(Source.PROCESS, S.UNKNOWN, "started", "vim"), None)

    def again(self, quiet: float | None = 1.0) -> Self:
        """A beat without an observation."""
        self.seen = fusion.looked_again(self.seen, self.now, quiet)
        return self

    def end(self, state: AgentState, rule: str = "exit") -> Self:
        self.seen = fusion.after_end(self.seen, self._sign(Source.PROCESS, state, rule))
        return self

    def forget(self) -> Self:
        self.seen = Seen(**{**_fields(self.seen), "forgotten": self.now})
        return self

    @property
    def verdict(self) -> Verdict:
        return fusion.fuse(self.seen, WALL + timedelta(seconds=self.now))

    @property
    def state(self) -> AgentState:
        return self.verdict.state

    def _look(self, new: Observation, quiet: float | None) -> Self:
        slot = {Source.SCREEN: self.seen.screen, Source.PROCESS: self.seen.process}[new.source]
        if slot is not None and fusion.same(slot, new):
            sign = Sign(**{**_fields(slot), "seen": self.now, "detail": new.detail})
        else:
            sign = self._sign(new.source, new.state, new.rule, new.detail)
        self.seen = fusion.after_look(self.seen, sign, quiet)
        return self

    def _sign(
        self,
        source: EvidenceSource,
        state: AgentState,
        rule: str,
        detail: str = "",
        reset: datetime | None = None,
    ) -> Sign:
        began_at = WALL + timedelta(seconds=self.now)
        return Sign(source, state, rule, detail, self.now, self.now, began_at, reset)


def _fields(value: Seen | Sign) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


# ---- one source alone ----


def test_nobody_has_told_anything() -> None:
    assert Story().state is S.UNKNOWN
    assert Story().verdict.sign is None


@pytest.mark.parametrize("state", SCREENS)
def test_a_screen_alone_tells(state: AgentState) -> None:
    verdict = Story().screen(state).verdict
    assert (verdict.state, verdict.sign and verdict.sign.source) == (state, Source.SCREEN)


@pytest.mark.parametrize("state", [S.IDLE, S.WORKING, S.WAITING_ANSWER, S.AUTH_FAILED, S.SHELL])
def test_a_hook_alone_tells_however_old_it_is(state: AgentState) -> None:
    assert Story().hook(state).at(100_000).state is state


@pytest.mark.parametrize("state", [S.SHELL, S.HUNG])
def test_a_process_counts_before_an_older_hook_and_screen(state: AgentState) -> None:
    story = Story().screen(S.WORKING).hook(S.WORKING).at(2).process(state)
    assert story.state is state


# ---- hook and screen ----


@pytest.mark.parametrize("seconds", [0.0, 0.5, 0.99])
def test_a_screen_read_within_a_second_after_a_hook_does_not_count_against_it(
    seconds: float,
) -> None:
    assert Story().hook(S.WORKING).at(seconds).screen(S.IDLE).state is S.WORKING


@pytest.mark.parametrize("seconds", [1.0, 5.0, 3600.0])
def test_a_screen_that_says_otherwise_later_releases_the_hook(seconds: float) -> None:
    story = Story().hook(S.WAITING_PERMISSION).at(seconds).screen(S.WORKING)
    assert story.state is S.WORKING
    assert story.verdict.sign is not None
    assert story.verdict.sign.source is Source.SCREEN


def test_a_screen_that_stays_as_it_was_releases_the_hook_at_the_next_beat() -> None:
    story = Story().hook(S.WORKING).at(0.5).screen(S.IDLE)
    assert story.verdict.pending
    assert story.at(5).again(quiet=5).state is S.IDLE


def test_a_beat_that_read_no_screen_releases_nothing() -> None:
    assert Story().hook(S.WORKING).at(0.5).screen(S.IDLE).at(5).again(quiet=None).state is S.WORKING


def test_a_later_hook_counts_again() -> None:
    story = Story().hook(S.WORKING).at(5).screen(S.IDLE)
    assert story.at(6).hook(S.WORKING, "UserPromptSubmit").state is S.WORKING


def test_a_screen_that_shows_the_same_confirms_the_hook_and_renews_its_age() -> None:
    sign = Story().hook(S.WORKING).at(5).screen(S.WORKING).at(60).again(quiet=0).verdict.sign
    assert sign is not None
    assert (sign.source, sign.began, sign.seen) == (Source.HOOK, 0, 60)


def test_an_unknown_screen_overwrites_nothing() -> None:
    story = Story().screen(S.WAITING_ANSWER).at(5).screen(S.UNKNOWN)
    assert story.state is S.WAITING_ANSWER
    assert story.at(50).again().verdict.sign == story.seen.screen
    assert story.verdict.sign is not None
    assert story.verdict.sign.seen == 0  # only its age grows
    assert Story().hook(S.WORKING).at(5).screen(S.UNKNOWN).state is S.WORKING


def test_a_screen_that_is_known_again_is_looked_at_again() -> None:
    story = Story().screen(S.IDLE).at(5).screen(S.UNKNOWN).at(10).screen(S.IDLE).at(20).again()
    sign = story.verdict.sign
    assert sign is not None
    assert (sign.began, sign.seen) == (0, 20)


def test_of_an_agent_of_which_only_an_unknown_screen_was_seen_nothing_is_known() -> None:
    verdict = Story().screen(S.UNKNOWN).verdict
    assert verdict.state is S.UNKNOWN
    assert verdict.sign is not None


def test_an_empty_composer_below_the_message_does_not_end_a_limit() -> None:
    for state in (S.USAGE_LIMITED, S.AUTH_FAILED):
        story = Story().screen(S.WORKING).at(1).hook(state, "StopFailure")
        assert story.at(5).screen(S.IDLE).at(60).again(quiet=55).state is state
        assert story.at(70).screen(S.WORKING).state is S.WORKING


def test_a_composer_after_the_screen_itself_told_of_the_failure_ends_it() -> None:
    story = Story().hook(S.AUTH_FAILED, "StopFailure").at(5).screen(S.AUTH_FAILED)
    assert story.at(60).screen(S.UNKNOWN).state is S.AUTH_FAILED  # a person logs in
    assert story.at(90).screen(S.IDLE).state is S.IDLE


def test_an_answer_that_reads_like_a_limit_is_none_when_its_turn_ended_well() -> None:
    for state in (S.USAGE_LIMITED, S.AUTH_FAILED):
        story = Story().hook(S.IDLE, "Stop").at(5).screen(state).at(60).again()
        assert story.state is S.IDLE
        assert story.at(61).screen(S.WORKING).state is S.WORKING
        unsure = Story().hook(S.WORKING, "UserPromptSubmit").at(5).screen(state)
        assert unsure.state is state


# ---- standing still ----


def test_a_screen_that_works_and_stands_still_hangs() -> None:
    story = Story().screen(S.WORKING).at(119).again(quiet=119)
    assert story.state is S.WORKING
    verdict = story.at(120).again(quiet=120).verdict
    assert verdict.sign is not None
    assert (verdict.state, verdict.sign.source, verdict.sign.rule) == (
        S.HUNG,
        Source.ACTIVITY,
        "still",
    )
    assert story.at(125).again(quiet=2).state is S.WORKING


def test_the_hook_of_a_prompt_does_not_hide_that_it_hangs() -> None:
    story = Story().hook(S.WORKING, "UserPromptSubmit").at(2).screen(S.WORKING)
    assert story.at(125).again(quiet=123).state is S.HUNG
    assert story.at(126).hook(S.IDLE).state is S.IDLE


@pytest.mark.parametrize("state", [s for s in SCREENS if s is not S.WORKING])
def test_only_what_claims_to_work_must_move(state: AgentState) -> None:
    assert Story().screen(state).at(10_000).again(quiet=10_000).state is state


# ---- processes and ends ----


def test_a_hook_is_newer_evidence_than_the_shell_that_was_seen_before() -> None:
    story = Story().process(S.SHELL).at(3).hook(S.IDLE, "SessionStart")
    assert story.state is S.IDLE
    assert story.at(3.5).process(S.SHELL).state is S.IDLE  # the look was older than its report
    assert story.at(8).process(S.SHELL).state is S.SHELL  # it died at once


def test_a_shell_right_after_the_end_of_a_turn_is_a_shell() -> None:
    assert Story().hook(S.IDLE, "Stop").at(0.2).process(S.SHELL).state is S.SHELL


def test_after_a_shell_nothing_older_counts_again() -> None:
    story = Story().screen(S.WORKING).hook(S.WORKING).at(5).process(S.SHELL)
    assert story.at(10).process(S.UNKNOWN).state is S.SHELL  # an editor in that shell
    assert story.at(15).screen(S.UNKNOWN).state is S.UNKNOWN  # an agent again
    assert story.at(20).screen(S.IDLE).state is S.IDLE


def test_a_stopped_agent_that_goes_on_is_what_it_was() -> None:
    story = Story().hook(S.WORKING).at(5).process(S.HUNG)
    assert story.state is S.HUNG
    assert story.at(10).process(S.UNKNOWN).state is S.WORKING


def test_the_beats_of_a_client_renew_a_shell_but_not_one_with_something_else_in_front() -> None:
    story = Story().process(S.SHELL).at(60).again(quiet=None)
    assert [sign.seen for sign in story.seen.all()] == [60]
    story.at(61).process(S.UNKNOWN).at(90).again(quiet=None)
    assert [sign.seen for sign in story.seen.all()] == [60]


@pytest.mark.parametrize("state", [S.DEAD, S.SHELL, S.STARTING])
def test_an_end_counts_until_life_is_seen(state: AgentState) -> None:
    story = Story().screen(S.WORKING).hook(S.WORKING).at(5).end(state)
    assert story.state is state
    assert story.at(5.9).screen(S.WORKING).state is state  # it was on its way
    assert story.hook(S.IDLE, "Stop").state is state
    assert story.at(7).hook(S.SHELL, "SessionEnd").state is state
    assert story.at(8).process(S.SHELL).state is state


def test_after_an_end_a_new_conversation_is_life_at_once() -> None:
    story = Story().end(S.DEAD).at(0.5).hook(S.IDLE, "SessionStart")
    assert story.state is S.IDLE


def test_after_an_end_a_later_screen_or_hook_is_life() -> None:
    assert Story().end(S.DEAD).at(1).screen(S.IDLE).state is S.IDLE
    assert Story().end(S.DEAD).at(1).screen(S.UNKNOWN).state is S.UNKNOWN
    assert Story().end(S.DEAD).at(1).hook(S.WORKING, "UserPromptSubmit").state is S.WORKING
    unchanged = Story().end(S.STARTING).at(0.5).screen(S.IDLE)  # the same as before the crash
    assert unchanged.at(5.5).again(quiet=1).state is S.IDLE


@pytest.mark.parametrize("before", [S.DEAD, S.STARTING, S.SHELL])
def test_what_run_has_started_lives_at_once(before: AgentState) -> None:
    story = Story().end(before).started()
    assert (story.state, story.verdict.sign and story.verdict.sign.rule) == (S.UNKNOWN, "started")
    assert story.at(60).again(quiet=None).verdict.sign == Sign(
        Source.PROCESS, S.UNKNOWN, "started", "vim", 0, 60, WALL
    )
    assert story.screen(S.WORKING).state is S.WORKING
    assert story.started().end(S.DEAD).state is S.DEAD


def test_what_was_started_does_not_hide_what_a_hook_tells() -> None:
    assert (
        Story().started().hook(S.WORKING, "UserPromptSubmit").at(9).again(None).state is S.WORKING
    )


def test_what_was_started_is_still_so_after_a_restart_of_the_server() -> None:
    sign = Story().started().verdict.sign
    assert fusion.restored(sign, 100.0) == Seen(unread=sign)


def test_the_end_of_the_pane_does_not_hide_a_crash_but_all_else() -> None:
    assert Story().end(S.DEAD).at(1).end(S.DEAD, "pane").verdict.sign == Sign(
        Source.PROCESS, S.DEAD, "exit", "", 0, 0, WALL
    )
    for before in (S.SHELL, S.STARTING):
        sign = Story().end(before).at(1).end(S.DEAD, "pane").verdict.sign
        assert sign is not None
        assert (sign.state, sign.rule) == (S.DEAD, "pane")


# ---- limits ----


def test_a_limit_ends_with_its_time() -> None:
    story = Story().hook(S.USAGE_LIMITED, "StopFailure", WALL + timedelta(seconds=100))
    assert story.at(99).state is S.USAGE_LIMITED
    assert story.verdict.pending
    verdict = story.at(100).verdict
    assert (verdict.state, verdict.sign and verdict.sign.detail) == (S.IDLE, LIMIT_OVER)


def test_a_limit_without_a_time_lasts_until_it_is_lifted_and_counts_when_it_is_told_anew() -> None:
    story = Story().screen(S.USAGE_LIMITED, line="limit").at(50_000).again()
    assert story.state is S.USAGE_LIMITED
    assert story.forget().state is S.IDLE
    assert story.at(50_100).screen(S.USAGE_LIMITED, line="limit").state is S.IDLE  # the same one
    assert story.at(50_200).screen(S.WORKING).state is S.WORKING
    assert story.at(50_300).screen(S.USAGE_LIMITED, line="limit").state is S.USAGE_LIMITED
    assert story.forget().at(50_400).screen(S.USAGE_LIMITED, line="other").state is S.USAGE_LIMITED
    assert story.forget().at(50_500).hook(S.USAGE_LIMITED, "StopFailure").state is S.USAGE_LIMITED


# ---- after a restart ----


@pytest.mark.parametrize(
    "story",
    [
        Story(),
        Story().hook(S.WORKING),
        Story().screen(S.WAITING_ANSWER),
        Story().screen(S.UNKNOWN),
        Story().process(S.SHELL),
        Story().process(S.HUNG),
        Story().end(S.DEAD),
        Story().end(S.SHELL),
        Story().end(S.STARTING),
        Story().end(S.DEAD, "pane"),
        Story().screen(S.WORKING).at(130).again(quiet=130),
        Story().hook(S.USAGE_LIMITED),
        Story().screen(S.USAGE_LIMITED, line="limit").at(5).forget(),
    ],
    ids=lambda story: story.state,
)
def test_what_counted_before_a_restart_counts_after_it(story: Story) -> None:
    again = Story().at(story.now)
    again.seen = fusion.restored(story.verdict.sign, story.now)
    assert again.state is story.state
    before, after = story.verdict.sign, again.verdict.sign
    assert (before and before.source) == (after and after.source)


def test_a_shell_and_an_end_are_still_told_apart_after_a_restart() -> None:
    shell, dead, unread = Story(), Story(), Story()
    shell.seen = fusion.restored(Story().process(S.SHELL).verdict.sign, 0)
    assert [s.seen for s in shell.at(60).process(S.SHELL).seen.all()] == [60]
    assert shell.verdict.sign == shell.seen.process
    dead.seen = fusion.restored(Story().end(S.DEAD).verdict.sign, 0)
    assert dead.at(60).process(S.SHELL).state is S.DEAD
    unread.seen = fusion.restored(Story().screen(S.UNKNOWN).verdict.sign, 0)
    assert unread.verdict.rule == Story().screen(S.UNKNOWN).verdict.rule


def test_a_limit_that_was_lifted_before_a_restart_is_not_told_again_by_the_same_line() -> None:
    story = Story().screen(S.USAGE_LIMITED, line="limit").at(5).forget()
    again = Story().at(60)
    again.seen = fusion.restored(story.verdict.sign, 60)
    assert again.screen(S.USAGE_LIMITED, line="limit").state is S.IDLE


# ---- against a second reading of the rules ----

_LIVING = [S.IDLE, S.WORKING, S.WAITING_PERMISSION, S.WAITING_ANSWER]
_STEP = st.one_of(
    st.tuples(st.just("hook"), st.sampled_from(_LIVING)),
    st.tuples(st.just("start"), st.just(S.IDLE)),
    st.tuples(st.just("screen"), st.sampled_from([*_LIVING, S.STARTING, S.UNKNOWN])),
    st.tuples(st.just("process"), st.sampled_from([S.SHELL, S.HUNG])),
    st.tuples(st.just("end"), st.sampled_from([S.DEAD, S.SHELL])),
)
_WAIT = st.sampled_from([0.1, 0.4, 0.9, 1.1, 5.0, 30.0])


def _told(history: list[tuple[float, str, AgentState]]) -> AgentState:
    """The state after a history, read backwards: the newest that counts."""
    ends = [i for i, (_, what, _) in enumerate(history) if what == "end"]
    if ends and not _life(history[ends[-1]][0], history[ends[-1] + 1 :]):
        return history[ends[-1]][2]
    if ends:
        history = history[ends[-1] + 1 :]
    shells = [i for i, (_, what, s) in enumerate(history) if (what, s) == ("process", S.SHELL)]
    hooks = [(t, w, s) for t, w, s in history if w in ("hook", "start")]
    looks = [(t, w, s) for t, w, s in history if w in ("screen", "process")]
    if looks and looks[-1][1] == "process":
        settle = 1.0 if hooks and hooks[-1][1] == "start" else 0.0
        if not hooks or hooks[-1][0] <= looks[-1][0] - settle:
            return looks[-1][2]
    since = history[shells[-1]][0] if shells else 0.0
    screens = [
        (t, s)
        for i, (t, w, s) in enumerate(history)
        if w == "screen" and s is not S.UNKNOWN and (not shells or i > shells[-1])
    ]
    if hooks and hooks[-1][0] >= since - 1.0:
        at, told = hooks[-1][0], hooks[-1][2]
        if not any(t >= at + 1.0 and s is not told for t, s in screens):
            return told
    return screens[-1][1] if screens else S.UNKNOWN


def _life(ended: float, later: list[tuple[float, str, AgentState]]) -> bool:
    return any(
        what == "start" or (t >= ended + 1.0 and s not in (S.SHELL, S.DEAD)) for t, what, s in later
    )


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(_WAIT, _STEP), max_size=14))
def test_whatever_comes_in_the_state_is_what_a_second_reading_of_the_rules_says(
    steps: list[tuple[float, tuple[str, AgentState]]],
) -> None:
    story, history = Story(), []
    for wait, (what, state) in steps:
        story.at(story.now + wait)
        history.append((story.now, what, state))
        if what == "start":
            story.hook(state, "SessionStart")
        else:
            {
                "hook": story.hook,
                "screen": story.screen,
                "process": story.process,
                "end": story.end,
            }[what](state)
        assert story.state is _told(history), history


@given(st.lists(st.tuples(_WAIT, _STEP), max_size=14))
def test_looking_again_at_once_changes_nothing_that_is_not_said_to_be_pending(
    steps: list[tuple[float, tuple[str, AgentState]]],
) -> None:
    story = Story()
    for wait, (what, state) in steps:
        story.at(story.now + wait)
        name = "hook" if what == "start" else what
        getattr(story, name)(state)
        verdict = story.verdict
        if not verdict.pending:
            quiet = None if story.seen.process else 1.0
            assert story.at(story.now + 60).again(quiet).state is verdict.state
