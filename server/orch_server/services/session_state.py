"""Session state: the fields of sessions, and their agents as they are now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from orch_server.core import session as rules
from orch_server.core.agent import Agent, AgentView, WaitingFor
from orch_server.core.agent_state import Explanation
from orch_server.core.errors import Conflict, NotFound
from orch_server.core.event import Event
from orch_server.core.identity import Caller
from orch_server.core.session import Session
from orch_server.core.text import check_name, clean_text
from orch_server.services.agent_state import AgentStates
from orch_server.services.agents import AgentRegistry
from orch_server.services.credit import CreditService
from orch_server.services.events import LocalBus
from orch_server.services.heartbeat import HeartbeatService
from orch_server.services.operations import OperationService
from orch_server.services.supervisor import Supervisor
from orch_server.services.targets import Targets
from orch_server.services.waiting import WaitingService
from orch_server.storage import firing
from orch_server.storage import sessions as table
from orch_server.storage.store import Store, Transaction

_TEXTS = ("project_name", "project_path", "specification_path", "parent_branch", "failure_reason")
_MAX_FIELD = 4096
_SHOWN = ("session.", "agent.", "authorization.", "dependency.", "operation.", "credit.")
_UNCHANGED = "agent.hook"  # says something of an agent without changing what is shown of it


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session with its agents. `session` is None when it was deleted."""

    name: str
    session: Session | None
    agents: tuple[AgentView, ...] = ()
    event: int = 0


