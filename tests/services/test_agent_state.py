"""The states of agents over a real store: what is told, written, refused, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from orch_server.core.agent import Agent, Liveness
from orch_server.core.agent_state import (
    AgentState,
    EvidenceSource,
    Exit,
    HookReport,
    Observation,
    Status,
)
from orch_server.core.clock import ManualClock
from orch_server.core.errors import OrchError, StaleEpoch
from orch_server.core.identity import Incarnation
from orch_server.services.agent_state import AgentStates
from orch_server.services.agents import AgentRegistry
from orch_server.storage import agents as agent_table
from tests.storage.parts import PANE, START, Opened, add_agent, agent, opened
from tests.transport.harness import settles

S, Source = AgentState, EvidenceSource
BERLIN = ZoneInfo("Europe/Berlin")
OTHER_PANE = Incarnation("elsewhere", "/tmp/tmux.sock", 100, 1_700_000_000, "%2")


def _screen(state: AgentState, line: str = "", rule: str = "claude/rule") -> Observation:
    return Observation(Source.SCREEN, state, rule, line)


def _process(state: AgentState) -> Observation:
    return Observation(Source.PROCESS, state, "foreground", "bash")


@dataclass
class Desk:
    """The states of one agent, dev, and what was told of them."""

    at: Opened
    clock: ManualClock
    registry: AgentRegistry
    states: AgentStates
    told: list[tuple[AgentState, AgentState]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.states.on_change.append(self._on_change)

    def _on_change(self, agent: Agent, old: Status, new: Status) -> None:
        assert self.states.status(agent.id).state is new.state  # memory is changed before
        self.told.append((old.state, new.state))

    @property
    def state(self) -> AgentState:
        return self.states.status("dev").state

    async def beat(
        self, seen: Observation | None = None, quiet: float | None = None, epoch: int = 1
    ) -> bool:
        """A beat of dev's client; whether it caused a write."""
        length = None if quiet is None else timedelta(seconds=quiet)
        written = self.states.observed("dev", epoch, seen, length)
        if written is not None:
            await written
        return written is not None

    async def hook(self, event: str, detail: str = "", message: str = "") -> None:
        dev = self.registry.get("dev")
        assert dev is not None
        await self.states.hook(dev, HookReport(event, detail=detail, message=message))

    async def move(self, **changes: object) -> Agent:
        """Dev is registered anew, as after a connection."""
        dev = self.registry.get("dev")
        assert dev is not None
        moved = replace(dev, **changes)  # type: ignore[arg-type]
        self.registry.put(moved)
        await self.at.store.write(lambda tx: agent_table.register(tx, moved, "test"))
        self.states.liveness_changed(moved)
        return moved

    def stored(self) -> list[str]:
        """The states that were written, in order."""
        return [e.detail for e in self.at.events if e.kind == "agent.state"]


@asynccontextmanager
async def _desk(at: Opened, clock: ManualClock | None = None) -> AsyncIterator[Desk]:
    registry = AgentRegistry(at.store, at.clock)
    await registry.load()
    if registry.get("dev") is None:
        registry.put(agent())
        await add_agent(at.store, agent())
    used = clock or at.clock
    states = AgentStates(at.store, registry, used, BERLIN)
    await states.load()
    yield Desk(at, used, registry, states)


def _run(folder: Path, body: Callable[[Desk], Awaitable[None]]) -> None:
    async def play() -> None:
        async with asyncio.timeout(20), opened(folder) as at, _desk(at) as desk:
            await body(desk)

    asyncio.run(play())


def _restarted(
    folder: Path,
    before: Callable[[Desk], Awaitable[None]],
    after: Callable[[Desk], Awaitable[None]],
    wall: float = 0.0,
) -> None:
    """Runs `after` on a new server, so many seconds later by the wall clock."""

    async def play() -> None:
        async with opened(folder) as at, _desk(at) as desk:
            await before(desk)
        clock = ManualClock(desk.clock.now() + timedelta(seconds=wall), monotonic=7.0)
        async with opened(folder) as at, _desk(at, clock) as desk:
            await after(desk)

    asyncio.run(asyncio.wait_for(play(), 20))


# ---- what is told and written ----


