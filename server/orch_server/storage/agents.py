"""Agents in the store. The service keeps them all in memory and writes only changes."""

from __future__ import annotations

from orch_server.core.agent import Agent
from orch_server.core.errors import StaleEpoch
from orch_server.core.identity import Incarnation
from orch_server.core.lease import stale_epoch
from orch_server.storage import sessions
from orch_server.storage.database import Database
from orch_server.storage.store import Transaction
from orch_server.storage.tables import AgentRow


def load_all(db: Database) -> list[Agent]:
    """Every agent that was ever known."""
    return [_agent(row) for row in AgentRow.select().execute(db)]


def register(tx: Transaction, agent: Agent, actor: str) -> None:
    """Writes an agent as new or as it now is, and makes its session when there is none."""
    sessions.ensure(tx, agent.session, actor)
    row = _fields(agent)
    (
        AgentRow.insert(**row)
        .on_conflict(
            conflict_target=[AgentRow.id],
            preserve=[
                f for name, f in AgentRow._meta.fields.items() if name in row and name != "id"
            ],
        )
        .execute(tx.db)
    )
    where = "" if agent.incarnation else " without a pane"
    tx.emit(
        "agent.registered",
        agent.id,
        session=agent.session,
        agent=agent.id,
        actor=actor,
        detail=f"{agent.address} epoch {agent.epoch}{where} {agent.liveness}",
    )


def set_liveness(tx: Transaction, agent: Agent) -> None:
    """Writes a changed liveness, and the epoch with it, unless a newer connection has come."""
    changed = (
        AgentRow.update(
            liveness=agent.liveness,
            liveness_changed_at=agent.liveness_changed_at,
            last_check_in_at=agent.last_check_in_at,
            epoch=agent.epoch,
        )
        .where(AgentRow.id == agent.id, AgentRow.epoch <= agent.epoch)
        .execute(tx.db)
    )
    if changed:
        kind = f"agent.{agent.liveness.lower()}"
        tx.emit(kind, agent.id, session=agent.session, agent=agent.id, detail=agent.address)


def move_open_work(tx: Transaction, old: str, new: str) -> None:
    """Gives what is still open of one agent to another: the same pane under another role."""
    tx.execute(
        "update task set agent_id = ? where agent_id = ? and state in ('PENDING', 'PAUSED')",
        (new, old),
    )
    tx.execute(
        "update delivery set agent_id = ? where agent_id = ?"
        " and state in ('PENDING', 'OFFERED', 'PASTED')",
        (new, old),
    )
    asked = "select id, session from authorization where agent_id = ? and state = 'PENDING'"
    for name, session in tx.execute(asked, (old,)):
        tx.audit("authorization.moved", name, session=session, agent=new, detail=f"from {old}")
    tx.execute(
        "update authorization set agent_id = ? where agent_id = ? and state = 'PENDING'", (new, old)
    )
    for who in ("agent_id", "holder_id"):
        tx.execute(
            f"update dependency set {who} = ? where {who} = ? and ended_at is null",  # noqa: S608
            (new, old),
        )


def check_epoch(tx: Transaction, agent_id: str, epoch: int) -> tuple[str, bool]:
    """Raises StaleEpoch unless this is the newest connection; in the transaction of a write.

    Returns the agent's session, and whether its deliveries are held back.
    """
    rows = tx.execute("select epoch, session, do_not_disturb from agent where id = ?", (agent_id,))
    if not rows or rows[0][0] != epoch:
        raise stale_epoch(epoch)
    return rows[0][1], bool(rows[0][2])


def check_pane(tx: Transaction, agent: Agent) -> None:
    """Raises StaleEpoch unless the agent lives in this pane; in the transaction of a write."""
    at = agent.incarnation or Incarnation("", "", 0, 0, "")
    sql = """select 1 from agent where id = ? and host = ? and tmux_socket = ?
        and tmux_server_pid = ? and tmux_server_started = ? and pane = ?"""
    where = (agent.id, at.host, at.socket, at.server_pid, at.started, at.pane)
    if not tx.execute(sql, where):
        raise StaleEpoch(
            f"Pane {at.pane or 'none'} is not the pane of {agent.address} any more; what its hook"
            " says does not count."
        )


def set_do_not_disturb(tx: Transaction, agents: list[Agent], on: bool, actor: str) -> None:
    """Writes that the agents' deliveries are held back, or not any more."""
    for agent in agents:
        tx.execute("update agent set do_not_disturb = ? where id = ?", (on, agent.id))
        kind = "agent.muted" if on else "agent.unmuted"
        tx.emit(kind, agent.id, session=agent.session, agent=agent.id, actor=actor)


def note_hook(tx: Transaction, agent: Agent, event: str) -> None:
    """Records what an agent's own hook has seen. Raises StaleEpoch when its pane is another's."""
    check_pane(tx, agent)
    tx.emit(
        "agent.hook",
        agent.id,
        session=agent.session,
        agent=agent.id,
        actor=agent.address,
        detail=event,
    )


def _fields(agent: Agent) -> dict[str, object]:
    at = agent.incarnation or Incarnation("", "", 0, 0, "")
    return {
        "id": agent.id,
        "session": agent.session,
        "role": agent.role,
        "kind": agent.kind,
        "host": at.host,
        "tmux_socket": at.socket,
        "tmux_server_pid": at.server_pid,
        "tmux_server_started": at.started,
        "pane": at.pane,
        "pane_pid": agent.pane_pid,
        "epoch": agent.epoch,
        "liveness": agent.liveness,
        "liveness_changed_at": agent.liveness_changed_at,
        "last_check_in_at": agent.last_check_in_at,
        "client_version": agent.client_version,
        "created_at": agent.created_at,
        "do_not_disturb": agent.do_not_disturb,
        "courier": agent.courier,
        "credential": agent.credential,
    }


def _agent(row: AgentRow) -> Agent:
    fields = row.fields()
    at = Incarnation(
        fields.pop("host"),
        fields.pop("tmux_socket"),
        fields.pop("tmux_server_pid"),
        fields.pop("tmux_server_started"),
        fields.pop("pane"),
    )
    return Agent(**fields, incarnation=at if at.pane else None)
