"""Messaging: sends texts to agents, hands them to agents' own hooks, shows what became of each.

A message is one call; for each agent that it means it makes one delivery.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from orch_server.core import delivery as rules
from orch_server.core.agent import Agent
from orch_server.core.clock import Clock
from orch_server.core.delivery import Delivery, DeliveryMode, NewDelivery, Priority
from orch_server.core.errors import InvalidInput, NotFound, OrchError, Unavailable
from orch_server.core.event import Event
from orch_server.core.identity import Caller
from orch_server.core.schedule import MAX_DELAY
from orch_server.core.text import clean_text
from orch_server.services.agents import AgentRegistry
from orch_server.services.events import LocalBus
from orch_server.services.hooks import check_event
from orch_server.services.targets import Targets
from orch_server.services.templates import Templates
from orch_server.storage import agents as agent_table
from orch_server.storage import claims, deliveries, history
from orch_server.storage.history import Filter
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store, Transaction

MAX_TARGETS = 1000
MAX_WATCHED = 1000
_MAX_CLAIM = 1024 * 1024
_MAX_REQUEST_ID = 200
_NONE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as it was given; see SendMessageRequest."""

    targets: tuple[str, ...]
    text: str = ""
    template: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    plain: bool = False
    mode: DeliveryMode = DeliveryMode.WAIT_IDLE
    priority: Priority = Priority.NORMAL
    not_before: datetime | None = None
    time_to_live: timedelta = rules.TIME_TO_LIVE
    reply_patience: timedelta = _NONE
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one target: a delivery, or why there is none."""

    target: str
    delivery: Delivery | None = None
    error: str = ""


class MessagingService:
    """Sends, shows, withdraws and hands over."""

    def __init__(
        self,
        store: Store,
        registry: AgentRegistry,
        targets: Targets,
        templates: Templates,
        bus: LocalBus,
        clock: Clock,
        wake_agent: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._targets = targets
        self.templates = templates
        self._bus = bus
        self._clock = clock
        self._wake_agent = wake_agent

    async def send(self, caller: Caller, draft: Draft) -> tuple[list[Sent], int]:
        """Sends to each target; returns the results and how many control characters were removed.

        A repeat with the same request id sends nothing and returns what was sent. Raises what is
        wrong with the draft, or with the targets when not one of them can be sent to.
        """
        now = self._clock.now()
        _check(draft, now)
        text, removed = clean_text("text", await self._text(draft))
        meant, failed = await self._meant(caller, draft.targets)
        sender = self._targets.name(caller)
        new = _new(draft, text, sender, list(meant), now)
        sent = await self._store.write(lambda tx: _send(tx, draft.request_id, new))
        if not sent:
            raise _nothing_sent(failed)
        for delivery in sent:
            self._wake_agent(delivery.agent_id)
        results = [Sent(meant.get(d.agent_id) or f"{d.session}:{d.role}", d) for d in sent]
        return results + [Sent(target, error=exc.message) for target, exc in failed], removed

    async def get(self, given_id: str) -> Delivery:
        """One delivery with its story, by id or prefix."""
        return await self._store.read(lambda db: history.get(db, given_id))

    async def list_page(self, wanted: Filter, size: int, token: str) -> tuple[list[Delivery], str]:
        """One page, the newest first, and the token for the next. `wanted.agent` may be any name
        of one agent."""
        if wanted.agent:
            wanted = replace(wanted, agent=self._registry.find(wanted.agent).id)
        return await self._store.read(lambda db: history.list_page(db, wanted, size, token))

    async def watch(self, given_ids: tuple[str, ...]) -> AsyncIterator[Delivery]:
        """Each delivery as it is, then at each change; ends when all are over."""
        if not 1 <= len(given_ids) <= MAX_WATCHED:
            raise InvalidInput("ids", f"Name 1 to {MAX_WATCHED:,} deliveries.")
        ids = await self._store.read(
            lambda db: tuple(dict.fromkeys(history.full_id(db, given) for given in given_ids))
        )
        with self._bus.subscribe(_concerns(frozenset(ids))) as changes:
            current = {d.id: d for d in await self._read(ids)}
            for delivery in current.values():
                yield delivery
            if all(d.over for d in current.values()):
                return
            async for event in changes:
                for changed in await self._read((event.subject,) if event.subject in ids else ids):
                    current[changed.id] = changed
                    yield changed
                if all(d.over for d in current.values()):
                    return

    async def cancel(self, caller: Caller, given_id: str) -> Delivery:
        """Withdraws a delivery that waits. Raises Conflict."""
        actor = self._targets.name(caller)

        def unit(tx: Transaction) -> str:
            found = history.full_id(tx.db, given_id)
            deliveries.cancel(tx, found, actor)
            return found

        cancelled = await self.get(await self._store.write(unit))
        self._wake_agent(cancelled.agent_id)  # the next one need not wait for it any more
        return cancelled

    async def redrive(self, caller: Caller, given_id: str, force: bool) -> Delivery:
        """Puts a delivery that ended without effect back. Raises Conflict."""
        actor = self._targets.name(caller)

        def unit(tx: Transaction) -> str:
            found = history.full_id(tx.db, given_id)
            deliveries.redrive(tx, found, force, actor)
            return found

        redriven = await self.get(await self._store.write(unit))
        self._wake_agent(redriven.agent_id)
        return redriven

    async def claim(self, caller: Caller, max_bytes: int, hook: str) -> list[Delivery]:
        """Hands what waits for the boundary of the caller's turn to his own hook, in order."""
        if max_bytes < 1:
            raise InvalidInput("max_bytes", "Claim 1 byte at least; say how much the hook can use.")
        check_event("hook_event", hook)
        agent = await self._targets.own(caller, "claim what waits for it")
        most = min(max_bytes, _MAX_CLAIM)
        claimed = await self._store.write(lambda tx: _claim(tx, agent.id, most, hook))
        if claimed:
            self._wake_agent(agent.id)  # so that an unacknowledged claim ends in time
        return claimed

    async def acknowledge(self, caller: Caller, ids: tuple[str, ...]) -> None:
        """The caller's hook printed what it claimed."""
        if not 1 <= len(ids) <= MAX_WATCHED:
            raise InvalidInput("ids", f"Name 1 to {MAX_WATCHED:,} deliveries.")
        agent = await self._targets.own(caller, "claim what waits for it")
        await self._store.write(lambda tx: claims.acknowledge(tx, agent.id, ids))
        self._wake_agent(agent.id)

    async def do_not_disturb(self, caller: Caller, target: str, on: bool) -> list[Agent]:
        """Holds back, or lets go, what is for the target's agents; returns them."""
        agents = await self._targets.resolve_many(caller, target)
        actor = self._targets.name(caller)
        changed = self._registry.set_do_not_disturb(agents, on)
        await self._store.write(lambda tx: agent_table.set_do_not_disturb(tx, changed, on, actor))
        for agent in changed:
            self._wake_agent(agent.id)
        return changed

    # ---- parts ----

    async def _text(self, draft: Draft) -> str:
        if not draft.template:
            return draft.text
        return (await self.templates.get(draft.template)).fill(draft.parameters)

    async def _meant(
        self, caller: Caller, targets: tuple[str, ...]
    ) -> tuple[dict[str, str], list[tuple[str, OrchError]]]:
        """For each agent's id the first target that means it, and the targets that failed."""
        meant: dict[str, str] = {}
        failed: list[tuple[str, OrchError]] = []
        for target in dict.fromkeys(targets):
            try:
                for agent in await self._targets.resolve_many(caller, target):
                    meant.setdefault(agent.id, target)
            except OrchError as exc:
                failed.append((target, exc))
        return meant, failed

    async def _read(self, ids: tuple[str, ...]) -> list[Delivery]:
        return await self._store.read(lambda db: history.by_ids(db, ids))


