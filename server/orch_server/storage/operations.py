"""Announced operations in the store."""

from __future__ import annotations

from orch_server.core.agent import Agent
from orch_server.core.agent_state import Operation
from orch_server.storage import agents
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import OperationRow


def load_all(db: Database) -> dict[str, Operation]:
    """The last announced operation of each agent, by its id."""
    rows = OperationRow.select().execute(db)
    return {row.agent_id: Operation(row.reason, row.began_at, row.ends_at) for row in rows}


def save(tx: Transaction, agent: Agent, operation: Operation) -> None:
    """Writes an operation. Raises StaleEpoch when the agent's pane is another's by now."""
    agents.check_pane(tx, agent)
    fields = {
        "reason": operation.reason,
        "began_at": operation.began_at,
        "ends_at": operation.ends_at,
    }
    (
        OperationRow.insert(agent_id=agent.id, **fields)
        .on_conflict(conflict_target=[OperationRow.agent_id], update=fields)
        .execute(tx.db)
    )
    tx.emit(
        "operation.extended",
        agent.id,
        session=agent.session,
        agent=agent.id,
        actor=agent.address,
        detail=f"until {operation.ends_at:%Y-%m-%dT%H:%M:%SZ}: {operation.reason}",
    )


def end(tx: Transaction, agent: Agent) -> None:
    """Writes that the operation is over."""
    tx.execute("delete from operation where agent_id = ?", (agent.id,))
    tx.emit("operation.ended", agent.id, session=agent.session, agent=agent.id, actor=agent.address)
