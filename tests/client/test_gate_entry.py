"""Which entries of Claude Code's settings are the gate, and which only look like it."""

from __future__ import annotations

from typing import Any

import pytest

from orch_client.commands import gate_entry

GATE = gate_entry.COMMAND
TUNED = "ORCH_HOME=/srv/orch timeout -k 1 50 '/opt/bin/orch-client' gate --deadline 40 || exit 2"


def _entry(**changes: Any) -> dict[str, Any]:
    return {"type": "command", "command": GATE, "timeout": 300, **changes}


def _judged(group: dict[str, Any], entry: dict[str, Any]) -> str:
    is_whole, is_unsafe = gate_entry.is_whole(group, entry), gate_entry.is_unsafe(group, entry)
    assert not (is_whole and is_unsafe)
    return "whole" if is_whole else "unsafe" if is_unsafe else "other"


@pytest.mark.parametrize(
    "command",
    [
        GATE,
        TUNED,
        " timeout  -k 1  290 orch-client gate  ||  exit 2 ",
        "/usr/bin/timeout --kill-after=1 290 orch-client gate || exit 2",
        "timeout -k 0.5 299.4 orch-client gate --deadline=299 || exit 2",
        "A= B='x y' PATH=/bin:$PATH timeout -k 1 290 ~/bin/orch-client gate || exit 2",
        'C="$HOME/or ch" timeout -k 1 290 ~/bin/orch-client gate || exit 2',
        'timeout -k 1 290 "/a b/orch-client" gate || exit 2',
    ],
)
def test_the_gate_is_what_blocks_whatever_happens(command: str) -> None:
    assert _judged({}, _entry(command=command)) == "whole"


@pytest.mark.parametrize(
    "command",
    [
        "orch-client gate",
        "orch-client gate || exit 2",
        "'/opt/bin/orch-client' gate || exit 2",
        "timeout -k 1 290 orch-client gate",
        "timeout -k 1 290 orch-client gate || exit 1",
        "timeout -k 1 290 orch-client gate || exit\n2",
        "timeout -k 1 290 orch-client gate '||' exit 2",
        "timeout -k 1 290 orch-client gate || true || exit 2",
        "timeout -k 1 290 orch-client gate; true || exit 2",
        "timeout -k 1 290 orch-client gate --json || exit 2",
        "timeout -k 1 290 orch-client gate < call.json || exit 2",
        "timeout -k 1 290 orch-client gate || exit 2 &",
        "timeout -k 1 290 orch-client gate || exit 2 # 3",
        "timeout -k 1 290 timeout 9 orch-client gate || exit 2",
        "timeout --foreground -k 1 290 orch-client gate || exit 2",
        "timeout -p -k 1 290 orch-client gate || exit 2",
        "timeout -s STOP -k 1 290 orch-client gate || exit 2",
        "timeout 290 orch-client gate || exit 2",
        "timeout orch-client gate || exit 2",
        "timeout -k 1 5m orch-client gate || exit 2",
        "timeout -k 0 290 orch-client gate || exit 2",
        "timeout -k 1 0 orch-client gate || exit 2",
        "timeout -k 1 280 orch-client gate || exit 2",
        "timeout -k 10 290 orch-client gate || exit 2",
        "timeout -k 1 299 orch-client gate || exit 2",
        "timeout -k 1 50 orch-client gate || exit 2",
        "timeout -k 1 50 orch-client gate --deadline 50 || exit 2",
        "timeout -k 1 50 orch-client gate --deadline 0 || exit 2",
        "timeout -k 1 9000 orch-client gate --deadline 8000 || exit 2",
        "true || timeout -k 1 290 orch-client gate || exit 2",
        "timeout -k 1 290 true $(orch-client gate) || exit 2",
        "timeout -k 1 290 $HOME/bin/orch-client gate || exit 2",
        "X=$(exit) timeout -k 1 290 orch-client gate || exit 2",
        "X=${Y?} timeout -k 1 290 orch-client gate || exit 2",
        'X="${}" timeout -k 1 290 orch-client gate || exit 2',
        "timeout 'unclosed orch-client gate || exit 2",
        "sh -c 'timeout -k 1 290 orch-client gate || exit 2'",
    ],
)
def test_what_calls_the_gate_in_another_form_is_unsafe(command: str) -> None:
    assert _judged({}, _entry(command=command)) == "unsafe"


@pytest.mark.parametrize(
    "command",
    [
        "timeout -k 1 290 orch-client hook gate || exit 2",
        "timeout -k 1 290 my-orch-client gate || exit 2",
        "orch-client gate-keeper",
        "orch-client hook PreToolUse",
        "|| exit 2",
        "",
        7,
        None,
    ],
)
def test_what_does_not_call_the_gate_is_none(command: object) -> None:
    assert _judged({}, _entry(command=command)) == "other"


@pytest.mark.parametrize(
    ("matcher", "judged"),
    [
        ("", "whole"),
        ("*", "whole"),
        (".*", "unsafe"),
        ("Bash|Write|Edit", "unsafe"),
        (None, "unsafe"),
        (["*"], "unsafe"),
    ],
)
def test_the_gate_is_called_for_every_tool(matcher: object, judged: str) -> None:
    assert _judged({"matcher": matcher}, _entry()) == judged


@pytest.mark.parametrize(
    ("changes", "judged"),
    [
        ({"async": False, "statusMessage": "asks"}, "whole"),
        ({"timeout": 291.5}, "whole"),
        ({"timeout": 291}, "unsafe"),
        ({"timeout": 60}, "unsafe"),
        ({"timeout": 0}, "unsafe"),
        ({"timeout": True}, "unsafe"),
        ({"timeout": "300"}, "unsafe"),
        ({"timeout": None}, "unsafe"),
        ({"async": True}, "unsafe"),
        ({"async": "yes"}, "unsafe"),
        ({"asyncRewake": True}, "unsafe"),
        ({"if": "Bash(git *)"}, "unsafe"),
        ({"args": ["gate"]}, "unsafe"),
        ({"command": "orch-client", "args": ["gate"]}, "unsafe"),
        ({"type": "prompt"}, "unsafe"),
    ],
)
def test_nothing_in_the_entry_may_let_a_call_through(changes: dict[str, Any], judged: str) -> None:
    assert _judged({"matcher": "*"}, _entry(**changes)) == judged


@pytest.mark.parametrize(("limit", "judged"), [(598, "whole"), (599, "unsafe")])
def test_without_a_timeout_it_is_claude_codes_own(limit: int, judged: str) -> None:
    entry = {"type": "command", "command": f"timeout -k 1 {limit} orch-client gate || exit 2"}
    assert _judged({}, entry) == judged