def _check(draft: Draft, now: datetime) -> None:
    """Raises InvalidInput for what makes no sense whatever the targets are."""
    if not 1 <= len(draft.targets) <= MAX_TARGETS:
        raise InvalidInput("targets", f"Name 1 to {MAX_TARGETS:,} targets.")
    if draft.template and draft.text:
        raise InvalidInput("text", "Give a text or a template, not both.")
    if draft.parameters and not draft.template:
        raise InvalidInput("parameters", "Parameters need a template; name one.")
    if len(draft.request_id) > _MAX_REQUEST_ID:
        raise InvalidInput(
            "request_id", f"The request_id has more than {_MAX_REQUEST_ID} characters."
        )
    if not _NONE < draft.time_to_live <= rules.MAX_TIME_TO_LIVE:
        raise InvalidInput(
            "time_to_live",
            f"A time to live of {draft.time_to_live.total_seconds():g} s makes no sense; use more"
            f" than 0 and at most {rules.MAX_TIME_TO_LIVE.days} days.",
        )
    if not _NONE <= draft.reply_patience <= rules.MAX_REPLY_PATIENCE:
        raise InvalidInput(
            "reply_patience",
            f"A reply can be waited for up to {rules.MAX_REPLY_PATIENCE}, not"
            f" {draft.reply_patience.total_seconds():g} s.",
        )
    if draft.not_before is not None and draft.not_before > now + MAX_DELAY:
        raise InvalidInput(
            "not_before", f"The text would wait for more than {MAX_DELAY.days} days; send it later."
        )