class SessionStateService:
    """Reads, changes and watches sessions and their agents."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        heartbeat: HeartbeatService,
        waiting: WaitingService,
        targets: Targets,
        bus: LocalBus,
        states: AgentStates,
        operations: OperationService,
        credit: CreditService,
        supervisor: Supervisor,
    ) -> None:
        self._store = store
        self._registry = registry
        self._heartbeat = heartbeat
        self._waiting = waiting
        self._targets = targets
        self._bus = bus
        self._states = states
        self._operations = operations
        self._credit = credit
        self._supervisor = supervisor

    async def create(self, caller: Caller, session: Session) -> SessionView:
        """Makes a session. Raises AlreadyExists when its name is taken."""
        check_name("session.name", session.name)
        checked = _checked(session)
        actor = self._targets.name(caller)
        await self._store.write(lambda tx: table.create(tx, checked, actor))
        return await self.get(session.name)

    async def get(self, name: str) -> SessionView:
        """One session with its agents."""
        session = await self._store.read(lambda db: table.get(db, name))
        return SessionView(name, session, tuple(await self.agents(name)))

    async def list_page(self, size: int, token: str) -> tuple[list[SessionView], str]:
        """One page of sessions and the token for the next."""
        found, after = await self._store.read(lambda db: table.list_page(db, size, token))
        agents = await self.agents()
        views = [
            SessionView(s.name, s, tuple(v for v in agents if v.agent.session == s.name))
            for s in found
        ]
        return views, after

    async def update(
        self, caller: Caller, wanted: Session, paths: tuple[str, ...], expected: int
    ) -> SessionView:
        """Changes the named fields. Raises VersionMismatch when another change came first."""
        checked = _checked(wanted)
        changes = {path: getattr(checked, path, None) for path in paths}
        actor = self._targets.name(caller)

        def unit(tx: Transaction) -> None:
            old = table.get(tx.db, wanted.name)
            new = rules.update(old, changes, paths, expected, tx.now)
            table.save(tx, new, actor, paths)
            if new.ended and not old.ended:
                firing.expire_session(tx, new.name, actor)

        await self._store.write(unit)
        return await self.get(wanted.name)

    async def delete(self, caller: Caller, name: str, expected: int) -> None:
        """Deletes a session whose agents are gone and who have nothing pending."""
        before = {a.id: a.epoch for a in self._registry.all(name)}
        actor = self._targets.name(caller)

        def unit(tx: Transaction) -> list[str]:
            rules.check_version(table.get(tx.db, name), expected)
            living = table.living_agents(tx.db, name)
            if living:
                raise Conflict(
                    f"Session {name} has living agents ({', '.join(living)}); end them first."
                )
            pending = table.pending_work(tx.db, name)
            if pending:
                raise Conflict(
                    f"Session {name} has {pending} pending tasks or authorizations; cancel them"
                    " first."
                )
            return table.delete(tx, name, actor)

        gone = await self._store.write(unit)
        deleted = [i for i in gone if self._unchanged(i, before.get(i, 0))]
        self._registry.forget(deleted)
        self._states.forget(deleted)
        self._operations.forget(deleted)

    def _unchanged(self, agent_id: str, epoch: int) -> bool:
        """Whether no client has connected as this agent since it had this epoch."""
        agent = self._registry.get(agent_id)
        return agent is not None and agent.epoch == epoch

    async def watch(self, name: str) -> AsyncIterator[SessionView]:
        """Every session once, then each that changes."""
        with self._bus.subscribe(_concerns(name)) as changes:
            token = ""
            while True:
                page, token = await self.list_page(1000, token)
                for view in page:
                    if name in ("", view.name):
                        yield view
                if not token:
                    break
            async for event in changes:
                yield await self._changed(event)

    async def agents(self, session: str = "") -> list[AgentView]:
        """The agents of one session, or all, as they are now."""
        waiting = await self._waiting.waiting()
        return [self._view(agent, waiting) for agent in self._registry.all(session)]

    async def agent(self, given: str) -> AgentView:
        """One agent as it is now."""
        return self._view(self._registry.find(given), await self._waiting.waiting())

    def explain(self, agent: Agent) -> Explanation:
        """Why an agent is shown as it is, and what would change it."""
        rule, would_change = self._states.explain(agent.id)
        return Explanation(
            evidence=tuple(self._states.evidence(agent.id)),
            state_rule=rule,
            liveness_rule=self._heartbeat.explain(agent),
            supervision=tuple(self._supervisor.explain(agent)),
            would_change=tuple(would_change),
        )

    async def watch_agents(self, session: str) -> AsyncIterator[tuple[AgentView, Event | None]]:
        """Every agent once, then each that changes."""
        with self._bus.subscribe(_concerns(session)) as changes:
            for view in await self.agents(session):
                yield view, None
            async for event in changes:
                agent = self._registry.get(event.agent)
                if agent is not None:
                    yield self._view(agent, await self._waiting.waiting()), event

    async def _changed(self, event: Event) -> SessionView:
        try:
            return replace(await self.get(event.session), event=event.number)
        except NotFound:
            return SessionView(event.session, None, event=event.number)

    def _view(self, agent: Agent, waiting: dict[str, WaitingFor]) -> AgentView:
        connection = self._heartbeat.connection(agent.id)
        shown = replace(
            agent,
            last_check_in_at=self._heartbeat.last_check_in(agent),
            credential=self._credit.credential_of(agent),
        )
        return AgentView(
            shown,
            connection.foreground if connection else "",
            waiting.get(agent.id),
            self._states.status(agent.id),
            self._operations.current(agent.id),
            self._credit.held_until(agent),
        )


def _concerns(session: str) -> Callable[[Event], bool]:
    def wanted(event: Event) -> bool:
        concerned = bool(event.session) and session in ("", event.session)
        return concerned and event.kind.startswith(_SHOWN) and event.kind != _UNCHANGED

    return wanted


def _checked(session: Session) -> Session:
    """The session with its texts cleaned; each at most 4 KiB."""
    cleaned = {
        field: clean_text(f"session.{field}", getattr(session, field), _MAX_FIELD)[0]
        for field in _TEXTS
        if getattr(session, field).strip()
    }
    return replace(session, **cleaned)  # type: ignore[arg-type]
