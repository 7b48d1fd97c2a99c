"""Tells who calls, and signs it into a short-lived token.

The kernel names the process at the other end of orch-id.sock; its parents, or its controlling
terminal when its parents have ended, lead to the first process of a pane. What the caller says only
helps to find the tmux server that has the pane. No flag, variable or file of the caller changes who
he is.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta

from orch_server.core.clock import Clock
from orch_server.core.errors import Unidentified
from orch_server.core.identity import Caller, Incarnation, InPane, Operator, Pane, TokenAgent
from orch_server.core.text import printable
from orch_server.services.agents import AgentRegistry
from orch_server.services.tokens import TokenFiles
from orch_server.tmux import processes
from orch_server.tmux.bounded import TmuxUnanswered
from orch_server.tmux.finder import PaneFinder

LIFETIME = timedelta(minutes=10)
_CACHE = 4096


@dataclass(frozen=True, slots=True)
class Identified:
    """The answer on orch-id.sock. `token` is "" for the operator; `pane` the one asked for."""

    token: str
    expires_at: datetime
    pane: Pane | None
    problem: str


class IdentityService:
    """Finds callers' panes, makes tokens and reads them."""

    def __init__(
        self,
        finder: PaneFinder,
        registry: AgentRegistry,
        files: TokenFiles,
        key: bytes,
        clock: Clock,
    ) -> None:
        self._finder = finder
        self._registry = registry
        self._files = files
        self._key = key
        self._clock = clock
        self._read: dict[str, tuple[datetime, InPane]] = {}

    async def identify(self, pid: int, socket: str, pane_id: str, with_facts: bool) -> Identified:
        """Who the process `pid` is and, when wanted, the facts of a pane: its own or `pane_id`."""
        chain, terminal = processes.ancestors(pid), processes.terminal(pid)
        expires = self._clock.now() + LIFETIME
        known = self._known(chain, terminal)
        if known is not None and not with_facts:
            return Identified(self._sign(known, expires), expires, None, "")
        try:
            panes = await self._panes(socket)
        except TmuxUnanswered as exc:
            panes, problem = [], exc.message
        else:
            problem = ""
        own = next((p for p in panes if _holds(p, chain, terminal)), None)
        incarnation = own.incarnation if own else known
        wanted = _with_id(panes, pane_id) if pane_id else own
        if wanted is None and not problem:
            problem = _no_pane(pane_id, socket)
        token = self._sign(incarnation, expires) if incarnation else ""
        return Identified(token, expires, wanted, problem)

    async def panes_of(self, incarnation: Incarnation) -> list[Pane]:
        """All panes of the tmux server that has this one."""
        return await self._finder.list_panes(incarnation.socket)

    async def read(self, token: str) -> Caller:
        """The caller that bears this token. Raises Unidentified."""
        cached = self._read.get(token)
        if cached is not None and cached[0] > self._clock.now():
            return cached[1]
        if token.startswith(TokenFiles.PREFIX):
            named = await self._files.read(token)
            return Operator() if named is None else TokenAgent(*named)
        return self._verify(token)

    def _known(self, chain: list[int], terminal: int) -> Incarnation | None:
        """The pane of a known agent among whose processes the caller is."""
        agent = self._registry.by_pane_pid(chain, self._finder.host)
        if agent is None and terminal:
            on_it = (p for p in self._registry.pane_pids() if processes.terminal(p) == terminal)
            agent = self._registry.by_pane_pid(on_it, self._finder.host)
        if agent is None or agent.incarnation is None:
            return None
        # Process ids recur, also among the panes of one tmux server.
        at, pid = agent.incarnation, agent.pane_pid
        is_child = processes.parent(pid) == at.server_pid
        return at if is_child and self._registry.is_first_process(pid) else None

    async def _panes(self, socket: str) -> list[Pane]:
        """The panes of the caller's tmux server; without a hint, of all that are known."""
        if socket:
            return await self._finder.list_panes(socket)
        found: list[Pane] = []
        for path in sorted(
            {*self._registry.sockets(self._finder.host), self._finder.default_socket}
        ):
            found.extend(await self._finder.list_panes(path))
        return found

    def _sign(self, incarnation: Incarnation, expires: datetime) -> str:
        claims = [*astuple(incarnation), int(expires.timestamp())]
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()
        return f"{body}.{self._mac(body)}"

    def _verify(self, token: str) -> InPane:
        body, _, mac = token.rpartition(".")
        if not body or not hmac.compare_digest(mac.encode(), self._mac(body).encode()):
            raise Unidentified("The token is not one of this server's; ask for a new one.")
        try:
            host, socket, pid, started, pane, expiry = json.loads(base64.urlsafe_b64decode(body))
        except (ValueError, binascii.Error) as exc:
            raise Unidentified("The token cannot be read; ask for a new one.") from exc
        now = self._clock.now()
        if expiry <= now.timestamp():
            raise Unidentified("The token is over; ask for a new one.")
        caller = InPane(Incarnation(host, socket, pid, started, pane))
        if len(self._read) >= _CACHE:
            self._read.clear()
        self._read[token] = (now + timedelta(seconds=expiry - now.timestamp()), caller)
        return caller

    def _mac(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), "sha256").hexdigest()


def _holds(pane: Pane, chain: list[int], terminal: int) -> bool:
    """Whether the process with these parents and this terminal lives in the pane, and the pane's
    first process lives and really is a child of the tmux server that claims it."""
    if pane.dead:  # tmux still shows its process, whose number may be another's by now
        return False
    inside = pane.pid in chain or (terminal and processes.terminal(pane.pid) == terminal)
    return bool(inside) and processes.parent(pane.pid) == pane.incarnation.server_pid


def _with_id(panes: Iterable[Pane], pane_id: str) -> Pane | None:
    found = [p for p in panes if p.incarnation.pane == pane_id]
    return found[0] if len(found) == 1 else None


def _no_pane(pane_id: str, socket: str) -> str:
    where = f"the tmux server on {printable(socket)}" if socket else "any tmux server known here"
    if pane_id:
        return f"There is no pane {printable(pane_id)} in {where}."
    return f"The caller is in no pane of {where}."
