"""The comparison of what the store holds with what tmux has. Pure: views in, differences out.

A tmux that did not answer says nothing: no difference begins and none ends because of it. What the
advice holds is made by core/sync_advice.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from orch_server.core import sync_advice as advice
from orch_server.core.agent import HELD, Agent
from orch_server.core.errors import InvalidInput
from orch_server.core.identity import Pane
from orch_server.core.naming import project_of
from orch_server.core.session import Session
from orch_server.core.sync_names import marked, missing_names, why_unnamed
from orch_server.core.sync_view import (
    Answer,
    Key,
    StoreView,
    TmuxServer,
    TmuxSession,
    TmuxView,
    tmux_spelling,
)
from orch_server.core.text import check_role, printable

#: How long a tmux session of ours may be without a session in the store before it is reported.
GRACE = timedelta(hours=1)


class MismatchKind(StrEnum):
    """How store and tmux differ; see session_state.proto."""

    SESSION_GONE = "SESSION_GONE"
    SESSION_RENAMED = "SESSION_RENAMED"
    NAME_MISSING = "NAME_MISSING"
    PANE_GONE = "PANE_GONE"
    WINDOW_CHANGED = "WINDOW_CHANGED"
    ROLE_CHANGED = "ROLE_CHANGED"
    WORKTREE_MISSING = "WORKTREE_MISSING"
    ORPHAN = "ORPHAN"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One difference. `subject`: a session's name, "session:role", or a tmux session's name.

    `socket` is the tmux server's that told it, "" when none did; `in_grace`: seen, and not yet to
    be reported.
    """

    kind: MismatchKind
    subject: str
    session: str
    detail: str
    since: datetime
    safe: bool
    advice: str
    repaired: bool = False
    socket: str = ""
    in_grace: bool = False

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.kind, self.subject, self.socket


_Found = Iterator[Mismatch]


class _Fate(StrEnum):
    """What became of an agent's pane."""

    THERE = "THERE"
    GONE = "GONE"
    UNKNOWN = "UNKNOWN"
    NONE = "NONE"
    ELSEWHERE = "ELSEWHERE"


def compare(store: StoreView, tmux: TmuxView, now: datetime) -> list[Mismatch]:
    """All differences, by kind and subject, each with since when it is known."""
    look = _Look(store, tmux)
    found = [*look.sessions(), *look.agents(), *look.orphans(now)]
    dated = [m if m.in_grace else replace(m, since=store.known.get(m.key, now)) for m in found]
    return sorted(dated, key=lambda m: m.key)


def unanswered(tmux: TmuxView) -> list[str]:
    """The sockets of which nothing is known."""
    return sorted(s.socket for s in tmux.values() if s.answer is Answer.UNANSWERED)


def places(agent: Agent, tmux: TmuxView) -> list[Pane]:
    """The agent's pane as its own tmux server lists it; more than one in linked windows."""
    at = agent.incarnation
    server = tmux.get(at.socket) if at is not None else None
    return server.places(at) if at is not None and server is not None else []


def new_worktree(agent: Agent, store: StoreView, tmux: TmuxView) -> str:
    """The git folder that the agent's pane is in, when it is not known, or another one was learned
    before or is not there any more; else ""."""
    known = store.detail(agent)
    path = known.worktree_path
    if path and path not in store.lost_paths and not known.worktree_learned:
        return ""
    found = next((store.worktrees.get(pane.pid, "") for pane in places(agent, tmux)), "")
    return found if found != path else ""


def homeless(store: StoreView, tmux: TmuxView, found: list[Mismatch]) -> list[Agent]:
    """The agents without a client whose panes went with their session."""
    look = _Look(store, tmux)
    gone = {m.session for m in found if m.kind is MismatchKind.SESSION_GONE}
    return [a for a in store.agents if a.session in gone and look.has_lost_its_pane(a)]


