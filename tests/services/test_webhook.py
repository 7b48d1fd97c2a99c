"""Posting to a webhook: real receivers, also those that misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orch_server.services.webhook import NotTaken, Webhook
from tests.services.receivers import Receiver, closed_port, raw, receiver

BODY = {"id": "a1", "text": "It waits — for you."}
#: A deadline that nothing here reaches, and within how many seconds all is over that must not wait
#: for it.
LONG, PATIENCE = 60.0, 20.0


def _post(url: str, deadline: float = LONG) -> None:
    async def body() -> None:
        webhook = Webhook(url, "orch-test/1", deadline)
        try:
            await webhook.post(BODY)
        finally:
            webhook.close()

    asyncio.run(body())


def _refused(url: str, deadline: float = LONG) -> str:
    with pytest.raises(NotTaken) as error:
        _post(url, deadline)
    return str(error.value)


def test_a_receiver_gets_the_json_once() -> None:
    with receiver() as at:
        _post(at.url)
        got = at.got.get(timeout=PATIENCE)
        assert got.body == BODY
        assert got.path == "/hook"
        assert got.headers["Content-Type"] == "application/json; charset=utf-8"
        assert got.headers["Host"] == f"127.0.0.1:{at.port}"
        assert got.headers["User-Agent"] == "orch-test/1"
        assert at.got.empty()


def test_path_query_and_password_of_the_url_are_sent() -> None:
    with receiver() as at:
        _post(f"http://us%40er:pass%3Aword@127.0.0.1:{at.port}/a b/ü%20c?token=x&y=z w")
        got = at.got.get(timeout=PATIENCE)
        assert got.path == "/a%20b/%C3%BC%20c?token=x&y=z%20w"
        assert got.headers["Host"] == f"127.0.0.1:{at.port}"
        assert base64.b64decode(got.headers["Authorization"].split()[1]) == b"us@er:pass:word"


@pytest.mark.parametrize("status", [201, 202, 204, 299])
def test_any_status_from_200_to_299_is_a_yes(status: int) -> None:
    with receiver(status) as at:
        _post(at.url)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 599])
def test_another_status_is_a_no_that_names_it(status: int) -> None:
    with receiver(status) as at:
        assert _refused(at.url) == f"127.0.0.1 answered {status}."


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with receiver() as other, receiver(status) as at:
        at.location = other.url
        said = _refused(at.url)
        assert said.startswith(f"127.0.0.1 answered {status}, and redirects are not followed")
        assert other.got.empty()


def test_nobody_there_is_one_sentence() -> None:
    with closed_port() as port:
        said = _refused(f"http://127.0.0.1:{port}/")
    assert said.startswith("127.0.0.1 cannot be reached (")
    assert said.endswith(").")
    assert "\n" not in said


def test_a_host_that_does_not_exist_is_one_sentence() -> None:
    assert "cannot be reached" in _refused("http://nothing.invalid/secret")


def test_a_receiver_that_hangs_costs_no_more_than_the_deadline() -> None:
    with raw(lambda connection: None) as port:
        begun = time.monotonic()
        assert _refused(f"http://127.0.0.1:{port}/", 0.3) == (
            "127.0.0.1 did not answer within 0.3 s."
        )
        assert time.monotonic() - begun < PATIENCE


def test_posts_that_hang_take_no_thread_that_others_need() -> None:
    async def body(port: int) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        webhook = Webhook(f"http://127.0.0.1:{port}/", "orch-test/1", LONG)
        posts = [asyncio.create_task(webhook.post(BODY)) for _ in range(5)]
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.to_thread(int, "7") == 7
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        webhook.close()

    with raw(lambda connection: None) as port:
        asyncio.run(body(port))


def test_the_deadline_of_a_post_begins_when_it_has_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A silent name server keeps threads for longer than a deadline; nothing can end that."""
    answering, asked = threading.Event(), threading.Semaphore(0)

    def silent(*args: object, **kwargs: object) -> list[object]:
        asked.release()
        answering.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")

    async def body() -> None:
        webhook = Webhook("http://silent.invalid/", "orch-test/1", 0.05)
        for _ in range(2):
            with pytest.raises(NotTaken, match="did not answer within"):
                await webhook.post(BODY)
        third = asyncio.create_task(webhook.post(BODY))
        done, _ = await asyncio.wait({third}, timeout=0.3)
        assert not done, "it has no thread, so it is no attempt"
        webhook._deadline = LONG  # its own begins now, and is not what is looked at any more
        answering.set()
        with pytest.raises(NotTaken, match="no name server answers"):
            await asyncio.wait_for(third, PATIENCE)
        assert all(asked.acquire(timeout=PATIENCE) for _ in range(3))
        assert not asked.acquire(blocking=False)
        webhook.close()

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", silent)
        asyncio.run(body())


