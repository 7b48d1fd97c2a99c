"""`orch-server cleanup`: asks the running server to remove sessions that ended, or lists them."""

from __future__ import annotations

import argparse
import re
import socket
import struct
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToJson

from orch.v1 import identity_pb2
from orch.v1 import session_state_pb2 as pb
from orch.v1.session_state_pb2_grpc import SessionStateServiceStub
from orch_server import config
from orch_server.core.errors import InvalidInput
from orch_server.core.text import printable

_UNREACHABLE = 3
_EXIT = {
    grpc.StatusCode.INVALID_ARGUMENT: 2,
    grpc.StatusCode.UNAVAILABLE: _UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: _UNREACHABLE,
    grpc.StatusCode.PERMISSION_DENIED: 5,
    grpc.StatusCode.UNAUTHENTICATED: 5,
}
#: The backup of a large database takes its time.
_DEADLINE = 600.0
_ANSWER = 5.0
_LENGTH = struct.Struct("!I")
_AGE = re.compile(r"(\d{1,9})([smhd])\Z", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_HEAD = ("SESSION", "ENDED", "AGENTS", "TASKS", "DELIVERIES", "KEPT")


def run(args: argparse.Namespace) -> int:
    """Prints what would go or what went; returns the exit status. Raises InvalidInput."""
    request = pb.CleanupSessionsRequest(execute=args.execute)
    if args.older_than is not None:
        request.older_than.FromTimedelta(_age(args.older_than))
    path = config.load(args.home).sockets[0]
    try:
        token = _token(path)
    except OSError:
        _fail(f"no server answers at {path}; start it: orch-server run")
        return _UNREACHABLE
    try:
        answer = _call(path, token, request)
    except grpc.RpcError as exc:
        _fail(exc.details() or exc.code().name)
        return _EXIT.get(exc.code(), 1)
    if args.json:
        print(MessageToJson(answer, preserving_proto_field_name=True))
        return 0
    for line in _lines(answer, args):
        print(line)
    return 0


def _fail(said: str) -> None:
    print(f"orch-server: {said}", file=sys.stderr)


def _age(given: str) -> timedelta:
    match = _AGE.match("0s" if given == "0" else given)
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else _no_age(given)
    except OverflowError:
        return _no_age(given)


def _no_age(given: str) -> timedelta:
    said = f"--older-than is '{printable(given)}'; use an age such as 12h or 30d"
    raise InvalidInput("older_than", f"{said}, or 0 for all that ended.")


def _token(path: Path) -> str:
    """What goes with the call, by the kernel's word on who this process is; "" for the operator.
    Raises OSError when the server is not there."""
    request = identity_pb2.IdentifyRequest(tmux_socket=config.tmux_socket()).SerializeToString()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER)
        connection.connect(str(path.with_name(f"{path.stem}-id.sock")))
        connection.sendall(_LENGTH.pack(len(request)) + request)
        with connection.makefile("rb") as answers:
            head = answers.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                raise ConnectionError("the server closed the identity socket")
            answer = answers.read(_LENGTH.unpack(head)[0])
    return identity_pb2.IdentifyResponse.FromString(answer).token


def _call(path: Path, token: str, request: pb.CleanupSessionsRequest) -> pb.CleanupSessionsResponse:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(f"unix:{path}") as channel:
        stub = SessionStateServiceStub(channel)
        return stub.CleanupSessions(request, timeout=_DEADLINE, metadata=metadata)


def _lines(answer: pb.CleanupSessionsResponse, args: argparse.Namespace) -> Iterator[str]:
    if not answer.sessions:
        yield "No session ended that long ago."
        return
    yield from _table([_HEAD, *(_row(one) for one in answer.sessions)])
    going = sum(not one.kept_because for one in answer.sessions)
    sessions = f"{going:,} session{'s' * (going != 1)}"
    if answer.backup_path:
        yield f"{sessions} removed. Backup: {printable(answer.backup_path, 4096)}"
    elif going:
        more = f" --older-than {args.older_than}" if args.older_than is not None else ""
        home = f" --home {printable(args.home, 4096)}" if args.home else ""
        yield f"{sessions} would be removed; do it: orch-server cleanup{more} --execute{home}"
    else:
        yield "Nothing to remove."


def _row(one: pb.CleanedSession) -> tuple[str, ...]:
    ended = datetime.fromtimestamp(one.completion_time.seconds).astimezone()
    counts = (f"{number:,}" for number in (one.agents, one.tasks, one.deliveries))
    return (
        printable(one.name),
        ended.strftime("%Y-%m-%d %H:%M"),
        *counts,
        printable(one.kept_because, 200),
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()