def test_nobody_has_told_anything_of_a_new_agent(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        assert desk.states.status("dev") == Status(S.UNKNOWN, START)
        assert desk.states.evidence("dev") == []
        assert desk.states.last_activity("dev") is None
        assert desk.states.explain("dev")[0] == "Nothing has told anything yet."
        assert desk.states.status("nobody").state is S.UNKNOWN

    _run(folder, body)


def test_a_change_is_told_once_and_written_once_with_what_told_it(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        assert await desk.beat(_screen(S.IDLE, rule="claude/composer"), 0)
        desk.clock.advance(5)
        assert await desk.beat(_screen(S.WORKING, "✻ Baking… (3s)", "claude/spinner"), 0)
        status = desk.states.status("dev")
        assert status.state is S.WORKING
        assert status.changed_at == START + timedelta(seconds=5)
        assert status.evidence is not None
        assert status.evidence.detail == "✻ Baking… (3s)"
        assert desk.told == [(S.UNKNOWN, S.IDLE), (S.IDLE, S.WORKING)]
        assert desk.stored() == ["IDLE SCREEN claude/composer", "WORKING SCREEN claude/spinner"]
        assert desk.states.state_since("dev") == desk.clock.monotonic()

    _run(folder, body)


def test_beats_that_bring_nothing_new_cost_no_commit_and_renew_the_evidence(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.IDLE), 0)
        commits = desk.at.store.commits
        for _ in range(60):
            desk.clock.advance(1)
            assert not await desk.beat(quiet=1)
        assert not await desk.beat(_screen(S.IDLE, rule="claude/other"), 1)  # rules may flicker
        assert desk.at.store.commits == commits
        [evidence] = desk.states.evidence("dev")
        assert evidence.began_at == START
        assert evidence.observed_at == START + timedelta(seconds=60)
        assert desk.states.status("dev").evidence == evidence

    _run(folder, body)


def test_a_beat_that_saw_nothing_lets_the_evidence_grow_old(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.IDLE), 0)
        desk.clock.advance(5)
        assert not await desk.beat(quiet=5)
        desk.clock.advance(5)
        assert not await desk.beat()
        [evidence] = desk.states.evidence("dev")
        assert evidence.observed_at == START + timedelta(seconds=5)

    _run(folder, body)


def test_a_shell_is_seen_with_every_beat(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_process(S.SHELL))
        desk.clock.advance(300)
        assert not await desk.beat()
        [evidence] = desk.states.evidence("dev")
        assert evidence.observed_at == START + timedelta(seconds=300)

    _run(folder, body)


def test_hooks_and_screen_take_turns_and_both_are_shown(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.IDLE), 0)
        desk.clock.advance(2)
        await desk.hook("UserPromptSubmit")
        assert desk.state is S.WORKING
        desk.clock.advance(0.5)
        assert not await desk.beat(quiet=2.5)  # read right after the hook
        assert desk.state is S.WORKING
        desk.clock.advance(5)
        assert await desk.beat(quiet=7.5)  # interrupted by Escape: no hook
        assert desk.state is S.IDLE
        shown = [(e.source, e.state) for e in desk.states.evidence("dev")]
        assert shown == [(Source.SCREEN, S.IDLE), (Source.HOOK, S.WORKING)]
        assert "screen has said otherwise" in desk.states.explain("dev")[0]

    _run(folder, body)


def test_a_state_that_something_else_tells_too_goes_on(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.IDLE), 0)
        began = desk.clock.monotonic()
        desk.clock.advance(60)
        await desk.hook("Notification", "idle_prompt", "Claude is waiting for your input")
        assert desk.told[-1] == (S.IDLE, S.IDLE)
        assert desk.stored()[-1] == "IDLE HOOK Notification"
        status = desk.states.status("dev")
        assert status.changed_at == START
        assert status.evidence is not None
        assert status.evidence.detail == "Claude is waiting for your input"
        assert desk.states.state_since("dev") == began

    _run(folder, body)


