"""The agents: all of them in memory, every change in the store.

Decisions are taken on the event loop from memory, which is changed at once; the write follows in
the same order. So two clients that want one role cannot both get it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from orch_server.core.agent import HELD, Agent, Liveness
from orch_server.core.clock import Clock
from orch_server.core.errors import Ambiguous, InvalidInput, NotFound, OrchError
from orch_server.core.identity import Incarnation, Pane
from orch_server.core.text import check_role, printable
from orch_server.storage import agents as table
from orch_server.storage.lookup import new_id
from orch_server.storage.store import Store
from orch_server.tmux import processes


class AgentRegistry:
    """Every agent that was ever known, by id, by address and by pane."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._by_id: dict[str, Agent] = {}
        self._by_address: dict[tuple[str, str], Agent] = {}
        self._by_pane: dict[Incarnation, Agent] = {}
        self._by_pid: dict[int, Agent] = {}
        self._sockets: set[tuple[str, str]] = set()  # with their hosts; they are few
        self._born: dict[int, int] = {}  # first process of a pane -> when it began

    async def load(self) -> None:
        """Reads all agents; once, at the start."""
        for agent in await self._store.read(table.load_all):
            self._index(agent)
            self._born[agent.pane_pid] = processes.started(agent.pane_pid)

    def all(self, session: str = "") -> list[Agent]:
        """The agents of one session or of all, by session and role."""
        chosen = (a for a in self._by_id.values() if session in ("", a.session))
        return sorted(chosen, key=lambda a: (a.session, a.role))

    def get(self, agent_id: str) -> Agent | None:
        """The agent with this whole id."""
        return self._by_id.get(agent_id)

    def at(self, session: str, role: str) -> Agent | None:
        """The agent that has this role in this session."""
        return self._by_address.get((session, role))

    def in_pane(self, incarnation: Incarnation) -> Agent | None:
        """The agent that lives in this pane."""
        return self._by_pane.get(incarnation)

    def by_pane_pid(self, pids: Iterable[int], host: str) -> Agent | None:
        """The agent of this host whose pane's first process is among these."""
        for pid in pids:
            agent = self._by_pid.get(pid)
            if agent is not None and agent.incarnation and agent.incarnation.host == host:
                return agent
        return None

    def is_first_process(self, pid: int) -> bool:
        """Whether this is the process that was seen in the pane, not a later one of its number."""
        return self._born.get(pid, 0) == processes.started(pid) != 0

    def pane_pids(self) -> list[int]:
        """The first processes of all panes that agents live in."""
        return list(self._by_pid)

    def sockets(self, host: str) -> set[str]:
        """The tmux sockets of this host under which agents live, or lived since the start."""
        return {socket for at, socket in self._sockets if at == host}

    def find(self, given: str) -> Agent:
        """The agent for "session:role", an id or a prefix. Raises NotFound or Ambiguous."""
        session, colon, role = given.rpartition(":")
        if colon:
            found = [a for a in (self.at(session, role),) if a]
        else:
            found = [a for a in self._by_id.values() if given and a.id.startswith(given)]
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(sorted(a.id for a in found)[:6])
            raise Ambiguous(f"'{given}' is the beginning of several: {some}; give more digits.")
        raise NotFound(f"There is no agent '{printable(given)}'; there are: {self.names()}.")

    def names(self) -> str:
        """The addresses of all agents, for an error's text."""
        names = [a.address for a in self.all()]
        shown = ", ".join(names[:20]) or "none yet"
        return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"

    def put(self, agent: Agent) -> None:
        """Changes memory; the caller writes the same to the store."""
        old = self._by_id.get(agent.id)
        if old is not None and self.at(old.session, old.role) is old:
            del self._by_address[old.session, old.role]
        if old is not None and old.incarnation is not None and self.in_pane(old.incarnation) is old:
            del self._by_pane[old.incarnation]
            self._by_pid.pop(old.pane_pid, None)
        self._index(agent)
        place = (agent.incarnation, agent.pane_pid)
        if old is None or (old.incarnation, old.pane_pid) != place:
            if old is not None:
                self._born.pop(old.pane_pid, None)
            self._born[agent.pane_pid] = processes.started(agent.pane_pid)

    def unbind_pane(self, incarnation: Incarnation) -> Agent | None:
        """Takes the pane from the agent that has it; returns that agent as it then is.

        One that had no client of its own is UNMANAGED then, without a pane.
        """
        holder = self.in_pane(incarnation)
        if holder is None:
            return None
        ended = Liveness.ENDED if holder.liveness in HELD else holder.liveness
        freed = replace(
            holder,
            incarnation=None,
            pane_pid=0,
            epoch=holder.epoch + 1,
            liveness=Liveness.UNMANAGED if holder.courier else ended,
            liveness_changed_at=self._clock.now(),
            courier=False,
        )
        self.put(freed)
        return freed

    def set_do_not_disturb(self, agents: list[Agent], on: bool) -> list[Agent]:
        """Changes memory, and returns the agents as they now are."""
        changed = [replace(agent, do_not_disturb=on) for agent in agents]
        for agent in changed:
            self.put(agent)
        return changed

    def forget(self, ids: Iterable[str]) -> None:
        """Removes agents whose session was deleted."""
        for agent_id in ids:
            agent = self._by_id.pop(agent_id, None)
            if agent is None:
                continue
            self._by_address.pop((agent.session, agent.role), None)
            if agent.incarnation is not None:
                self._by_pane.pop(agent.incarnation, None)
                self._by_pid.pop(agent.pane_pid, None)

    def new(self, session: str, role: str) -> Agent:
        """An agent that is not yet known to anyone."""
        now = self._clock.now()
        return Agent(
            id=new_id(),
            session=session,
            role=role,
            kind="",
            incarnation=None,
            pane_pid=0,
            epoch=0,
            liveness=Liveness.UNMANAGED,
            liveness_changed_at=now,
            last_check_in_at=None,
            client_version="",
            created_at=now,
        )

    async def register_unmanaged(
        self, pane: Pane, panes: list[Pane], reserved: tuple[str, ...]
    ) -> Agent:
        """The agent of a pane that no client serves; made when the pane is new.

        Its role is the pane's own name for it, unless that is taken by a living agent or reserved
        (a role that may approve, while a passphrase is set); then it is called after the pane.
        """
        known = self.in_pane(pane.incarnation)
        if known is not None:
            return known
        role = self.free_role(pane, panes, reserved)
        base = self.at(pane.session, role) or self.new(pane.session, role)
        agent = replace(
            base,
            incarnation=pane.incarnation,
            pane_pid=pane.pid,
            kind="",
            epoch=base.epoch + 1,
            liveness=Liveness.UNMANAGED,
            liveness_changed_at=self._clock.now(),
            courier=False,
        )
        return await self._registered(agent)

    async def register_without_pane(self, session: str, role: str) -> Agent:
        """The agent that only a token speaks for, so far; its texts wait until it has a pane."""
        return await self._registered(self.new(session, role))

    def free_role(self, pane: Pane, panes: list[Pane], reserved: tuple[str, ...]) -> str:
        """The role for a pane whose user named none: the pane's own name for it, or "paneN" when
        it has none, or when a living agent has it, or when it is reserved."""
        fallback = pane_role(pane.incarnation)
        try:
            role = role_of(pane, panes)
        except InvalidInput:
            return fallback
        holder = self.at(pane.session, role)
        taken = holder is not None and holder.liveness in HELD
        return fallback if taken or role in reserved else role

    async def _registered(self, agent: Agent) -> Agent:
        """Puts the agent into memory and into the store, or into neither."""
        before = self.get(agent.id)
        self.put(agent)
        try:
            await self._store.write(lambda tx: table.register(tx, agent, actor=agent.address))
        except OrchError:
            if self.get(agent.id) is agent:
                self.forget([agent.id])
                if before is not None:
                    self.put(before)
            raise
        return agent

    def _index(self, agent: Agent) -> None:
        self._by_id[agent.id] = agent
        self._by_address[agent.session, agent.role] = agent
        if agent.incarnation is not None:
            self._by_pane[agent.incarnation] = agent
            self._sockets.add((agent.incarnation.host, agent.incarnation.socket))
            self._by_pid[agent.pane_pid] = agent


def pane_role(at: Incarnation) -> str:
    """How a pane is called that has no better name."""
    return f"pane{at.pane.lstrip('%')}"


def role_of(pane: Pane, panes: list[Pane]) -> str:
    """A pane's role when none is given: its option @orch_role, else its window's name.

    Raises InvalidInput when the window's name is not unique in its session, or is no role.
    """
    if pane.role_option:
        return check_role("role", pane.role_option)
    same = {
        p.window_index
        for p in panes
        if p.session == pane.session and p.window_name == pane.window_name
    }
    if len(same) > 1 or _panes_in_window(pane, panes) > 1:
        raise InvalidInput(
            "role",
            f"The window name '{printable(pane.window_name)}' stands for more than one pane of"
            f" session {pane.session}; give the role with --role, or set the pane's option"
            " @orch_role.",
        )
    return check_role("role", pane.window_name)


def _panes_in_window(pane: Pane, panes: list[Pane]) -> int:
    return sum(
        1 for p in panes if p.session == pane.session and p.window_index == pane.window_index
    )
