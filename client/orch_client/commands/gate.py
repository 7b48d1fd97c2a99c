"""`gate`: what an agent CLI calls before it uses a tool; the call is blocked unless the server says
a clear yes.

It fails closed. `run` returns 0 in one place, after such a yes; every other way out is an error,
and the command line makes 2 of all of them (cli.py), which blocks the agent.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from orch_client import output
from orch_client.errors import REFUSED, USAGE, ClientError

if TYPE_CHECKING:
    from orch.v1 import authorization_pb2 as pb

EXAMPLES = """examples:
  timeout -k 1 290 orch-client gate || exit 2
  orch-client gate --deadline 50 < call.json

It stands in Claude Code's settings as the hook PreToolUse, where 'orch-client hooks install --gate'
puts it, so that a client that is missing or hangs blocks, too. The call's JSON comes on standard
input: tool_name, tool_input and cwd. Only where hook_event_name is PreToolUse, as Claude Code has
it, JSON is printed when an approval was used, so that Claude Code does not ask once more.

exit status:
  0 a clear yes; 2 everything else, with one sentence on standard error
"""
#: Ends the command, and lets the agent use the tool or blocks it.
YES, NO = 0, 2
DEADLINE = 280.0
EVENT = "PreToolUse"
MAX_INPUT_BYTES = 32 * 1024 * 1024
#: What the server checks; with the rest of the call it fits into one gRPC message of 4 MiB.
MAX_ARGUMENTS_BYTES = 3 * 1024 * 1024
_ENDS = (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LONGEST = 86_400.0
_SHOWN = 2000


class Call(NamedTuple):
    """What the agent is about to do; `event` is the agent CLI's name of the hook, may be ""."""

    tool: str
    arguments: str
    cwd: str
    event: str


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "--deadline",
        metavar="SECONDS",
        type=_seconds,
        default=DEADLINE,
        help=f"block when there is no decision by then; default: {DEADLINE:g}. Keep it below the"
        " time-out of the hook",
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command; whatever it raises blocks."""
    alarm = _Alarm(args.deadline)
    call = parse(sys.stdin.buffer.read(MAX_INPUT_BYTES + 1))
    used = _leave(call, alarm)
    alarm.stop()
    if used is not None and call.event == EVENT:
        print(as_output(used), flush=True)
    return YES


def refuse(sentence: str) -> None:
    """Says on standard error why the call is blocked. Nothing that goes wrong here is told."""
    line = output.one_line(sentence, _SHOWN)
    try:
        os.write(2, f"orch-client gate: blocked: {line}\n".encode(errors="replace"))
    except OSError:
        return  # the exit status says it


# ---- what is asked ----


def parse(data: bytes) -> Call:
    """The call as the agent CLI tells it. Raises ClientError for all that is not one."""
    if len(data) > MAX_INPUT_BYTES:
        raise ClientError(f"standard input has more than {MAX_INPUT_BYTES:,} bytes.", USAGE)
    try:
        said = json.loads(data, object_pairs_hook=_each_key_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ClientError(
            "standard input is no JSON object, as an agent CLI gives it to its hook.", USAGE
        )
    tool, given, event = said.get("tool_name"), said.get("tool_input"), said.get("hook_event_name")
    cwd = said["cwd"] if "cwd" in said else os.getcwd()  # noqa: PTH109 - pathlib costs start-up
    if not isinstance(tool, str) or not tool.strip():
        raise ClientError("the call names no tool: tool_name must be a text.", USAGE)
    if not isinstance(given, dict):
        raise ClientError("the call has no input: tool_input must be an object.", USAGE)
    if not isinstance(cwd, str):
        raise ClientError("the call's cwd is no text.", USAGE)
    _check_text("tool_name", tool)
    _check_text("cwd", cwd)
    return Call(tool, canonical(given), cwd, event if isinstance(event, str) else "")


def canonical(given: dict[str, Any]) -> str:
    """A tool's input as the JSON that an approval covers: equal inputs give equal bytes, others
    give others. Raises ClientError for what has no such form."""
    try:
        text = json.dumps(
            given, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (ValueError, RecursionError) as exc:
        raise ClientError(f"tool_input has no canonical form ({exc}).", USAGE) from exc
    _check_text("tool_input", text)
    size = len(text.encode())
    if size > MAX_ARGUMENTS_BYTES:
        raise ClientError(
            f"tool_input has {size:,} bytes, more than {MAX_ARGUMENTS_BYTES:,} cannot be checked;"
            " do it in parts.",
            USAGE,
        )
    return text


def _check_text(name: str, text: str) -> None:
    """Half a character of UTF-16 is none; agent CLIs replace it, so it is not what will be done."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ClientError(f"{name} has half a character at {exc.start}.", USAGE) from exc


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


# ---- what is answered ----


