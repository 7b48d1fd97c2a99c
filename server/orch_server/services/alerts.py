"""Alerts: one place from which a person is told, by the log, by tmux and by a webhook.

What raises an alert writes it in its own transaction (storage/alerts.py); the event of that commit
brings it here. The webhook is tried from the store, so that a restart loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from functools import partial
from typing import Protocol

from orch_server import __version__
from orch_server.core import alert as rules
from orch_server.core.alert import Alert
from orch_server.core.clock import Clock
from orch_server.core.errors import Draining, OrchError, Unavailable
from orch_server.services.events import LocalBus
from orch_server.services.webhook import AT_ONCE, NotTaken, Webhook
from orch_server.storage import alerts as table
from orch_server.storage.alerts import Posting
from orch_server.storage.store import Store

logger = logging.getLogger(__name__)

_LONGEST = 30.0
_RETRY = 1.0


class Display(Protocol):
    """Shows a line to the people who look at tmux."""

    async def show(self, text: str) -> int:
        """Shows the text, which is data; returns to how many. Raises nothing for a tmux that fails
        or hangs, and returns within some seconds."""


class AlertService:
    """Tells alerts, and lists them. `webhook` is the URL to post to; "": there is none."""

    def __init__(
        self, store: Store, bus: LocalBus, display: Display, clock: Clock, webhook: str
    ) -> None:
        self._store = store
        self._bus = bus
        self._display = display
        self._clock = clock
        agent = f"tmux-orchestrator/{__version__}"
        self._webhook = Webhook(webhook, agent) if webhook else None
        self._changed = asyncio.Event()  # something is to be posted
        self._taken: set[str] = set()  # posted, and not yet written as such

    async def list_page(self, session: str, size: int, token: str) -> tuple[list[Alert], str]:
        """One page, the newest first, and the token for the next."""
        return await self._store.read(lambda db: table.list_page(db, session, size, token))

    async def run(self) -> None:
        """Tells each alert that is raised, and posts what is to be posted; until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tell_all())
                tasks.create_task(self._post_all() if self._webhook else self._forget_all())
        finally:
            if self._webhook is not None:
                self._webhook.close()

    # ---- log and tmux ----

    async def _tell_all(self) -> None:
        while True:
            try:
                await self._tell_new()
            except Draining:  # the server stops: this loop is cancelled in a moment
                return
            except Unavailable as exc:
                logger.warning("alerts not told", extra={"error": exc.message})

    async def _tell_new(self) -> None:
        with self._bus.subscribe(lambda event: event.kind == table.RAISED) as raised:
            async for event in raised:
                self._changed.set()
                alert = await self._store.read(partial(table.get, alert_id=event.subject))
                if alert is not None:
                    await self._tell(alert)

    async def _tell(self, alert: Alert) -> None:
        logger.warning(
            "alert raised",
            extra={
                "alert": alert.id,
                "severity": alert.severity.value,
                "kind": alert.kind,
                "subject": alert.subject,
                "text": alert.text,
            },
        )
        await self._display.show(f"orch: {rules.line(alert)}")

    # ---- the webhook ----

    async def _forget_all(self) -> None:
        """Without a webhook nothing waits for one, so that a later one is not flooded."""
        while True:
            self._changed.clear()
            try:
                if await self._store.read(table.next_attempt) is not None:
                    await self._store.write(table.forget_webhook)
            except OrchError as exc:
                logger.warning("alerts not settled", extra={"error": exc.message})
            await self._changed.wait()

    async def _post_all(self) -> None:
        while True:
            self._changed.clear()
            try:
                wait = await self._post_due()
            except OrchError as exc:
                logger.warning("alerts not posted", extra={"error": exc.message})
                wait = _RETRY
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _post_due(self) -> float:
        """Posts what is due; returns the seconds until more is."""
        now = self._clock.now()
        due = await self._store.read(lambda db: table.due(db, now, AT_ONCE))
        posted = (self._post(posting) for posting in due)
        for result in await asyncio.gather(*posted, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        following = await self._store.read(table.next_attempt)
        if following is None:
            return _LONGEST
        return min(_LONGEST, max(0.0, (following - self._clock.now()).total_seconds()))

    async def _post(self, posting: Posting) -> None:
        assert self._webhook is not None
        alert, attempts = posting.alert, posting.attempts + 1
        try:
            if alert.id not in self._taken:
                await self._webhook.post(_body(alert))
                self._taken.add(alert.id)
        except NotTaken as exc:
            await self._not_taken(alert, attempts, str(exc))
            return
        await self._store.write(lambda tx: table.posted(tx, alert.id))
        self._taken.discard(alert.id)

    async def _not_taken(self, alert: Alert, attempts: int, error: str) -> None:
        again = await self._store.write(lambda tx: table.not_posted(tx, alert.id, attempts, error))
        said = "alert not posted yet" if again else "alert given up, the webhook never took it"
        logger.warning(said, extra={"alert": alert.id, "attempts": attempts, "error": error})


def _body(alert: Alert) -> dict[str, str]:
    return {
        "id": alert.id,
        "severity": alert.severity.value,
        "kind": alert.kind,
        "subject": alert.subject,
        "session": alert.session,
        "text": alert.text,
        "time": _iso(alert.created_at),
    }


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
