"""Session state: sessions with what belongs to them, and their agents as they are now.

An update is one unit of the writer, and its answer is built from what that unit has seen. A watch
goes on after any number of an event that is still in the log, and begins anew otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from orch_server.core import session as rules
from orch_server.core.agent import Agent, AgentView, WaitingFor
from orch_server.core.agent_state import Explanation
from orch_server.core.errors import Conflict, InvalidInput, NotFound
from orch_server.core.event import Event, Wanted, check_after
from orch_server.core.identity import Caller
from orch_server.core.session import (
    NO_DETAIL,
    AgentDetail,
    CompletedPhase,
    Dependencies,
    Session,
    StatusReport,
)
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
from orch_server.storage import events, firing
from orch_server.storage import session_parts as parts
from orch_server.storage import sessions as table
from orch_server.storage.database import Database
from orch_server.storage.store import Store, Transaction

_MAX_FIELD = 4096
_PORTION = 10_000
_SHOWN = ("session.", "agent.", "authorization.", "dependency.", "operation.", "credit.")
_UNCHANGED = "agent.hook"  # says something of an agent without changing what is shown of it


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session with what belongs to it. `session` is None when it was deleted.

    `event`: of a watch, the number to go on after, 0 within a round of all. `ends_round`: the last
    of such a round; its name is "" when there was no session.
    """

    name: str
    session: Session | None
    agents: tuple[AgentView, ...] = ()
    event: int = 0
    phases: tuple[CompletedPhase, ...] = ()
    dependencies: Dependencies = ()
    reports: tuple[StatusReport, ...] = ()
    imported_metrics: Mapping[str, float] = field(default_factory=dict)
    ends_round: bool = False


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

    async def create(
        self, caller: Caller, session: Session, dependencies: Dependencies = ()
    ) -> SessionView:
        """Makes a session. Raises InvalidInput, and AlreadyExists when its name is taken."""
        check_name("session.name", session.name)
        texts = {path: getattr(session, path) for path in rules.MUTABLE if hasattr(session, path)}
        checked = replace(session, **_checked(texts))  # type: ignore[arg-type]
        needs = rules.check_dependencies(dependencies)
        actor = self._targets.name(caller)

        def unit(tx: Transaction) -> None:
            table.create(tx, checked, actor)
            parts.set_dependencies(tx, checked.name, needs)

        await self._store.write(unit)
        return await self.get(session.name)

    async def get(self, name: str) -> SessionView:
        """One session with its agents. Raises NotFound."""
        return (await self._views(lambda db: [table.get(db, name)]))[0]

    async def list_page(self, size: int, token: str) -> tuple[list[SessionView], str]:
        """One page of sessions by name and the token for the next, in the same few queries however
        many there are."""
        next_token = ""

        def page(db: Database) -> list[Session]:
            nonlocal next_token
            found, next_token = table.list_page(db, size, token)
            return found

        return await self._views(page), next_token

    async def update(
        self,
        caller: Caller,
        name: str,
        changes: dict[str, object],
        paths: tuple[str, ...],
        expected: int,
    ) -> SessionView:
        """Changes the fields in `paths` to the values in `changes`; the view has the session's own
        fields, and the dependencies when they were changed. Raises InvalidInput, NotFound, and
        VersionMismatch when another change came first."""
        rules.check_paths(paths, rules.MUTABLE)
        checked = _checked(changes)
        if checked.get("completion") is rules.Completion.PENDING:
            checked.setdefault("failure_reason", "")  # it goes on: the reason is over
        needs = checked.get("role_dependencies")
        actor = self._targets.name(caller)

        def unit(tx: Transaction) -> Session:
            new = table.change(tx, name, checked, expected, actor)
            if needs is not None:
                parts.set_dependencies(tx, name, needs)  # type: ignore[arg-type]
            if new.completed_at == tx.now and "completion" in checked:
                firing.expire_session(tx, name, actor)
            return new

        new = await self._store.write(unit)
        return SessionView(name, new, dependencies=needs or ())  # type: ignore[arg-type]

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
        self.forget_agents([i for i in gone if self._unchanged(i, before.get(i, 0))])

    def forget_agents(self, ids: Iterable[str]) -> None:
        """Removes agents from memory that were deleted with their session."""
        deleted = list(ids)
        self._registry.forget(deleted)
        self._states.forget(deleted)
        self._operations.forget(deleted)

    def _unchanged(self, agent_id: str, epoch: int) -> bool:
        """Whether no client has connected as this agent since it had this epoch."""
        agent = self._registry.get(agent_id)
        return agent is not None and agent.epoch == epoch

    async def update_agent(
        self, caller: Caller, given: str, wanted: AgentDetail, paths: tuple[str, ...]
    ) -> AgentView:
        """Changes the named fields of an agent, by "session:role" or id. Raises InvalidInput,
        NotFound, and VersionMismatch when `wanted.version` is not 0 and not the present one."""
        rules.check_paths(paths, tuple(rules.DETAILS))
        agent = self._registry.find(given)
        named = {rules.DETAILS[path]: getattr(wanted, rules.DETAILS[path]) for path in paths}
        checked = replace(wanted, **_checked(named, "agent"))  # type: ignore[arg-type]
        actor = self._targets.name(caller)

        def unit(tx: Transaction) -> None:
            old = parts.detail(tx.db, agent.id)
            new = rules.update_detail(old, checked, paths, agent.address)
            parts.put_detail(tx, agent, new, actor, paths)

        await self._store.write(unit)
        return await self.agent(agent.id)

    # ---- watching ----

    async def watch(self, name: str, after: int = 0) -> AsyncIterator[SessionView]:
        """Every session once, or those that changed after an event; then each that changes."""
        check_after(after)
        changed: dict[str, int] = {}
        # Without a subscription: a long way to catch up must not fill its queue.
        at = await self._catch_up(name, after, changed) if after else None
        with self._bus.subscribe(_concerns(name)) as coming:
            # On the writing thread: once it answers, memory has what came with these events.
            reached = await self._store.write(lambda tx: events.newest(tx.db))
            if at is not None:
                at = await self._catch_up(name, at, changed)
            first = self._round(name, reached) if at is None else self._these(changed, reached)
            async for view in first:
                yield view
            async for event in coming:
                if event.number > reached:
                    yield await self._view_of(event.session, event.number)

    async def _catch_up(self, name: str, after: int, changed: dict[str, int]) -> int | None:
        """Notes in `changed` the newest event of each session that changed after a number. Returns
        up to which number; None when some events after it are gone, or have not been yet."""
        concerns, at = _concerns(name), after
        while True:
            self._bus.check_open()
            kept = await self._store.read(partial(_portion, name=name, after=at))
            if kept is None:
                return None
            changed.update((e.session, e.number) for e in kept.events if concerns(e))
            at = kept.reached
            if at >= kept.newest:
                return at

    async def _round(self, name: str, reached: int) -> AsyncIterator[SessionView]:
        """Every session. Only the last has the number: who is cut off before begins anew."""
        found = await self._views(
            lambda db: table.named(db, name) if name else table.all_sessions(db)
        )
        for view in found[:-1]:
            yield view
        last = found[-1] if found else SessionView("", None)
        yield replace(last, event=reached, ends_round=True)

    async def _these(self, changed: dict[str, int], reached: int) -> AsyncIterator[SessionView]:
        """These sessions, in the order of their newest events; later ones are yet to come."""
        for session, number in sorted(changed.items(), key=lambda item: item[1]):
            yield await self._view_of(session, min(number, reached))

    async def _view_of(self, session: str, number: int) -> SessionView:
        try:
            return replace(await self.get(session), event=number)
        except NotFound:
            return SessionView(session, None, event=number)

    # ---- agents ----

    async def agents(self, session: str = "") -> list[AgentView]:
        """The agents of one session, or all, as they are now."""
        waiting = await self._waiting.waiting()
        known = await self._store.read(lambda db: parts.details(db, session, session or parts.LAST))
        return [self._view(agent, waiting, known) for agent in self._registry.all(session)]

    async def agent(self, given: str) -> AgentView:
        """One agent as it is now."""
        return await self._agent_view(self._registry.find(given))

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
                    yield await self._agent_view(agent), event

    # ---- what is shown ----

    async def _views(self, select: Callable[[Database], list[Session]]) -> list[SessionView]:
        """The selected sessions, which are in the order of their names, with all of theirs."""

        def read(db: Database) -> tuple[list[Session], parts.Parts]:
            found = select(db)
            known = parts.read(db, found[0].name, found[-1].name) if found else parts.Parts()
            return found, known

        waiting = await self._waiting.waiting()
        found, known = await self._store.read(read)
        agents: dict[str, list[AgentView]] = defaultdict(list)
        for agent in self._registry.all(found[0].name if len(found) == 1 else ""):
            agents[agent.session].append(self._view(agent, waiting, known.details))
        return [
            SessionView(
                one.name,
                one,
                tuple(agents[one.name]),
                phases=tuple(known.phases.get(one.name, ())),
                dependencies=known.dependencies.get(one.name, ()),
                reports=tuple(known.reports.get(one.name, ())),
                imported_metrics=known.figures.get(one.name, {}),
            )
            for one in found
        ]

    async def _agent_view(self, agent: Agent) -> AgentView:
        waiting = await self._waiting.waiting()
        known = await self._store.read(lambda db: parts.detail(db, agent.id))
        return self._view(agent, waiting, {agent.id: known})

    def _view(
        self,
        agent: Agent,
        waiting: Mapping[str, WaitingFor],
        details: Mapping[str, AgentDetail],
    ) -> AgentView:
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
            details.get(agent.id, NO_DETAIL),
        )


def _concerns(session: str) -> Callable[[Event], bool]:
    def wanted(event: Event) -> bool:
        concerned = bool(event.session) and session in ("", event.session)
        return concerned and event.kind.startswith(_SHOWN) and event.kind != _UNCHANGED

    return wanted


def _portion(db: Database, name: str, after: int) -> events.Portion | None:
    """The next events after a number; None when they are not all there."""
    found = events.read(db, after, Wanted(session=name), _PORTION)
    return found if events.whole(db, after, found.reached) and after <= found.newest else None


def _checked(changes: Mapping[str, object], noun: str = "session") -> dict[str, object]:
    """The same with its texts cleaned, each at most 4 KiB, and its dependencies checked."""
    checked = dict(changes)
    for path, value in changes.items():
        if path == "role_dependencies":
            checked[path] = rules.check_dependencies(value)  # type: ignore[arg-type]
        elif path == "orchestrator_window" and int(value) < 0:  # type: ignore[call-overload]
            raise InvalidInput("session.orchestrator_window", "A window's index is not below 0.")
        elif type(value) is str and value:  # not the words of an enum
            blank = not value.strip()
            checked[path] = "" if blank else clean_text(f"{noun}.{path}", value, _MAX_FIELD)[0]
    return checked
