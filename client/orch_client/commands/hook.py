"""`hook`: what an agent CLI calls at the turns of its work, to take what waits for it and to tell
the server what the agent does.

It never holds the agent up: one attempt, three seconds in all. It never exits with 2, which would
block the agent. What it has printed counts only with exit status 0, so a fault after that is
logged and not told.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orch_client import output
from orch_client.errors import FAILED, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orch.v1 import delivery_pb2, heartbeat_pb2

EXAMPLES = """examples:
  orch-client hook UserPromptSubmit
  orch-client hook Stop

They stand in Claude Code's settings, where 'orch-client hooks install' puts them. The
event's JSON comes on standard input. At SessionStart and UserPromptSubmit what waits for the agent
is printed as context, at Stop as the reason to go on; every event is told to the server.

exit status:
  0 done; 1 failed, with a line in $ORCH_HOME/logs/hook.log; never 2, which would block the agent
"""
#: The events at which what waits is taken.
TAKES = ("SessionStart", "UserPromptSubmit", "Stop")
#: Every event that tells what the agent does: the word by which it is told apart, if it has one.
TELLS = {
    "SessionStart": "source",
    "UserPromptSubmit": "",
    "PermissionRequest": "tool_name",
    "Notification": "notification_type",
    "Stop": "",
    "StopFailure": "error",
    "SessionEnd": "reason",
}
#: What an event says to a person. What the agent answered is nobody's business but at a failure,
#: where it is the line that the screen shows.
_SAYS = {"Notification": "message", "StopFailure": "last_assistant_message"}
#: Claude Code takes 10,000 characters of context from a hook, of more only a preview and the name
#: of a file with the rest (2.1.197 and later; the reason at Stop was not cut there at 40,000).
#: The server counts texts with their headers; room is left for the blank lines between.
MAX_BYTES = 9_500
_SHOWN_WHOLE = 10_000
_DEADLINE = 3.0
_MAX_INPUT_BYTES = 32 * 1024 * 1024
_MAX_LOG_BYTES = 1024 * 1024
_MAX_WORD, _MAX_MESSAGE = 200, 1000


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "event", metavar="EVENT", help="such as SessionStart, UserPromptSubmit, Stop"
    )


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command."""
    event = output.one_line(args.event)
    if _is_inner():
        return 0
    printed = False
    try:
        with _alarm():
            facts = _facts()
            with _server() as server:
                if event in TAKES and not facts.get("stop_hook_active"):
                    claimed = server.claim(event)
                    printed = _print(event, claimed)
                    if printed:
                        server.acknowledge(claimed)
                server.report(as_report(event, facts, printed=printed))
    except ClientError as exc:
        _log(event, exc.message)
    except OSError as exc:
        _log(event, exc.strerror or str(exc))
    else:
        return 0
    return 0 if printed else FAILED


def _is_inner() -> bool:
    """Whether a Claude Code without a screen calls, such as `claude -p` in a command of the agent.
    It inherits the pane and the hooks, but it is not the agent that people see there."""
    return os.environ.get("CLAUDE_CODE_ENTRYPOINT", "").startswith("sdk")


def _facts() -> dict[str, Any]:
    """What the agent CLI says of the event. Raises ClientError when it says nothing sensible."""
    try:
        facts = json.loads(sys.stdin.buffer.read(_MAX_INPUT_BYTES))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise ClientError("standard input is no JSON object, as an agent CLI gives it to its hook.")
    return facts


class _Server:
    """The calls of one hook."""

    def __init__(self, channel: Any, metadata: Any) -> None:
        self._channel = channel
        self._how = {"timeout": _DEADLINE * 2, "metadata": metadata}  # the alarm comes first

    def claim(self, event: str) -> list[delivery_pb2.Delivery]:
        """Takes what waits."""
        from orch.v1 import messaging_pb2 as pb

        request = pb.ClaimDeliveriesRequest(max_bytes=MAX_BYTES, hook_event=event)
        return list(self._messaging().ClaimDeliveries(request, **self._how).deliveries)

    def acknowledge(self, claimed: Iterable[delivery_pb2.Delivery]) -> None:
        """Says that it was printed."""
        from orch.v1 import messaging_pb2 as pb

        request = pb.AcknowledgeClaimRequest(ids=[one.id for one in claimed])
        self._messaging().AcknowledgeClaim(request, **self._how)

    def report(self, report: heartbeat_pb2.ReportHookEventRequest) -> None:
        """Tells the server of the event."""
        from orch.v1 import heartbeat_pb2_grpc

        stub = heartbeat_pb2_grpc.HeartbeatServiceStub(self._channel)
        stub.ReportHookEvent(report, **self._how)

    def _messaging(self) -> Any:
        from orch.v1 import messaging_pb2_grpc

        return messaging_pb2_grpc.MessagingServiceStub(self._channel)


