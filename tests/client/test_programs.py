"""What runs in a pane: what would run the text as a command is never typed into."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from orch_client.courier.programs import Sort, again, classify, foreground
from tests.support import Home, Tmux, until

CLAUDE_CLI = "/usr/lib/node_modules/@anthropic-ai/claude-code/cli.js"


@pytest.mark.parametrize(
    "line",
    [
        "bash",
        "-bash",
        "/bin/bash",
        "bash -l",
        "bash --login",
        "bash --norc --noprofile",
        "bash -i",
        "sh",
        "dash",
        "-zsh",
        "zsh -i",
        "fish",
        "busybox",
        "nu",
        "su",
        "su -",
        "sudo -s",
        "sudo su -",
        "login",
        "python3",
        "python3.11",
        "/usr/bin/python3.12",
        "python -i script.py",
        "python3 -q",
        "ipython",
        "node",
        "node20",
        "irb",
        "lua5.4",
        "tclsh8.6",
        "psql",
        "psql -h localhost prod",
        "mysql prod",
        "sqlite3 orch.db",
        "redis-cli -h cache",
        "ssh host",
        "ssh -p 22 user@host",
        "gdb ./a.out",
        "bc",
        "R",
    ],
)
def test_a_shell_or_interpreter_at_its_prompt(line: str) -> None:
    assert classify(line.split()).sort is Sort.PROMPT


@pytest.mark.parametrize(
    "line",
    [
        "bash --rcfile /tmp/nix-shell/rc",
        "bash --init-file /opt/shellIntegration-bash.sh",
        "bash -O extglob",
        "bash -o vi",
        "zsh -o vi",
        "python3 -X dev",
        "python3 -W ignore",
        "node -r ./preload.js",
        "iex -S mix",
        "ghci Main.hs",
        "irb -r json",
    ],
)
def test_an_option_with_a_value_is_no_script(line: str) -> None:
    """All of these show a prompt."""
    assert classify(line.split()).sort is Sort.PROMPT


@pytest.mark.parametrize(
    "line",
    [
        "ssh claude",
        "ssh codex",
        "su claude",
        "sudo -u claude -s",
        "psql codex",
        "mysql claude",
        "sqlite3 claude",
    ],
)
def test_a_host_user_or_database_named_like_an_agent_is_no_agent(line: str) -> None:
    assert classify(line.split()).sort is Sort.PROMPT


@pytest.mark.parametrize(
    "line", ["vim claude", "less codex", "man claude", "tail -f claude", "nano notes/codex"]
)
def test_a_file_named_like_an_agent_is_no_agent(line: str) -> None:
    assert classify(line.split()).sort is Sort.OTHER


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("bash build.sh", "build.sh"),
        ("bash -e /opt/build.sh arg", "build.sh"),
        ("sh -c make", "make"),
        ("python3 tests/recorder.py out", "recorder.py"),
        ("python -m http.server", "http.server"),
        ("node server.js", "server.js"),
        ("perl -e print", "print"),
        ("vim", "vim"),
        ("htop", "htop"),
        ("aider --model x", "aider"),
        ("less README.md", "less"),
        ("orch-client agents", "orch-client"),
    ],
)
def test_a_program_of_its_own(line: str, name: str) -> None:
    program = classify(line.split())
    assert (program.sort, program.name) == (Sort.OTHER, name)


def test_an_option_of_the_script_is_not_the_interpreters() -> None:
    assert classify(["python3", "agent.py", "-i", "input.txt"]).sort is Sort.OTHER
    assert classify(["bash", "agent.sh", "-i"]).sort is Sort.OTHER


@pytest.mark.parametrize(
    ("line", "agent"),
    [
        (["claude"], "claude"),
        (["/home/me/.local/bin/claude", "--resume"], "claude"),
        (["node", CLAUDE_CLI], "claude"),
        (["node", "--max-old-space-size=8192", CLAUDE_CLI, "-c"], "claude"),
        (["node", "/usr/local/bin/claude"], "claude"),
        (["bash", "/home/me/.local/bin/claude"], "claude"),
        (["codex"], "codex"),
        (["codex", "exec", "-"], "codex"),
        (["node", "/usr/lib/node_modules/@openai/codex/bin/codex.js"], "codex"),
    ],
)
def test_a_known_agent(line: list[str], agent: str) -> None:
    program = classify(line)
    assert (program.sort, program.agent) == (Sort.AGENT, agent)


@pytest.mark.parametrize(
    "line",
    [
        ["orch-client", "heartbeat"],
        ["/venv/bin/python", "/venv/bin/orch-client", "heartbeat", "--role", "x"],
        ["python3.11", "/venv/bin/orch-client", "heartbeat"],
    ],
)
def test_our_own_heartbeat_in_the_foreground(line: list[str]) -> None:
    assert classify(line).sort is Sort.CLIENT


@pytest.mark.parametrize("line", [[], [""], ["", "x"], ["..."], ["3.11"]])
def test_what_says_nothing_is_something_else(line: list[str]) -> None:
    assert classify(line).sort is Sort.OTHER


def _pane_pid(tmux: Tmux, pane: str) -> int:
    return int(tmux.run("display-message", "-p", "-t", pane, "#{pane_pid}"))


def test_the_foreground_of_a_real_pane_is_told_by_the_kernel(home: Home, tmux: Tmux) -> None:
    pane = tmux.pane("atlas", "shell")
    pid = _pane_pid(tmux, pane)
    until(lambda: foreground(pid, "").sort is Sort.PROMPT, "the shell")
    assert foreground(pid, "").name == "bash"

    tmux.type(pane, "sleep 1000 & cat")
    until(lambda: foreground(pid, "").name == "cat", "cat, not the job behind it")
    tmux.run("send-keys", "-t", pane, "C-c")
    until(lambda: foreground(pid, "").sort is Sort.PROMPT, "the shell again")
    tmux.type(pane, "kill %1; wait")

    script = home.path / "claude"
    script.write_text("#!/bin/bash\ncat\n")
    script.chmod(0o755)
    tmux.type(pane, str(script))
    until(lambda: foreground(pid, "").agent == "claude", "the agent under its own script")


def test_an_agent_that_a_script_started_is_found_in_the_group(home: Home, tmux: Tmux) -> None:
    fake = home.path / "claude"
    fake.symlink_to("/bin/cat")
    wrapper = home.path / "start.sh"
    wrapper.write_text(f"#!/bin/bash\n{fake}\n")
    pane = tmux.pane("atlas", "agent", f"exec bash {wrapper}")
    pid = _pane_pid(tmux, pane)
    until(lambda: foreground(pid, "").agent == "claude", "the agent in the script")


def test_a_process_that_is_gone_is_judged_by_what_tmux_says() -> None:
    gone = _unused_pid()
    assert foreground(gone, "bash").sort is Sort.PROMPT
    assert foreground(gone, "htop").name == "htop"


def _unused_pid() -> int:
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    return next(pid for pid in range(most - 1, 1, -1) if not os.path.exists(f"/proc/{pid}"))  # noqa: PTH110


@pytest.mark.parametrize(
    "line",
    [
        ["orch-client", "run", "--", "claude"],
        ["/venv/bin/python", "/venv/bin/orch-client", "run", "--role", "x", "--", "sleep", "9"],
        ["python3", "-m", "orch_client", "run", "bash"],
    ],
)
def test_our_own_run_is_a_wrapper_and_by_itself_our_client(line: list[str]) -> None:
    program = classify(line)
    assert (program.sort, program.wrapper, program.agent) == (Sort.CLIENT, True, "")


def test_what_another_command_of_ours_is_given_makes_it_no_client() -> None:
    for words in (["send", "x", "heartbeat"], ["schedule", "5", "run"]):
        assert classify(["python3", "/venv/bin/orch-client", *words]).sort is Sort.OTHER


def test_the_same_program_is_known_again_stopped_or_not_until_it_is_another(
    home: Home, tmux: Tmux
) -> None:
    fake = home.path / "claude"
    fake.symlink_to("/bin/cat")
    pane = tmux.pane("atlas", "agent")
    pid = _pane_pid(tmux, pane)
    tmux.type(pane, str(fake))
    until(lambda: foreground(pid, "").agent == "claude", "the agent")
    program = foreground(pid, "")
    assert again(program) == program
    process = int(program.image.split(".")[0])
    os.kill(process, signal.SIGSTOP)
    until(lambda: again(program) == replace(program, stopped=True), "that it is stopped")
    os.kill(process, signal.SIGKILL)
    until(lambda: again(program) is None, "that it is gone")
    assert again(classify(["claude"])) is None, "an unknown process is no same one"
