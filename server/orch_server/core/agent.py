"""Agents: who they are, and the liveness of their clients."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orch_server.core.agent_state import Operation, Status
from orch_server.core.errors import InvalidInput
from orch_server.core.identity import Incarnation
from orch_server.core.session import NO_DETAIL, AgentDetail
from orch_server.core.text import printable


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


#: What runs in an agent's pane: a word for which couriers may have screen rules, such as "claude".
#: "": the pane's own processes tell, each time.
Kind = str
_KIND = re.compile(r"([a-z0-9][a-z0-9_-]{0,31})?\Z")


def check_kind(field: str, kind: str) -> Kind:
    """Returns the kind. Raises InvalidInput when it is no word."""
    if not _KIND.match(kind):
        raise InvalidInput(
            field,
            f"'{printable(kind)}' is no kind; use 1 to 32 of a-z, 0-9, '_' and '-', such as claude,"
            " codex, generic or shell.",
        )
    return kind


_CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}\Z")


def check_credential(field: str, name: str) -> str:
    """Returns the name of an account, "" for none. Raises InvalidInput when it is no such name."""
    if name and not _CREDENTIAL.match(name):
        raise InvalidInput(
            field,
            f"'{printable(name)}' is no name of an account; use 1 to 100 of letters, digits and"
            " '._@+-', such as claude@work.",
        )
    return name


@dataclass(frozen=True, slots=True)
class Agent:
    """One role in one session. `incarnation` is None until it had a pane.

    `do_not_disturb` holds its deliveries back. `courier`: the client that was heard last serves the
    pane among others and is not its own. `credential` names the account that it runs under.
    """

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
    do_not_disturb: bool = False
    courier: bool = False
    credential: str = ""

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
    status: Status | None = None
    operation: Operation | None = None
    held_until: datetime | None = None
    detail: AgentDetail = NO_DETAIL


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """What an agent waits for; one of the two ids is ""."""

    role: str
    reason: str
    authorization_id: str
    since: datetime
    deadline: datetime
    dependency_id: str = ""