def test_the_notice_of_a_question_after_six_seconds_leaves_it_a_question(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.hook("PermissionRequest", "AskUserQuestion")
        desk.clock.advance(6)
        await desk.hook("Notification", "permission_prompt", "Claude needs your permission")
        assert desk.state is S.WAITING_ANSWER

    _run(folder, body)


def test_a_screen_that_works_and_does_not_move_hangs_and_comes_back(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.WORKING), 0)
        for second in range(1, 125):
            desk.clock.advance(1)
            assert await desk.beat(quiet=second) == (second == 120)
        assert desk.state is S.HUNG
        assert [e.rule for e in desk.states.evidence("dev")] == ["still", "claude/rule"]
        assert await desk.beat(quiet=0)
        assert desk.told == [(S.UNKNOWN, S.WORKING), (S.WORKING, S.HUNG), (S.HUNG, S.WORKING)]

    _run(folder, body)


@pytest.mark.parametrize("jump", [3600, -3600])
def test_a_wall_clock_that_jumps_by_an_hour_changes_no_verdict(folder: Path, jump: int) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.IDLE), 0)
        desk.clock.advance(2)
        await desk.hook("UserPromptSubmit")
        desk.clock._now += timedelta(seconds=jump)
        assert not await desk.beat(quiet=2)
        assert desk.state is S.WORKING
        desk.clock.advance(5)
        await desk.beat(_screen(S.WAITING_ANSWER), 0)
        assert desk.state is S.WAITING_ANSWER
        desk.clock._now -= timedelta(seconds=jump)
        desk.clock.advance(5)
        assert not await desk.beat(quiet=5)
        assert desk.states.state_since("dev") == desk.clock.monotonic() - 5
        first = desk.states.evidence("dev")[0]
        assert first.observed_at >= first.began_at
        assert len(desk.told) == 3

    _run(folder, body)


# ---- movement ----


def test_a_screen_that_moves_is_activity_and_one_that_stands_still_is_not(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        moves: list[float] = []
        desk.states.activity["dev"] = moves.append
        began = desk.clock.monotonic()
        await desk.beat(_screen(S.IDLE), 0)
        assert desk.states.last_activity("dev") is None  # a first look knows of no movement
        for quiet in (5.0, 9.6, 15.2):
            desk.clock.advance(5)
            await desk.beat(quiet=quiet)
        assert moves == []
        desk.clock.advance(5)
        await desk.beat(quiet=2)
        assert moves == [began + 18]
        assert desk.states.last_activity("dev") == began + 18

    _run(folder, body)


def test_what_a_new_connection_says_first_is_no_movement(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.IDLE), 0)
        desk.clock.advance(60)
        await desk.move(epoch=2)
        await desk.beat(_screen(S.IDLE), 0, epoch=2)
        assert desk.states.last_activity("dev") is None
        assert desk.states.status("dev").changed_at == START

    _run(folder, body)


