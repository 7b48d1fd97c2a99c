"""A scripted day of a real agent: what happens to it, and what it must be shown as."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.agents.cli import INSTALLED
from tests.agents.desk import Desk
from tests.agents.model import RESETS_AT, Answer
from tests.support import until

Act = Callable[[Desk], None]
Truth = Callable[[Desk], bool]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens. `truth` says by the agent itself that it has; from then on `state`
    must be shown, with `detail` in what is shown as evidence."""

    name: str
    act: Act
    truth: Truth
    state: str
    detail: str = ""
    kinds: tuple[str, ...] = ("claude", "codex")
    silent: bool = False  # no hook tells it


def ask(*answers: Answer) -> Act:
    """Sends a prompt, to be answered so; does not wait for the end of the turn."""

    def act(desk: Desk) -> None:
        before = len(desk.model.turns)
        desk.model.then(*answers)
        desk.pane.paste("please work")
        until(lambda: desk.pane.composer == "please work", "the prompt")
        enter(desk, lambda: len(desk.model.turns) > before)

    return act


def enter(desk: Desk, taken: Callable[[], bool]) -> None:
    """Presses Enter, and again as a person does when the prompt still stands there after a while:
    now and then Claude Code swallows the Enter that follows a paste."""
    for _ in range(3):
        desk.pane.keys("Enter")
        with contextlib.suppress(AssertionError):
            until(lambda: taken() or desk.pane.composer != "please work", "Enter to be taken", 5)
            break
    until(taken, "the turn")


def press(*keys: str) -> Act:
    return lambda desk: desk.pane.keys(*keys)


def release(desk: Desk) -> None:
    desk.model.release()


def let_go(desk: Desk) -> None:
    """The tool may end."""
    (desk.pane.work / "go").touch()


def always(status: int) -> Act:
    """Sends a prompt to a model that answers all with this error."""

    def act(desk: Desk) -> None:
        desk.model.usual = Answer(status=status)
        ask()(desk)

    return act


def recover(desk: Desk) -> None:
    """The model answers again; a short turn."""
    desk.model.usual = Answer()
    ask(Answer("Noted."))(desk)


def leave(desk: Desk) -> None:
    desk.pane.write("/exit")
    until(lambda: desk.pane.composer == "/exit", "the command")
    if desk.kind == "codex":  # its list of commands has to follow first
        until(lambda: "exit Codex" in desk.pane.screen(), "the list of commands")
    desk.pane.keys("Enter")


def come_back(desk: Desk) -> None:
    desk.tmux.type(desk.pane.pane, f"clear; {INSTALLED / 'bin' / desk.kind}")
    desk.pane.ready()


def kill(desk: Desk) -> None:
    """kill -9 of the agent, not of the shell that it runs under."""
    for pid in _agents(desk):
        os.kill(int(pid), signal.SIGKILL)


def _agents(desk: Desk) -> list[str]:
    """The processes that run under the pane's shell."""
    shell = desk.tmux.run("display-message", "-p", "-t", desk.pane.pane, "#{pane_pid}")
    return children(shell)


def children(pid: str) -> list[str]:
    """The processes that this one has started and that are still there."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def then(*acts: Act) -> Act:
    def act(desk: Desk) -> None:
        for one in acts:
            one(desk)

    return act


def shows(text: str) -> Truth:
    return lambda desk: text in desk.pane.screen()


def idle(desk: Desk) -> bool:
    return desk.is_idle()


def busy(desk: Desk) -> bool:
    return desk.pane.busy


def stopped(desk: Desk) -> bool:
    """Whether its turn was broken off; Claude Code then puts the prompt back."""
    return not desk.pane.busy and desk.pane.composer in ("", "please work")


def asks_leave(desk: Desk) -> bool:
    words = {"claude": "Do you want to proceed?", "codex": "Would you like to run the following"}
    return words[desk.kind] in desk.pane.screen()


def prompts(desk: Desk) -> bool:
    """Whether the shell has the pane: nothing runs under it."""
    return not _agents(desk)


def limited(desk: Desk) -> bool:
    words = {"claude": "Request rejected (429)", "codex": "hit your usage limit"}
    return words[desk.kind] in desk.pane.screen()


def refused(desk: Desk) -> bool:
    words = {"claude": "Invalid API key", "codex": "unexpected status 401"}
    return words[desk.kind] in desk.pane.screen()


CLAUDE = ("claude",)
#: It ends when the test says so, or has taken its folder away.
TOOL = Answer(command="touch made; while [ -e made ] && [ ! -e go ]; do sleep 0.1; done")
LIMIT = Answer(status=429, resets_at=RESETS_AT)
#: A day of an agent that a shell has started, in a folder that it does not know yet.
DAY = (
    Step("start", lambda desk: None, shows("rust"), "WAITING_PERMISSION", silent=True),
    Step("trust", press("Enter"), idle, "IDLE"),
    Step("prompt", ask(Answer(held=True)), busy, "WORKING"),
    Step("done", release, idle, "IDLE"),
    Step("tool", ask(TOOL), asks_leave, "WAITING_PERMISSION"),
    Step("leave given", press("Enter"), busy, "WORKING", silent=True),
    Step("tool done", let_go, idle, "IDLE"),
    Step(
        "question",
        ask(Answer(question="Which colour?")),
        shows("Which colour?"),
        "WAITING_ANSWER",
        kinds=CLAUDE,
    ),
    Step("answered", press("Enter"), idle, "IDLE", kinds=CLAUDE),
    Step("prompt again", ask(Answer(held=True)), busy, "WORKING"),
    Step("Escape", press("Escape"), stopped, "IDLE", silent=True),
    Step("limit", then(press("C-u"), ask(LIMIT)), limited, "USAGE_LIMITED", detail="limit"),
    Step("limit over", recover, idle, "IDLE"),
    Step("refused", always(401), refused, "AUTH_FAILED"),
    Step("let in again", recover, idle, "IDLE"),
    Step("exit", leave, prompts, "SHELL"),
    Step("back", come_back, idle, "IDLE"),
    Step("prompt at last", ask(Answer(held=True)), busy, "WORKING"),
    Step("kill -9", kill, prompts, "SHELL", silent=True),
)