@contextmanager
def _server() -> Iterator[_Server]:
    """One attempt, no retries: what waits is typed later if the server is away now."""
    import grpc

    from orch_client import channel, identity

    target = channel.address()
    try:
        if target.startswith("unix:"):
            metadata = channel.bearer(identity.ask(target).token)
            if not metadata:
                raise ClientError("this process is in no agent's pane, so nothing waits for it.")
        else:
            metadata = channel.credentials(target)
    except OSError as exc:
        raise channel.unreachable(target) from exc
    with grpc.insecure_channel(target, (("grpc.enable_retries", 0),)) as opened:
        try:
            yield _Server(opened, metadata)
        except grpc.RpcError as exc:
            channel.fail(exc, target)


def _print(event: str, claimed: list[delivery_pb2.Delivery]) -> bool:
    """Prints what was claimed in the form that the event wants; whether there was anything."""
    if not claimed:
        return False
    shown = as_output(event, "\n\n".join(_whole(one) for one in claimed))
    sys.stdout.buffer.write(f"{shown}\n".encode())
    sys.stdout.buffer.flush()
    return True


def _whole(one: delivery_pb2.Delivery) -> str:
    return f"{one.header}\n{one.text}" if one.header else one.text


def as_output(event: str, text: str) -> str:
    """What the hook of this event prints so that the agent reads the text."""
    if event == "Stop":
        return json.dumps({"decision": "block", "reason": text}, ensure_ascii=False)
    if len(text) > _SHOWN_WHOLE:
        text = (
            f"[{len(text):,} characters follow; if only their beginning is shown, read the rest in"
            f" the file that is named here]\n{text}"
        )
    if text.lstrip().startswith("{"):  # would be taken for orders to the agent CLI
        context = {"hookEventName": event, "additionalContext": text}
        return json.dumps({"hookSpecificOutput": context}, ensure_ascii=False)
    return text


def as_report(
    event: str, facts: dict[str, Any], *, printed: bool
) -> heartbeat_pb2.ReportHookEventRequest:
    """What the server is told of the event. `printed`: the agent was given text."""
    from orch.v1 import heartbeat_pb2

    return heartbeat_pb2.ReportHookEventRequest(
        event=event,
        agent_session_id=_said(facts, "session_id", _MAX_WORD),
        detail=_said(facts, TELLS.get(event, ""), _MAX_WORD),
        message=_said(facts, _SAYS.get(event, ""), _MAX_MESSAGE),
        continues=printed and event == "Stop",
    )


def _said(facts: dict[str, Any], key: str, limit: int) -> str:
    """The value on one line; "" when it is no text, or there is no key for it."""
    found = facts.get(key) if key else None
    return output.one_line(found[: 4 * limit], limit) if isinstance(found, str) else ""


@contextmanager
def _alarm() -> Iterator[None]:
    """Ends whatever is under way when the time is over."""

    def over(number: int, frame: object) -> None:
        raise ClientError(f"the server did not answer within {_DEADLINE:g} s.")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, _DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _log(event: str, message: str) -> None:
    """One line in the log and one on standard error."""
    from orch_client import channel

    line = output.one_line(message, 500)
    print(f"orch-client hook: {line}", file=sys.stderr)
    pane = output.one_line(os.environ.get("TMUX_PANE", "")) or "-"
    folder = f"{channel.home()}/logs"
    path = f"{folder}/hook.log"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103 - pathlib costs start-up
        if os.path.exists(path) and os.path.getsize(path) > _MAX_LOG_BYTES:  # noqa: PTH110, PTH202
            os.replace(path, f"{path}.1")  # noqa: PTH105
        with open(path, "a", encoding="utf-8") as log:  # noqa: PTH123
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {pane} {event}: {line}\n")
    except OSError:
        return  # the sentence on standard error has to do
