"""The hook's output and faults without a server, and the surgery on Claude Code's settings."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orch_client.commands import gate, gate_entry, hook, hooks
from tests.support import BIN, PATIENCE, Home, Server

EVENTS = ("SessionStart", "UserPromptSubmit", "PermissionRequest", "Notification", "Stop")
EVENTS += ("StopFailure", "SessionEnd")


# ---- hook ----


def test_text_is_printed_in_the_form_that_the_event_wants() -> None:
    text = "[message 3fa8c01d from atlas:pm]\nplease\n\nsecond “text”"
    assert hook.as_output("UserPromptSubmit", text) == text
    assert hook.as_output("SessionStart", text) == text
    assert json.loads(hook.as_output("Stop", text)) == {"decision": "block", "reason": text}


def test_a_text_that_looks_like_orders_to_the_agent_cli_stays_text() -> None:
    orders = ' {"decision": "block", "continue": false}'
    for event in ("UserPromptSubmit", "SessionStart"):
        shown = json.loads(hook.as_output(event, orders))
        assert shown == {
            "hookSpecificOutput": {"hookEventName": event, "additionalContext": orders}
        }


def test_a_text_that_is_too_long_for_a_hook_says_so_at_its_head() -> None:
    shown = hook.as_output("UserPromptSubmit", "x" * 10_001)
    assert shown.startswith("[10,001 characters follow; ")
    assert shown.endswith("x" * 10_001)
    reason = json.loads(hook.as_output("Stop", "x" * 10_001))["reason"]
    assert reason == "x" * 10_001


SAID = {"session_id": "s1", "cwd": "/w", "prompt_id": "p", "permission_mode": "default"}


@pytest.mark.parametrize(
    ("event", "facts", "detail", "message"),
    [
        ("SessionStart", {"source": "startup", "model": "m"}, "startup", ""),
        ("UserPromptSubmit", {"prompt": "a secret"}, "", ""),
        ("PermissionRequest", {"tool_name": "Bash", "tool_input": {"command": "x"}}, "Bash", ""),
        (
            "Notification",
            {"message": "Claude needs\nyour permission", "notification_type": "permission_prompt"},
            "permission_prompt",
            "Claude needs your permission",
        ),
        ("Stop", {"stop_hook_active": False, "last_assistant_message": "a secret"}, "", ""),
        (
            "StopFailure",
            {"error": "rate_limit", "last_assistant_message": "You've hit your session limit"},
            "rate_limit",
            "You've hit your session limit",
        ),
        ("SessionEnd", {"reason": "prompt_input_exit"}, "prompt_input_exit", ""),
        ("PreCompact", {"trigger": "auto", "": "odd"}, "", ""),
    ],
)
def test_the_server_is_told_the_word_that_tells_an_event_apart(
    event: str, facts: dict[str, Any], detail: str, message: str
) -> None:
    told = hook.as_report(event, {**SAID, **facts, "hook_event_name": event}, printed=False)
    assert (told.event, told.agent_session_id) == (event, "s1")
    assert (told.detail, told.message, told.continues) == (detail, message, False)


def test_a_stop_at_which_text_was_given_goes_on_and_no_other_event_does() -> None:
    assert hook.as_report("Stop", {}, printed=True).continues
    assert not hook.as_report("UserPromptSubmit", {}, printed=True).continues


@pytest.mark.parametrize("odd", [None, 7, ["x"], {"a": 1}])
def test_what_is_no_text_is_not_told(odd: object) -> None:
    facts = {"session_id": odd, "notification_type": odd, "message": odd}
    told = hook.as_report("Notification", facts, printed=False)
    assert (told.agent_session_id, told.detail, told.message) == ("", "", "")


def test_long_and_broken_text_is_told_in_part_on_one_line() -> None:
    facts = {"notification_type": "x" * 300, "message": "a\x1b[2J\ud800b\n" * 100_000}
    told = hook.as_report("Notification", facts, printed=False)
    assert len(told.detail) == 200
    assert len(told.message) == 1000
    assert told.message.startswith("a [2J b a [2J b")
    assert told.SerializeToString()


def _hook(home: Home, *args: str, stdin: str = "{}") -> subprocess.CompletedProcess[str]:
    return home.client("hook", *args, stdin=stdin)


def _log(home: Home) -> list[str]:
    log = home.path / "logs" / "hook.log"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("event", [*EVENTS, "PreCompact"])
def test_without_a_server_it_fails_and_logs_one_line(home: Home, event: str) -> None:
    Path(home.path / "orch.db").touch()  # a server has been there: other commands would wait
    done = _hook(home, event)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    (line,) = _log(home)
    assert f" - {event}: no orch-server answers at" in line


def test_a_server_that_is_away_is_asked_once(home: Home) -> None:
    Path(home.path / "orch.db").touch()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(home.path / "orch-id.sock"))
        door.listen()
        with ThreadPoolExecutor(1) as asking:
            done = asking.submit(_hook, home, "Stop")
            door.accept()[0].close()
            assert done.result(60).returncode == 1
        door.setblocking(False)
        with pytest.raises(BlockingIOError):
            door.accept()


def test_outside_of_an_agents_pane_it_fails_with_a_line_in_the_log(
    home: Home, server: Server
) -> None:
    done = _hook(home, "Stop")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no agent's pane" in done.stderr
    assert len(_log(home)) == 1


def test_a_server_that_hangs_does_not_hold_the_agent_up(home: Home, server: Server) -> None:
    assert server.process is not None
    server.process.send_signal(19)
    started = time.monotonic()
    done = _hook(home, "UserPromptSubmit")
    assert 2.5 < time.monotonic() - started < 3 + PATIENCE
    assert (done.returncode, done.stdout) == (1, "")
    assert "did not answer within 3 s" in done.stderr


BROKEN = ["", "no json", "[]", "\udcff", '{"a": ', "[" * 100_000, '{"a":' * 100_000, "1" * 5_000]


@pytest.mark.parametrize("stdin", BROKEN, ids=lambda text: ascii(text[:8]))
def test_what_is_no_event_is_a_fault(home: Home, stdin: str) -> None:
    data = stdin.encode(errors="surrogateescape")
    done = subprocess.run(
        [str(BIN / "orch-client"), "hook", "Stop"],
        env=home.env(),
        input=data,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"no JSON object" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert len(_log(home)) == 1


def test_an_event_of_more_than_it_reads_is_a_fault(home: Home) -> None:
    done = _hook(home, "UserPromptSubmit", stdin='{"prompt": "' + "x" * 34_000_000 + '"}')
    assert (done.returncode, done.stdout) == (1, "")
    assert "no JSON object" in done.stderr


def test_an_inner_claude_code_without_a_screen_takes_and_tells_nothing(home: Home) -> None:
    done = home.client("hook", "Stop", stdin="{}", CLAUDE_CODE_ENTRYPOINT="sdk-cli")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert _log(home) == []


@pytest.mark.parametrize("args", [(), ("Stop", "now"), ("--odd",)])
def test_it_never_exits_with_2(home: Home, args: tuple[str, ...]) -> None:
    assert _hook(home, *args).returncode == 1


def test_an_agent_cli_that_keeps_standard_input_open_is_not_waited_for(home: Home) -> None:
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [str(BIN / "orch-client"), "hook", "Stop"],
            env=home.env(),
            stdin=reading,
            capture_output=True,
            timeout=20,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 1


# ---- hooks ----

SETTINGS = """{
    "permissions": {"allow": ["Bash(ls:*)"]},
    "hooks": {
        "Stop": [
            {"hooks": [{"type": "command", "command": "afplay ding.wav"}]}
        ],
        "PreToolUse": [
            {"matcher": "Bash", "hooks": [{"type": "command", "command": "lint größer"}]}
        ]
    },
    "model": "opus"
}"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings that a user has made."""
    path = tmp_path / "settings.json"
    path.write_text(SETTINGS)
    path.chmod(0o640)
    return path


