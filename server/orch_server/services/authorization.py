"""Authorizations: asked, decided, expired. Each change, its event and the text for the requester's
pane are one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime

from orch_server.core import authorization as rules
from orch_server.core.agent import Agent, WaitingFor
from orch_server.core.authorization import (
    TIMEOUTS,
    Authorization,
    AuthorizationPriority,
    AuthorizationState,
    Decider,
    Verdict,
)
from orch_server.core.clock import Clock
from orch_server.core.delivery import NewDelivery, Priority
from orch_server.core.errors import InvalidInput
from orch_server.core.identity import Caller
from orch_server.core.text import MAX_ACTION_BYTES, clean_text, one_line, printable
from orch_server.services.agents import AgentRegistry
from orch_server.services.events import LocalBus
from orch_server.services.passphrase import Passphrase
from orch_server.services.targets import Targets
from orch_server.storage import authorizations as table
from orch_server.storage import deliveries
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store, Transaction


class AuthorizationService:
    """Takes requests and decisions, and lets the overdue expire."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        targets: Targets,
        passphrase: Passphrase,
        bus: LocalBus,
        approver_roles: tuple[str, ...],
        clock: Clock,
        wake_agent: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._targets = targets
        self._passphrase = passphrase
        self._bus = bus
        self._approver_roles = approver_roles
        self._clock = clock
        self._wake_agent = wake_agent
        self.changed = asyncio.Event()  # a deadline may be earlier than was thought
        self.on_request: Callable[[], None] = lambda: None  # someone waits for someone

    async def request(
        self,
        caller: Caller,
        action: str,
        priority: AuthorizationPriority | None,
        approver_role: str,
        request_id: str,
    ) -> Authorization:
        """Asks for leave to act, in the name of the caller's own agent."""
        text, _ = clean_text("action", action, MAX_ACTION_BYTES)
        role = self._approver(approver_role)
        agent = await self._targets.own(caller, "ask for authorization")
        chosen = priority or rules.derive_priority(text)
        now = self._clock.now()
        asked = Authorization(
            id=new_id(),
            agent_id=agent.id,
            session=agent.session,
            requester_role=agent.role,
            requester_pane=agent.incarnation.key() if agent.incarnation else "",
            approver_role=role,
            action=text,
            priority=chosen,
            priority_derived=priority is None,
            state=AuthorizationState.PENDING,
            created_at=now,
            deadline_at=now + TIMEOUTS[chosen],
        )
        approver = self._registry.at(agent.session, role)
        stored = await self._store.write(lambda tx: _insert(tx, asked, request_id, approver))
        self.changed.set()
        self.on_request()
        if approver is not None:
            self._wake_agent(approver.id)
        return asked if stored == asked.id else await self.get(stored)

    async def decide(
        self, caller: Caller, given_id: str, verdict: Verdict, reason: str, passphrase: str
    ) -> Authorization:
        """Approves or denies. Raises NotAllowed, PassphraseRequired or Conflict."""
        if verdict is Verdict.DENY and not reason.strip():
            raise InvalidInput("reason", "A denial needs a reason; give it with --reason.")
        why = clean_text("reason", reason, MAX_ACTION_BYTES)[0] if reason.strip() else ""
        decider = self._targets.decider(caller)
        asked = await self.get(given_id)
        rules.check_decider(asked, decider, self._approver_roles)
        rules.resolve(asked.state, verdict, asked.id)
        if decider.operator:
            await self._passphrase.demand(passphrase, f"decide authorization {asked.id}")
        return await self._resolve(asked.id, verdict, decider, why)

    async def cancel(self, caller: Caller, given_id: str) -> Authorization:
        """Withdraws a pending request."""
        decider = self._targets.decider(caller)
        asked = await self.get(given_id)
        rules.check_canceller(asked, decider)
        return await self._resolve(asked.id, Verdict.CANCEL, decider, "")

    async def get(self, given_id: str) -> Authorization:
        """One authorization by id or prefix."""
        return await self._store.read(lambda db: table.get(db, given_id))

    async def list_page(
        self, session: str, state: AuthorizationState | None, size: int, token: str
    ) -> tuple[list[Authorization], str]:
        """One page and the token for the next."""
        return await self._store.read(lambda db: table.list_page(db, session, state, size, token))

    async def wait(self, given_id: str) -> AsyncIterator[Authorization]:
        """The authorization as it is, then each change; ends after the final state."""
        found = (await self.get(given_id)).id
        with self._bus.subscribe(lambda event: event.subject == found) as changes:
            current = await self.get(found)
            yield current
            if current.state is not AuthorizationState.PENDING:
                return
            async for _ in changes:
                current = await self.get(found)
                yield current
                if current.state is not AuthorizationState.PENDING:
                    return

    async def expire_overdue(self) -> datetime | None:
        """Expires what is overdue and returns when the next deadline is."""
        for agent_id in await self._store.write(_expire):
            self._wake_agent(agent_id)
        return await self._store.read(table.next_deadline)

    async def waiting(self) -> dict[str, WaitingFor]:
        """What each waiting agent waits for, by agent id."""
        pending = await self._store.read(table.waiting)
        return {
            agent_id: WaitingFor(
                role=asked.approver_role,
                reason="authorization",
                authorization_id=asked.id,
                since=asked.created_at,
                deadline=asked.deadline_at,
            )
            for agent_id, asked in pending.items()
        }

    def _approver(self, role: str) -> str:
        if not role:
            return self._approver_roles[0]
        if role not in self._approver_roles:
            raise InvalidInput(
                "approver_role",
                f"The role '{printable(role)}' may not approve; ask one of:"
                f" {', '.join(self._approver_roles)}.",
            )
        return role

    async def _resolve(
        self, found: str, verdict: Verdict, decider: Decider, reason: str
    ) -> Authorization:
        resolved = await self._store.write(
            lambda tx: _decide(tx, table.get(tx.db, found), verdict, decider.name, reason)
        )
        self._wake_agent(resolved.agent_id)
        return resolved


