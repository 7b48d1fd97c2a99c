"""What core/sync.py compares: the store and tmux, each as it was seen at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from orch_server.core.agent import Agent
from orch_server.core.identity import Incarnation, Pane
from orch_server.core.session import NO_DETAIL, AgentDetail, Session

#: What tells one difference from all others: its kind, subject and socket.
Key = tuple[str, str, str]


class Answer(StrEnum):
    """What a tmux server said: of one that is UNANSWERED nothing is known; that one does NOT_RUN is
    certain."""

    ANSWERED = "ANSWERED"
    NOT_RUNNING = "NOT_RUNNING"
    UNANSWERED = "UNANSWERED"


@dataclass(frozen=True, slots=True)
class TmuxSession:
    """A session as tmux shows it now; `mark` is its option @orch_session, `created` in seconds
    since 1970."""

    id: str
    name: str
    created: int
    mark: str = ""


@dataclass(frozen=True, slots=True)
class TmuxServer:
    """What is behind one socket. A pane may be listed more than once, in linked windows."""

    socket: str
    answer: Answer
    pid: int = 0
    started: int = 0
    sessions: tuple[TmuxSession, ...] = ()
    panes: tuple[Pane, ...] = ()
    _places: dict[tuple[int, int, str], list[Pane]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        for pane in self.panes:
            self._places.setdefault(_life(pane.incarnation), []).append(pane)

    def places(self, at: Incarnation) -> list[Pane]:
        """The pane as it is listed, whatever path its socket was known by."""
        return self._places.get(_life(at), [])


@dataclass(frozen=True, slots=True)
class StoreView:
    """What the store holds, with what the files of this host say.

    `names`: session names that the store has heard of without having the session; `living` are the
    agents' tmux servers that run, whatever their sockets say; `lost_paths` are worktrees that are
    not there; `worktrees` are the git folders that the first processes of panes are in; `known` is
    since when differences are known; `imported` are the names of the old system's sessions, and
    when they were imported.
    """

    host: str
    generation: str
    default_socket: str
    backups: str
    sessions: Mapping[str, Session]
    agents: tuple[Agent, ...]
    details: Mapping[str, AgentDetail]
    names: tuple[str, ...] = ()
    living: frozenset[int] = frozenset()
    lost_paths: frozenset[str] = frozenset()
    worktrees: Mapping[int, str] = field(default_factory=dict)
    known: Mapping[Key, datetime] = field(default_factory=dict)
    imported: Mapping[str, datetime] = field(default_factory=dict)

    def detail(self, agent: Agent) -> AgentDetail:
        """What is known of the agent beside its client."""
        return self.details.get(agent.id, NO_DETAIL)


def tmux_spelling(name: str) -> str:
    """The name that tmux gives to a session that is made under this one."""
    return name.replace(".", "_").replace(":", "_")


#: By socket.
TmuxView = Mapping[str, TmuxServer]


def _life(at: Incarnation) -> tuple[int, int, str]:
    return at.server_pid, at.started, at.pane