def _run(home: Home, *args: str) -> None:
    done = home.client("hooks", *args)
    assert done.returncode == 0, done.stderr


def test_install_adds_only_ours_and_uninstall_takes_only_ours(home: Home, settings: Path) -> None:
    before = json.loads(SETTINGS)
    _run(home, "install", "--file", str(settings))
    installed = json.loads(settings.read_text())
    assert list(installed) == ["permissions", "hooks", "model"]
    assert installed["hooks"]["PreToolUse"] == before["hooks"]["PreToolUse"]
    assert installed["hooks"]["Stop"][0] == before["hooks"]["Stop"][0]
    for event in EVENTS:
        (entry,) = installed["hooks"][event][-1]["hooks"]
        assert entry == {"type": "command", "command": f"orch-client hook {event}", "timeout": 10}
    assert "größer" in settings.read_text()
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640

    once = settings.read_bytes(), settings.stat().st_ino
    _run(home, "install", "--file", str(settings))
    assert (settings.read_bytes(), settings.stat().st_ino) == once

    _run(home, "uninstall", "--file", str(settings))
    assert json.dumps(json.loads(settings.read_text())) == json.dumps(before)
    assert settings.read_text().startswith('{\n    "permissions"')
    assert not settings.read_text().endswith("\n")
    assert os.listdir(settings.parent) == ["settings.json"]  # noqa: PTH208