def test_only_hooks_of_a_turn_are_activity(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        for event in ("SessionStart", "Notification", "SessionEnd", "PreToolUse"):
            await desk.hook(event, "idle_prompt")
        assert desk.states.last_activity("dev") is None
        desk.clock.advance(3)
        await desk.hook("Stop")
        assert desk.states.last_activity("dev") == desk.clock.monotonic()

    _run(folder, body)


# ---- limits ----


def test_the_reset_time_is_read_from_the_hook_in_the_servers_zone(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.hook("StopFailure", "rate_limit", "You've hit your session limit · resets 7pm")
        status = desk.states.status("dev")
        assert status.state is S.USAGE_LIMITED
        assert status.evidence is not None
        assert status.evidence.reset_at == datetime(2026, 11, 21, 18, tzinfo=UTC)

    _run(folder, body)


def test_the_reset_time_is_read_from_the_screen_and_kept_while_the_line_stands(
    folder: Path,
) -> None:
    async def body(desk: Desk) -> None:
        line = _screen(S.USAGE_LIMITED, "limit reached · resets in 2h")
        await desk.beat(line, 0)
        desk.clock.advance(600)
        assert not await desk.beat(line, 600)
        evidence = desk.states.status("dev").evidence
        assert evidence is not None
        assert evidence.reset_at == START + timedelta(hours=2)
        await desk.beat(_screen(S.USAGE_LIMITED, "limit reached · resets in 4h"), 0)
        evidence = desk.states.status("dev").evidence
        assert evidence is not None
        assert evidence.reset_at == START + timedelta(hours=4, minutes=10)
        assert desk.told[-1] == (S.USAGE_LIMITED, S.USAGE_LIMITED)

    _run(folder, body)


def test_a_limit_ends_at_its_time_with_the_next_beat(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.USAGE_LIMITED, "limit reached · resets in 1m"), 0)
        desk.clock.advance(59)
        assert not await desk.beat(quiet=59)
        desk.clock.advance(1)
        assert await desk.beat(quiet=60)
        assert desk.state is S.IDLE

    _run(folder, body)


def test_a_limit_that_is_lifted_does_not_count_until_it_is_told_anew(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        line = _screen(S.USAGE_LIMITED, "limit reached")
        await desk.beat(line, 0)
        desk.clock.advance(60)
        for written in desk.states.forget_limit(["dev", "nobody"], desk.clock.monotonic()):
            await written
        assert desk.state is S.IDLE
        assert desk.stored()[-1] == "IDLE SCREEN claude/rule"
        desk.clock.advance(60)
        assert not await desk.beat(line, 120)
        assert desk.state is S.IDLE
        await desk.hook("StopFailure", "rate_limit")
        assert desk.state is S.USAGE_LIMITED

    _run(folder, body)


# ---- exits and panes ----


def test_an_exit_that_run_saw_counts_until_the_agent_lives_again(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.WORKING), 0)
        await desk.states.exited("dev", 1, Exit(1, 0, None, False))
        assert desk.state is S.DEAD
        assert desk.stored()[-1] == "DEAD PROCESS exit"
        desk.clock.advance(10)
        await desk.beat(_screen(S.IDLE), 0)
        assert desk.state is S.IDLE

    _run(folder, body)


def test_the_end_of_the_pane_is_the_end_of_the_agent(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.IDLE), 0)
        await desk.move(liveness=Liveness.LOST)
        assert desk.state is S.IDLE  # a silent client says nothing of the agent
        await desk.move(liveness=Liveness.ENDED)
        assert desk.state is S.DEAD
        await settles(lambda: desk.stored()[-1] == "DEAD PROCESS pane")

    _run(folder, body)


def test_what_was_seen_in_one_pane_does_not_count_in_another(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.WORKING), 0)
        await desk.move(incarnation=OTHER_PANE, epoch=2)
        assert desk.state is S.UNKNOWN
        assert desk.told[-1] == (S.WORKING, S.UNKNOWN)
        await settles(lambda: desk.stored()[-1] == "UNKNOWN")
        await desk.beat(_screen(S.IDLE), 0, epoch=2)
        assert desk.state is S.IDLE

    _run(folder, body)


def test_an_agent_that_lost_its_pane_to_another_role_is_not_dead(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.WORKING), 0)
        await desk.move(incarnation=None, liveness=Liveness.ENDED, epoch=2)
        assert desk.state is S.UNKNOWN

    _run(folder, body)


def test_a_pane_that_changed_without_a_word_shows_nothing_of_the_old_one(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.WORKING), 0)
        desk.registry.put(replace(agent(), incarnation=OTHER_PANE))
        assert desk.state is S.UNKNOWN
        assert desk.states.evidence("dev") == []

    _run(folder, body)


# ---- what is refused ----


def test_a_replaced_client_is_refused_and_changes_nothing(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.IDLE), 0)
        await desk.move(epoch=2)
        for seen in (_screen(S.WORKING), None):
            with pytest.raises(StaleEpoch):
                await desk.beat(seen, 0, epoch=1)
        with pytest.raises(StaleEpoch):
            await desk.states.exited("dev", 1, Exit(1, 0, None, False))
        assert desk.state is S.IDLE
        assert desk.stored() == ["IDLE SCREEN claude/rule"]

    _run(folder, body)


def test_the_epoch_is_checked_in_the_transaction_of_the_write(folder: Path) -> None:
    """Another connection was written, and memory does not know of it."""

    async def body(desk: Desk) -> None:
        newer = agent(epoch=2)
        await desk.at.store.write(lambda tx: agent_table.register(tx, newer, "test"))
        with pytest.raises(StaleEpoch):
            await desk.beat(_screen(S.WORKING), 0)
        with pytest.raises(StaleEpoch):
            await desk.states.exited("dev", 1, Exit(1, 0, None, False))
        assert desk.stored() == []

    _run(folder, body)


