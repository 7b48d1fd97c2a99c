"""What agents do, in the store: written only when it changes."""

from __future__ import annotations

from orch_server.core.agent import Agent
from orch_server.core.agent_state import Evidence, EvidenceSource, Status
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import AgentStatusRow

_NONE = {"source": EvidenceSource.UNSET, "rule": "", "detail": "", "reset_at": None}


def load_all(db: Database) -> dict[str, Status]:
    """The last known state of each agent, by its id."""
    return {row.agent_id: _status(row) for row in AgentStatusRow.select().execute(db)}


def save(tx: Transaction, agent: Agent, status: Status) -> None:
    """Writes the state and what told it."""
    told = status.evidence
    fields = {"state": status.state, "changed_at": status.changed_at}
    if told is None:
        fields |= {**_NONE, "began_at": status.changed_at, "observed_at": status.changed_at}
    else:
        fields |= {name: getattr(told, name) for name in (*_NONE, "began_at", "observed_at")}
    (
        AgentStatusRow.insert(agent_id=agent.id, **fields)
        .on_conflict(conflict_target=[AgentStatusRow.agent_id], update=fields)
        .execute(tx.db)
    )
    source, rule = (told.source, told.rule) if told else ("", "")
    tx.emit(
        "agent.state",
        agent.id,
        session=agent.session,
        agent=agent.id,
        detail=f"{status.state} {source} {rule}".rstrip(),
    )


def _status(row: AgentStatusRow) -> Status:
    fields = row.fields()
    del fields["agent_id"]
    state, changed_at = fields.pop("state"), fields.pop("changed_at")
    told = Evidence(state=state, **fields) if fields["source"] else None
    return Status(state, changed_at, told)
