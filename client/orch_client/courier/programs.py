"""What runs in the foreground of a pane, read from /proc: a shell, a known agent, something else.

A shell or an interpreter at its prompt would run whatever is typed. One that was started with a
script or a command is a program of its own, and so is judged by --kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

SHELLS = frozenset(
    (
        "sh",
        "ash",
        "bash",
        "dash",
        "zsh",
        "fish",
        "ksh",
        "mksh",
        "csh",
        "tcsh",
        "nu",
        "elvish",
        "xonsh",
        "pwsh",
        "rbash",
        "busybox",
        "login",
        "su",
        "sudo",
    )
)
INTERPRETERS = frozenset(
    (
        "python",
        "python3",
        "ipython",
        "ipython3",
        "bpython",
        "ptpython",
        "node",
        "deno",
        "bun",
        "irb",
        "pry",
        "ruby",
        "perl",
        "php",
        "lua",
        "luajit",
        "psql",
        "mysql",
        "mariadb",
        "sqlite3",
        "redis-cli",
        "mongosh",
        "mongo",
        "ghci",
        "scala",
        "jshell",
        "julia",
        "R",
        "octave",
        "gdb",
        "pdb",
        "clojure",
        "erl",
        "iex",
        "ocaml",
        "utop",
        "sbcl",
        "guile",
        "tclsh",
        "bc",
        "dc",
        "ssh",
        "mosh-client",
        "telnet",
    )
)
#: Of these, an argument that is no option does not name a script but a database or a host.
_ALWAYS_PROMPT = frozenset(
    (
        "psql",
        "mysql",
        "mariadb",
        "redis-cli",
        "mongosh",
        "mongo",
        "sqlite3",
        "gdb",
        "ssh",
        "mosh-client",
        "telnet",
        "login",
        "su",
        "sudo",
    )
)
_AGENTS = {"claude": "claude", "codex": "codex"}
_AGENT_PATHS = {"@anthropic-ai/claude-code": "claude", "@openai/codex": "codex"}
_OWN = "orch-client"


class Sort(Enum):
    """How text may reach a program."""

    PROMPT = "prompt"  # a shell or interpreter: shown, never typed
    CLIENT = "client"  # our own heartbeat in the foreground: shown
    AGENT = "agent"  # a known agent: typed
    OTHER = "other"  # typed only into a pane registered with a kind


@dataclass(frozen=True, slots=True)
class Program:
    """The program in the foreground. `agent` is its kind when it is a known one; a `wrapper` is a
    shell that runs a script or command."""

    name: str
    sort: Sort
    agent: str = ""
    wrapper: bool = False


def foreground(pane_pid: int, fallback: str) -> Program:
    """The program in the foreground of the pane whose first process is `pane_pid`.

    A known agent anywhere in the foreground group counts; else the first process that is more than
    a shell with a script. `fallback` is what tmux calls the command, for when /proc does not tell.
    """
    group = _foreground_group(pane_pid)
    members = [pid for pid in _tree(pane_pid) if _group(pid) == group]
    if group and group not in members:
        members.insert(0, group)
    programs = [classify(line) for pid in members if (line := _cmdline(pid))]
    for program in programs:
        if program.sort is Sort.AGENT:
            return program
    for program in programs:
        if not program.wrapper:
            return program
    return programs[0] if programs else classify([fallback])


def classify(cmdline: list[str]) -> Program:
    """Judges one command line."""
    name = PurePosixPath(cmdline[0]).name.lstrip("-") if cmdline and cmdline[0] else ""
    bare = _without_version(name)
    script = _script(cmdline[1:])
    if _OWN in (PurePosixPath(script).name, name) and "heartbeat" in cmdline:
        return Program(_OWN, Sort.CLIENT)
    agent = _agent(name, script)
    if agent:
        return Program(name, Sort.AGENT, agent)
    if bare in SHELLS or bare in INTERPRETERS:
        if bare in _ALWAYS_PROMPT or not _runs_something(cmdline[1:]):
            return Program(name, Sort.PROMPT)
        return Program(PurePosixPath(script).name or name, Sort.OTHER, wrapper=bare in SHELLS)
    return Program(name, Sort.OTHER)


def _without_version(name: str) -> str:
    return name.rstrip("0123456789.") if name not in INTERPRETERS else name


def _agent(name: str, script: str) -> str:
    if name in _AGENTS:
        return _AGENTS[name]
    if PurePosixPath(script).name in _AGENTS:
        return _AGENTS[PurePosixPath(script).name]
    for part, kind in _AGENT_PATHS.items():
        if part in script:
            return kind
    return ""


def _script(args: list[str]) -> str:
    """The first argument that is no option."""
    return next((a for a in args if a and not a.startswith("-")), "")


def _runs_something(args: list[str]) -> bool:
    """Whether it was given a script or command, and does not prompt after it."""
    flags = [a for a in args if a.startswith("-") and not a.startswith("--")]
    if any("i" in flag for flag in flags):
        return False
    return bool(_script(args)) or any(flag in ("-c", "-m", "-e") for flag in flags)


def _foreground_group(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[5]) if len(fields) > 5 and int(fields[5]) > 0 else 0


def _group(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[2]) if len(fields) > 2 else -1


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, ppid, pgrp, session, tty, tpgid, …"""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _cmdline(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return (
        [part.decode("utf-8", "replace") for part in raw.rstrip(b"\0").split(b"\0")] if raw else []
    )


def _tree(pid: int, most: int = 200) -> list[int]:
    """The process and its descendants, breadth first."""
    found = [pid]
    for parent in found:
        if len(found) >= most:
            break
        for task in _children_files(parent):
            found.extend(int(child) for child in task.split())
    return found


def _children_files(pid: int) -> list[str]:
    try:
        return [p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
