"""Agents: who they are, and the liveness of their clients."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orch_server.core.identity import Incarnation


class Liveness(StrEnum):
    """Whether an agent's client is heard; see agent.proto."""

    UNMANAGED = "UNMANAGED"
    ALIVE = "ALIVE"
    SUSPECT = "SUSPECT"
    LOST = "LOST"
    ENDED = "ENDED"
    UNKNOWN = "UNKNOWN"


#: A client that is, or may still be, there: its role and its pane are not given away.
HELD = frozenset({Liveness.ALIVE, Liveness.SUSPECT, Liveness.UNKNOWN})


class Kind(StrEnum):
    """What runs in an agent's pane. UNSET: the pane's own processes tell, each time."""

    UNSET = ""
    SHELL = "shell"
    GENERIC = "generic"
    CLAUDE = "claude"
    CODEX = "codex"


@dataclass(frozen=True, slots=True)
class Agent:
    """One role in one session. `incarnation` is None until it had a pane."""

    id: str
    session: str
    role: str
    kind: Kind
    incarnation: Incarnation | None
    pane_pid: int
    epoch: int
    liveness: Liveness
    liveness_changed_at: datetime
    last_check_in_at: datetime | None
    client_version: str
    created_at: datetime

    @property
    def address(self) -> str:
        """How people write it."""
        return f"{self.session}:{self.role}"


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent as it is shown: the stored facts and what memory knows better."""

    agent: Agent
    foreground_program: str = ""
    waiting: WaitingFor | None = None


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """What an agent waits for."""

    role: str
    reason: str
    authorization_id: str
    since: datetime
    deadline: datetime
