"""The screens that are recorded: how each comes about, and what is then true of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from tests.agents.acts import (
    DRAFT,
    LIMIT,
    QUOTED,
    QUOTING,
    ROWS,
    SAYINGS,
    WRAPPED,
    Act,
    busy,
    dialog,
    done,
    held,
    limited,
    pasted,
    pasting,
    pressed,
    queued,
    read,
    reading,
    refused,
    screened,
    sent,
    task,
    then,
    throttled,
    tool,
    typed,
    uses,
    wait,
)
from tests.agents.cli import KINDS, Setup
from tests.agents.model import Answer


@dataclass(frozen=True, slots=True)
class Scene:
    """What to do with a ready agent, and what is then true of its screen. `draft`: what a person
    has typed; None when no composer is to be seen."""

    name: str
    state: str
    draft: str | None
    about: str
    act: Act = lambda agent, model: None
    setup: Setup = Setup()  # noqa: RUF009
    size: tuple[int, int] = (120, 40)
    ready: bool = True
    kinds: tuple[str, ...] = KINDS


SMALL = (60, 24)
SUBSCRIBED = Setup(account="subscription")
PAIR = [{"label": label, "description": f"It is {label}."} for label in ("Red", "Blue")]
TWO_QUESTIONS = [
    {"question": "Which?", "header": "First", "multiSelect": True, "options": PAIR},
    {"question": "And then?", "header": "Second", "multiSelect": False, "options": PAIR},
]
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
        "limit-dated",
        "usage_limited",
        "",
        "a limit that says when it ends",
        limited,
        kinds=CODEX,
    ),
    Scene(
        "limit-menu",
        "usage_limited",
        None,
        "a subscriber's limit, with its menu",
        limited,
        SUBSCRIBED,
        kinds=CLAUDE,
    ),
    Scene(
        "limit-menu-left",
        "usage_limited",
        "",
        "the menu of a limit was left with Escape",
        then(limited, pressed("Escape")),
        SUBSCRIBED,
        kinds=CLAUDE,
    ),
    Scene(
        "narrow-limit-menu",
        "usage_limited",
        None,
        "50 columns",
        limited,
        SUBSCRIBED,
        (50, 24),
        kinds=CLAUDE,
    ),
    Scene(
        "limit-hint",
        "usage_limited",
        "",
        "the next limit, with a hint in place of the menu, which opens once",
        then(limited, pressed("Escape"), limited),
        SUBSCRIBED,
        kinds=CLAUDE,
    ),
    Scene(
        "narrow-limit-hint",
        "usage_limited",
        "",
        "50 columns, with a hint",
        then(limited, pressed("Escape"), limited),
        SUBSCRIBED,
        (50, 24),
        kinds=CLAUDE,
    ),
    Scene(
        "limit-over",
        "idle",
        "",
        "a turn after one that hit a limit",
        then(limited, pressed("Escape"), done),
        SUBSCRIBED,
    ),
    Scene(
        "rate-limited",
        "idle",
        "",
        "the model answered 429, but not for the usage limit",
        throttled,
        SUBSCRIBED,
    ),
    Scene(
        "overloaded",
        "idle",
        "",
        "the model answered 529",
        refused(529),
        kinds=CLAUDE,
    ),
    Scene(
        "not-logged-in",
        "auth_failed",
        "",
        "no account, nothing asked yet",
        setup=Setup(account="none"),
        kinds=CLAUDE,
    ),
    Scene(
        "not-logged-in-asked",
        "auth_failed",
        "",
        "no account, asked",
        then(pasted("please work"), wait, pressed("Enter"), wait),
        Setup(account="none"),
        kinds=CLAUDE,
    ),
    Scene(
        "permission-write",
        "waiting_permission",
        None,
        "may it write a file",
        uses("Write", file_path="/tmp/orch-screens/atlas/made", content="hello"),
        kinds=CLAUDE,
    ),
    Scene(
        "permission-fetch",
        "waiting_permission",
        None,
        "may it read a page",
        uses("WebFetch", url="https://example.org/", prompt="Read it."),
        kinds=CLAUDE,
    ),
    Scene(
        "permission-plan",
        "waiting_permission",
        None,
        "may it carry its plan out",
        uses("ExitPlanMode", plan="Do it."),
        Setup(args=("--permission-mode", "plan")),
        kinds=CLAUDE,
    ),
    Scene(
        "question-several",
        "waiting_question",
        None,
        "two questions, one with several answers",
        uses("AskUserQuestion", questions=TWO_QUESTIONS),
        kinds=CLAUDE,
    ),
    Scene(
        "compacting",
        "working",
        "",
        "it shortens its conversation",
        then(done, done, held, typed("/compact"), wait, pressed("Enter"), wait, wait),
        kinds=CLAUDE,
    ),
    Scene(
        "busy-task",
        "working",
        "",
        "the busy line is the name of a task",
        task,
        kinds=CLAUDE,
    ),
    # Claude Code itself draws such an answer as it draws a limit: nobody can tell them apart.
    Scene(
        "quoting-limit",
        "usage_limited",
        "",
        "the answer begins with the line of a limit",
        sent("what does it say", Answer(LIMIT)),
        kinds=CLAUDE,
    ),
    Scene(
        "quoting-limit",
        "idle",
        "",
        "the answer begins with the line of a limit",
        sent("what does it say", Answer(LIMIT)),
        kinds=CODEX,
    ),
    Scene(
        "quoting-limit-code",
        "idle",
        "",
        "the answer is the line of a limit as code",
        sent("what does it say", Answer(f"`{LIMIT}`")),
    ),
    Scene(
        "quoting-sayings",
        "idle",
        "",
        "the answer quotes all that agents say",
        sent("what do they say", Answer(QUOTING)),
    ),
    Scene(
        "quoting-sayings-code",
        "idle",
        "",
        "the answer quotes all that agents say as code",
        sent("what do they say", Answer("```\n" + "\n".join(SAYINGS) + "\n```")),
    ),
    Scene(
        "quoting-prompt",
        "idle",
        "",
        "the prompt quotes all that agents say",
        sent(QUOTING, Answer()),
    ),
    Scene("quoting-draft", "idle", DRAFT, "the draft quotes dialogs", pasted(DRAFT)),
    Scene(
        "quoting-menu",
        "unknown",
        None,
        "a menu of the program itself, below an answer that quotes all that agents say",
        then(sent("what do they say", Answer(QUOTING)), typed("/model"), wait, pressed("Enter")),
    ),
    Scene("quoting-tool", "idle", "", "a tool printed all that agents say, in colours", read),
    Scene("quoting-tool-busy", "working", "", "the same, and the model thinks", reading),
    Scene("quoting-screens", "idle", "", "a tool printed the screens of limited agents", screened),
    Scene(
        "quoting-permission",
        "waiting_permission",
        None,
        "the command to be allowed quotes all that agents say",
        sent("please work", Answer(command="touch made " + shlex.quote("; ".join(SAYINGS)))),
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