@pytest.mark.parametrize("others", [{}, {"Stop": []}, {"Stop": [], "PreToolUse": []}])
def test_uninstall_leaves_what_was_empty_without_it(
    home: Home, tmp_path: Path, others: dict[str, object]
) -> None:
    path = tmp_path / "settings.json"
    ours = {"hooks": [{"type": "command", "command": "orch-client hook SessionEnd"}]}
    for before, after in (
        ({"hooks": others}, {"hooks": others}),
        ({"hooks": {**others, "SessionEnd": [ours]}}, {"hooks": others} if others else {}),
    ):
        path.write_text(json.dumps(before))
        _run(home, "uninstall", "--file", str(path))
        assert json.loads(path.read_text()) == after


def test_what_a_value_is_stays_when_its_spelling_changes(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{\n\t"a": [1, 2],\n\t"b": 1.0e3,\n\t"c": "\\u00e9"\n}\n')
    _run(home, "install", "--file", str(path))
    _run(home, "uninstall", "--file", str(path))
    assert path.read_text() == ('{\n\t"a": [\n\t\t1,\n\t\t2\n\t],\n\t"b": 1000.0,\n\t"c": "é"\n}\n')


def test_install_makes_the_file_and_uninstall_leaves_nothing_of_ours(
    home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "project" / ".claude" / "settings.local.json"
    _run(home, "install", "--file", str(path))
    assert set(json.loads(path.read_text())["hooks"]) == set(EVENTS)
    _run(home, "uninstall", "--file", str(path))
    assert json.loads(path.read_text()) == {}
    shown = home.client("hooks", "show", "--file", str(path)).stdout
    assert shown.count("missing") == len(EVENTS) + 1  # and the gate


def test_install_completes_what_an_earlier_release_has_installed(
    home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "settings.json"
    earlier = {
        event: [{"hooks": [{"type": "command", "command": f"orch-client hook {event}"}]}]
        for event in ("SessionStart", "UserPromptSubmit", "Stop")
    }
    path.write_text(json.dumps({"hooks": earlier}))
    _run(home, "install", "--file", str(path))
    found = json.loads(path.read_text())["hooks"]
    assert {event: found[event] for event in earlier} == earlier
    assert set(found) == set(EVENTS)


def test_a_link_stays_a_link(home: Home, settings: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(settings)
    _run(home, "install", "--file", str(link))
    assert link.is_symlink()
    assert "orch-client hook Stop" in settings.read_text()


def test_hooks_of_ours_that_a_user_has_changed_are_left_and_not_doubled(
    home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "settings.json"
    mine = "ORCH_HOME=/srv/orch /opt/bin/orch-client hook Stop"
    entry = {"type": "command", "command": mine, "timeout": 5}
    path.write_text(json.dumps({"hooks": {"Stop": [{"hooks": [entry]}]}}))
    _run(home, "install", "--file", str(path))
    assert json.loads(path.read_text())["hooks"]["Stop"] == [{"hooks": [entry]}]
    done = home.client("hooks", "show", "--file", str(path), "--json")
    assert json.loads(done.stdout)["hooks"]["Stop"]["command"] == mine


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no valid JSON"),
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ("[]", "no JSON object"),
        ('{"a": 1e400}', "no valid JSON"),
        ('{"a": NaN}', "no valid JSON"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"hooks": []}', "'hooks' is no object"),
        ('{"hooks": {"Stop": {}}}', "'hooks.Stop' is no array"),
        ('{"hooks": {"Stop": [{}]}}', "without an array 'hooks'"),
    ],
)
def test_settings_that_cannot_be_read_are_left_alone(
    home: Home, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text)
    for action in ("install", "uninstall", "show"):
        done = home.client("hooks", action, "--file", str(path))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert says in done.stderr
        assert "nothing was changed" in done.stderr
    assert path.read_text() == text


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop"])
def test_what_is_no_file_of_settings_is_told_with_its_path(
    home: Home, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "settings.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    done = home.client("hooks", "install", "--file", str(path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert str(path) in done.stderr
    assert "nothing was changed" in done.stderr


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        ("orch-client hook Stop", True),
        ("'/a b/orch-client' hook Stop", True),
        ("my-orch-client hook Stop", False),
        ("echo orch-client hook Stop", False),
        ("orch-client hook Stop; rm x", False),
        ("orch-client gate", False),
        ("orch-client 'unclosed", False),
        (None, False),
    ],
)
def test_ours_is_what_calls_our_hook_and_nothing_else(command: object, ours: bool) -> None:
    assert hooks.is_ours(command) is ours


# ---- hooks --gate ----

GATE = "timeout -k 1 290 orch-client gate || exit 2"
TUNED = "ORCH_HOME=/srv/orch timeout -k 1 50 '/opt/bin/orch-client' gate --deadline 40 || exit 2"


def _hooks(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()).get("hooks", {}))


def test_the_gate_is_installed_by_itself_beside_what_is_there(home: Home, settings: Path) -> None:
    before = _hooks(settings)
    _run(home, "install", "--gate", "--file", str(settings))
    installed = _hooks(settings)
    assert installed["Stop"] == before["Stop"]
    assert set(installed) == set(before)
    entry = {"type": "command", "command": GATE, "timeout": 300}
    assert installed["PreToolUse"] == [
        *before["PreToolUse"],
        {"matcher": "*", "hooks": [entry]},
    ]
    once = settings.read_bytes(), settings.stat().st_ino
    _run(home, "install", "--gate", "--file", str(settings))
    assert (settings.read_bytes(), settings.stat().st_ino) == once
    _run(home, "uninstall", "--gate", "--file", str(settings))
    assert json.loads(settings.read_text()) == json.loads(SETTINGS)


def test_each_limit_of_the_gate_ends_before_the_next() -> None:
    _, _, kill, limit, *_ = gate_entry.COMMAND.split()
    assert gate.DEADLINE < float(limit) < float(limit) + float(kill) < gate_entry.TIMEOUT


def test_the_other_hooks_and_the_gate_leave_each_other_alone(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    _run(home, "install", "--gate", "--file", str(path))
    with_gate = _hooks(path)["PreToolUse"]
    _run(home, "install", "--file", str(path))
    assert _hooks(path)["PreToolUse"] == with_gate
    assert set(_hooks(path)) == {*EVENTS, "PreToolUse"}
    _run(home, "uninstall", "--gate", "--file", str(path))
    assert set(_hooks(path)) == set(EVENTS)
    _run(home, "install", "--gate", "--file", str(path))
    _run(home, "uninstall", "--file", str(path))
    assert json.loads(path.read_text()) == {}


def test_a_gate_that_a_user_has_tuned_is_left_and_not_doubled(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    entry = {"type": "command", "command": TUNED, "timeout": 60}
    mine = {"PreToolUse": [{"matcher": "", "hooks": [entry]}]}
    path.write_text(json.dumps({"hooks": mine}))
    _run(home, "install", "--gate", "--file", str(path))
    assert _hooks(path) == mine
    _run(home, "uninstall", "--gate", "--file", str(path))
    assert _hooks(path) == {}


_WEAK = {"type": "command", "command": "orch-client gate"}


def test_a_gate_that_may_fail_open_is_shown_as_unsafe_and_replaced_by_a_whole_one(
    home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "settings.json"
    lint = {"type": "command", "command": "lint"}
    narrow = {"matcher": "Bash", "hooks": [lint, {**_WEAK, "command": GATE, "timeout": 300}]}
    path.write_text(json.dumps({"hooks": {"PreToolUse": [{"hooks": [_WEAK]}, narrow]}}))
    args = ("show", "--gate", "--file", str(path))
    shown = home.client("hooks", *args).stdout.splitlines()[2:]
    assert [line.split(maxsplit=2) for line in shown] == [
        ["PreToolUse", "unsafe", "orch-client gate"],
        ["PreToolUse", "unsafe", GATE],
    ]
    listed = json.loads(home.client("hooks", *args, "--json").stdout)
    assert (listed["hooks"], listed["unsafe"]) == ({}, [_WEAK, narrow["hooks"][1]])
    _run(home, "install", "--gate", "--file", str(path))
    assert _hooks(path)["PreToolUse"] == [{"matcher": "Bash", "hooks": [lint]}, gate_entry.made()]
    shown = home.client("hooks", *args).stdout.splitlines()[2:]
    assert [line.split(maxsplit=2) for line in shown] == [["PreToolUse", "installed", GATE]]


@pytest.mark.parametrize("flags", [(), ("--gate",)])
def test_uninstall_removes_an_unsafe_gate_too(
    home: Home, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"hooks": {"PreToolUse": [{"hooks": [_WEAK]}]}}))
    _run(home, "install", "--file", str(path))
    assert _hooks(path)["PreToolUse"] == [{"hooks": [_WEAK]}], "only --gate is about the gate"
    _run(home, "uninstall", *flags, "--file", str(path))
    assert set(_hooks(path)) == (set(EVENTS) if flags else set())


@pytest.mark.parametrize("flags", [(), ("--gate",), ("--json",)])
def test_that_all_hooks_are_disabled_is_said_where_it_matters(
    home: Home, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"disableAllHooks": true}')
    says = f"orch-client: {path}: disableAllHooks stands in it"
    for action, warned in (("install", True), ("show", True), ("uninstall", False)):
        done = home.client("hooks", action, *flags, "--file", str(path))
        assert done.returncode == 0
        assert (done.stderr.count("\n"), done.stderr.startswith(says)) == (warned, warned)
    path.write_text('{"disableAllHooks": false}')
    assert home.client("hooks", "show", "--file", str(path)).stderr == ""


def test_show_lists_the_gate_or_only_the_gate(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    _run(home, "install", "--gate", "--file", str(path))
    shown = home.client("hooks", "show", "--file", str(path)).stdout
    assert shown.count("missing") == len(EVENTS)
    assert shown.splitlines()[-1].split(maxsplit=2) == ["PreToolUse", "installed", GATE]
    only = home.client("hooks", "show", "--gate", "--file", str(path)).stdout
    assert len(only.splitlines()) == 3
    listed = json.loads(home.client("hooks", "show", "--json", "--file", str(path)).stdout)
    assert listed["hooks"]["PreToolUse"]["command"] == GATE
