"""Posts JSON to a URL: one attempt, with a deadline for all of it, following no redirect.

The URL may hold a secret: no error names more of it than the host.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, unquote, urlsplit

DEADLINE = 5.0
#: Posts at once; each has a thread, and none of those that others need.
AT_ONCE = 2


class NotTaken(Exception):
    """The receiver did not take it; `str()` is one sentence."""


class Webhook:
    """Where alerts are posted to. `url` is http or https; user and password in it are sent."""

    def __init__(self, url: str, agent: str, deadline: float = DEADLINE) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._target = quote(target, safe="/%?:@!$&'()*+,;=~-._")
        self._headers = {
            "User-Agent": agent,
            "Content-Type": "application/json; charset=utf-8",
            "Connection": "close",
        }
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            encoded = base64.b64encode(user.encode()).decode()
            self._headers["Authorization"] = f"Basic {encoded}"
        self._deadline = deadline
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
        self._under_way: set[asyncio.Future[int]] = set()  # each has a thread

    def close(self) -> None:
        """Waits for no post that is under way."""
        for exchange in self._under_way:
            exchange.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def post(self, body: Mapping[str, str]) -> None:
        """Posts the body as JSON. Raises NotTaken unless the answer is 2xx.

        The deadline begins when there is a thread for it: a name server that is silent may keep the
        threads of earlier posts for longer than theirs.
        """
        data = json.dumps(body, ensure_ascii=False).encode()
        while len(self._under_way) >= AT_ONCE:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        connection = self._connection()
        given_up = threading.Event()
        exchange = self._begin(connection, data, given_up)
        try:
            async with asyncio.timeout(self._deadline):
                status = await asyncio.shield(exchange)
        except TimeoutError as exc:
            raise NotTaken(f"{self._host} did not answer within {self._deadline:g} s.") from exc
        except HTTPException as exc:
            raise NotTaken(f"{self._host} did not answer in HTTP.") from exc
        except (OSError, ValueError) as exc:
            raise NotTaken(f"{self._host} cannot be reached ({_why(exc)}).") from exc
        finally:
            given_up.set()
            _give_up(connection)
        if 300 <= status < 400:
            raise NotTaken(
                f"{self._host} answered {status}, and redirects are not followed; configure the URL"
                " it leads to."
            )
        if not 200 <= status < 300:
            raise NotTaken(f"{self._host} answered {status}.")

    def _begin(
        self, connection: HTTPConnection, data: bytes, given_up: threading.Event
    ) -> asyncio.Future[int]:
        """What ends when its thread ends, whether or not anybody waits for it by then."""
        loop = asyncio.get_running_loop()
        work = partial(self._exchange, connection, data, given_up)
        exchange = loop.run_in_executor(self._threads, work)
        self._under_way.add(exchange)
        exchange.add_done_callback(self._ended)
        return exchange

    def _ended(self, exchange: asyncio.Future[int]) -> None:
        self._under_way.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()  # is looked at, also when the deadline is over

    def _connection(self) -> HTTPConnection:
        """Not yet connected. Each wait of its thread has the deadline too."""
        if self._tls is None:
            return HTTPConnection(self._host, self._port, self._deadline)
        return HTTPSConnection(self._host, self._port, timeout=self._deadline, context=self._tls)

    def _exchange(self, connection: HTTPConnection, data: bytes, given_up: threading.Event) -> int:
        """Returns the status of the answer; runs on a thread."""
        try:
            connection.connect()
            if given_up.is_set():  # as it counts as not posted, it must not arrive
                raise TimeoutError
            connection.request("POST", self._target, data, self._headers)
            return connection.getresponse().status
        finally:
            connection.close()


def _give_up(connection: HTTPConnection) -> None:
    """Ends the thread that may still wait for the answer."""
    waiting = connection.sock
    if waiting is not None:
        with contextlib.suppress(OSError):
            waiting.shutdown(socket.SHUT_RDWR)


def _why(exc: Exception) -> str:
    """What went wrong, on one line."""
    text = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
    return " ".join(str(text).split())[:200]
