"""What runs in the foreground of a pane, read from /proc: a shell, a known agent, something else.
The names are data: screens/*.toml.

A shell or an interpreter at its prompt would run whatever is typed. One that was started with a
script or a command is a program of its own, and so is judged by --kind.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import Enum

from orch_client.courier import kinds

#: Options of shells and interpreters whose value is the next argument.
_VALUED = frozenset(
    {"--rcfile", "--init-file", "-O", "+O", "-o", "+o", "-X", "-W", "--check-hash-based-pycs"}
    | {"-r", "--require", "--import", "--loader", "-C", "--conditions", "--experimental-loader"}
    | {"-I", "-L", "-l"}
)
_COMMANDS = frozenset({"-c", "-m", "-e", "-p", "--eval", "--print", "--command"})
_OWN = frozenset({"orch-client", "orch_client"})
_STAYING = frozenset({"heartbeat", "run"})
_STOPPED = (["T"], ["t"])
_STACK = 25  # in what _stat returns


class Sort(Enum):
    """How text may reach a program."""

    PROMPT = "prompt"  # a shell or interpreter: shown, never typed
    CLIENT = "client"  # our own client in the foreground: shown
    AGENT = "agent"  # a known agent: typed
    OTHER = "other"  # typed only into a pane registered with a kind


@dataclass(frozen=True, slots=True)
class Program:
    """The program in the foreground. `agent` is its kind when it is a known one; a `wrapper` is a
    shell that runs a script or command, or our own `run`. `image` names the process and what it
    executes: another exec in the same process is another image; "0" when it is not known."""

    name: str
    sort: Sort
    agent: str = ""
    wrapper: bool = False
    image: str = "0"
    stopped: bool = False


def foreground(pane_pid: int, fallback: str) -> Program:
    """The program in the foreground of the pane whose first process is `pane_pid`.

    A known agent anywhere in the foreground group counts; else the first process that is more than
    a wrapper. `fallback` is what tmux calls the command, for when /proc does not tell.
    """
    group = _foreground_group(pane_pid)
    members = [pid for pid in _tree(pane_pid) if _group(pid) == group]
    if group and group not in members:
        members.insert(0, group)
    programs = [_program(pid, line) for pid in members if (line := _cmdline(pid))]
    for program in programs:
        if program.sort is Sort.AGENT:
            return program
    for program in programs:
        if not program.wrapper:
            return program
    return programs[0] if programs else classify([fallback])


def again(program: Program) -> Program | None:
    """The same program as it is now: stopped or not. None when its process has ended or runs
    something else; then it takes `foreground` to tell."""
    pid, _, stack = program.image.partition(".")
    fields = _stat(int(pid)) if stack else []
    if len(fields) <= _STACK or fields[_STACK] != stack:
        return None
    return replace(program, stopped=fields[:1] in _STOPPED)


def _program(pid: int, cmdline: list[str]) -> Program:
    fields = _stat(pid)
    # The start of the stack is new with each exec (proc(5): startstack); 0 when it is not ours.
    stack = fields[_STACK] if len(fields) > _STACK else "0"
    return replace(classify(cmdline), image=f"{pid}.{stack}", stopped=fields[:1] in _STOPPED)


def is_prompt(pid: int) -> bool:
    """Whether this process is a shell or interpreter with a prompt, in the foreground or not."""
    line = _cmdline(pid)
    return bool(line) and classify(line).sort is Sort.PROMPT


def classify(cmdline: list[str]) -> Program:
    """Judges one command line."""
    name = _name(cmdline[0]).lstrip("-") if cmdline else ""
    words = kinds.load()["shell"].words
    prompts, shells = words["prompts"], words["shells"]
    family = name if name in words["interpreters"] | prompts else name.rstrip("0123456789.")
    agent = kinds.agent_named(name, cmdline[0] if cmdline else "")
    if agent is not None:
        return Program(name, Sort.AGENT, agent.name)
    if family in prompts:
        return Program(name, Sort.PROMPT)
    if family not in shells | words["interpreters"]:
        return _own(name, cmdline[1:]) or Program(name, Sort.OTHER)
    script, asks = _script(cmdline[1:], family in shells)
    if asks or not script:
        return Program(name, Sort.PROMPT)
    return _of_script(script, cmdline, family in shells)


def _of_script(script: str, cmdline: list[str], by_shell: bool) -> Program:
    """A shell or interpreter that runs a script or a command."""
    name = _name(script) or script
    agent = kinds.agent_named(name, script)
    if agent is not None:
        return Program(name, Sort.AGENT, agent.name)
    own = _own(name, cmdline[cmdline.index(script) + 1 :])
    return own or Program(name, Sort.OTHER, wrapper=by_shell)


def _own(name: str, args: list[str]) -> Program | None:
    """Our own client, when it is one that stays in the foreground."""
    if name not in _OWN or not args or args[0] not in _STAYING:
        return None
    return Program("orch-client", Sort.CLIENT, wrapper=args[0] == "run")


def _script(args: list[str], shell: bool) -> tuple[str, bool]:
    """What a shell or interpreter was told to run, "" for nothing, and whether it prompts after it.

    Only the options before the script are its own. An option that is not known to take a value
    takes none.
    """
    prompts = False
    at = 0
    while at < len(args):
        arg = args[at]
        if arg in _COMMANDS and not (shell and arg == "-e"):
            return (args[at + 1] if at + 1 < len(args) else ""), prompts
        if arg in _VALUED and not (shell and arg in ("-r", "-l", "-I", "-L", "-C")):
            at += 2
            continue
        if not arg.startswith(("-", "+")):
            return arg, prompts
        if arg.startswith("-") and not arg.startswith("--"):
            prompts = prompts or "i" in arg
            if shell and "c" in arg:  # -lc COMMAND
                return (args[at + 1] if at + 1 < len(args) else ""), prompts
        at += 1
    return "", prompts


def _foreground_group(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[5]) if len(fields) > 5 and int(fields[5]) > 0 else 0


def _group(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[2]) if len(fields) > 2 else -1


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, ppid, pgrp, session, tty, tpgid, …"""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            text = file.read()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _cmdline(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read()
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
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.append(file.read())
    except OSError:
        return []
    return found


def _name(path: str) -> str:
    return os.path.basename(path.rstrip("/"))
