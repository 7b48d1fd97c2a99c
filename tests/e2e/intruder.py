"""What an agent bent on approving itself could write in a minute. Run inside its pane by
test_red_team.py:

ask WORDS…                asks for leave, once for each argument; prints the ids
token [edited|resigned]   prints the pane's own token, or one forged for the pane $APPROVER
guess TEXT COMMAND…       runs a command on a terminal of its own, types TEXT at its prompt
introduce ROLE            says to the server that this pane's process is the first one of $APPROVER,
                          while tmux's socket is out of the way
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from orch.v1 import authorization_pb2, heartbeat_pb2
from orch.v1.authorization_pb2_grpc import AuthorizationServiceStub
from orch.v1.heartbeat_pb2_grpc import HeartbeatServiceStub
from orch_client import channel, identity

_PROMPT = b"passphrase: "


def ask(words: list[str]) -> None:
    """Asks a role that nobody has, so that nobody's pane is typed into."""
    with channel.connected() as (connection, metadata):
        stub = AuthorizationServiceStub(connection)
        for text in words:
            request = authorization_pb2.RequestAuthorizationRequest(
                action=text, approver_role="project_manager", cwd=str(Path.cwd())
            )
            answer = stub.RequestAuthorization(request, metadata=metadata)
            print(answer.authorization.id)


def token(forgery: str = "") -> None:
    """With `edited` the seal stays as it was, with `resigned` it is made anew with another key."""
    own = identity.ask(channel.address()).token
    if not forgery:
        print(own)
        return
    body, _, seal = own.partition(".")
    claims = json.loads(base64.urlsafe_b64decode(body))
    claims[4] = os.environ["APPROVER"]
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()
    if forgery == "resigned":
        seal = hmac.new(b"guess" * 8, body.encode(), "sha256").hexdigest()
    print(f"{body}.{seal}")


def guess(text: str, command: list[str]) -> int:
    """Returns the command's exit status."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    seen, typed = b"", False
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        seen += data
        if seen.endswith(_PROMPT) and not typed:
            os.write(terminal, text.encode() + b"\n")
            typed = True
    print(seen.decode(), flush=True)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def introduce(role: str) -> None:
    """The server can ask no tmux about the pane; it must not believe this instead."""
    first = os.getppid()
    target = channel.address()
    socket = Path(identity.tmux_socket())
    facts = identity.ask(target, with_pane=True, pane_id=os.environ["APPROVER"])
    hello = heartbeat_pb2.Hello(
        pane=facts.pane, pane_pid=first, session=facts.session, role=role, client_version="0"
    )
    socket.rename(socket.with_suffix(".away"))
    try:
        calls = HeartbeatServiceStub(grpc.insecure_channel(target)).Connect(_once(hello))
        print(next(iter(calls)).WhichOneof("frame"))
    except grpc.RpcError as exc:
        print(exc.details())
    finally:
        socket.with_suffix(".away").rename(socket)


def _once(hello: heartbeat_pb2.Hello) -> Iterator[heartbeat_pb2.ConnectRequest]:
    yield heartbeat_pb2.ConnectRequest(hello=hello)


def main(command: str, *args: str) -> int:
    """Returns the exit status."""
    if command == "guess":
        return guess(args[0], list(args[1:]))
    if command == "ask":
        ask(list(args))
    elif command == "token":
        token(*args)
    else:
        introduce(*args)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
