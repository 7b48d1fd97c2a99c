"""The real agents in a private tmux pane, with a home of their own and an empty environment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.agents.model import Model
from tests.support import BIN, Tmux, until

ROOT = Path(__file__).parents[2]
INSTALLED = Path(os.environ.get("ORCH_TEST_AGENTS", ROOT / ".agents"))
KINDS = ("claude", "codex")
_KEY = "sk-ant-test-0123456789abcdef0123456789"
_ACCOUNTS = {
    "key": {"ANTHROPIC_API_KEY": _KEY},
    "subscription": {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-test-0123456789"},
    "none": {},
}
_START = 30.0
_COMPOSER = re.compile(r"(?:\x1b\[[0-9;]*m)*[❯›](?:\x1b\[[0-9;]*m)* (.*)$")
_DIM = re.compile(r"\x1b\[(?:0;)?2m")
_CODES = re.compile(r"\x1b\[[0-9;]*m")


def installed() -> bool:
    """Whether `make agents` was run."""
    return all(os.access(INSTALLED / "bin" / kind, os.X_OK) for kind in KINDS)


@dataclass(frozen=True, slots=True)
class Setup:
    """How an agent is started. `trusted`: its folder is, so that no dialog opens at the start;
    `hooks`: the "hooks" part of Claude's settings; `args`: more words for its command line;
    `under`: the words of a program that starts it; `account`: Claude has an API "key", a
    "subscription", or "none"; `config`: more lines of Codex's configuration."""

    trusted: bool = True
    hooks: dict[str, Any] | None = None
    args: tuple[str, ...] = ()
    shell: bool = False  # a shell in the pane starts it, so that the pane outlives it
    env: dict[str, str] | None = None  # more variables
    under: tuple[str, ...] = ()
    account: str = "key"
    config: str = ""


class Agent:
    """One real agent in a pane."""

    def __init__(self, kind: str, pane: str, tmux: Tmux, home: Path, work: Path) -> None:
        self.kind, self.pane, self.tmux, self.home, self.work = kind, pane, tmux, home, work

    def screen(self, *, styled: bool = False) -> str:
        """What the pane shows now."""
        return self.tmux.run("capture-pane", "-p", *(["-e"] if styled else []), "-t", self.pane)

    def shows(self, text: str, patience: float = 15.0) -> str:
        """Waits until the pane shows the text."""
        until(lambda: text in self.screen(), f"{text!r} on the screen of {self.kind}", patience)
        return self.screen()

    def keys(self, *keys: str) -> None:
        """Presses keys, by tmux's names."""
        self.tmux.run("send-keys", "-t", self.pane, *keys)

    def write(self, text: str) -> None:
        """Types text as a person does, without Enter."""
        self.tmux.run("send-keys", "-t", self.pane, "-l", "--", text)

    def paste(self, text: str) -> None:
        """Pastes text with brackets, as the courier does, without Enter."""
        subprocess.run(
            ["tmux", "-u", "-S", str(self.tmux.socket), "load-buffer", "-b", "t", "-"],
            input=text.encode(),
            check=True,
            timeout=10,
        )
        self.tmux.run("paste-buffer", "-p", "-r", "-d", "-b", "t", "-t", self.pane)

    def end(self) -> None:
        """Ends it, and waits until it writes no more into its folder."""
        pid = self.tmux.run("display-message", "-p", "-t", self.pane, "#{pane_pid}", check=False)
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(pid), signal.SIGKILL)
        until(lambda: not _is_running(pid), f"the end of {self.kind}")
        self.tmux.run("kill-pane", "-t", self.pane, check=False)

    @property
    def busy(self) -> bool:
        """Whether its title says that it works: it starts with a sign that moves."""
        title = self.tmux.run("display-message", "-p", "-t", self.pane, "#{pane_title}")
        return "\u2800" <= title[:1] <= "\u28ff"

    @property
    def composer(self) -> str | None:
        """The first line in its composer, of what is not dim; None when there is no composer."""
        for line in reversed(self.screen(styled=True).replace("\xa0", " ").splitlines()):
            if match := _COMPOSER.match(line):
                return "" if _DIM.search(match[1]) else _CODES.sub("", match[1]).strip()
        return None

    def ready(self, patience: float = _START) -> Agent:
        """Waits until its composer can be typed into."""
        until(lambda: _READY[self.kind](self.screen()), f"the composer of {self.kind}", patience)
        return self


