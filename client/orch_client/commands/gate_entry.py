"""Which entries of Claude Code's settings are the gate: only one that blocks whatever becomes of
the client. Claude Code lets the tool run when a hook ends with anything but 2, or not in time.

Pure rules; the settings are read and written by `hooks`.
"""

from __future__ import annotations

import re
from typing import Any

from orch_client.commands import gate

#: Each limit ends before the next: the gate by itself, by `timeout`, by Claude Code. Whatever
#: status is left, the shell makes 2 of it, which blocks.
COMMAND = "timeout -k 1 290 orch-client gate || exit 2"
TIMEOUT = 300
#: What Claude Code takes where an entry names none, in seconds.
_DEFAULT_TIMEOUT = 600
#: Others may narrow when it is called (`if`), or how: not by the shell (`args`), not waited for.
_KEYS = {"type", "command", "timeout", "async", "statusMessage"}

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
#: What the shell takes as it is; in a variable's value it may put another one's.
_PLAIN = r"[\w.,:/=@%+~-]"
_VALUE = rf"(?:(?:{_PLAIN}|\$)*|'[^'\n]*'|\"(?:{_PLAIN}|[ $])*\")"
_PATH = rf"(?:{_PLAIN}*/)?"
_CLIENT = rf"(?:{_PATH}orch-client|'(?:[^'\n]*/)?orch-client'|\"(?:(?:{_PLAIN}| )*/)?orch-client\")"
_WHOLE = re.compile(
    rf" *(?:[A-Za-z_]\w*={_VALUE} +)*{_PATH}timeout +(?:-k +|--kill-after=){_NUMBER} +{_NUMBER}"
    rf" +{_CLIENT} +gate(?: +--deadline[ =]{_NUMBER})? +\|\| +exit +2 *"
)
_CALL = re.compile(r"(?<![\w.-])orch-client['\"]?\s+['\"]?gate(?![\w-])")


def made() -> dict[str, Any]:
    """The group that `install` adds: the gate, for every tool."""
    entry = {"type": "command", "command": COMMAND, "timeout": TIMEOUT}
    return {"matcher": "*", "hooks": [entry]}


def is_whole(group: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Whether an entry of PreToolUse is called for every tool, and blocks when it fails."""
    return (
        group.get("matcher", "*") in ("", "*")
        and entry.get("type") == "command"
        and entry.get("async", False) is False
        and entry.keys() <= _KEYS
        and _blocks_in_time(entry.get("command"), entry.get("timeout", _DEFAULT_TIMEOUT))
    )


def is_unsafe(group: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Whether an entry of PreToolUse calls the gate, but may let a tool run when it fails, or is
    not called for every tool."""
    args = entry.get("args")
    words = [entry.get("command"), *(args if isinstance(args, list) else [])]
    called = " ".join(word for word in words if isinstance(word, str))
    return _CALL.search(called) is not None and not is_whole(group, entry)


def _blocks_in_time(command: object, timeout: object) -> bool:
    """Whether each limit ends before the next. 0 is none for `timeout`."""
    found = _WHOLE.fullmatch(command) if isinstance(command, str) else None
    if found is None or isinstance(timeout, bool) or not isinstance(timeout, int | float):
        return False
    kill, limit, deadline = (float(number or gate.DEADLINE) for number in found.groups())
    return kill > 0 and 0 < deadline < limit and limit + kill < timeout
