"""Who may have which agent and which pane: the rules by which a client is bound to its role.

Asked by services/heartbeat.py for each new connection. Decisions are taken from memory, which
`bind` changes at once, so that two clients that want one role cannot both get it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from orch_server.core.agent import HELD, Agent, Liveness
from orch_server.core.clock import Clock
from orch_server.core.errors import AlreadyExists, InvalidInput, NotAllowed
from orch_server.core.identity import Caller, Incarnation, InPane, Pane, TokenAgent
from orch_server.core.text import check_name, check_role
from orch_server.services.agents import AgentRegistry, pane_role, role_of
from orch_server.services.passphrase import Passphrase
from orch_server.tmux.finder import PaneFinder


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a client says of itself; see Hello."""

    incarnation: Incarnation
    pane_pid: int
    session: str
    role: str
    kind: str
    client_version: str
    take_over: bool
    passphrase: str
    courier: bool = False
    client_id: str = ""
    credential: str = ""


class Binding:
    """The rules, over the agents and the panes as they are now."""

    def __init__(
        self,
        registry: AgentRegistry,
        finder: PaneFinder,
        passphrase: Passphrase,
        approver_roles: tuple[str, ...],
        clock: Clock,
        is_connected: Callable[[str], bool],
    ) -> None:
        self._registry = registry
        self._finder = finder
        self._passphrase = passphrase
        self._approver_roles = approver_roles
        self._clock = clock
        self._is_connected = is_connected

    async def claim(self, caller: Caller, intro: Introduction) -> tuple[Introduction, str, str]:
        """The introduction as it was verified, and the session and role that the client may have.

        Raises AlreadyExists, NotAllowed, InvalidInput or NotFound.
        """
        panes = await self._local_panes(intro)
        intro = self._checked(caller, self._verified(intro, panes))
        self._check_courier(intro)
        session, role = self._place(intro, panes)
        await self._check_binding(session, role, intro)
        return intro, session, role

    def _checked(self, caller: Caller, intro: Introduction) -> Introduction:
        """An agent beats for its own pane, a token for its own role, the operator for any."""
        if isinstance(caller, InPane) and caller.incarnation != intro.incarnation:
            agent = self._registry.in_pane(caller.incarnation)
            if agent is not None and _has_client(agent):
                raise NotAllowed(
                    f"{agent.address} may not serve pane {intro.incarnation.pane}; run the"
                    " heartbeat in that pane, or from a pane that is no agent's."
                )
        if isinstance(caller, TokenAgent):
            asked = (intro.session or caller.session, intro.role or caller.role)
            if asked != (caller.session, caller.role):
                raise NotAllowed(
                    f"This token is for {caller.session}:{caller.role}, not for {':'.join(asked)}."
                )
            held = self._registry.in_pane(intro.incarnation)
            if held is not None and (held.session, held.role) != asked:
                raise NotAllowed(
                    f"Pane {intro.incarnation.pane} belongs to {held.address}; this token is for"
                    f" {caller.session}:{caller.role}."
                )
            return replace(intro, session=caller.session, role=caller.role)
        return intro

    def _place(self, intro: Introduction, panes: list[Pane]) -> tuple[str, str]:
        """The session and role that the client asks for."""
        known = self._registry.in_pane(intro.incarnation)
        role = check_role("role", intro.role) if intro.role else ""
        if known is not None and role in ("", known.role):
            return known.session, known.role
        role = role or self._told_role(intro, panes)
        if known is not None and known.role != role:
            managed = known.liveness is not Liveness.UNMANAGED and not known.courier
            if managed and not intro.take_over:
                holder = self._registry.at(known.session, role)
                living = holder is not None and holder.liveness in HELD
                also = f" That also takes {role} from its living client." if living else ""
                raise AlreadyExists(
                    f"Pane {intro.incarnation.pane} is registered as {known.address}; leave --role"
                    f" away, or give the pane the new role with --take-over.{also}"
                )
        return check_name("session", intro.session), role

    def _told_role(self, intro: Introduction, panes: list[Pane]) -> str:
        """The role that the pane itself tells. A courier takes what is free: "paneN" at least."""
        pane = next((p for p in panes if p.incarnation == intro.incarnation), None)
        if intro.courier:
            reserved = self._approver_roles if self._passphrase.is_set() else ()
            return (
                self._registry.free_role(pane, panes, reserved)
                if pane is not None
                else pane_role(intro.incarnation)
            )
        if pane is None:
            raise InvalidInput("role", "The role is not known; give it with --role.")
        return role_of(pane, panes)

    def _check_courier(self, intro: Introduction) -> None:
        """A courier yields: to the pane's own client, and to a courier that is there already."""
        holder = self._registry.in_pane(intro.incarnation)
        if not intro.courier or holder is None:
            return
        if holder.courier:
            taken = holder.liveness is Liveness.ALIVE and self._is_connected(holder.id)
        else:
            taken = holder.liveness in HELD
        if taken:
            whose = "another courier" if holder.courier else "a client of its own"
            raise AlreadyExists(
                f"Pane {intro.incarnation.pane} ({holder.address}) is served by {whose}; it needs"
                " no courier."
            )

    async def _check_binding(self, session: str, role: str, intro: Introduction) -> None:
        """A role that may approve is bound to a new pane by the operator only."""
        if role not in self._approver_roles:
            return
        holder = self._registry.at(session, role)
        if holder is not None and holder.incarnation == intro.incarnation:
            return
        what = f"bind the role {role}, which may approve, to a new pane"
        await self._passphrase.demand(intro.passphrase, what)

    def bind(
        self,
        session: str,
        role: str,
        intro: Introduction,
        evict: Callable[[Agent], Agent | None],
    ) -> tuple[Agent, Agent | None]:
        """Gives the agent to the pane, in memory; returns it and who had the pane before.

        A pane that had no client of its own yet keeps its agent, under the new role. Raises
        AlreadyExists when a living client in another pane holds the agent.
        """
        holder = self._registry.at(session, role)
        if holder is not None and holder.incarnation != intro.incarnation:
            _check_free(holder, intro)
        other = self._registry.in_pane(intro.incarnation)
        evicted = None
        if other is not None and holder is None and _has_no_own_client(other):
            holder = replace(other, session=session, role=role)
        elif other is not None and (holder is None or other.id != holder.id):
            evicted = evict(other)
        base = holder or self._registry.new(session, role)
        now = self._clock.now()
        was_alive = base.liveness is Liveness.ALIVE
        agent = replace(
            base,
            incarnation=intro.incarnation,
            pane_pid=intro.pane_pid,
            kind=intro.kind or (base.kind if intro.courier else ""),
            epoch=base.epoch + 1,
            liveness=Liveness.ALIVE,
            liveness_changed_at=base.liveness_changed_at if was_alive else now,
            last_check_in_at=now,
            client_version=intro.client_version,
            courier=intro.courier,
            credential=intro.credential or (base.credential if intro.courier else ""),
        )
        self._registry.put(agent)
        return agent, evicted

    def _verified(self, intro: Introduction, panes: list[Pane]) -> Introduction:
        """The introduction with what tmux itself says of the pane, when it was asked."""
        for pane in panes:
            if pane.incarnation == intro.incarnation:
                return replace(intro, pane_pid=pane.pid, session=intro.session or pane.session)
        if panes:
            raise InvalidInput(
                "pane",
                f"Pane {intro.incarnation.pane} is not there any more; look with 'tmux lsp -a'.",
            )
        if intro.incarnation.host != self._finder.host:
            return intro
        # A tmux that is not to be found (its socket was moved) proves no process of a pane here.
        known = self._registry.in_pane(intro.incarnation)
        return replace(intro, pane_pid=known.pane_pid if known else 0)

    async def _local_panes(self, intro: Introduction) -> list[Pane]:
        """What tmux says, when the pane is on this host; on other hosts the client is believed."""
        if intro.incarnation.host != self._finder.host:
            return []
        return await self._finder.list_panes(intro.incarnation.socket)


def _has_no_own_client(agent: Agent) -> bool:
    """Whether the agent is only a name for its pane, so far: no client of its own was there."""
    return agent.liveness is Liveness.UNMANAGED or agent.courier


def _has_client(agent: Agent) -> bool:
    """Whether the agent's pane is an agent's: a client of its own was there, or a courier is."""
    if agent.courier:
        return agent.liveness in HELD
    return agent.liveness is not Liveness.UNMANAGED


def _check_free(holder: Agent, intro: Introduction) -> None:
    """Raises AlreadyExists when the role is held by a client that is, or may be, alive."""
    if holder.liveness in HELD and not intro.take_over:
        where = holder.incarnation.pane if holder.incarnation else "elsewhere"
        raise AlreadyExists(
            f"{holder.address} is held by a client in pane {where}; end that one, or take the role"
            " with --take-over."
        )
