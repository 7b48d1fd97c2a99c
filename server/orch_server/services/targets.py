"""Who is meant: resolves callers and targets to agents.

A target that matches nothing, or more than one thing, is an error that lists what exists; it never
falls back to something else.
"""

from __future__ import annotations

from orch_server.core.agent import Agent, Liveness
from orch_server.core.authorization import Decider, Requester
from orch_server.core.errors import Ambiguous, InvalidInput, NotAllowed, NotFound
from orch_server.core.identity import Caller, InPane, Operator, Pane, TokenAgent
from orch_server.core.text import printable
from orch_server.services.agents import AgentRegistry
from orch_server.services.passphrase import Passphrase
from orch_server.tmux import processes
from orch_server.tmux.finder import PaneFinder


class Targets:
    """Turns callers and targets into agents; registers panes that were not known."""

    def __init__(
        self,
        registry: AgentRegistry,
        finder: PaneFinder,
        passphrase: Passphrase,
        approver_roles: tuple[str, ...],
    ) -> None:
        self._registry = registry
        self._finder = finder
        self._passphrase = passphrase
        self._approver_roles = approver_roles

    def name(self, caller: Caller) -> str:
        """How a caller is called in lists and events."""
        if isinstance(caller, TokenAgent):
            return f"{caller.session}:{caller.role}"
        agent = self.agent_of(caller)
        return "operator" if agent is None else agent.address

    def agent_of(self, caller: Caller) -> Agent | None:
        """The agent in whose name the caller acts; None for the operator and for new panes."""
        if isinstance(caller, InPane):
            return self._registry.in_pane(caller.incarnation)
        if isinstance(caller, TokenAgent):
            return self._registry.at(caller.session, caller.role)
        return None

    def decider(self, caller: Caller) -> Decider:
        """The caller as one who decides. A pane without a client is the operator's, but for
        requests of its own."""
        agent = self.agent_of(caller)
        pane = caller.incarnation.key() if isinstance(caller, InPane) else ""
        if isinstance(caller, TokenAgent):
            agent_id = agent.id if agent else ""
            return Decider(self.name(caller), agent_id, pane, caller.session, caller.role)
        if agent is None:
            return Decider("operator", pane=pane, operator=True)
        if agent.liveness is Liveness.UNMANAGED:
            return Decider("operator", agent.id, pane, operator=True)
        return Decider(agent.address, agent.id, pane, agent.session, agent.role)

    async def requester(self, caller: Caller, doing: str) -> Requester:
        """The caller's own agent and where it lives now, as an approval is bound to it. Raises what
        `own` raises.

        A pane whose first process is another one than when the agent came is another place.
        """
        agent = await self.own(caller, doing)
        at = agent.incarnation
        pid = agent.pane_pid
        if at is not None and at.host == self._finder.host:
            is_child = processes.parent(pid) == at.server_pid
            pid = pid if is_child and self._registry.is_first_process(pid) else 0
        return Requester(agent.id, agent.session, agent.role, at, pid)

    async def own(self, caller: Caller, doing: str) -> Agent:
        """The caller's own agent, registered when its pane is new. Raises NotAllowed when he is
        none: `doing` says what that prevents."""
        agent = self.agent_of(caller)
        if agent is not None:
            return agent
        if isinstance(caller, InPane):
            panes = await self._finder.list_panes(caller.incarnation.socket)
            for pane in panes:
                if pane.incarnation == caller.incarnation:
                    return await self._register(pane, panes)
            raise NotFound(f"The caller's pane {caller.incarnation.pane} is gone.")
        if isinstance(caller, TokenAgent):
            return await self._registry.register_without_pane(caller.session, caller.role)
        raise NotAllowed(
            f"Only an agent can {doing}; run this inside an agent's tmux pane"
            " (elsewhere with a token: 'orch-server token create --session S --role R')."
        )

    async def resolve(self, caller: Caller, target: str) -> Agent:
        """The one agent that a target means. Raises InvalidInput, NotFound or Ambiguous."""
        if not target:
            return await self._self_target(caller)
        known = self._registry.at(*_split(target)) if ":" in target else None
        if known is not None:
            return known
        if target.startswith("@"):
            raise InvalidInput(
                "target",
                f"'{printable(target)}' means many agents, and this is for one; name one.",
            )
        if target.startswith("%"):
            return await self._pane_target(caller, target)
        if ":" in target:
            return await self._window_target(caller, *_split(target))
        return await self._role_target(caller, target)

    async def resolve_many(self, caller: Caller, target: str) -> list[Agent]:
        """All agents that a target means: one, or those of a group. Raises what `resolve` raises.

        A group ("@session", "@session:NAME", "@role:NAME", "@all") leaves out the caller's own
        agent, those that have ended and those without a pane. One that is empty is NotFound.
        """
        if not target.startswith("@"):
            return [await self.resolve(caller, target)]
        session, role = await self._group(caller, target)
        own = self.agent_of(caller)
        found = [
            agent
            for agent in self._registry.all(session)
            if role in ("", agent.role)
            and agent.incarnation is not None
            and agent.liveness is not Liveness.ENDED
            and (own is None or agent.id != own.id)
        ]
        if not found:
            raise NotFound(
                f"'{printable(target)}' means nobody but perhaps the sender. Agents:"
                f" {self._registry.names()}."
            )
        return found

    async def _group(self, caller: Caller, target: str) -> tuple[str, str]:
        """The session and the role that a group means; "" for all."""
        word, _, name = target.partition(":")
        if target == "@all":
            return "", ""
        if word == "@session" and name:
            return name, ""
        if word == "@role" and name:
            return "", name
        if target != "@session":
            raise InvalidInput(
                "targets",
                f"'{printable(target)}' is no group; use @session, @session:NAME, @role:NAME or"
                " @all.",
            )
        session = await self._session_of(caller)
        if not session:
            raise NotFound(
                "The caller is in no session, so @session says too little; use @session:NAME."
                f" Agents: {self._registry.names()}."
            )
        return session, ""

    async def _self_target(self, caller: Caller) -> Agent:
        try:
            return await self.own(caller, "be its own target")
        except NotAllowed as exc:
            raise InvalidInput(
                "target",
                "The caller is in no agent's pane, so a target is needed: --to session:role, --to"
                f" %pane; there are: {self._registry.names()}.",
            ) from exc

    async def _pane_target(self, caller: Caller, pane_id: str) -> Agent:
        panes = await self._panes(caller)
        found = [p for p in panes if p.incarnation.pane == pane_id]
        own_socket = caller.incarnation.socket if isinstance(caller, InPane) else ""
        near = [p for p in found if p.incarnation.socket == own_socket] or found
        return await self._one(near, panes, pane_id)

    async def _window_target(self, caller: Caller, session: str, window: str) -> Agent:
        panes = await self._panes(caller)
        mine = [p for p in panes if p.session == session]
        found = [p for p in mine if p.window_name == window] or [
            p for p in mine if str(p.window_index) == window
        ]
        return await self._one(found, panes, f"{session}:{window}")

    async def _role_target(self, caller: Caller, role: str) -> Agent:
        session = await self._session_of(caller)
        if not session:
            raise NotFound(
                f"The caller is in no session, so the role '{printable(role)}' alone says too"
                f" little; use session:role. There are: {self._registry.names()}."
            )
        agent = self._registry.at(session, role)
        return agent or await self._window_target(caller, session, role)

    async def _session_of(self, caller: Caller) -> str:
        agent = self.agent_of(caller)
        if agent is not None:
            return agent.session
        if isinstance(caller, TokenAgent):
            return caller.session
        if isinstance(caller, InPane):
            panes = await self._finder.list_panes(caller.incarnation.socket)
            for pane in panes:
                if pane.incarnation == caller.incarnation:
                    return pane.session
        return ""

    async def resettle(self, agent: Agent) -> bool:
        """Looks for the pane that an agent without a client has now, by its session and role, when
        its own is gone or was taken from it; returns whether it has another one. Raises
        TmuxUnanswered.
        """
        old = agent.incarnation
        if old is not None and old.host != self._finder.host:
            return False
        panes = await (self._finder.list_panes(old.socket) if old else self._panes(Operator()))
        if any(p.incarnation == old for p in panes):
            return False
        for pane in panes:
            free = self._registry.in_pane(pane.incarnation) is None and not pane.dead
            if free and pane.session == agent.session:
                reserved = self._approver_roles if self._passphrase.is_set() else ()
                if self._registry.free_role(pane, panes, reserved) == agent.role:
                    await self._register(pane, panes)
                    return True
        return False

    async def _one(self, found: list[Pane], panes: list[Pane], target: str) -> Agent:
        if len(found) == 1:
            return await self._register(found[0], panes)
        if found:
            names = ", ".join(f"{p.session}:{p.window_index} ({p.incarnation.pane})" for p in found)
            raise Ambiguous(f"'{printable(target)}' means more than one pane: {names}; name one.")
        windows = sorted({f"{p.session}:{p.window_name}" for p in panes})
        raise NotFound(
            f"There is no target '{printable(target)}'. Agents: {self._registry.names()}."
            f" Windows: {printable(', '.join(windows) or 'none', 400)}."
        )

    async def _register(self, pane: Pane, panes: list[Pane]) -> Agent:
        reserved = self._approver_roles if self._passphrase.is_set() else ()
        return await self._registry.register_unmanaged(pane, panes, reserved)

    async def _panes(self, caller: Caller) -> list[Pane]:
        sockets = {*self._registry.sockets(self._finder.host), self._finder.default_socket}
        if isinstance(caller, InPane):
            sockets.add(caller.incarnation.socket)
        found: list[Pane] = []
        for socket in sorted(sockets):
            found.extend(await self._finder.list_panes(socket))
        return found


def _split(target: str) -> tuple[str, str]:
    session, _, rest = target.partition(":")
    return session, rest
