"""orch-id.sock: a plain Unix socket on which the kernel tells who is at the other end.

gRPC shows no peer credentials, so this socket reads SO_PEERCRED and hands out the token that the
caller then sends with its calls. Messages: identity.proto, each with its length before it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from pathlib import Path

from google.protobuf.message import DecodeError

from orch.v1 import identity_pb2 as pb
from orch_server.core.errors import OrchError
from orch_server.services.identity import IdentityService
from orch_server.transport import convert

logger = logging.getLogger(__name__)
_DEADLINE = 10.0
_MOST = 16 * 1024
_LENGTH = struct.Struct("!I")
_CREDENTIALS = struct.Struct("3i")


class IdentitySocket:
    """Serves orch-id.sock."""

    def __init__(self, path: Path, identity: IdentityService) -> None:
        self._path = path
        self._identity = identity
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens; only this user may connect. The caller holds the lock beside the socket."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, str(self._path), backlog=1024
            )
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Stops listening and removes the socket."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_DEADLINE):
                answer = await self._answer(reader, _peer(writer))
                if answer is not None:
                    data = answer.SerializeToString()
                    writer.write(_LENGTH.pack(len(data)) + data)
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, DecodeError) as exc:
            logger.info("identity call ended early", extra={"error": repr(exc)})
        except OrchError as exc:
            logger.warning("identity call failed", extra={"error": exc.message})
        finally:
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, peer: tuple[int, int]
    ) -> pb.IdentifyResponse | None:
        pid, uid = peer
        if uid not in (os.getuid(), 0):
            return None
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > _MOST:
            return None
        request = pb.IdentifyRequest.FromString(await reader.readexactly(length))
        found = await self._identity.identify(
            pid, request.tmux_socket, request.pane_id, request.with_pane
        )
        pane = found.pane
        return pb.IdentifyResponse(
            token=found.token,
            expire_time=convert.timestamp(found.expires_at),
            pane=convert.pane(pane.incarnation) if pane else None,
            pane_pid=pane.pid if pane else 0,
            session=pane.session if pane else "",
            window_name=pane.window_name if pane else "",
            problem=found.problem,
        )


def _peer(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """Process id and user id at the other end, from the kernel."""
    connection = writer.get_extra_info("socket")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(raw)
    return pid, uid
