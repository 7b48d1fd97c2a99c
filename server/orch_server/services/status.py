"""What one screen shows: sessions, agents, and how the server is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from orch_server.core.agent import AgentView
from orch_server.core.clock import Clock
from orch_server.services.passphrase import Passphrase
from orch_server.services.session_state import SessionStateService, SessionView
from orch_server.storage import status as table
from orch_server.storage.status import Counts, Stored
from orch_server.storage.store import Store


@dataclass(frozen=True, slots=True)
class StatusView:
    """See GetStatusResponse in session_state.proto. Of each session's phases only the last is
    there, of reports no details."""

    sessions: tuple[SessionView, ...]
    time: datetime
    open_mode: bool
    counts: Counts
    ended_sessions: int
    event: int


class StatusService:
    """Reads it all at once."""

    def __init__(
        self, store: Store, state: SessionStateService, passphrase: Passphrase, clock: Clock
    ) -> None:
        self._store = store
        self._state = state
        self._passphrase = passphrase
        self._clock = clock

    async def look(self, session: str, include_ended: bool) -> StatusView:
        """The sessions with their agents, and the server. One that is asked for by name is shown
        also when it ended. Raises NotFound."""
        now = self._clock.now()
        stored = await self._store.read(lambda db: table.look(db, session, include_ended, now))
        return StatusView(
            sessions=_views(stored, await self._state.agents(session)),
            time=now,
            open_mode=not await asyncio.to_thread(self._passphrase.is_set),
            counts=stored.counts,
            ended_sessions=stored.hidden,
            event=stored.event,
        )


def _views(stored: Stored, agents: list[AgentView]) -> tuple[SessionView, ...]:
    teams: dict[str, list[AgentView]] = {}
    for view in agents:
        teams.setdefault(view.agent.session, []).append(view)
    return tuple(
        SessionView(
            one.name,
            one,
            tuple(teams.get(one.name, ())),
            phases=(stored.phases[one.name],) if one.name in stored.phases else (),
            reports=tuple(stored.reports.get(one.name, ())),
        )
        for one in stored.sessions
    )
