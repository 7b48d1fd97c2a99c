"""Authorizations: asked, decided, escalated, used, expired. Each change, its event, its link in the
audit and the texts that tell of it are one transaction."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from functools import partial

from orch_server.core import authorization as rules
from orch_server.core.agent import Liveness, WaitingFor
from orch_server.core.authorization import (
    Action,
    Authorization,
    AuthorizationState,
    Decider,
    Proof,
    Requester,
    Verdict,
)
from orch_server.core.clock import Clock
from orch_server.core.errors import InvalidInput
from orch_server.core.identity import Caller
from orch_server.core.policy import (
    ActionClass,
    AuthorizationPriority,
    Judgement,
    Policy,
    Rule,
    searched,
)
from orch_server.core.text import (
    MAX_ACTION_BYTES,
    MAX_TEXT_BYTES,
    clean_text,
    one_line,
    printable,
)
from orch_server.services import authorization_steps as steps
from orch_server.services import authorization_texts as texts
from orch_server.services.agents import AgentRegistry
from orch_server.services.authorization_steps import ActionVerdict, Checked
from orch_server.services.events import LocalBus
from orch_server.services.passphrase import Passphrase
from orch_server.services.targets import Targets
from orch_server.storage import authorizations as table
from orch_server.storage.authorization_stats import Report, report
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store, Transaction

_HELD_BACK = timedelta(seconds=2)
_MAX_CWD_BYTES = 4096
_MAX_TOOL_BYTES = 256
_MAX_CHECKED_BYTES = 3 * 1024 * 1024
_QUICK = 32 * 1024  # what is longer is judged on a thread
_SHOWN_ACTION = 2000
_WINDOW, _LONGEST_WINDOW = timedelta(days=7), timedelta(days=400)


class AuthorizationService:
    """Takes requests and decisions, and lets what is overdue escalate, expire or lapse."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        targets: Targets,
        passphrase: Passphrase,
        bus: LocalBus,
        policy: Policy,
        clock: Clock,
        wake_agent: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._targets = targets
        self._passphrase = passphrase
        self._bus = bus
        self._policy = policy
        self._clock = clock
        self._wake_agent = wake_agent
        self._watched: Counter[str] = Counter()  # requests whose decision is waited for
        self.changed = asyncio.Event()  # a deadline may be earlier than was thought
        self.on_request: Callable[[], None] = lambda: None  # someone waits for someone

    async def request(
        self,
        caller: Caller,
        action: str,
        priority: AuthorizationPriority | None,
        approver_role: str,
        request_id: str,
        timeout: timedelta = timedelta(0),
        cwd: str = "",
    ) -> Authorization:
        """Asks for leave to act, in the name of the caller's own agent. A time-out of 0 is the
        policy's. Raises InvalidInput, NotAllowed or LimitReached."""
        text, _ = clean_text("action", action, MAX_ACTION_BYTES)
        _check_size("cwd", cwd, _MAX_CWD_BYTES)
        given = rules.check_timeout(timeout)
        of = self._policy.classify(text)
        _check_approver(of, approver_role)
        requester = await self._targets.requester(caller, "ask for authorization")
        if approver_role == requester.role:
            raise InvalidInput("approver_role", "Nobody can ask himself; leave --to away.")
        role = approver_role or self._approver(of, requester)
        asked = rules.ask(
            new_id(),
            requester,
            text,
            Action("", text, cwd),
            role,
            of,
            priority,
            given,
            self._policy,
            self._clock.now(),
        )
        stored, woken = await self._store.write(partial(steps.insert, asked=asked, seen=request_id))
        self._asked(woken)
        return await self.get(stored)  # levels may have been told at once

    async def check_action(self, caller: Caller, action: Action, request_id: str) -> Checked:
        """Whether the caller's agent may take this action now. Uses an approval that fits, or asks
        for one. Raises InvalidInput, NotAllowed or LimitReached, which are a no as well."""
        if not action.tool.strip():
            raise InvalidInput("action.tool", "The tool is empty; name what is to be used.")
        _check_size("action.tool", action.tool, _MAX_TOOL_BYTES)
        _check_size("action.arguments", action.arguments, _MAX_CHECKED_BYTES)
        _check_size("action.cwd", action.cwd, _MAX_CWD_BYTES)
        requester = await self._targets.requester(caller, "have an action checked")
        judged = await self._judge(action)
        if judged.then is Rule.ALLOW:
            return Checked(ActionVerdict.ALLOWED, "The policy allows it.")
        if judged.then is Rule.DENY:
            return Checked(ActionVerdict.DENIED, "The policy denies it; do not try it again.")
        _check_size("action.arguments", action.arguments, MAX_TEXT_BYTES)
        of = judged.action_class
        asked = rules.ask(
            new_id(),
            requester,
            _shown(action),
            action,
            self._approver(of, requester),
            of,
            None,
            None,
            self._policy,
            self._clock.now(),
        )
        checked = await self._store.write(partial(steps.check, asked=asked, seen=request_id))
        self._asked(checked.woken)
        return checked

    async def consume(
        self, caller: Caller, given_id: str, action: Action, request_id: str
    ) -> Authorization:
        """Uses an approval, once. Raises NotAllowed or Conflict; the same request id again gets the
        same answer."""
        consumer = await self._targets.requester(caller, "use an approval")
        found = (await self.get(given_id)).id

        def unit(tx: Transaction) -> Authorization:
            asked = table.get(tx.db, found)
            named = action.tool or action.arguments
            what = action if named else Action("", asked.bound.arguments, action.cwd)
            rules.check_consumer(asked, consumer, what)
            seen = table.consumed_by(tx, consumer.agent_id, request_id)
            if seen is not None and seen.id != asked.id:
                raise steps.used_before()
            if seen is not None:
                return seen
            return steps.consume(tx, asked, request_id)

        used = await self._store.write(unit)
        self._wake_agent(used.agent_id)
        return used

    async def decide(
        self, caller: Caller, given_id: str, verdict: Verdict, reason: str, passphrase: str
    ) -> Authorization:
        """Approves or denies. Raises NotAllowed, PassphraseRequired, InvalidInput or Conflict."""
        why = clean_text("reason", reason, MAX_ACTION_BYTES)[0] if reason.strip() else ""
        rules.check_reason(verdict, why)
        decider = self._targets.decider(caller)
        asked = await self.get(given_id)
        rules.check_decider(asked, decider)
        rules.check_reason(verdict, why, asked)
        rules.resolve(asked, verdict, self._clock.now())
        proof = Proof.ROLE
        if rules.needs_passphrase(asked, verdict, decider):
            proof = Proof.PASSPHRASE if self._passphrase.is_set() else Proof.OPEN_MODE
            await self._passphrase.demand(passphrase, _doing(asked, verdict, decider))

        # Who waits for a yes uses it at once; until then its text is held back (see tell_used).
        waits = verdict is Verdict.APPROVE and self._watched[asked.id] > 0
        after = _HELD_BACK if waits else timedelta(0)

        def unit(tx: Transaction) -> Authorization:
            now = table.get(tx.db, asked.id)
            rules.check_decider(now, decider)
            return steps.decide(tx, now, verdict, decider, why, proof, after)

        return await self._resolved(unit)

    async def cancel(self, caller: Caller, given_id: str) -> Authorization:
        """Withdraws a pending request."""
        decider = self._targets.decider(caller)
        asked = await self.get(given_id)
        rules.check_involved(asked, decider, "withdraw", deciders=False)
        return await self._resolved(
            lambda tx: steps.decide(tx, table.get(tx.db, asked.id), Verdict.CANCEL, decider)
        )

    async def escalate(self, caller: Caller, given_id: str) -> Authorization:
        """Tells the next level now. Raises NotAllowed, or Conflict when there is none."""
        decider = self._targets.decider(caller)
        asked = await self.get(given_id)
        rules.check_involved(asked, decider, "escalate", deciders=True)
        told, woken = await self._store.write(
            lambda tx: texts.next_level(tx, table.get(tx.db, asked.id), decider.name)
        )
        self._wake(woken)
        return told

    async def get(self, given_id: str) -> Authorization:
        """One authorization by id or prefix."""
        return await self._store.read(lambda db: table.get(db, given_id))

    async def list_page(
        self, session: str, state: AuthorizationState | None, size: int, token: str
    ) -> tuple[list[Authorization], str]:
        """One page and the token for the next."""
        return await self._store.read(lambda db: table.list_page(db, session, state, size, token))

    async def wait(self, given_id: str) -> AsyncIterator[Authorization]:
        """The authorization as it is, then each change; ends when it is not pending any more."""
        found = (await self.get(given_id)).id
        self._watched[found] += 1
        try:
            with self._bus.subscribe(about=found) as changes:
                current = await self.get(found)
                yield current
                if current.state is not AuthorizationState.PENDING:
                    return
                async for _ in changes:
                    current = await self.get(found)
                    yield current
                    if current.state is not AuthorizationState.PENDING:
                        return
        finally:
            self._watched[found] -= 1
            if not self._watched[found]:
                del self._watched[found]

    async def stats(self, session: str, window: timedelta) -> tuple[Report, datetime]:
        """How long decisions took over a window that ends now, 7 days for 0, and where it begins.
        Raises InvalidInput."""
        length = window or _WINDOW
        if not timedelta(0) < length <= _LONGEST_WINDOW:
            raise InvalidInput("window", "The window is out of range; use 1 s to 400 days.")
        since = self._clock.now() - length
        return await self._store.read(lambda db: report(db, session, since)), since

    async def run_due(self) -> datetime | None:
        """Escalates, expires and lets lapse what is due; returns when something is due next."""
        due = await self._store.read(table.next_deadline)
        if due is None or due > self._clock.now():
            return due
        self._wake(await self._store.write(steps.run_due))
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

    def _approver(self, of: ActionClass, requester: Requester) -> str:
        """The role that is asked first: the first approver that an agent of the session has, not
        counting the requester's own role; when nobody has any, the first."""
        others = [role for role in of.approvers if role != requester.role] or list(of.approvers)
        for role in others:
            holder = self._registry.at(requester.session, role)
            if holder is not None and holder.liveness is not Liveness.ENDED:
                return role
        return others[0]

    async def _judge(self, action: Action) -> Judgement:
        if len(action.arguments) < _QUICK:
            return self._policy.judge(action.tool, action.arguments)
        return await asyncio.to_thread(self._policy.judge, action.tool, action.arguments)

    def _asked(self, woken: tuple[str, ...]) -> None:
        self.changed.set()
        self.on_request()
        self._wake(woken)

    async def _resolved(self, unit: Callable[[Transaction], Authorization]) -> Authorization:
        resolved = await self._store.write(unit)
        self.changed.set()
        self._wake_agent(resolved.agent_id)
        return resolved

    def _wake(self, agents: tuple[str, ...]) -> None:
        for agent_id in agents:
            self._wake_agent(agent_id)


def _check_approver(of: ActionClass, role: str) -> None:
    """Raises InvalidInput for a role that may not approve; "" is none."""
    if role and role not in of.approvers:
        raise InvalidInput(
            "approver_role",
            f"The role '{printable(role)}' may not approve actions of the class {of.name}; ask one"
            f" of: {', '.join(of.approvers)}.",
        )


def _check_size(field: str, text: str, most: int) -> None:
    size = len(text.encode())
    if size > most:
        raise InvalidInput(field, f"The {field} has {size:,} bytes, but at most {most:,} may be.")


def _shown(action: Action) -> str:
    """The action as people read it in lists and texts."""
    shown = one_line(f"{action.tool}: {searched(action.arguments)}", _SHOWN_ACTION)
    return f"{shown} (in {one_line(action.cwd, _SHOWN_ACTION)})" if action.cwd else shown


def _doing(asked: Authorization, verdict: Verdict, decider: Decider) -> str:
    if decider.operator:
        return f"decide authorization {asked.id}"
    return (
        f"{verdict.lower()} authorization {asked.id}, whose class {asked.action_class} a human must"
        " approve"
    )
