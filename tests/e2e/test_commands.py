"""The verbs of the Makefile and of the README, as a newcomer types them."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from pathlib import Path

from tests.support import BIN, Home, Tmux, until

ROOT = Path(__file__).parents[2]


def test_the_demo_shows_everything_and_leaves_nothing(home: Home) -> None:
    before = set(Path("/tmp").glob("orch-demo-*"))
    done = subprocess.run(
        [str(ROOT / "scripts" / "demo")],
        env=home.env(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for sign in ("demo:tester", "please run the tests again", "exit status 0", "confirmed"):
        assert sign in done.stdout
    assert set(Path("/tmp").glob("orch-demo-*")) == before


def test_make_run_prints_two_commands_that_work(home: Home, tmux: Tmux) -> None:
    server = subprocess.Popen(
        [str(ROOT / "scripts" / "run")],
        env=home.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        lines: list[str] = []
        until(lambda: lines.append(server.stdout.readline()) or " ready on " in lines[-1], "ready")
        commands = [line.strip() for line in lines if "orch-client" in line]
        assert len(commands) == 2
        pane = tmux.pane("atlas", "window")
        for command in commands:
            home_word, program, *_ = shlex.split(command)
            assert home_word == f"ORCH_HOME={home.path}"
            assert Path(program) == BIN / "orch-client"
            tmux.type(pane, command)
        tmux.wait_for(pane, "\nhello from six seconds ago", 40)
        assert [a["role"] for a in home.json("agents")] == ["developer"]
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(15) == 0
        server.stdout.close()


def test_help_lists_every_verb() -> None:
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    ).stdout
    makefile = (ROOT / "Makefile").read_text()
    verbs = set(re.search(r"\.PHONY: (.*)", makefile)[1].split())
    assert verbs == set(re.findall(r"make (\w+)", shown))
