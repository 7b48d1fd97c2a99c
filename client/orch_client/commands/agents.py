"""`agents`, `whoami`: who is there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from orch_client import output
from orch_client.commands import times

if TYPE_CHECKING:
    from orch.v1 import agent_pb2

EXAMPLES = """examples:
  orch-client agents
  orch-client agents --session atlas --json
  orch-client whoami
"""
#: Seconds after which evidence is doubted.
_FRESH = 60.0


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    parser.add_argument("--json", action="store_true", help="print what the API returns, as JSON")
    if name == "agents":
        parser.add_argument("--session", default="", help="only this session")


def run(args: argparse.Namespace, name: str) -> int:
    """Runs the command `name`."""
    return _agents(args) if name == "agents" else _whoami(args)


def _agents(args: argparse.Namespace) -> int:
    agents = fetch(args.session)
    if args.json:
        output.print_json_list(agents)
    else:
        print_agents(agents)
    return 0


def fetch(session: str) -> list[agent_pb2.Agent]:
    """All agents of a session, or of all."""
    from orch.v1 import heartbeat_pb2, heartbeat_pb2_grpc
    from orch_client import channel

    request = heartbeat_pb2.ListAgentsRequest(session=session, page_size=1000)
    agents: list[agent_pb2.Agent] = []
    with channel.connected() as (grpc_channel, metadata):
        stub = heartbeat_pb2_grpc.HeartbeatServiceStub(grpc_channel)
        while True:
            page = stub.ListAgents(request, timeout=channel.DEADLINE, metadata=metadata)
            agents.extend(page.agents)
            if not page.next_page_token:
                return agents
            request.page_token = page.next_page_token


def print_agents(agents: list[agent_pb2.Agent]) -> None:
    """The table of agents."""
    from orch.v1.agent_pb2 import Liveness

    rows = [
        (
            f"{agent.session}:{agent.role}",
            output.word(Liveness.Name(agent.liveness), "LIVENESS_")
            + (", dnd" if agent.do_not_disturb else ""),
            state(agent),
            output.moment(agent.last_check_in_time),
            agent.pane.pane_id,
            agent.kind or "-",
            output.one_line(agent.foreground_program, 20) or "-",
            waiting(agent),
        )
        for agent in agents
    ]
    head = ("AGENT", "CLIENT", "STATE", "LAST HEARD", "PANE", "KIND", "RUNS", "WAITS FOR")
    output.print_table(head, rows, "No agents yet; run 'orch-client heartbeat' in a tmux pane.")


def state(agent: agent_pb2.Agent) -> str:
    """What an agent does and for how long, such as "idle 3m"; "working? 5m" when nothing has told
    so for a minute."""
    from orch.v1 import agent_pb2 as pb

    if agent.state in (pb.AGENT_STATE_UNSPECIFIED, pb.AGENT_STATE_UNKNOWN):
        shown = "unknown"
    else:
        name = output.word(pb.AgentState.Name(agent.state), "AGENT_STATE_")
        doubt = "?" if agent.state != pb.AGENT_STATE_DEAD and _is_old(agent) else ""
        shown = f"{name}{doubt} {times.age(agent.state_change_time)}".rstrip()
    return shown + (", held" if agent.HasField("hold_end_time") else "")


def _is_old(agent: agent_pb2.Agent) -> bool:
    """Whether what told the state was last seen more than a minute ago."""
    seen = agent.evidence.observe_time
    return agent.HasField("evidence") and times.since(seen) > _FRESH


def waiting(agent: agent_pb2.Agent) -> str:
    """What an agent waits for; "" for nothing."""
    if not agent.HasField("waiting_for"):
        return ""
    for_ = agent.waiting_for
    return f"{for_.role}: {for_.reason} {for_.authorization_id or for_.dependency_id}"


def _whoami(args: argparse.Namespace) -> int:
    from orch_client import channel, identity

    target = channel.address()
    agents = fetch("")  # says clearly when the server is not there, or the token is wrong
    if not target.startswith("unix:"):
        print("{}" if args.json else "the bearer of ORCH_TOKEN")
        return 0
    who = identity.ask(target, with_pane=True)
    mine = [a for a in agents if who.HasField("pane") and a.pane == who.pane]
    if args.json:
        who.token = ""
        output.print_json(mine[0] if mine else who)
    elif mine:
        print(f"{mine[0].session}:{mine[0].role} in pane {mine[0].pane.pane_id}")
    elif who.HasField("pane"):
        print(f"pane {who.pane.pane_id} of session {who.session}, no agent yet")
    else:
        print("operator")
    return 0
