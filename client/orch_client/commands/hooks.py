"""`hooks`: puts our hooks into Claude Code's settings, takes them out, shows them.

Everything else in the file keeps its value, in its order; the file is replaced whole or not at all.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orch_client import output
from orch_client.commands import gate
from orch_client.commands.hook import TELLS
from orch_client.errors import ClientError

EXAMPLES = """examples:
  orch-client hooks install                                 for this project, this person
  orch-client hooks install --file ~/.claude/settings.json  for all projects of this person
  orch-client hooks show --json
  orch-client hooks uninstall
  orch-client hooks install --gate                          have each use of a tool checked

An agent that runs already takes the hooks up when it starts anew.
"""
_ACTIONS = ("install", "uninstall", "show")
_DEFAULT = ".claude/settings.local.json"
_TIMEOUT = 10
#: Each ends before the next: the gate by itself, by `timeout`, by Claude Code, which then lets the
#: tool run. Whatever becomes of the client, the shell makes 2 of it, which blocks.
GATE = "timeout -k 1 290 orch-client gate || exit 2"
_GATE_TIMEOUT = 300
_GATE_ENDS = ["||", "exit", "2"]
_PLAIN = re.compile(r"[\w.,:=/-]+")
_INDENT = re.compile(r"^\{\r?\n([ \t]+)\S")


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("action", metavar="install|uninstall|show", choices=_ACTIONS)
    parser.add_argument("--file", default=_DEFAULT, help=f"the settings; default: ./{_DEFAULT}")
    parser.add_argument("--json", action="store_true", help="print the hooks as JSON")
    parser.add_argument(
        "--gate", action="store_true", help="only the gate, which checks each use of a tool"
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    path = Path(os.path.realpath(Path(args.file).expanduser()))  # what a link points to
    try:
        return _edit(path, args)
    except OSError as exc:
        raise ClientError(f"{path}: {exc.strerror}; nothing was changed.") from exc


def _edit(path: Path, args: argparse.Namespace) -> int:
    text = _read(path)
    settings = _parse(path, text)
    before = json.dumps(settings)
    if args.action != "show":
        (install if args.action == "install" else uninstall)(settings, only_gate=args.gate)
        if json.dumps(settings) != before:
            _write(path, _format(settings, text))
    if args.action == "install" and shutil.which("orch-client") is None:
        say = (
            "orch-client is not on the PATH here, and the hooks call it by that name; put it there."
        )
        print(f"orch-client: {say}", file=sys.stderr)
    _show(path, settings, args)
    return 0


def install(settings: dict[str, Any], *, only_gate: bool) -> None:
    """Adds what of our hooks is missing: those that tell and take, or the gate."""
    hooks = settings.setdefault("hooks", {})
    there = {event for event, _, _ in _ours(settings, only_gate=only_gate)}
    for event in [gate.EVENT] if only_gate else TELLS:
        if event not in there:
            hooks.setdefault(event, []).append(_made(event))


def _made(event: str) -> dict[str, Any]:
    if event == gate.EVENT:
        entry = {"type": "command", "command": GATE, "timeout": _GATE_TIMEOUT}
        return {"matcher": "*", "hooks": [entry]}
    entry = {"type": "command", "command": f"orch-client hook {event}", "timeout": _TIMEOUT}
    return {"hooks": [entry]}


def uninstall(settings: dict[str, Any], *, only_gate: bool) -> None:
    """Takes our hooks out, or only the gate, and what is empty without them."""
    for event, group, entry in list(_ours(settings, only_gate=only_gate)):
        groups = settings["hooks"][event]
        group["hooks"].remove(entry)
        if not group["hooks"]:
            groups.remove(group)
        if not groups:
            del settings["hooks"][event]
        if not settings["hooks"]:
            del settings["hooks"]


def _ours(
    settings: dict[str, Any], *, only_gate: bool = False
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Event, group and entry of each hook that is ours; with `only_gate` of each gate."""
    for event, groups in settings.get("hooks", {}).items():
        for group in groups:
            for entry in group["hooks"]:
                command = entry.get("command")
                if (event == gate.EVENT and is_gate(command)) or (
                    not only_gate and is_ours(command)
                ):
                    yield event, group, entry


