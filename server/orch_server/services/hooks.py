"""What agents' own hooks report: kept as events, and a reason to look into the mailbox."""

from __future__ import annotations

import re

from orch_server.core.errors import InvalidInput
from orch_server.core.identity import Caller
from orch_server.core.text import printable
from orch_server.services.mailbox import Mailbox
from orch_server.services.targets import Targets
from orch_server.storage import agents as table
from orch_server.storage.store import Store

_EVENT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}\Z")
_MAX_SESSION_ID = 200
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

    def __init__(self, store: Store, targets: Targets, mailbox: Mailbox) -> None:
        self._store = store
        self._targets = targets
        self._mailbox = mailbox

    async def report(self, caller: Caller, event: str, agent_session_id: str) -> None:
        """Keeps what the caller's own hook has seen. Raises NotAllowed when he is no agent."""
        check_event("event", event)
        if len(agent_session_id) > _MAX_SESSION_ID:
            raise InvalidInput(
                "agent_session_id",
                f"The agent_session_id has more than {_MAX_SESSION_ID} characters; shorten it.",
            )
        agent = await self._targets.own(caller, "report what its hook has seen")
        await self._store.write(lambda tx: table.note_hook(tx, agent, event))
        if event in _TURN_ENDED:
            await self._mailbox.idle(agent.id)
        elif event in _WAKING:
            self._mailbox.wake(agent.id)