def _leave(call: Call, alarm: _Alarm) -> pb.Authorization | None:
    """Returns when the call may be made, with the approval that was used if it took one. Raises
    ClientError for a no."""
    from orch.v1 import authorization_pb2 as pb

    action = pb.Action(tool=call.tool, arguments=call.arguments, cwd=call.cwd)
    request = pb.CheckActionRequest(action=action, request_id=os.urandom(16).hex())
    while True:
        answer = _check(request)
        if answer.verdict == pb.ACTION_VERDICT_ALLOWED:
            return _used(answer, action)
        if answer.verdict == pb.ACTION_VERDICT_DENIED:
            raise ClientError(answer.reason or "the server denies it.", REFUSED)
        if answer.verdict != pb.ACTION_VERDICT_PENDING or not answer.authorization.id:
            raise ClientError(f"the server's answer ({answer.verdict}) is not understood.")
        alarm.says = f"pending, try again: {answer.reason}"
        _decided(answer.authorization.id)


def _check(request: pb.CheckActionRequest) -> pb.CheckActionResponse:
    """Asks the server, once or after it came back."""
    import grpc

    from orch.v1.authorization_pb2_grpc import AuthorizationServiceStub
    from orch_client import channel

    with channel.connected() as (grpc_channel, metadata):
        stub = AuthorizationServiceStub(grpc_channel)
        try:
            return stub.CheckAction(request, timeout=channel.DEADLINE, metadata=metadata)
        except grpc.RpcError as exc:
            if exc.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            raise ClientError("the server is too old to check actions; update it.") from exc


def _used(answer: pb.CheckActionResponse, action: pb.Action) -> pb.Authorization | None:
    """The approval behind a yes; None when the policy alone said it. Raises ClientError when the
    yes is not clear: it must give its reason, and its approval be used up and of this action."""
    from orch.v1 import authorization_pb2 as pb

    if not answer.reason:
        raise ClientError("the server's answer is not understood: it gives no reason.")
    if not answer.HasField("authorization"):
        return None
    used = answer.authorization
    if used.state != pb.AUTHORIZATION_STATE_CONSUMED or used.bound_action != action:
        raise ClientError("the server's answer is not understood: its approval is another one.")
    return used


def _decided(authorization_id: str) -> None:
    """Returns when the request was approved, also when another call of the agent has used the
    approval since. Waits over restarts of the server; the alarm ends it. Raises ClientError for a
    no."""
    from orch.v1 import authorization_pb2 as pb
    from orch.v1.authorization_pb2_grpc import AuthorizationServiceStub
    from orch_client import channel
    from orch_client.commands.follow import follow

    current = pb.Authorization()

    def watch(opened: Any, timeout: float | None, metadata: Any) -> Any:
        request = pb.WaitAuthorizationRequest(id=authorization_id)
        # A server that was cut off without a word is noticed by the end of this time.
        stub = AuthorizationServiceStub(opened)
        return stub.WaitAuthorization(request, timeout=channel.DEADLINE, metadata=metadata)

    follow(
        watch,
        lambda change: current.CopyFrom(change.authorization),
        lambda: current.state > pb.AUTHORIZATION_STATE_PENDING,
        None,
    )
    if current.state not in (pb.AUTHORIZATION_STATE_APPROVED, pb.AUTHORIZATION_STATE_CONSUMED):
        raise ClientError(_no(current), REFUSED)


def _no(decided: pb.Authorization) -> str:
    from orch.v1 import authorization_pb2 as pb

    if decided.state not in pb.AuthorizationState.values():
        return f"the state of authorization {decided.id} ({decided.state}) is not understood."
    word = output.word(pb.AuthorizationState.Name(decided.state), "AUTHORIZATION_STATE_")
    by = f" by {decided.resolver}" if decided.resolver else ""
    why = f": {decided.reason}" if decided.reason else "."
    return f"authorization {decided.id} is {word}{by}{why}"


def as_output(used: pb.Authorization) -> str:
    """What makes Claude Code run the tool without a dialog of its own."""
    reason = f"Authorization {used.id} was approved by {used.resolver}, for this once."
    decision = {
        "hookEventName": EVENT,
        "permissionDecision": "allow",
        "permissionDecisionReason": reason,
    }
    return json.dumps({"hookSpecificOutput": decision})


# ---- the deadline ----


class _Alarm:
    """Blocks the call when the time is over, or somebody ends the gate before, whatever is under
    way; `says` is why."""

    def __init__(self, seconds: float) -> None:
        self.says = "no answer came in time."
        for number in _ENDS:
            signal.signal(number, self._over)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def stop(self) -> None:
        """The decision is there."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _over(self, number: int, frame: object) -> None:
        refuse(self.says)
        os._exit(NO)  # an exception could get lost in a callback


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"'{given}' is not more than 0 and at most {_LONGEST:.0f} seconds"
        )
    return seconds