def is_ours(command: object) -> bool:
    """Whether a hook's command calls `orch-client hook`, wherever it is installed."""
    words = _words(command)
    return len(words) == 3 and _is_client(words[0]) and words[1] == "hook"


def is_gate(command: object) -> bool:
    """Whether a hook's command is the gate in the form that blocks whatever happens: with a time
    limit, and with exit status 2 at every failure. What lacks one of them is none of ours."""
    words = _words(command)
    inner = words[:-3]
    if words[-3:] != _GATE_ENDS or not all(map(_PLAIN.fullmatch, inner)):
        return False
    at = next((number for number, word in enumerate(inner) if _is_client(word)), 0)
    return at > 1 and os.path.basename(inner[0]) == "timeout" and inner[at + 1 : at + 2] == ["gate"]  # noqa: PTH119


def _is_client(word: str) -> bool:
    return os.path.basename(word) == "orch-client"  # noqa: PTH119


def _words(command: object) -> list[str]:
    """The words of a command without the variables before it, such as ORCH_HOME; none of what is
    no command."""
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return []
    while words and "=" in words[0]:
        words.pop(0)
    return words


def _read(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ClientError(f"{path} is no file; nothing was changed.")
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as exc:
        raise ClientError(f"{path} is not valid UTF-8; nothing was changed.") from exc


def _parse(path: Path, text: str) -> dict[str, Any]:
    """The settings, of a shape that we know. Raises ClientError for any other."""
    try:
        settings = json.loads(text, object_pairs_hook=_each_key_once) if text.strip() else {}
        json.dumps(settings, allow_nan=False)
    except RecursionError as exc:
        raise ClientError(f"{path} is nested too deeply; nothing was changed.") from exc
    except ValueError as exc:
        raise ClientError(f"{path} is no valid JSON ({exc}); nothing was changed.") from exc
    problem = _problem(settings)
    if problem:
        raise ClientError(f"{path}: {problem}; nothing was changed.")
    return dict(settings)


def _problem(settings: object) -> str:
    """What is not as Claude Code has it; "" when all is."""
    if not isinstance(settings, dict):
        return "the settings are no JSON object"
    hooks = settings.get("hooks", {})
    if not isinstance(hooks, dict):
        return "'hooks' is no object"
    for event, groups in hooks.items():
        if not isinstance(groups, list):
            return f"'hooks.{output.one_line(event)}' is no array"
        for group in groups:
            entries = group.get("hooks") if isinstance(group, dict) else None
            if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
                return f"'hooks.{output.one_line(event)}' has an entry without an array 'hooks'"
    return ""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _format(settings: dict[str, Any], before: str) -> str:
    """As the file was written before; two blanks a level when it is new."""
    indent = _INDENT.match(before)
    shown = json.dumps(settings, indent=indent[1] if indent else 2, ensure_ascii=False)
    shown = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", shown)
    return shown if before and not before.endswith("\n") else f"{shown}\n"


def _write(path: Path, text: str) -> None:
    """Replaces the file in one step; its mode stays. Raises OSError for one that is read-only."""
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _show(path: Path, settings: dict[str, Any], args: argparse.Namespace) -> None:
    found = {
        event: entry
        for event, _, entry in _ours(settings, only_gate=args.gate)
        if event != gate.EVENT or is_gate(entry.get("command"))
    }
    if args.json:
        print(json.dumps({"file": str(path), "hooks": found}, indent=2))
        return
    print(path)
    rows = [
        (
            event,
            "installed" if event in found else "missing",
            found.get(event, {}).get("command", ""),
        )
        for event in [*([] if args.gate else TELLS), gate.EVENT]
    ]
    output.print_table(("EVENT", "STATE", "COMMAND"), rows, "")