def _new(
    draft: Draft, text: str, sender: str, agents: list[str], now: datetime
) -> list[NewDelivery]:
    """One delivery for each agent."""
    message = new_id()
    cause = draft.request_id or message
    made = []
    for agent_id in agents:
        delivery_id = new_id()
        made.append(
            NewDelivery(
                agent_id=agent_id,
                text=text,
                origin=f"message:{message}",
                dedupe_key=f"message:{cause}:{agent_id}",
                priority=draft.priority,
                created_at=now,
                id=delivery_id,
                sender=sender,
                header="" if draft.plain else rules.header(delivery_id, sender),
                mode=draft.mode,
                message_key=draft.request_id,
                not_before=draft.not_before,
                time_to_live=draft.time_to_live,
                reply_patience=draft.reply_patience,
            )
        )
    return made


def _send(tx: Transaction, key: str, new: list[NewDelivery]) -> list[Delivery]:
    """What the call with this key sent before, else what is sent now."""
    before = history.of_message(tx.db, key) if key else []
    return before or history.by_ids(tx.db, tuple(deliveries.enqueue(tx, one) for one in new))


def _claim(tx: Transaction, agent_id: str, most_bytes: int, hook: str) -> list[Delivery]:
    """Claims; what is claimed when a session starts is only context, so a line wakes the agent."""
    ids = claims.claim(tx, agent_id, most_bytes, hook)
    if ids and hook == "SessionStart":
        deliveries.enqueue(tx, _wake_line(agent_id, ids[0], tx.now))
    return history.by_ids(tx.db, tuple(ids))


def _wake_line(agent_id: str, first: str, now: datetime) -> NewDelivery:
    return NewDelivery(
        agent_id=agent_id,
        text="Go on with what was handed to you at the start of this session (message"
        f" {rules.short_id(first)}).",
        origin=f"wake:{first}",
        dedupe_key=f"wake:{first}:{new_id()}",
        priority=Priority.NORMAL,
        created_at=now,
    )


def _nothing_sent(failed: list[tuple[str, OrchError]]) -> OrchError:
    """Why not one target could be sent to."""
    errors = [exc for _, exc in failed]
    if len(errors) == 1:
        return errors[0]
    for exc in errors:
        if isinstance(exc, Unavailable):  # worth another try
            return exc
    said = " ".join(exc.message for exc in errors[:5])
    more = f" And {len(errors) - 5} more." if len(errors) > 5 else ""
    return NotFound(f"None of the {len(errors)} targets can be sent to. {said}{more}")


def _concerns(ids: frozenset[str]) -> Callable[[Event], bool]:
    """The events of these deliveries, and the end of a session, which takes its deliveries."""

    def wanted(event: Event) -> bool:
        return event.subject in ids or event.kind == "session.deleted"

    return wanted
