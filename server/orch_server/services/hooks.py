"""What agents' own hooks report: kept as events, told to the states, and a reason to look into the
mailbox."""

from __future__ import annotations

import asyncio
import re

from orch_server.core.agent_state import HookReport
from orch_server.core.errors import InvalidInput
from orch_server.core.identity import Caller
from orch_server.core.text import printable
from orch_server.services.agent_state import AgentStates
from orch_server.services.mailbox import Mailbox
from orch_server.services.targets import Targets
from orch_server.storage import agents as table
from orch_server.storage.store import Store

_EVENT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}\Z")
_LONGEST = {"agent_session_id": 200, "detail": 200, "message": 1000}
#: After these the agent may be able to take text.
_TURN_ENDED = ("Stop", "SessionStart")
_WAKING = (*_TURN_ENDED, "UserPromptSubmit")


def check_event(field: str, event: str) -> str:
    """Returns the hook's name. Raises InvalidInput when it is no word."""
    if not _EVENT.match(event):
        raise InvalidInput(
            field,
            f"'{printable(event)}' is no name of a hook; use a word of at most 40 letters, digits,"
            " '_' and '-', such as Stop.",
        )
    return event


class HookService:
    """Takes the reports of hooks."""

    def __init__(
        self, store: Store, targets: Targets, mailbox: Mailbox, states: AgentStates
    ) -> None:
        self._store = store
        self._targets = targets
        self._mailbox = mailbox
        self._states = states

    async def report(self, caller: Caller, report: HookReport) -> None:
        """Keeps what the caller's own hook has seen. Raises NotAllowed when he is no agent, and
        StaleEpoch when his pane is another agent's by now."""
        check_event("event", report.event)
        for field, longest in _LONGEST.items():
            if len(getattr(report, field)) > longest:
                raise InvalidInput(
                    field, f"The {field} has more than {longest:,} characters; shorten it."
                )
        agent = await self._targets.own(caller, "report what its hook has seen")
        await asyncio.gather(
            self._store.write(lambda tx: table.note_hook(tx, agent, report.event)),
            self._states.hook(agent, report),
        )
        if report.event in _TURN_ENDED and not report.continues:
            await self._mailbox.idle(agent.id)
        elif report.event in _WAKING:
            self._mailbox.wake(agent.id)