def test_a_name_that_is_found_too_late_brings_no_second_post(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, looks_up = threading.Event(), socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> Any:
        found.wait(PATIENCE)
        return looks_up(*args, **kwargs)

    async def body(at: Receiver) -> None:
        webhook = Webhook(at.url, "orch-test/1", 0.05)
        with pytest.raises(NotTaken, match="did not answer within"):
            await webhook.post(BODY)
        found.set()
        await asyncio.wait(webhook._under_way, timeout=PATIENCE)
        assert not webhook._under_way
        webhook.close()
        assert at.got.empty()

    with receiver() as at, monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", slow)
        asyncio.run(body(at))


def test_closing_waits_for_no_receiver() -> None:
    async def body(port: int) -> None:
        webhook = Webhook(f"http://127.0.0.1:{port}/", "orch-test/1", LONG)
        posts = [asyncio.create_task(webhook.post(BODY)) for _ in range(3)]
        await asyncio.sleep(0)
        begun = time.monotonic()
        for post in posts:
            post.cancel()
        webhook.close()
        await asyncio.gather(*posts, return_exceptions=True)
        assert time.monotonic() - begun < PATIENCE

    with raw(lambda connection: None) as port:
        asyncio.run(body(port))


def test_one_that_answers_a_byte_now_and_then_costs_no_more_either() -> None:
    def drip(connection: socket.socket) -> None:
        connection.settimeout(0.05)
        for _ in range(1000):
            connection.sendall(b"H")
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1):
                    return

    with raw(drip) as port:
        begun = time.monotonic()
        assert "did not answer within 0.5 s" in _refused(f"http://127.0.0.1:{port}/", 0.5)
        assert time.monotonic() - begun < PATIENCE


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff\xfe garbage\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 20\r\n",
        b"HTTP/9 200 OK\r\n",
        b"\n",
    ],
)
def test_garbage_is_no_yes(answer: bytes) -> None:
    with raw(lambda connection: connection.sendall(answer)) as port:
        assert _refused(f"http://127.0.0.1:{port}/") == "127.0.0.1 did not answer in HTTP."


def test_an_endless_line_is_read_no_further_than_some_kilobytes() -> None:
    with raw(lambda connection: connection.sendall(b"HTTP/1.1 200 " + b"x" * 100_000)) as port:
        assert _refused(f"http://127.0.0.1:{port}/") == "127.0.0.1 did not answer in HTTP."


def test_a_connection_that_is_closed_without_a_word_is_no_yes() -> None:
    with raw(lambda connection: connection.shutdown(socket.SHUT_RDWR)) as port:
        said = _refused(f"http://127.0.0.1:{port}/")
        assert "did not answer in HTTP" in said or "cannot be reached" in said


def test_no_error_tells_what_the_url_hides() -> None:
    with receiver(500) as at:
        said = _refused(f"http://user:secret@127.0.0.1:{at.port}/secret?secret=secret")
    assert "secret" not in said
    with closed_port() as port:
        assert "secret" not in _refused(f"http://user:secret@127.0.0.1:{port}/secret")


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(folder: Path) -> None:
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        f" -subj /CN=localhost -keyout {folder}/key -out {folder}/cert".split(),
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "cert", folder / "key")
    with receiver(tls=tls) as at:
        said = _refused(f"https://localhost:{at.port}/hook")
        assert "cannot be reached" in said
        assert "certificate" in said.lower()
        assert at.got.empty()
