"""Records what the real agents show, as fixtures for the screen rules.

    python -m tests.agents.record [claude|codex] [NAME…]

Each scene brings a fresh agent into one state and writes the screen down, with what is true of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.agents.cli import INSTALLED, KINDS, ROOT, Agent, Setup, start
from tests.agents.model import Answer, Model
from tests.support import Home, Tmux, hold, until

FIXTURES = ROOT / "client/orch_client/courier/screens/fixtures"
ROWS = "\n".join(f"row {number}" for number in range(40))
QUOTED = (
    "The dialog says:\n\n> Do you want to proceed?\n> ❯ 1. Yes\n>   2. No\n>\n> Esc to cancel\n\n"
    "and while it works: `✻ Brewing… (3s · esc to interrupt)`, `• Working (1s • esc to interrupt)`."
)
WRAPPED = "a draft of one line that is longer than the pane is wide " * 4
#: How long a screen settles before it is written down.
_SETTLE = 0.7


@dataclass(frozen=True, slots=True)
class Scene:
    """What to do with a ready agent, and what is then true of its screen. `draft`: what a person
    has typed; None when no composer is to be seen."""

    name: str
    state: str
    draft: str | None
    about: str
    act: Callable[[Agent, Model], None] = lambda agent, model: None
    setup: Setup = Setup()  # noqa: RUF009
    size: tuple[int, int] = (120, 40)
    ready: bool = True
    kinds: tuple[str, ...] = KINDS


def ask(agent: Agent, model: Model, text: str, *answers: Answer) -> None:
    """Sends a prompt; returns when the model has it."""
    before = len(model.turns)
    model.then(*answers)
    agent.paste(text)
    hold(0.3)
    agent.keys("Enter")
    until(lambda: len(model.turns) > before, "the request")


def busy(agent: Agent, model: Model) -> None:
    ask(agent, model, "please work", Answer(held=True))
    hold(1.5)


def pasting(agent: Agent, model: Model) -> None:
    ask(agent, model, ROWS, Answer(held=True))
    hold(1.5)


def queued(agent: Agent, model: Model) -> None:
    tool(agent, model)
    agent.paste("do this next")
    hold(0.3)
    agent.keys("Enter")
    hold(0.5)


def dialog(agent: Agent, model: Model) -> None:
    ask(agent, model, "please work", Answer(command="sleep 30; touch made"))
    hold(1.5)


def tool(agent: Agent, model: Model) -> None:
    dialog(agent, model)
    agent.keys("Enter")
    hold(1.0)


def done(agent: Agent, model: Model) -> None:
    ask(agent, model, "please work", Answer("It is done."))
    hold(1.5)


def wait(agent: Agent, model: Model) -> None:
    hold(0.5)


def then(*acts: Callable[[Agent, Model], None]) -> Callable[[Agent, Model], None]:
    def act(agent: Agent, model: Model) -> None:
        for one in acts:
            one(agent, model)

    return act


def pasted(text: str) -> Callable[[Agent, Model], None]:
    return lambda agent, model: agent.paste(text)


def typed(text: str) -> Callable[[Agent, Model], None]:
    return lambda agent, model: agent.write(text)


def pressed(*keys: str) -> Callable[[Agent, Model], None]:
    def act(agent: Agent, model: Model) -> None:
        for key in keys:
            agent.keys(key)
            hold(0.3)

    return act


def refused(status: int, seconds: float = 12.0) -> Callable[[Agent, Model], None]:
    """Every answer is an error; Codex gives up after some seconds."""

    def act(agent: Agent, model: Model) -> None:
        model.usual = Answer(status=status)
        ask(agent, model, "please work")
        hold(seconds)

    return act


def sent(text: str, answer: Answer) -> Callable[[Agent, Model], None]:
    def act(agent: Agent, model: Model) -> None:
        ask(agent, model, text, answer)
        hold(1.5)

    return act


SMALL = (60, 24)
CLAUDE = ("claude",)
CODEX = ("codex",)
SCENES = [
    Scene("start", "idle", "", "ready, nothing typed yet"),
    Scene("done", "idle", "", "a turn is done", done),
    Scene("draft", "idle", "half typed", "a draft of one line", typed("half typed")),
    Scene(
        "draft-after-work",
        "idle",
        "half typed",
        "a draft after a turn",
        then(done, typed("half typed")),
    ),
    Scene(
        "draft-two-lines",
        "idle",
        "half typed\nand more",
        "a draft of two lines",
        pasted("half typed\nand more"),
    ),
    Scene("draft-wrapped", "idle", WRAPPED.strip(), "a draft that wraps", typed(WRAPPED.strip())),
    Scene(
        "draft-collapsed",
        "idle",
        "[Pasted text #1 +39 lines]",
        "40 pasted lines",
        pasted(ROWS),
        kinds=CLAUDE,
    ),
    Scene(
        "draft-collapsed",
        "idle",
        "[Pasted Content 1200 chars]",
        "1200 pasted characters",
        pasted("x" * 1200),
        kinds=CODEX,
    ),
    Scene(
        "draft-collapsed-with-words",
        "idle",
        "see [Pasted text #1 +39 lines] here",
        "a collapsed paste between words",
        then(typed("see "), wait, pasted(ROWS), wait, typed(" here")),
        kinds=CLAUDE,
    ),
    Scene(
        "draft-tall",
        "idle",
        "\n".join(ROWS.split("\n")[16:]),
        "40 lines; the first are scrolled out of the composer",
        pasted(ROWS),
        kinds=CODEX,
    ),
    Scene("draft-slash", "idle", "/re", "a slash command half typed, its menu open", typed("/re")),
    Scene(
        "draft-at", "idle", "see @REA", "a file name half typed, its menu open", typed("see @REA")
    ),
    Scene("draft-bang", "idle", "ls", "a shell command half typed", typed("!ls")),
    Scene("shortcuts", "idle", "", "the list of shortcuts is open", typed("?"), kinds=CLAUDE),
    Scene(
        "quoting",
        "idle",
        "",
        "the answer quotes a dialog and a busy line",
        sent("what does it look like", Answer(QUOTED)),
    ),
    Scene("busy", "working", "", "the model streams", busy),
    Scene(
        "busy-draft",
        "working",
        "typed but not sent",
        "typed while the model streams",
        then(busy, typed("typed but not sent")),
    ),
    Scene("busy-tool", "working", "", "a tool runs", tool),
    Scene("busy-queued", "working", "", "a tool runs, one message is queued", queued),
    Scene(
        "busy-queued-draft",
        "working",
        "and another",
        "one queued, one typed",
        then(queued, typed("and another")),
    ),
    Scene(
        "busy-queued-tab",
        "working",
        "",
        "one message queued by Tab",
        then(busy, pasted("do this next"), wait, pressed("Tab")),
        kinds=CODEX,
    ),
    Scene(
        "busy-after-collapsed",
        "working",
        "",
        "the footer has a hint about pasting instead of one about interrupting",
        pasting,
    ),
    Scene(
        "interrupted", "idle", "", "Escape while busy", then(busy, pressed("Escape")), kinds=CODEX
    ),
    Scene(
        "interrupted",
        "idle",
        "please work",
        "Escape while busy puts the prompt back",
        then(busy, pressed("Escape")),
        kinds=CLAUDE,
    ),
    Scene(
        "interrupted-tool", "idle", "", "Escape while a tool runs", then(tool, pressed("Escape"))
    ),
    Scene("permission", "waiting_permission", None, "may it run a command", dialog),
    Scene(
        "question",
        "waiting_question",
        None,
        "the model asks the user",
        sent("ask me", Answer(question="Which colour?")),
        kinds=CLAUDE,
    ),
    Scene(
        "trust",
        "waiting_permission",
        None,
        "may it work in this folder",
        setup=Setup(trusted=False),
        ready=False,
    ),
    Scene(
        "model-menu",
        "unknown",
        None,
        "a menu of the program itself",
        then(typed("/model"), wait, pressed("Enter")),
    ),
    Scene("rewind", "unknown", None, "Escape twice", then(done, pressed("Escape", "Escape"))),
    Scene(
        "transcript",
        "unknown",
        None,
        "the transcript viewer",
        then(done, pressed("C-o")),
        kinds=CLAUDE,
    ),
    Scene(
        "limit",
        "usage_limited",
        "",
        "the model answered 429",
        refused(429),
    ),
    Scene(
        "unauthorized",
        "auth_failed",
        "",
        "the model answered 401",
        refused(401),
    ),
    Scene(
        "exited",
        "unknown",
        None,
        "it ended and a shell has the pane",
        then(done, pressed("C-d"), wait),
        Setup(shell=True),
        kinds=CODEX,
    ),
    Scene("busy-again", "working", "", "it tries an error again", refused(401, 3.0), kinds=CODEX),
    Scene("narrow-start", "idle", "", "60 columns", size=SMALL),
    Scene(
        "narrow-draft", "idle", WRAPPED.strip(), "60 columns", typed(WRAPPED.strip()), size=SMALL
    ),
    Scene("narrow-busy", "working", "", "60 columns", busy, size=SMALL),
    Scene("narrow-busy-queued", "working", "", "60 columns", queued, size=SMALL),
    Scene("narrow-permission", "waiting_permission", None, "60 columns", dialog, size=SMALL),
    Scene("narrow-done", "idle", "", "60 columns", done, size=SMALL),
]


def record(kind: str, scene: Scene, version: str) -> Path:
    """Plays one scene; returns the file written."""
    home, agent_home = Home(), Path("/tmp/orch-screens")
    shutil.rmtree(agent_home, ignore_errors=True)
    tmux = Tmux(home)
    agent = None
    try:
        with Model() as model:
            agent = start(kind, model, tmux, scene.setup, home=agent_home, size=scene.size)
            if scene.ready:
                agent.ready()
                hold(1.0)
            else:
                until(lambda: agent.screen().strip(), "the screen")
                hold(2.5)
            scene.act(agent, model)
            hold(_SETTLE)
            return _write(agent, scene, version)
    finally:
        if agent is not None:
            agent.end()
        tmux.end()
        home.remove()
        shutil.rmtree(agent_home, ignore_errors=True)


def _write(agent: Agent, scene: Scene, version: str) -> Path:
    cursor = agent.tmux.run("display-message", "-p", "-t", agent.pane, "#{cursor_x},#{cursor_y}")
    width, height = scene.size
    head = {
        "kind": agent.kind,
        "version": version,
        "state": scene.state,
        "draft": json.dumps(scene.draft, ensure_ascii=False),
        "cursor": cursor,
        "size": f"{width}x{height}",
        "about": scene.about,
    }
    path = FIXTURES / agent.kind / f"{version}-{scene.name}.screen"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{key}: {value}\n" for key, value in head.items())
    raw = subprocess.run(
        ["tmux", "-u", "-S", str(agent.tmux.socket), "capture-pane", "-p", "-e", "-t", agent.pane],
        capture_output=True,
        check=True,
        timeout=10,
    ).stdout
    path.write_bytes(f"{lines}---\n".encode() + raw)
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    for kind in [args.kind] if args.kind else KINDS:
        program = INSTALLED / "bin" / kind
        with tempfile.TemporaryDirectory() as empty:
            said = subprocess.run(
                [program, "--version"],
                env={"HOME": empty},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        version = next(word for word in said.split() if word[0].isdigit())
        for scene in SCENES:
            if kind in scene.kinds and (not args.names or scene.name in args.names):
                print(record(kind, scene, version).name, flush=True)


if __name__ == "__main__":
    main()
