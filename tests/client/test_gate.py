"""What the gate reads and asks, and that it ends with 0 or 2 whatever happens to it."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch.v1 import authorization_pb2 as pb
from orch_client import cli
from orch_client.commands import gate
from orch_client.errors import ClientError
from tests.support import BIN, Home, Server, Tmux, until

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_INPUTS = st.dictionaries(
    _TEXT,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | _TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=5,
)


def _call(**changes: Any) -> bytes:
    said = {
        "hook_event_name": "PreToolUse",
        "tool_name": "Bash",
        "tool_input": {"command": "make deploy", "timeout": 5},
        "cwd": "/srv/atlas",
    }
    return json.dumps({**said, **changes}).encode()


# ---- what it reads ----


def test_a_call_is_read_as_it_is() -> None:
    arguments = '{"command":"make deploy","timeout":5}'
    assert gate.parse(_call()) == ("Bash", arguments, "/srv/atlas", "PreToolUse")


def test_without_a_folder_it_is_the_one_it_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = gate.parse(b'{"tool_name": "Bash", "tool_input": {}}')
    assert (call.cwd, call.event) == (str(tmp_path), "")


NO_CALLS = {
    "nothing": b"",
    "half": b'{"tool_name": "Bash", "tool_in',
    "array": b"[]",
    "text": b'"Bash"',
    "bytes": b"\xff\xfe\xfd",
    "deep": b'{"tool_name": "Bash", "tool_input": ' + b"[" * 100_000,
    "long number": b'{"tool_name": "Bash", "tool_input": {"n": ' + b"1" * 5_000 + b"}}",
    "no tool": b'{"tool_input": {}}',
    "empty tool": _call(tool_name=" "),
    "tool is a number": _call(tool_name=7),
    "no input": b'{"tool_name": "Bash"}',
    "input is a text": _call(tool_input="make deploy"),
    "input is an array": _call(tool_input=[]),
    "input is null": _call(tool_input=None),
    "folder is null": _call(cwd=None),
    "folder is a number": _call(cwd=7),
    "NaN": _call(tool_input={"n": float("nan")}),
    "a number too large": b'{"tool_name": "Bash", "tool_input": {"n": 1e400}}',
    "half a character in the input": _call(tool_input={"command": "\ud83d"}),
    "half a character in a key": _call(tool_input={"\udc00": 1}),
    "half a character in the tool": _call(tool_name="Bash\ud800"),
    "half a character in the folder": _call(cwd="/srv/\udcff"),
    "a key twice": b'{"tool_name": "Bash", "tool_input": {"command": "a", "command": "b"}}',
    "too much": b" " * (gate.MAX_INPUT_BYTES + 1),
}


@pytest.mark.parametrize("name", NO_CALLS)
def test_what_is_no_call_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(ClientError) as refused:
        gate.parse(NO_CALLS[name])
    assert len(refused.value.message) < 200
    assert "\n" not in refused.value.message


@given(_INPUTS)
def test_the_canonical_form_says_what_the_input_says(given_input: dict[str, Any]) -> None:
    assert json.loads(gate.canonical(given_input)) == given_input


@given(_INPUTS, st.randoms())
def test_the_order_of_the_keys_does_not_matter(given_input: dict[str, Any], dice: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffled(one) for one in value]
        if isinstance(value, dict):
            keys = list(value)
            dice.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return value

    assert gate.canonical(shuffled(given_input)) == gate.canonical(given_input)


@given(_TEXT, st.characters(exclude_categories=["Cs"]), st.integers(min_value=0))
def test_one_changed_character_is_another_action(text: str, other: str, number: int) -> None:
    at = number % (len(text) + 1)
    changed = text[:at] + other + text[at + 1 :]
    same = gate.canonical({"command": text}) == gate.canonical({"command": changed})
    assert same == (text == changed)


@given(_INPUTS, _INPUTS)
def test_two_inputs_have_one_form_only_if_they_are_equal(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    if gate.canonical(one) == gate.canonical(other):
        assert one == other


# ---- what it makes of answers ----


def _answer(**more: Any) -> pb.CheckActionResponse:
    return pb.CheckActionResponse(verdict=pb.ACTION_VERDICT_ALLOWED, reason="Yes.", **more)


ACTION = pb.Action(tool="Bash", arguments="{}", cwd="/srv")
USED = pb.Authorization(id="a1", state=pb.AUTHORIZATION_STATE_CONSUMED, bound_action=ACTION)


def test_a_yes_of_the_policy_has_no_approval_and_that_of_a_person_has() -> None:
    assert gate._used(_answer(), ACTION) is None
    assert gate._used(_answer(authorization=USED), ACTION) == USED


@pytest.mark.parametrize(
    "answer",
    [
        pb.CheckActionResponse(verdict=pb.ACTION_VERDICT_ALLOWED),
        _answer(authorization=pb.Authorization()),
        _answer(authorization=pb.Authorization(state=pb.AUTHORIZATION_STATE_CONSUMED)),
        _answer(
            authorization=pb.Authorization(
                state=pb.AUTHORIZATION_STATE_APPROVED, bound_action=ACTION
            )
        ),
    ],
)
def test_a_yes_that_is_not_clear_is_a_no(answer: pb.CheckActionResponse) -> None:
    with pytest.raises(ClientError, match="is not understood"):
        gate._used(answer, ACTION)


# ---- how it ends ----


@pytest.mark.parametrize(
    "fault",
    [
        ClientError("no", 5),
        ClientError("no", 0),
        KeyboardInterrupt(),
        EOFError(),
        BrokenPipeError(),
        OSError("no"),
        MemoryError(),
        ImportError("no module"),
        RecursionError(),
        SystemExit(0),
        ValueError("half \ud800"),
        AssertionError("two\nlines"),
    ],
    ids=repr,
)
def test_whatever_goes_wrong_it_ends_with_2_and_says_one_sentence(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str, argv: list[str]) -> int:
        raise fault

    monkeypatch.setattr(cli, "_run", fail)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert cli.main(["gate"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("orch-client gate: blocked: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("status", [1, 2, 3, 130, -1])
def test_every_status_but_0_becomes_2(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_run", lambda name, argv: status)
    assert cli.main(["gate"]) == 2
    monkeypatch.setattr(cli, "_run", lambda name, argv: 0)
    assert cli.main(["gate"]) == 0


def _gate(
    home: Home, call: bytes = _call(), *args: str, **env: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(BIN / "orch-client"), "gate", *args],
        env=home.env(**env),
        input=call,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "args", [("now",), ("--odd",), ("--deadline",), *(("--deadline", n) for n in ("0", "nan", "x"))]
)
def test_a_usage_error_blocks(home: Home, args: tuple[str, ...]) -> None:
    done = _gate(home, _call(), *args)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"error: " in done.stderr


def test_a_deadline_that_is_none_is_told_in_words(home: Home) -> None:
    for odd in ("0", "86401", "-1", "nan", "x"):
        done = _gate(home, _call(), f"--deadline={odd}")
        assert done.returncode == 2
        says = f"argument --deadline: '{odd}' is not more than 0 and at most 86400 seconds"
        assert says in done.stderr.decode()


@pytest.mark.parametrize("name", ["nothing", "half", "no input", "too much"])
def test_what_is_no_call_blocks(home: Home, name: str) -> None:
    done = _gate(home, NO_CALLS[name])
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


def test_outside_of_a_pane_nothing_is_allowed(home: Home, server: Server) -> None:
    done = _gate(home, _call(tool_name="Read"))
    assert done.returncode == 2
    assert b"Only an agent can have an action checked" in done.stderr


def test_an_inner_claude_code_without_a_screen_is_asked_of_as_well(home: Home) -> None:
    done = _gate(home, _call(), CLAUDE_CODE_ENTRYPOINT="sdk-cli")
    assert done.returncode == 2
    assert b"no orch-server answers" in done.stderr


def test_standard_input_that_never_ends_blocks_at_the_deadline(home: Home, server: Server) -> None:
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [str(BIN / "orch-client"), "gate", "--deadline", "0.3"],
            env=home.env(),
            stdin=reading,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"no answer came in time" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_gate_that_is_ended_blocks(home: Home, number: int) -> None:
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(home.path / "orch-id.sock"))
    silent.listen()
    with (
        silent,
        subprocess.Popen(
            [str(BIN / "orch-client"), "gate"],
            env=home.env(),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as running,
    ):
        assert running.stdin is not None
        running.stdin.write(_call())
        running.stdin.close()
        connection, _ = silent.accept()  # it waits for an answer now
        with connection:
            running.send_signal(number)
            assert running.wait(30) == 2
            assert running.stderr is not None
            said = running.stderr.read()
    assert said == b"orch-client gate: blocked: no answer came in time.\n"


def test_more_than_can_be_checked_is_blocked_in_one_sentence(home: Home, tmp_path: Path) -> None:
    most = {"content": "é" * (gate.MAX_ARGUMENTS_BYTES // 2 - 7)}  # {"content":""} has 14
    assert len(gate.canonical(most).encode()) == gate.MAX_ARGUMENTS_BYTES
    done = _gate(home, _call(tool_input={"content": f"{most['content']}x"}))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        "orch-client gate: blocked: tool_input has 3,145,729 bytes, more than 3,145,728 cannot be"
        " checked; do it in parts.\n"
    )


def test_a_yes_of_the_policy_is_silent(home: Home, server: Server, tmux: Tmux) -> None:
    assert _said_in_a_pane(home, tmux, _call(tool_name="Read")) == ["0"]


def test_what_waits_too_long_is_to_be_tried_again(home: Home, server: Server, tmux: Tmux) -> None:
    (said,) = _said_in_a_pane(home, tmux, _call(), deadline="10")
    (asked,) = _pending(home)
    assert said == (
        f"2 orch-client gate: blocked: pending, try again: Authorization {asked['id']} is pending"
        " with orchestrator; try the same again when it was approved."
    )


@pytest.mark.parametrize(("event", "silent"), [("PreToolUse", False), ("", True), ("Other", True)])
def test_a_used_approval_spares_claude_code_its_dialog_and_is_silent_for_others(
    home: Home, server: Server, tmux: Tmux, event: str, silent: bool
) -> None:
    def approve() -> str:
        (asked,) = until(lambda: _pending(home), "the request")
        done = home.client("approve", asked["id"])
        assert done.returncode == 0, done.stderr
        return str(asked["id"])

    done = _said_in_a_pane(home, tmux, _call(hook_event_name=event), meanwhile=approve)
    if silent:
        assert done == ["0"]
        return
    decision = json.loads(done[0].removeprefix("0 "))["hookSpecificOutput"]
    assert (decision["hookEventName"], decision["permissionDecision"]) == ("PreToolUse", "allow")
    assert "was approved by operator" in decision["permissionDecisionReason"]


def _pending(home: Home) -> list[dict[str, Any]]:
    return list(home.json("pending"))


def _said_in_a_pane(
    home: Home, tmux: Tmux, call: bytes, *, deadline: str = "30", meanwhile: Any = None
) -> list[str]:
    """Status and output of the gate in a pane, a line each."""
    given, said = home.path / "orch-call", home.path / "orch-said"
    given.write_bytes(call)
    line = f'r=$(orch-client gate --deadline {deadline} < {given} 2>&1); echo "$? $r" > {said}.n'
    tmux.pane("atlas", "builder", f"{line}; mv {said}.n {said}")
    if meanwhile is not None:
        meanwhile()
    until(said.exists, "the gate's end", 45.0)
    return [line.rstrip() for line in said.read_text().splitlines()]