def test_a_hook_of_a_pane_that_is_the_agents_no_more_is_refused(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        before = agent()
        await desk.move(incarnation=OTHER_PANE, epoch=2)
        with pytest.raises(StaleEpoch):
            await desk.states.hook(before, HookReport("UserPromptSubmit"))
        with pytest.raises(StaleEpoch):
            await desk.at.store.write(lambda tx: agent_table.note_hook(tx, before, "Stop"))
        assert desk.state is S.UNKNOWN
        back = desk.registry.get("dev")
        assert back is not None
        moved = replace(back, incarnation=PANE)  # in the store only
        await desk.at.store.write(lambda tx: agent_table.register(tx, moved, "test"))
        with pytest.raises(StaleEpoch):
            await desk.states.hook(back, HookReport("UserPromptSubmit"))
        assert desk.stored() == []

    _run(folder, body)


def test_what_could_not_be_written_is_written_with_the_next_beat(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        sql = (
            "create trigger full before insert on agent_status begin select raise(abort, 'f'); end"
        )
        await desk.at.store.write(lambda tx: tx.execute(sql))
        with pytest.raises(OrchError):
            await desk.beat(_screen(S.WORKING), 0)
        assert desk.state is S.WORKING
        await desk.at.store.write(lambda tx: tx.execute("drop trigger full"))
        assert await desk.beat(quiet=0)
        assert desk.stored() == ["WORKING SCREEN claude/rule"]
        assert not await desk.beat(quiet=0)

    _run(folder, body)


# ---- after a restart ----


def test_after_a_restart_the_state_is_known_with_its_age(folder: Path) -> None:
    async def before(desk: Desk) -> None:
        await desk.beat(_screen(S.WAITING_PERMISSION, "Do you want to proceed?"), 0)

    async def after(desk: Desk) -> None:
        status = desk.states.status("dev")
        assert status.state is S.WAITING_PERMISSION
        assert status.changed_at == START
        assert desk.states.state_since("dev") == desk.clock.monotonic() - 600
        [evidence] = desk.states.evidence("dev")
        assert evidence.detail == "Do you want to proceed?"
        assert not await desk.beat(_screen(S.WAITING_PERMISSION, "Do you want to proceed?"), 600)
        assert desk.told == []

    _restarted(folder, before, after, wall=600)


def test_a_wall_clock_that_was_set_back_over_a_restart_makes_no_age_negative(folder: Path) -> None:
    async def before(desk: Desk) -> None:
        await desk.hook("Stop")

    async def after(desk: Desk) -> None:
        assert desk.states.state_since("dev") == desk.clock.monotonic()
        await desk.beat(_screen(S.WORKING), 0)
        assert desk.state is S.IDLE  # as if the hook had just come
        desk.clock.advance(5)
        await desk.beat(quiet=0)
        assert desk.state is S.WORKING

    _restarted(folder, before, after, wall=-3600)


def test_a_limit_that_was_lifted_is_not_told_again_by_its_old_line_after_a_restart(
    folder: Path,
) -> None:
    line = _screen(S.USAGE_LIMITED, "You've hit your session limit · resets 12:30pm (UTC)")

    async def before(desk: Desk) -> None:
        await desk.beat(line, 0)
        desk.clock.advance(31 * 60)
        await desk.beat(quiet=31 * 60)
        assert desk.state is S.IDLE

    async def after(desk: Desk) -> None:
        assert not await desk.beat(line, 0)
        assert desk.state is S.IDLE

    _restarted(folder, before, after, wall=3600)


def test_an_agent_that_was_deleted_is_forgotten(folder: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.beat(_screen(S.WORKING), 0)
        desk.states.activity["dev"] = lambda moved: None
        desk.registry.forget(["dev"])
        desk.states.forget(["dev"])
        assert desk.state is S.UNKNOWN
        assert desk.states.activity == {}
        with pytest.raises(StaleEpoch):
            await desk.beat(_screen(S.WORKING), 0)

    _run(folder, body)
