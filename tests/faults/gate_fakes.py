"""Servers that are none: they answer garbage, half of it, nothing, or what no server of ours says.

Only where the real server cannot be brought to do it.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from orch.v1 import authorization_pb2 as pb
from orch.v1 import identity_pb2

_CHECK, _WAIT = "CheckAction", "WaitAuthorization"
_PENDING = pb.Authorization(id="a" * 8, state=pb.AUTHORIZATION_STATE_PENDING)
_OTHER = pb.Action(tool="Bash", arguments='{"command":"another"}', cwd="/srv/atlas")
_LONG = 20.0


def _answer(verdict: int, reason: str = "", *authorization: pb.Authorization) -> bytes:
    found = authorization[0] if authorization else None
    made = pb.CheckActionResponse(verdict=verdict, reason=reason, authorization=found)  # type: ignore[arg-type]
    return made.SerializeToString()


def _used(state: int, action: pb.Action = _OTHER) -> bytes:
    found = pb.Authorization(id="b" * 8, state=state, bound_action=action)  # type: ignore[arg-type]
    return _answer(pb.ACTION_VERDICT_ALLOWED, "Yes.", found)


#: Answers to CheckAction that are no clear yes.
ANSWERS: dict[str, Callable[[random.Random], bytes]] = {
    "garbage": lambda dice: dice.randbytes(dice.randint(1, 200)),
    "empty": lambda dice: b"",
    "unspecified": lambda dice: _answer(0, "Yes."),
    "unknown-verdict": lambda dice: _answer(dice.randint(4, 2**31 - 1), "Yes."),
    "negative-verdict": lambda dice: _answer(-1, "Yes."),
    "no-reason": lambda dice: _answer(pb.ACTION_VERDICT_ALLOWED),
    "another-message": lambda dice: pb.GetAuthorizationResponse(
        authorization=_PENDING
    ).SerializeToString(),
    "cut-off": lambda dice: _used(pb.AUTHORIZATION_STATE_CONSUMED)[: -dice.randint(1, 20)],
    "approval-of-another-action": lambda dice: _used(pb.AUTHORIZATION_STATE_CONSUMED),
    "approval-not-used": lambda dice: _used(pb.AUTHORIZATION_STATE_APPROVED),
    "denied-without-a-word": lambda dice: _answer(pb.ACTION_VERDICT_DENIED),
    "pending-without-id": lambda dice: _answer(pb.ACTION_VERDICT_PENDING, "Wait."),
    "too-large": lambda dice: b"\x12" + b"\xff\xff\xff\x02" + b"y" * 6_291_455,
}
#: Answers to WaitAuthorization after a "pending"; the check after an approval is "pending" again.
WAITS: dict[str, Callable[[random.Random], bytes]] = {
    "wait-garbage": lambda dice: b"\xff" + dice.randbytes(50),
    "wait-empty": lambda dice: b"",
    "wait-unknown-state": lambda dice: _state(77),
    "wait-approved-for-ever": lambda dice: _state(pb.AUTHORIZATION_STATE_APPROVED),
    "wait-lapsed": lambda dice: _state(pb.AUTHORIZATION_STATE_LAPSED),
}
STATUSES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
SILENT = "silent"


def _state(number: int) -> bytes:
    found = pb.Authorization(id="a" * 8, state=number)  # type: ignore[arg-type]
    return pb.WaitAuthorizationResponse(authorization=found).SerializeToString()


class Strange(grpc.GenericRpcHandler):
    """A gRPC server on loopback that answers as the caller's token says: a name of the above."""

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(seed)
        self._ended = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(24))
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Ends it."""
        self._ended.set()
        self._server.stop(0).wait(10)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler of any method: bytes in, bytes out."""
        token = dict(details.invocation_metadata)["authorization"].removeprefix("Bearer ")
        if token == "UNIMPLEMENTED":  # as a server does that is older than the method
            return None
        if details.method.endswith(_WAIT):
            return grpc.unary_stream_rpc_method_handler(
                lambda r, c: iter([WAITS[token](self._dice)])
            )
        return grpc.unary_unary_rpc_method_handler(lambda r, c: self._check(token, c))

    def _check(self, token: str, context: grpc.ServicerContext) -> bytes:
        if token in WAITS:
            return _answer(pb.ACTION_VERDICT_PENDING, "Wait.", _PENDING)
        if token in ANSWERS:
            return ANSWERS[token](self._dice)
        if token == SILENT:
            self._ended.wait(_LONG)
            return b""
        context.set_code(grpc.StatusCode[token])
        return b""


#: What a peer does that speaks another protocol, or stops in the midst of ours.
PEERS = ("silent", "closes", "garbage", "http", "half", "resets")


class Peer:
    """Accepts connections at a Unix socket or a port, and does to each what its kind says."""

    def __init__(self, at: Path | None, kind: str, dice: random.Random, first: bytes = b"") -> None:
        family = socket.AF_UNIX if at else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.bind(str(at) if at else ("127.0.0.1", 0))
        self._socket.listen(16)
        self.address = "" if at else f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._kind, self._dice, self._first = kind, dice, first
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        for one in (*self._held, self._socket):
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                self._treat(connection)

    def _treat(self, connection: socket.socket) -> None:
        if self._kind == "resets":
            now = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        if self._kind in ("closes", "resets"):
            connection.close()
            return
        self._held.append(connection)
        connection.sendall(self._says())

    def _says(self) -> bytes:
        if self._kind == "garbage":
            return self._dice.randbytes(300)
        if self._kind == "http":
            return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK"
        return self._first if self._kind in ("half", "whole") else b""


class Relay:
    """A port that passes each connection on to a server; `said` is all that came from clients."""

    def __init__(self, to: str) -> None:
        host, _, port = to.rpartition(":")
        self._to = (host, int(port))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.said = bytearray()
        self._held: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        for one in self._held:
            _cut(one)
        for thread in self._threads:
            thread.join(10)
        for one in (*self._held, self._socket):
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            self._held.append(near)
            try:
                far = socket.create_connection(self._to)
            except OSError:  # the server is dead
                _cut(near)
                continue
            self._held.append(far)
            for way in ((near, far, self.said), (far, near, bytearray())):
                self._threads.append(threading.Thread(target=_pass_on, args=way, daemon=True))
                self._threads[-1].start()


def _pass_on(source: socket.socket, target: socket.socket, said: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            said += data
            target.sendall(data)
    _cut(source)
    _cut(target)


def _cut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


#: The beginning of HTTP/2, as a gRPC server says it, and nothing after it.
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def identity(dice: random.Random) -> bytes:
    """What orch-id.sock may say and does not: half a message, far too long, none at all."""
    said = identity_pb2.IdentifyResponse(token="x" * 40).SerializeToString()
    length = struct.pack("!I", len(said))
    return dice.choice(
        [length, length + said[:10], b"\xff\xff\xff\xff" + said, length + b"\xff" * len(said)]
    )


def known(token: str) -> bytes:
    """A whole answer of orch-id.sock."""
    said = identity_pb2.IdentifyResponse(token=token).SerializeToString()
    return struct.pack("!I", len(said)) + said


@contextmanager
def unserved(path: Path) -> Iterator[None]:
    """A socket's file that nobody serves any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.bind(str(path))
    try:
        yield
    finally:
        os.unlink(path)  # noqa: PTH108
