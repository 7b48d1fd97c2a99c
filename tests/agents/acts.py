"""What is done to a real agent so that its screen shows something, and the texts for it."""

from __future__ import annotations

from collections.abc import Callable

from tests.agents.cli import ROOT, Agent
from tests.agents.model import RESETS_AT, Answer, Model
from tests.support import hold, until

Act = Callable[[Agent, Model], None]
FIXTURES = ROOT / "client/orch_client/courier/screens/fixtures"
ROWS = "\n".join(f"row {number}" for number in range(40))
QUOTED = (
    "The dialog says:\n\n> Do you want to proceed?\n> ❯ 1. Yes\n>   2. No\n>\n> Esc to cancel\n\n"
    "and while it works: `✻ Brewing… (3s · esc to interrupt)`, `• Working (1s • esc to interrupt)`."
)
#: What the agents themselves say of limits, accounts, dialogs and work, at the very margin.
SAYINGS = (
    "You've hit your session limit · resets 7pm (UTC)",
    "⎿  You've hit your session limit · resets 7pm (UTC)",
    "● API Error: Request rejected (429) · This request would exceed your account's rate limit.",
    "■ You’ve hit your usage limit. Upgrade to Pro or try again at 3:05 PM.",
    "■ unexpected status 401 Unauthorized: Refused",
    "Not logged in · Please run /login",
    " Do you want to proceed?",
    " ❯ 1. Yes",
    "› 1. Yes, proceed (y)",
    "  Press enter to confirm or esc to cancel",
    " Esc to cancel · Tab to amend",
    "Enter to select · ↑/↓ to navigate · Esc to cancel",
    "✻ Brewing… (3s · ↓ 2 tokens · esc to interrupt)",
    "• Working (1s • esc to interrupt)",
)
LIMIT = SAYINGS[0]
QUOTING = "They say:\n\n" + "\n".join(SAYINGS)
DRAFT = "\n".join((SAYINGS[6], SAYINGS[8], SAYINGS[9]))  # as many lines as no agent folds
PAINTED = "".join(f"\x1b[38;5;211m{saying}\x1b[0m\n" for saying in SAYINGS)
WRAPPED = "a draft of one line that is longer than the pane is wide " * 4


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


def held(agent: Agent, model: Model) -> None:
    model.then(Answer(held=True))


def task(agent: Agent, model: Model) -> None:
    told = {
        "subject": "Mend it",
        "description": "It.",
        "activeForm": "Mending the form of the login",
    }
    made = Answer(tool=("TaskCreate", told))
    begun = Answer(tool=("TaskUpdate", {"taskId": "1", "status": "in_progress"}))
    ask(agent, model, "please work", made, begun, Answer(held=True))
    hold(3.0)


def tool(agent: Agent, model: Model) -> None:
    dialog(agent, model)
    agent.keys("Enter")
    hold(1.0)


def done(agent: Agent, model: Model) -> None:
    ask(agent, model, "please work", Answer("It is done."))
    hold(1.5)


def wait(agent: Agent, model: Model) -> None:
    hold(0.5)


def then(*acts: Act) -> Act:
    def act(agent: Agent, model: Model) -> None:
        for one in acts:
            one(agent, model)

    return act


def pasted(text: str) -> Act:
    return lambda agent, model: agent.paste(text)


def typed(text: str) -> Act:
    return lambda agent, model: agent.write(text)


def pressed(*keys: str) -> Act:
    def act(agent: Agent, model: Model) -> None:
        for key in keys:
            agent.keys(key)
            hold(0.3)

    return act


def reading(agent: Agent, model: Model) -> None:
    """It reads a file that looks like its own screen."""
    (agent.work / "painted").write_text(PAINTED)
    ask(agent, model, "please look", Answer(command="cat painted"), Answer(held=True))
    hold(1.5)
    agent.keys("Enter")
    hold(2.0)


def read(agent: Agent, model: Model) -> None:
    reading(agent, model)
    model.release()
    hold(1.0)


def screened(agent: Agent, model: Model) -> None:
    """It looks at the screen of another agent that has hit its limit."""
    screens = [
        path.read_text().partition("\n---\n")[2] for path in FIXTURES.glob("*/*-limit.screen")
    ]
    (agent.work / "painted").write_text("".join(screens))
    ask(agent, model, "please look", Answer(command="tail -n 50 painted"))
    hold(1.5)
    agent.keys("Enter")
    hold(2.0)


def limited(agent: Agent, model: Model) -> None:
    ask(agent, model, "please work", Answer(status=429, resets_at=RESETS_AT))
    hold(3.0)


def throttled(agent: Agent, model: Model) -> None:
    model.usual = Answer(status=429, resets_at=0)
    ask(agent, model, "please work")
    hold(4.0)


def uses(name: str, **told: object) -> Act:
    return sent("please work", Answer(tool=(name, told)))


def refused(status: int, seconds: float = 12.0) -> Act:
    """Every answer is an error; Codex gives up after some seconds."""

    def act(agent: Agent, model: Model) -> None:
        model.usual = Answer(status=status)
        ask(agent, model, "please work")
        hold(seconds)

    return act


def sent(text: str, answer: Answer) -> Act:
    def act(agent: Agent, model: Model) -> None:
        ask(agent, model, text, answer)
        hold(1.5)

    return act
