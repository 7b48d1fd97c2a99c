"""How far the work of sessions is: phases that are over, reports of roles, projects."""

from __future__ import annotations

from orch_server.core import session as rules
from orch_server.core.errors import InvalidInput, NotAllowed
from orch_server.core.identity import Caller
from orch_server.core.session import CompletedPhase, Project, StatusReport
from orch_server.core.text import clean_text
from orch_server.services.targets import Targets
from orch_server.storage import session_parts as parts
from orch_server.storage import sessions as table
from orch_server.storage.store import Store, Transaction

_MAX_DETAILS = 4096


class ProgressService:
    """Writes what agents and people say of the work, and lists projects."""

    def __init__(self, store: Store, targets: Targets) -> None:
        self._store = store
        self._targets = targets

    async def complete_phase(
        self, caller: Caller, session: str, name: str, request_id: str
    ) -> CompletedPhase:
        """Writes that a phase is over, of the caller's own session when none is named. Raises
        InvalidInput, NotFound, LimitReached, and AlreadyExists when it was completed before."""
        phase = rules.check_line("name", name, rules.MAX_PHASE_NAME)
        rules.check_request_id(request_id)
        chosen = session or await self._own_session(caller)
        actor = self._targets.name(caller)

        def unit(tx: Transaction) -> CompletedPhase:
            known = table.get(tx.db, chosen)
            before = parts.phase_of(tx.db, chosen, request_id)
            if before is not None:
                return before
            over = rules.complete(known, parts.phases(tx.db, chosen), phase, tx.now)
            parts.add_phase(tx, chosen, over, actor, request_id)
            return over

        return await self._store.write(unit)

    async def _own_session(self, caller: Caller) -> str:
        try:
            return (await self._targets.own(caller, "leave the session away")).session
        except NotAllowed as exc:
            raise InvalidInput(
                "session", "The caller is in no session, so one must be named: --session NAME."
            ) from exc

    async def report(self, caller: Caller, topic: str, status: str, details: str) -> StatusReport:
        """Writes what the caller's own agent reports, in place of its last report. Raises
        InvalidInput, and NotAllowed when the caller is no agent."""
        about = rules.check_line("topic", topic, rules.MAX_WORD).lower()
        word = rules.check_line("status", status, rules.MAX_WORD).upper()
        more = clean_text("details", details, _MAX_DETAILS)[0] if details.strip() else ""
        agent = await self._targets.own(caller, "report a status")

        def unit(tx: Transaction) -> StatusReport:
            table.get(tx.db, agent.session)
            said = StatusReport(agent.role, about, word, more, tx.now)
            parts.put_report(tx, agent.session, said, agent.address, agent.id)
            return said

        return await self._store.write(unit)

    async def projects(self, size: int, token: str) -> tuple[list[Project], str]:
        """One page of projects by name and path, and the token for the next."""
        return await self._store.read(lambda db: parts.list_projects(db, size, token))
