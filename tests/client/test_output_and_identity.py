"""What people read, durations, and the framing on orch-id.sock."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orch.v1 import identity_pb2
from orch_client import identity, output
from orch_client.commands.authorize import parse_duration
from orch_client.commands.schedule import read_text
from orch_client.errors import ClientError
from tests.support import Home, until


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86400),
        ("15", 900),
        ("0.5", 30),
        ("1.5h", 5400),
        ("366d", 366 * 86400),
        ("1e2s", 100),
    ],
)
def test_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "0", "0s", "-1m", "m", "s", "nan", "inf", "infd", "367d", "5x", "5 0", "1h30m", "\x1b"],
)
def test_no_duration(text: str) -> None:
    with pytest.raises(ClientError) as caught:
        parse_duration(text)
    assert caught.value.status == 2
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "in 5s"),
        (-12, "12s ago"),
        (119, "in 119s"),
        (120, "in 2m"),
        (-3600, "60m ago"),
        (7200, "in 2h"),
        (-172800, "2d ago"),
        (0, "0s ago"),
    ],
)
def test_how_far_a_time_is_away(seconds: float, text: str) -> None:
    assert output.apart(seconds) == text


def test_a_moment_names_the_day_when_it_is_another() -> None:
    now = time.time()
    assert output.moment(Timestamp()) == ""
    far = output.moment(Timestamp(seconds=int(now) + 40 * 86400))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(in (39|40)d\)", far)


def test_a_table_has_straight_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "LONG HEAD"), [("wide cell", "x"), ("y", "")], "none")
    assert capsys.readouterr().out == "A          LONG HEAD\nwide cell  x\ny\n"
    output.print_table(("A",), [], "none")
    assert capsys.readouterr().out == "none\n"


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_fields((("id", "3fa8"), ("resolver", ""), ("state", "pending")))
    assert capsys.readouterr().out == "id     3fa8\nstate  pending\n"
    output.print_fields(())
    assert capsys.readouterr().out == ""


def test_text_of_others_is_one_harmless_line() -> None:
    assert output.one_line("a\x1b[2J\r\nb\tc\u202e") == "a [2J b c"
    assert output.one_line("x" * 100, 10) == "x" * 9 + "…"
    assert output.word("QUEUED_BY_AGENT", "") == "queued-by-agent"


def test_json_has_the_names_of_the_proto_files(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json_list(
        [identity_pb2.IdentifyRequest(tmux_socket="/s"), identity_pb2.IdentifyRequest()]
    )
    assert '"tmux_socket": "/s"' in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_argument_is_refused(text: str) -> None:
    with pytest.raises(ClientError, match="the note is empty"):
        read_text(text, "note")


Serve = Callable[[socket.socket], None]


@pytest.fixture
def peer(home: Home) -> Iterator[Callable[[Serve], list[bytes]]]:
    """Answers one connection on the identity socket; returns the list of requests it got."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(home.path / "orch-id.sock"))
    listening.listen()
    threads: list[threading.Thread] = []

    def start(serve: Serve) -> list[bytes]:
        requests: list[bytes] = []

        def run() -> None:
            connection, _ = listening.accept()
            with connection:
                (length,) = struct.unpack("!I", connection.recv(4))
                requests.append(connection.recv(length))
                serve(connection)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return requests

    yield start
    for thread in threads:
        thread.join(5)
    listening.close()


def _frame(answer: identity_pb2.IdentifyResponse) -> bytes:
    data = answer.SerializeToString()
    return struct.pack("!I", len(data)) + data


def test_the_question_and_the_answer_have_their_length_before_them(
    home: Home, peer: Callable[[Serve], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,4242,0")
    answer = identity_pb2.IdentifyResponse(token="t" * 500, session="atlas", problem="ä")
    requests = peer(lambda connection: connection.sendall(_frame(answer)))
    assert identity.ask(home.address, with_pane=True, pane_id="%5") == answer
    asked = identity_pb2.IdentifyRequest.FromString(requests[0])
    assert (asked.tmux_socket, asked.pane_id, asked.with_pane) == (
        "/tmp/tmux-0/default",
        "%5",
        True,
    )


def test_an_answer_in_crumbs_is_put_together(
    home: Home, peer: Callable[[Serve], list[bytes]]
) -> None:
    answer = identity_pb2.IdentifyResponse(token="abc")

    def crumbs(connection: socket.socket) -> None:
        for byte in _frame(answer):
            connection.send(bytes([byte]))

    peer(crumbs)
    assert identity.ask(home.address) == answer


@pytest.mark.parametrize("part", [b"", b"\0\0", b"\0\0\0\x05", b"\0\0\0\x05ab"])
def test_an_answer_that_breaks_off_is_an_error_of_the_connection(
    home: Home, peer: Callable[[Serve], list[bytes]], part: bytes
) -> None:
    peer(lambda connection: connection.sendall(part))
    with pytest.raises(OSError, match="closed the identity socket"):
        identity.ask(home.address)


def test_a_silent_server_is_given_up(
    home: Home, peer: Callable[[Serve], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_DEADLINE", 0.2)
    ended = threading.Event()
    peer(lambda connection: ended.wait(5) and None)
    with pytest.raises(TimeoutError):
        identity.ask(home.address)
    ended.set()


def test_no_server_is_an_error_of_the_connection(home: Home) -> None:
    with pytest.raises(FileNotFoundError):
        identity.ask(home.address)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("unix:/a/orch.sock", "/a/orch-id.sock"),
        ("unix:/a/b.sock", "/a/b-id.sock"),
        ("unix:/a/plain", "/a/plain-id.sock"),
    ],
)
def test_the_identity_socket_lies_beside_the_servers(address: str, path: str) -> None:
    assert identity.socket_path(address) == path


def _raw(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def test_the_servers_identity_socket_survives_nonsense(home: Home, server: object) -> None:
    path = home.path / "orch-id.sock"
    for nonsense in (b"", b"\0", b"\0\0\0\x05ab", b"\xff\xff\xff\xff", b"\0\0\0\x03\xff\xff\xff"):
        assert _raw(path, nonsense) == b""
    empty = _raw(path, b"\0\0\0\0")
    answer = identity_pb2.IdentifyResponse.FromString(empty[4:])
    assert struct.unpack("!I", empty[:4])[0] == len(empty) - 4
    assert answer.token == ""
    assert path.stat().st_mode & 0o777 == 0o600
    until(lambda: home.json("agents") == [], "the server to answer")
