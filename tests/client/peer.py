"""The other end of a client's stream: over real gRPC it welcomes everybody and keeps every frame.

What a client tells, and when, is seen here without a server's judgement between.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from orch.v1 import agent_pb2, heartbeat_pb2, heartbeat_pb2_grpc, identity_pb2
from tests.support import Home, Tmux, until

_LENGTH = struct.Struct("!I")


class Peer(heartbeat_pb2_grpc.HeartbeatServiceServicer):
    """Listens on the home's sockets. `beat` and `lease` are seconds, of which the lease is so long
    that no stall of the machine ends a stream; `pace`, both of them anew, goes with the next
    ack."""

    def __init__(self, home: Home, tmux: Tmux, beat: float = 0.2, lease: float = 60.0) -> None:
        self.home, self.tmux = home, tmux
        self.beat, self.lease = beat, lease
        self.pace: tuple[float, float] | None = None
        self.hellos: list[heartbeat_pb2.Hello] = []
        self.frames: list[tuple[float, heartbeat_pb2.ConnectRequest]] = []
        self.epoch = 0
        self.deaf = False  # hears, and answers no beat
        self.let_in = threading.Event()  # nobody is welcomed before
        self.let_in.set()
        self.superseded_by = ""  # told with the next beat, once
        self._pool = ThreadPoolExecutor(16)
        self._grpc = grpc.server(self._pool)
        heartbeat_pb2_grpc.add_HeartbeatServiceServicer_to_server(self, self._grpc)  # type: ignore[no-untyped-call]
        self._grpc.add_insecure_port(home.address)
        self._identity = socket.socket(socket.AF_UNIX)
        self._identity.bind(str(home.path / "orch-id.sock"))
        self._identity.listen()
        (home.path / "orch.sock.lock").touch()  # by which a client knows that one was here
        self._thread = threading.Thread(target=self._identify, daemon=True)

    def start(self) -> Peer:
        self._grpc.start()
        self._thread.start()
        return self

    def end(self) -> None:
        if not self._thread.is_alive():
            return
        self._grpc.stop(0).wait()
        self._identity.shutdown(socket.SHUT_RDWR)
        self._identity.close()
        self._thread.join(5)
        self._pool.shutdown()

    def Connect(self, requests: Any, context: Any) -> Iterator[heartbeat_pb2.ConnectResponse]:
        for frame in requests:
            self.frames.append((time.monotonic(), frame))
            kind = frame.WhichOneof("frame")
            if kind == "hello":
                self.hellos.append(frame.hello)
                self.let_in.wait(10)
                yield self._welcome(frame.hello)
            elif kind == "beat" and self.superseded_by:
                by, self.superseded_by = self.superseded_by, ""
                yield heartbeat_pb2.ConnectResponse(superseded=heartbeat_pb2.Superseded(by=by))
            elif kind == "beat" and not self.deaf:
                yield heartbeat_pb2.ConnectResponse(ack=self._ack(frame.beat.sequence))
            elif kind == "goodbye":
                return

    def told(self, kind: str) -> list[Any]:
        """The frames of one kind, such as "beat"."""
        return [getattr(f, kind) for _, f in self.frames if f.WhichOneof("frame") == kind]

    @property
    def observations(self) -> list[heartbeat_pb2.Observation]:
        return [beat.observation for beat in self.told("beat") if beat.HasField("observation")]

    @property
    def states(self) -> list[str]:
        """The states that were told, one after the other, such as "IDLE screen claude/composer"."""
        return [
            f"{agent_pb2.AgentState.Name(o.state).removeprefix('AGENT_STATE_')}"
            f" {agent_pb2.EvidenceSource.Name(o.source).removeprefix('EVIDENCE_SOURCE_').lower()}"
            f" {o.rule}"
            for o in self.observations
        ]

    @property
    def quiets(self) -> list[int]:
        """For how many ms the screen had kept still, of the beats that tell it: a look that takes
        long leaves it out."""
        return [b.quiet.ToMilliseconds() for b in self.told("beat") if b.HasField("quiet")]

    def until_told(self, state: str) -> None:
        """Waits until the last state that was told begins so."""
        until(
            lambda: self.states and self.states[-1].startswith(state),
            f"{state}; told until now: {self.states}",
        )

    def until_beats(self, count: int = 3) -> None:
        """Waits for so many more beats."""
        have = len(self.told("beat"))
        until(lambda: len(self.told("beat")) >= have + count, f"{count} more beats")

    def _welcome(self, hello: heartbeat_pb2.Hello) -> heartbeat_pb2.ConnectResponse:
        self.epoch += 1
        welcome = heartbeat_pb2.Welcome(
            agent_id="1", session=hello.session, role=hello.role or "tester", epoch=self.epoch
        )
        welcome.beat_interval.FromMilliseconds(int(self.beat * 1000))
        welcome.lease.FromMilliseconds(int(self.lease * 1000))
        return heartbeat_pb2.ConnectResponse(welcome=welcome)

    def _ack(self, sequence: int) -> heartbeat_pb2.Ack:
        ack = heartbeat_pb2.Ack(sequence=sequence)
        if self.pace is not None:
            (beat, lease), self.pace = self.pace, None
            ack.beat_interval.FromMilliseconds(int(beat * 1000))
            ack.lease.FromMilliseconds(int(lease * 1000))
        return ack

    def _identify(self) -> None:
        while True:
            try:
                connection, _ = self._identity.accept()
            except OSError:  # closed
                return
            with connection, contextlib.suppress(ConnectionError):  # who asked has ended
                (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
                asked = identity_pb2.IdentifyRequest.FromString(_exactly(connection, length))
                answer = self._facts(asked.pane_id).SerializeToString()
                connection.sendall(_LENGTH.pack(len(answer)) + answer)

    def _facts(self, pane: str) -> identity_pb2.IdentifyResponse:
        panes = self.tmux.run(
            *("list-panes", "-a", "-F"),
            "#{pane_id} #{pid} #{start_time} #{pane_pid} #{session_name}",
        )
        rows = [line.split(" ", 4) for line in panes.splitlines()]
        row = next(r for r in rows if r[0] == pane or not pane)
        found = agent_pb2.Pane(
            host="here",
            tmux_socket=str(self.tmux.socket),
            tmux_server_pid=int(row[1]),
            pane_id=row[0],
        )
        found.tmux_server_start_time.seconds = int(row[2])
        return identity_pb2.IdentifyResponse(pane=found, pane_pid=int(row[3]), session=row[4])


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("whoever asked has ended")
        data += part
    return data
