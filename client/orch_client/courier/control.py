"""Speaks to tmux over one control-mode connection: the transport for many panes.

Commands go as lines, answers come as blocks between %begin and %end. After each command line goes a
question of our own with an unguessable answer, so that a call ends there and nowhere else, whatever
a pane's screen or title looks like. The control client never resizes a window; it is attached, as
tmux wants it, to a session that does not mind, and leaves when it is not needed for a while. What
may take long runs in a subprocess of its own, since tmux works off the lines of one client one
after the other.

A tmux before 3.7 crashes, with all its sessions, when a session is made, renamed or ended, or a
client detaches, at the moment in which a control client connects (tmux pull requests 4980 and 5004;
on 3.3a every fifth connection while sessions come and go). There batch.py serves.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field

from orch_client.courier.batch import Batch
from orch_client.courier.quoting import command_line
from orch_client.courier.text_argument import loading
from orch_client.courier.tmux import (
    DEADLINE,
    Subprocess,
    TmuxFailed,
    TmuxSilent,
    environment,
    error,
)

_FAREWELL = 1.0
_IDLE = 30.0
_READ = 256 * 1024
_PIPE = 1024 * 1024
SAFE = (3, 7)
_AGAIN = 60.0  # seconds after which a server without a connection is judged anew
_SESSIONS = (
    "#{version} #{session_id} #{?session_attached,0,1} #{session_activity} #{destroy-unattached}"
    " #{exit-unattached}"
)
_OFF = ("0", "off")
_GUARD = re.compile(rb"%(begin|end|error) (\d+ \d+ (\d+))\Z")


class Control:
    """One tmux server, spoken to over one connection that is opened when it is first needed.

    `oldest` is the tmux version from which on a connection is used, else a process for a batch of
    calls.
    """

    def __init__(self, socket: str, oldest: tuple[int, int] = SAFE) -> None:
        self._oldest = oldest
        self._judged = -_AGAIN
        self._socket = socket
        self._single = Subprocess(socket)
        self._batch = Batch(socket)
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link | None] | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._closed = False

    async def run(self, *args: str, stdin: bytes | None = None, deadline: float = DEADLINE) -> str:
        """As in Tmux. After a deadline the connection is given up, with all that waits on it."""
        if any("run-shell" in arg for arg in args):
            return await self._single.run(*args, stdin=stdin, deadline=deadline)
        link: _Link | None = None
        try:
            async with asyncio.timeout(deadline):
                link = await self._connected()
                if link is None:
                    return await self._batch.run(*args, stdin=stdin, deadline=deadline)
                with loading(args, stdin) as command:
                    return await link.ask(command_line(command))
        except TimeoutError as exc:
            if link is not None:
                link.end("tmux did not answer another call")
            raise TmuxSilent(f"tmux did not answer within {deadline:g} s") from exc

    async def close(self) -> None:
        """Ends the connection and waits for its tmux client's end."""
        self._closed = True
        await self._batch.close()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._link is not None:
            self._link.end("the connection was closed")
        if self._endings:
            await asyncio.wait(self._endings)

    async def _connected(self) -> _Link | None:
        """The open connection; None when there is no session that can be attached to."""
        if self._closed:
            raise TmuxSilent("the connection is closed")
        if self._link is not None and not self._link.ended:
            return self._link
        if time.monotonic() < self._judged + _AGAIN:
            return None
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Link | None:
        """Runs in a task of its own, so that a cancelled call leaves no tmux client behind."""
        session = _choose(await self._single.run("list-sessions", "-F", _SESSIONS), self._oldest)
        if not session:
            self._judged = time.monotonic()
            return None
        self._link = link = _Link(await asyncio.to_thread(_attach, self._socket, session))
        ending = asyncio.create_task(link.run())
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return link

    def _opened(self, task: asyncio.Task[_Link | None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # whoever still waits gets it


@dataclass(slots=True)
class _Call:
    """A command line that was sent; its answer is whole when `mark` comes back."""

    mark: bytes
    answer: asyncio.Future[str]
    output: list[bytes] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Client:
    """A process of tmux, and the descriptor from which its output is read."""

    process: subprocess.Popen[bytes]
    output: int


class _Link:
    """One control client of tmux. Made and used on the event loop."""

    def __init__(self, client: _Client) -> None:
        assert client.process.stdin is not None
        self._client = client
        self._stdin, self._stdout = client.process.stdin.fileno(), client.output
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        self._loop = asyncio.get_running_loop()
        self._mark = os.urandom(12).hex()
        self._count = 0
        self._calls: deque[_Call] = deque()
        self._unsent = bytearray()
        self._rest = b""
        self._block: bytes | None = None
        self._lines: list[bytes] = []
        self._over = asyncio.Event()
        self._reason = ""
        self._idle: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._stdout, self._read)

    @property
    def ended(self) -> bool:
        """Whether another connection is needed."""
        return self._over.is_set()

    async def ask(self, line: str) -> str:
        """Sends one line of commands and returns what they print; the errors of Tmux.run."""
        self._count += 1
        mark = f"{self._mark}.{self._count}"
        data = f"{line}\ndisplay-message -p {mark}\n".encode()
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        call = _Call(mark.encode(), self._loop.create_future())
        self._calls.append(call)
        self._write(data)
        return await call.answer

    def end(self, reason: str) -> None:
        """No more is sent or heard. What waits gets an exception by the reason."""
        if self.ended:
            return
        self._over.set()
        if self._idle is not None:
            self._idle.cancel()
        self._loop.remove_reader(self._stdout)
        self._loop.remove_writer(self._stdin)
        calls, self._calls = self._calls, deque()
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(_ended(self._reason or reason))

    async def run(self) -> None:
        """Returns when the connection has ended and its tmux client is gone."""
        await self._over.wait()
        await asyncio.to_thread(_bury, self._client)

    def _write(self, data: bytes) -> None:
        waiting = bool(self._unsent)
        self._unsent += data
        if not waiting:
            self._flush()

    def _flush(self) -> None:
        try:
            sent = os.write(self._stdin, self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # the client is gone; the reader says why
            self._unsent.clear()
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._stdin, self._flush)
        else:
            self._loop.remove_writer(self._stdin)

    def _read(self) -> None:
        try:
            data = os.read(self._stdout, _READ)
        except BlockingIOError:
            return
        if not data:
            self.end("its control client ended")
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        """One line: of a block, the start or end of one, a notification, or a late print."""
        guard = _GUARD.match(line) if line.startswith(b"%") else None
        if self._block is not None:
            if guard and guard[1] != b"begin" and guard[2] == self._block:
                self._block_ended(guard[1] == b"error", own=guard[3] != b"0")
            else:
                self._lines.append(line)
        elif guard and guard[1] == b"begin":
            self._block, self._lines = guard[2], []
        elif line.startswith(b"%exit"):
            self._reason = line[len(b"%exit ") :].decode("utf-8", "replace")
        elif not line.startswith(b"%") and self._calls:
            self._calls[0].output.append(line)

    def _block_ended(self, failed: bool, own: bool) -> None:
        lines, self._block, self._lines = self._lines, None, []
        if not own or not self._calls:  # of a hook, or of the attaching
            return
        call = self._calls[0]
        if lines == [call.mark]:
            self._calls.popleft()
            if not self._calls:
                self._idle = self._loop.call_later(_IDLE, self.end, "nothing was asked")
            _settle(call)
        elif failed and call.error is None:
            call.error = b"\n".join(lines).decode("utf-8", "replace").strip()
        else:
            call.output += lines


def _choose(sessions: str, oldest: tuple[int, int]) -> str:
    """The id of the session to attach to; "" when there is none, or tmux is too old.

    One that ends when its last client leaves must not be ours to leave. Rather one that is attached
    already, then one that was not used for long: so `tmux attach` goes where it went before.
    """
    rows = (line.split(" ") for line in sessions.splitlines())
    fit = (r for r in rows if _version(r[0]) >= oldest and r[4] in _OFF and r[5] in _OFF)
    ordered = sorted(fit, key=lambda row: (row[2], int(row[3])))
    return ordered[0][1] if ordered else ""


def _version(text: str) -> tuple[int, int]:
    """Of a release, such as "3.3a"; (0, 0) for what is none."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _attach(socket: str, session: str) -> _Client:
    """Starts a control client, beyond the reach of a terminal's signals. -N: never a tmux server;
    -E: the session's environment stays.

    The client holds the reading end of its own output too. tmux does not let a control client go
    before its output is taken, so if this process is killed the client would stay for ever.
    """
    command = ["tmux", "-u", "-N", "-S", socket, "-C", "attach-session", "-E", "-t", session]
    output, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, _PIPE)
    try:
        process = subprocess.Popen(
            [*command, "-f", "no-output,ignore-size"],
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            pass_fds=[output],
            bufsize=0,
            env=environment(),
            start_new_session=True,
        )
    except OSError as exc:
        os.close(output)
        raise TmuxSilent(f"tmux cannot be run ({exc.strerror})") from exc
    finally:
        os.close(theirs)
    return _Client(process, output)


def _bury(client: _Client) -> None:
    """Ends the client by closing its input; kills it when its server does not let it go.

    Never at once: tmux 3.3a can crash when a client is killed while it attaches (3 of 600).
    """
    process = client.process
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_FAREWELL)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    os.close(client.output)


def _ended(reason: str) -> Exception:
    """What a call gets whose connection ended: whether it was done is not known."""
    found = error(reason)
    return TmuxSilent(f"tmux: {reason}") if isinstance(found, TmuxFailed) else found


def _settle(call: _Call) -> None:
    if call.answer.done():  # the caller has given up
        return
    if call.error is not None:
        call.answer.set_exception(error(call.error))
        return
    call.answer.set_result("".join(f"{_text(line)}\n" for line in call.output))


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")
