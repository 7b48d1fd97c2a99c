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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from orch_client import output
from orch_client.commands import gate, gate_entry
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
_SHOWN = 500
_INDENT = re.compile(r"^\{\r?\n([ \t]+)\S")

#: Event, group and entry of a hook.
_Found = tuple[str, dict[str, Any], dict[str, Any]]


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
    _warn(path, settings, args.action)
    _show(path, settings, args)
    return 0


def _warn(path: Path, settings: dict[str, Any], action: str) -> None:
    if action == "install" and shutil.which("orch-client") is None:
        say = (
            "orch-client is not on the PATH here, and the hooks call it by that name; put it there."
        )
        print(f"orch-client: {say}", file=sys.stderr)
    if action != "uninstall" and settings.get("disableAllHooks", False) is not False:
        say = "disableAllHooks stands in it, so that Claude Code calls no hook; take it out."
        print(f"orch-client: {path}: {say}", file=sys.stderr)


def install(settings: dict[str, Any], *, only_gate: bool) -> None:
    """Adds what of our hooks is missing: those that tell and take, or the gate, in place of each
    that is unsafe."""
    if only_gate:
        _remove(settings, _gates(settings, gate_entry.is_unsafe))
    hooks = settings.setdefault("hooks", {})
    there = {event for event, _, _ in _ours(settings, only_gate=only_gate)}
    for event in [gate.EVENT] if only_gate else TELLS:
        if event not in there:
            hooks.setdefault(event, []).append(_made(event))


def _made(event: str) -> dict[str, Any]:
    if event == gate.EVENT:
        return gate_entry.made()
    entry = {"type": "command", "command": f"orch-client hook {event}", "timeout": _TIMEOUT}
    return {"hooks": [entry]}


def uninstall(settings: dict[str, Any], *, only_gate: bool) -> None:
    """Takes our hooks out, or only the gate, an unsafe one as well, and what is empty without."""
    _remove(settings, _gates(settings, gate_entry.is_unsafe))
    _remove(settings, _ours(settings, only_gate=only_gate))


def _remove(settings: dict[str, Any], entries: Iterable[_Found]) -> None:
    for event, group, entry in list(entries):
        groups = settings["hooks"][event]
        group["hooks"].remove(entry)
        if not group["hooks"]:
            groups.remove(group)
        if not groups:
            del settings["hooks"][event]
        if not settings["hooks"]:
            del settings["hooks"]


def _ours(settings: dict[str, Any], *, only_gate: bool = False) -> Iterator[_Found]:
    """Each hook that is ours, the whole gate among them; with `only_gate` that one alone."""
    yield from _gates(settings, gate_entry.is_whole)
    if not only_gate:
        for event, group, entry in _entries(settings):
            if is_ours(entry.get("command")):
                yield event, group, entry


def _gates(settings: dict[str, Any], are: Callable[..., bool]) -> Iterator[_Found]:
    """Each entry that calls the gate before a tool is used and is as `are` says."""
    for event, group, entry in _entries(settings):
        if event == gate.EVENT and are(group, entry):
            yield event, group, entry


def _entries(settings: dict[str, Any]) -> Iterator[_Found]:
    for event, groups in settings.get("hooks", {}).items():
        for group in groups:
            for entry in group["hooks"]:
                yield event, group, entry


def is_ours(command: object) -> bool:
    """Whether a hook's command calls `orch-client hook`, wherever it is installed."""
    words = _words(command)
    return (
        len(words) == 3
        and os.path.basename(words[0]) == "orch-client"  # noqa: PTH119
        and words[1] == "hook"
    )


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
    whole = {event: entry for event, _, entry in _gates(settings, gate_entry.is_whole)}
    unsafe = [entry for _, _, entry in _gates(settings, gate_entry.is_unsafe)]
    telling = {
        event: entry
        for event, _, entry in _entries(settings)
        if not args.gate and event != gate.EVENT and is_ours(entry.get("command"))
    }
    if args.json:
        shown = {"file": str(path), "hooks": {**telling, **whole}, "unsafe": unsafe}
        print(json.dumps(shown, indent=2))
        return
    print(path)
    rows = [_row(event, telling.get(event)) for event in ([] if args.gate else TELLS)]
    if whole or not unsafe:
        rows.append(_row(gate.EVENT, whole.get(gate.EVENT)))
    rows += [_row(gate.EVENT, entry, "unsafe") for entry in unsafe]
    output.print_table(("EVENT", "STATE", "COMMAND"), rows, "")


def _row(
    event: str, entry: dict[str, Any] | None, state: str = "installed"
) -> tuple[str, str, str]:
    command = (entry or {}).get("command", "")
    return event, state if entry else "missing", output.one_line(str(command), _SHOWN)