class _Look:
    """One comparison; what it looks up more than once it looks up here."""

    def __init__(self, store: StoreView, tmux: TmuxView) -> None:
        self._store = store
        self._tmux = tmux
        self._pids = {s.pid for s in tmux.values() if s.answer is Answer.ANSWERED}
        self._names = {s.name for server in tmux.values() for s in server.sessions}
        self._panes = {agent.id: places(agent, tmux) for agent in store.agents}
        self._team: dict[str, list[Agent]] = {}
        for agent in store.agents:
            self._team.setdefault(agent.session, []).append(agent)
        self._imported = {tmux_spelling(name): name for name in store.imported}
        self._open = [s for s in store.sessions.values() if not s.ended]
        self._gone = {s.name for s in self._open if self._is_gone(s)}

    # ---- sessions ----

    def sessions(self) -> _Found:
        names = {} if unanswered(self._tmux) else missing_names(self._store, self._tmux)
        for session in self._open:
            if session.name in self._gone:
                yield self._session_gone(session)
            elif session.name in names:
                yield self._name_missing(session, *names[session.name])
            elif not self._is_named(session):
                yield from self._renamed(session)

    def has_lost_its_pane(self, agent: Agent) -> bool:
        """Whether its pane is surely gone, and no client of it may be there."""
        return agent.liveness not in HELD and self._fate(agent) is _Fate.GONE

    def _name_missing(self, session: Session, name: str | None, fitting: list[str]) -> Mismatch:
        detail = f"'{session.name}' is only a label: the name of its tmux session is not known."
        told = (
            advice.take_name(name)
            if name
            else f"Not repaired: {why_unnamed(session, self._store, fitting)}."
        )
        kind = MismatchKind.NAME_MISSING
        return _mismatch(kind, session.name, session.name, detail, told, safe=name is not None)

    def _is_gone(self, session: Session) -> bool:
        """Whether it surely was in tmux on this host once, and surely is not now."""
        if session.name_missing or self._is_named(session):
            return False
        team = self._team.get(session.name, [])
        fates = {self._fate(agent) for agent in team}
        if not fates <= {_Fate.GONE, _Fate.NONE} or not self._certain(self._socket(session)):
            return False
        if _Fate.GONE in fates or self._known_gone(session) is not None:
            return True
        imported = any(a.epoch == 0 and self._window(a) is not None for a in team)
        return imported and not unanswered(self._tmux)  # it may be in one that is silent

    def _is_named(self, session: Session) -> bool:
        """Whether tmux has a session of its name."""
        return tmux_spelling(session.name) in self._names

    def _session_gone(self, session: Session) -> Mismatch:
        socket = self._socket(session)
        runs = self._tmux[socket].answer is Answer.ANSWERED
        why = "no such session and no pane of it" if runs else "no server at all"
        return _mismatch(
            MismatchKind.SESSION_GONE,
            session.name,
            session.name,
            f"The session is not over, and tmux on {socket} has {why}.",
            advice.start_again(socket, session.name, session.project_path),
            socket=socket,
        )

    def _socket(self, session: Session) -> str:
        """Where its tmux session was."""
        for agent in self._team.get(session.name, []):
            if agent.incarnation is not None:
                return agent.incarnation.socket
        return self._known_gone(session) or self._store.default_socket

    def _known_gone(self, session: Session) -> str | None:
        """The socket on which it is known to be gone; None when it is not known to be."""
        for kind, subject, socket in self._store.known:
            if (kind, subject) == (MismatchKind.SESSION_GONE, session.name):
                return socket
        return None

    def _certain(self, socket: str) -> bool:
        server = self._tmux.get(socket)
        return server is not None and server.answer is not Answer.UNANSWERED

    def _renamed(self, session: Session) -> _Found:
        """All panes of its agents that are there are in one tmux session of another name."""
        panes = [p for a in self._team.get(session.name, []) for p in self._panes[a.id]]
        where = {(p.incarnation.socket, p.session) for p in panes}
        if len(where) != 1:
            return
        socket, name = where.pop()
        target = next((s.id for s in self._tmux[socket].sessions if s.name == name), "")
        yield _mismatch(
            MismatchKind.SESSION_RENAMED,
            session.name,
            session.name,
            f"The panes of its agents are in the tmux session '{printable(name)}' on {socket}.",
            advice.rename_back(socket, target, session.name),
            socket=socket,
        )

    # ---- agents ----

    def agents(self) -> _Found:
        for session in self._open:
            for agent in self._team.get(session.name, []):
                fate = self._fate(agent)
                if fate is _Fate.GONE and session.name not in self._gone:
                    yield self._pane_gone(agent)
                elif fate is _Fate.THERE:
                    yield from self._window_changed(agent)
                    yield from self._role_changed(agent)
                if fate is not _Fate.ELSEWHERE:
                    yield from self._worktree_missing(agent)

    def _fate(self, agent: Agent) -> _Fate:
        at = agent.incarnation
        if at is None:
            return _Fate.NONE
        if at.host != self._store.host:
            return _Fate.ELSEWHERE
        if self._panes[agent.id]:
            return _Fate.THERE
        server = self._tmux.get(at.socket)
        if server is None or server.answer is Answer.UNANSWERED:
            return _Fate.UNKNOWN
        # Its socket may be lost while it runs on: then its panes are there, and out of reach.
        hidden = at.server_pid in self._store.living and at.server_pid not in self._pids
        return _Fate.UNKNOWN if hidden else _Fate.GONE

    def _pane_gone(self, agent: Agent) -> Mismatch:
        at = agent.incarnation
        assert at is not None
        same = (at.server_pid, at.started) == _life(self._tmux[at.socket])
        why = "is closed" if same else "went with its tmux server"
        safe = agent.liveness not in HELD
        return _mismatch(
            MismatchKind.PANE_GONE,
            agent.address,
            agent.session,
            f"Pane {at.pane} of tmux server {at.server_pid} on {at.socket} {why}.",
            advice.PANE_GONE if safe else advice.PANE_GONE_BUT_HEARD,
            safe=safe,
            socket=at.socket,
        )

    def _window_changed(self, agent: Agent) -> _Found:
        detail = self._store.detail(agent)
        known = (detail.window_index, detail.window_name)
        now = [(pane.window_index, pane.window_name) for pane in self._panes[agent.id]]
        if detail.window_index is None or known in now:
            return
        yield _mismatch(
            MismatchKind.WINDOW_CHANGED,
            agent.address,
            agent.session,
            f"The store has window {_window(*known)}, tmux has {_window(*now[0])}.",
            advice.WINDOW_CHANGED,
            safe=True,
            socket=_socket_of(agent),
        )

    def _role_changed(self, agent: Agent) -> _Found:
        pane = self._panes[agent.id][0]
        said = _role(pane.role_option)
        # One whose own name for itself was not free is called after its pane.
        after_pane = f"pane{pane.incarnation.pane.lstrip('%')}"
        if said in ("", agent.role) or agent.role == after_pane:
            return
        yield _mismatch(
            MismatchKind.ROLE_CHANGED,
            agent.address,
            agent.session,
            f"Its pane's option @orch_role says '{printable(said)}'.",
            advice.set_role(_socket_of(agent), pane.incarnation.pane, agent.role),
            socket=_socket_of(agent),
        )

    def _worktree_missing(self, agent: Agent) -> _Found:
        path = self._store.detail(agent).worktree_path
        if not path or path not in self._store.lost_paths:
            return
        moved = new_worktree(agent, self._store, self._tmux) != ""
        yield _mismatch(
            MismatchKind.WORKTREE_MISSING,
            agent.address,
            agent.session,
            f"Its worktree {printable(path, 400)} is not there.",
            advice.WORKTREE_MOVED if moved else advice.WORKTREE_MISSING,
            safe=moved,
        )

    def _window(self, agent: Agent) -> int | None:
        return self._store.detail(agent).window_index

    # ---- orphans ----

    def orphans(self, now: datetime) -> _Found:
        held = {
            (pane.incarnation.socket, pane.session)
            for agent in self._store.agents
            if agent.liveness in HELD
            for pane in self._panes[agent.id]
        }
        for server in self._tmux.values():
            for session in server.sessions:
                name = self._made_for(session)
                known = self._store.sessions.get(name)
                lost = bool(name) and (known is None or known.ended)
                if lost and (server.socket, session.name) not in held:
                    yield self._orphan(server, session, known, now)

    def _made_for(self, session: TmuxSession) -> str:
        """The session for which we, or the old system before its import, made this tmux session;
        "" when neither did."""
        made_for = marked(session, self._store.generation)
        name = self._imported.get(session.name)
        if made_for or session.mark or name is None or project_of(session.name) is None:
            return made_for
        return name if session.created < self._store.imported[name].timestamp() else ""

    def _orphan(
        self, server: TmuxServer, session: TmuxSession, known: Session | None, now: datetime
    ) -> Mismatch:
        why = "is over" if known is not None else "is not in the store"
        found = _mismatch(
            MismatchKind.ORPHAN,
            session.name,
            known.name if known is not None else "",
            f"This tmux session on {server.socket} was made for a session that {why}.",
            advice.back_up_and_end(
                server.socket, server.pid, session.id, session.created, self._store.backups
            ),
            socket=server.socket,
        )
        since = self._store.known.get(found.key, now)
        if since < datetime.fromtimestamp(session.created, UTC):
            since = now  # another one had the name before
        return replace(found, since=since, in_grace=now - since < GRACE)


def _mismatch(
    kind: MismatchKind,
    subject: str,
    session: str,
    detail: str,
    advised: str,
    safe: bool = False,
    socket: str = "",
) -> Mismatch:
    never = datetime.min.replace(tzinfo=UTC)
    return Mismatch(kind, subject, session, detail, never, safe, advised, socket=socket)


def _life(server: TmuxServer) -> tuple[int, int]:
    return server.pid, server.started


def _socket_of(agent: Agent) -> str:
    return agent.incarnation.socket if agent.incarnation is not None else ""


def _role(option: str) -> str:
    try:
        return check_role("role", option) if option.strip() else ""
    except InvalidInput:
        return option.strip()


def _window(index: int | None, name: str) -> str:
    return f"{index} '{printable(name)}'"