def _insert(tx: Transaction, asked: Authorization, request_id: str, approver: Agent | None) -> str:
    stored = table.insert(tx, asked, request_id)
    if approver is not None and stored == asked.id and approver.id != asked.agent_id:
        minutes = int(TIMEOUTS[asked.priority].total_seconds() // 60)
        text = (
            f"{asked.session}:{asked.requester_role} asks for authorization {asked.id}"
            f" ({asked.priority.name.lower()}, {minutes} min): {one_line(asked.action, 300)}"
            f" - answer with: orch-client approve {asked.id} | orch-client deny {asked.id}"
            " --reason WHY"
        )
        requester = f"{asked.session}:{asked.requester_role}"
        _mail(tx, approver.id, text, asked.id, "asked", requester)
    return stored


def _decide(
    tx: Transaction, asked: Authorization, verdict: Verdict, resolver: str, reason: str
) -> Authorization:
    """Writes the final state; a decision that comes at or after the deadline comes too late."""
    if verdict in (Verdict.APPROVE, Verdict.DENY) and tx.now >= asked.deadline_at:
        rules.resolve(AuthorizationState.EXPIRED, verdict, asked.id)
    state = rules.resolve(asked.state, verdict, asked.id)
    resolved = table.resolve(tx, asked, state, resolver, reason)
    if verdict is not Verdict.CANCEL:
        text = rules.decision_text(resolved)
        _mail(tx, asked.agent_id, text, asked.id, "decided", resolver)
    return resolved


def _expire(tx: Transaction) -> list[str]:
    overdue = table.overdue(tx)
    for asked in overdue:
        _decide(tx, asked, Verdict.EXPIRE, "", "Nobody decided in time.")
    return [asked.agent_id for asked in overdue]


def _mail(tx: Transaction, agent_id: str, text: str, about: str, what: str, sender: str) -> None:
    """Puts a text about an authorization into the mailbox; each of its turns once."""
    deliveries.enqueue(
        tx,
        NewDelivery(
            agent_id=agent_id,
            text=text,
            origin=f"authorization:{about}",
            dedupe_key=f"{what}:{about}",
            priority=Priority.HIGH,
            created_at=tx.now,
            sender=sender,
        ),
    )
