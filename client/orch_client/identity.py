"""Asks orch-id.sock who this process is: a token, and the facts of its pane."""

from __future__ import annotations

import os
import socket
import struct

from orch.v1 import identity_pb2 as pb

_DEADLINE = 5.0
_LENGTH = struct.Struct("!I")


def tmux_socket() -> str:
    """The tmux socket that this process believes to live under; "" outside tmux."""
    return os.environ.get("TMUX", "").partition(",")[0]


def socket_path(address: str) -> str:
    """The identity socket beside a server's own, given as unix:/PATH."""
    path = address.removeprefix("unix:")
    return f"{path.removesuffix('.sock')}-id.sock"


def ask(
    address: str, *, with_pane: bool = False, pane_id: str = "", socket_of_tmux: str = ""
) -> pb.IdentifyResponse:
    """One question, one answer; about a pane of this process's own tmux unless another is named.

    Raises OSError when the server is not there or is silent.
    """
    request = pb.IdentifyRequest(
        tmux_socket=socket_of_tmux or tmux_socket(), with_pane=with_pane, pane_id=pane_id
    ).SerializeToString()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_DEADLINE)
        connection.connect(socket_path(address))
        connection.sendall(_LENGTH.pack(len(request)) + request)
        (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
        return pb.IdentifyResponse.FromString(_exactly(connection, length))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the server closed the identity socket")
        data += part
    return data