def start(
    kind: str,
    model: Model,
    tmux: Tmux,
    setup: Setup | None = None,
    *,
    home: Path | None = None,
    size: tuple[int, int] = (120, 40),
) -> Agent:
    """Starts an agent of this kind in a session of its own. Does not wait for it."""
    setup = setup or Setup()
    home = home or tmux.home.path / f"{kind}-home"
    work = home / "atlas"
    work.mkdir(parents=True)
    (work / "README").write_text("A project.\n")
    subprocess.run(["git", "init", "-q", str(work)], check=True, timeout=10)
    env = {
        "HOME": str(home),
        "PATH": f"{INSTALLED / 'bin'}:{BIN}:{os.environ['PATH']}",
        "TERM": "screen-256color",
        "LANG": "C.UTF-8",
        "SHELL": "/bin/bash",
        **_CONFIGURE[kind](home, work, model, setup),
        **(setup.env or {}),
    }
    words = ["env", "-i", *(f"{k}={v}" for k, v in env.items())]
    # tmux tells the agent its pane; hooks find it by these.
    words += ['TMUX="$TMUX"', 'TMUX_PANE="$TMUX_PANE"']
    line = " ".join(w if w.startswith("TMUX") else shlex.quote(w) for w in words)
    program = shlex.join([*setup.under, kind, *setup.args])
    shell = "bash --norc --noprofile"
    command = f"cd {shlex.quote(str(work))} && exec {line} {shell if setup.shell else program}"
    width, height = size
    pane = tmux.run(
        *("new-session", "-d", "-x", str(width), "-y", str(height), "-s", "atlas"),
        *("-n", kind, "-P", "-F", "#{pane_id}", command),
    )
    if setup.shell:
        tmux.type(pane, program)
    return Agent(kind, pane, tmux, home, work)


def _claude(home: Path, work: Path, model: Model, setup: Setup) -> dict[str, str]:
    project = {"hasTrustDialogAccepted": setup.trusted, "allowedTools": []}
    state = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "customApiKeyResponses": {"approved": [_KEY[-20:]], "rejected": []},
        "projects": {str(work): project},
    }
    (home / ".claude.json").write_text(json.dumps(state))
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").write_text(json.dumps({"hooks": setup.hooks or {}}))
    return {
        "ANTHROPIC_BASE_URL": model.url,
        **_ACCOUNTS[setup.account],
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def _codex(home: Path, work: Path, model: Model, setup: Setup) -> dict[str, str]:
    trust = f'[projects."{work}"]\ntrust_level = "trusted"\n' if setup.trusted else ""
    (home / ".codex").mkdir()
    (home / ".codex" / "config.toml").write_text(
        'model = "gpt-5"\nmodel_provider = "stub"\ncheck_for_update_on_startup = false\n'
        '[model_providers.stub]\nname = "stub"\nwire_api = "responses"\nenv_key = "STUB_KEY"\n'
        f'base_url = "{model.url}/v1"\n{trust}'
        # Without these it leaves a daemon behind, and a copy of itself in its home.
        "[features]\ndaemon_auto_start = false\nin_app_updates = false\n" + setup.config
    )
    return {"STUB_KEY": "test"}


def _is_running(pid: str) -> bool:
    """Whether this process lives; a dead one may wait for its parent to take note of it."""
    with contextlib.suppress(OSError):
        return bool(pid and Path(f"/proc/{pid}/cmdline").read_bytes())
    return False


def _claude_ready(screen: str) -> bool:
    lines = screen.replace("\xa0", " ").splitlines()
    return any(before.startswith("──") and line.startswith("❯") for before, line in pairwise(lines))


def _codex_ready(screen: str) -> bool:
    lines = [line for line in screen.splitlines() if line.strip()]
    # The composer is drawn long before the session is made; the line with the folder comes after.
    return any(line.startswith("›") for line in lines) and "atlas" in "".join(lines[-2:])


_CONFIGURE: dict[str, Callable[[Path, Path, Model, Setup], dict[str, str]]] = {
    "claude": _claude,
    "codex": _codex,
}
_READY: dict[str, Callable[[str], bool]] = {"claude": _claude_ready, "codex": _codex_ready}
